"""Publish a finished checkpoint: model, processor and a card filled from its run, in one commit.

    python examples/push.py runs/mvcl_daf_mmintent_mini/seed_0/final --repo_id me/mvcl-daf-mini --private

Run `examples/evaluate.py` on it first: the card shows the scores that lie beside the checkpoint.
"""

from __future__ import annotations

import argparse

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub import build_model_card, push_checkpoint
from hf_mmintent.hub.from_run import summary_from_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder `final` of a run")
    parser.add_argument("--repo_id", required=True, help="owner/name on the Hub")
    parser.add_argument("--private", action="store_true")
    arguments = parser.parse_args()
    model, processor = open_checkpoint(arguments.checkpoint)
    card = build_model_card(summary_from_run(model, arguments.checkpoint, arguments.repo_id))
    print(push_checkpoint(model, processor, card, arguments.repo_id, private=arguments.private or None))


if __name__ == "__main__":
    main()
