"""Name the emotion and the intent of a speaker and explain both.

    python examples/explain.py runs/xmei_qwen_mmintent_mini/seed_0/final --clip clip.mp4 --text "That was really clever."

The argument is a checkpoint of a model that writes answers: a folder, an adapter next to its base, or a Hub id. It prints
the five fields and, on the last line, the labels whose words are most likely; `--json` prints all of it as JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.explanations import LABELS, REASONS, explain_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint, adapter, or Hub id")
    parser.add_argument("--clip", help="video or audio file")
    parser.add_argument("--text", help="what is said")
    for name, what in (("audio", "how it sounds"), ("video", "what is seen")):
        parser.add_argument(f"--{name}_caption", help=f"{what}, for checkpoints that read captions")
    parser.add_argument("--max_new_tokens", type=int, help="length of the answer; the model's own limit by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    model, processor = open_checkpoint(arguments.checkpoint)
    if not model.can_generate():
        parser.error(f"{type(model).__name__} writes no answers: use examples/predict.py.")
    captions = {"audio": arguments.audio_caption, "video": arguments.video_caption}
    answer = explain_one(model, processor, arguments.clip, arguments.text, arguments.max_new_tokens, captions)
    if arguments.json:
        print(json.dumps(asdict(answer), ensure_ascii=False))
        return
    for name in (*LABELS, *REASONS):
        print(f"{name.replace('_', ' ').capitalize()}: {getattr(answer, name) or '(could not be read)'}")
    print(f"most likely label words: {answer.scored_emotion}, {answer.scored_intent}")


if __name__ == "__main__":
    main()
