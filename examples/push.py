"""Publish a finished checkpoint: model, processor and a card filled from its run, in one commit.

    python examples/push.py runs/mvcl_daf_mmintent_mini/seed_0/final --repo_id me/mvcl-daf-mini --private

Run `examples/evaluate.py` and `examples/analyze.py card` on it first: the card shows the scores and pictures that lie beside
the checkpoint, and the pictures are published with it.
"""

from __future__ import annotations

import argparse

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub import build_model_card, push_checkpoint
from hf_mmintent.hub.from_run import summary_from_run
from hf_mmintent.hub.pictures import attachments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder `final` of a run")
    parser.add_argument("--repo_id", required=True, help="owner/name on the Hub")
    parser.add_argument("--private", action="store_true")
    arguments = parser.parse_args()
    model, processor = open_checkpoint(arguments.checkpoint)
    card = build_model_card(summary_from_run(model, arguments.checkpoint, arguments.repo_id))
    pictures = attachments(arguments.checkpoint)
    private = arguments.private or None
    print(push_checkpoint(model, processor, card, arguments.repo_id, private=private, attachments=pictures))


if __name__ == "__main__":
    main()
