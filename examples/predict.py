"""Rank the intents of one clip, one sentence, or both.

python examples/predict.py runs/mvcl_daf_mmintent_mini/seed_0/final --clip clip.mp4 --text "that was clever"
"""

from __future__ import annotations

import argparse

from hf_mmintent.modeling.media_sampling import MediaError
from hf_mmintent.prediction import predict_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--clip", help="video or audio file")
    parser.add_argument("--text", help="what is said in it")
    parser.add_argument("--top_k", type=int, default=5)
    arguments = parser.parse_args()
    try:
        answer = predict_one(arguments.checkpoint, clip=arguments.clip, text=arguments.text, top_k=arguments.top_k)
    except MediaError as error:
        raise SystemExit(f"predict.py: {error}") from None
    if answer.none_of_these is not None:
        print(f"none of these ({answer.none_of_these}), margin {answer.margin:.4f}; the ranking without that rule:")
    for name, value in answer.ranking:
        print(f"{value:7.4f}  {name}")
    if answer.modality_weights:
        print("weights: " + ", ".join(f"{name} {value:.2f}" for name, value in answer.modality_weights.items()))


if __name__ == "__main__":
    main()
