"""The whole way in one command: train on the embedded clips, score, reload, label one clip.

    python examples/quickstart.py

Takes about ten minutes on two cores. The last line is the answer for one clip of the test split.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoProcessor

import hf_mmintent
from hf_mmintent.metrics import format_score
from hf_mmintent.prediction import predict_one
from hf_mmintent.scoring import score_checkpoints
from hf_mmintent.training import RunConfig, train_run

CONFIG = Path(__file__).parent / "configs" / "mvcl_daf_mmintent_mini.yaml"


def main() -> None:
    run = RunConfig.load(CONFIG, {"output_dir": "runs/quickstart"})
    trained = train_run(run, seed=0, folder=Path(run.output_dir) / "seed_0")
    best = format_score("accuracy", trained.validation["accuracy"])
    print(f"trained in {trained.seconds:.0f} s, best validation accuracy {best} %\n")
    print(score_checkpoints(trained.checkpoint, split="test", drop=True))

    model = AutoModelForSequenceClassification.from_pretrained(trained.checkpoint).eval()
    processor = AutoProcessor.from_pretrained(trained.checkpoint)
    test = hf_mmintent.load(run.data.name)["test"]
    row = test[0]
    answer = predict_one((model, processor), clip=row["video_path"], text=row["text"], top_k=3)
    truth = test.features["label"].int2str(row["label"])
    print(f"\n{Path(row['video_path']).name}: {row['text']!r}, truly {truth}")
    print("answer: " + ", ".join(f"{name} {probability:.2f}" for name, probability in answer.ranking))


if __name__ == "__main__":
    main()
