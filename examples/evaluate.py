"""Score finished checkpoints on a split, with everything and with each modality dropped.

    python examples/evaluate.py runs/mvcl_daf_mmintent_mini --split test --drop
    python examples/evaluate.py runs/xmei_qwen_mmintent_mini --split test --without audio video
    python examples/evaluate.py runs/mvcl_daf_mintrec --split test --data_dir /data/MIntRec

The argument is a checkpoint, a run folder with one `seed_<n>` folder per seed, or a Hub id. Scores and predictions are
written beside each checkpoint; the table shows mean ± std over seeds. Of a model that writes answers, labels are read from
its texts; a second table scores the wording of each reason.
"""

from __future__ import annotations

import argparse

from hf_mmintent.scoring import score_checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint, run folder, or Hub id")
    parser.add_argument("--split", default="test")
    parser.add_argument("--dataset", help="dataset to score on; the one of the run by default")
    parser.add_argument("--data_dir", help="folder with the dataset's files")
    parser.add_argument("--config_name", help="configuration of the dataset")
    parser.add_argument("--drop", action="store_true", help="also score with each modality dropped, and with only one")
    parser.add_argument("--without", nargs="+", default=[], help="also score with these modalities dropped together")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--bertscore", help="folder with a model for BERTScore, of models that write")
    parser.add_argument("--max_new_tokens", type=int, help="length of answers, of models that write")
    parser.add_argument("--output_dir", help="where to write scores and predictions; beside the checkpoint by default")
    arguments = parser.parse_args()
    print(score_checkpoints(**vars(arguments)))


if __name__ == "__main__":
    main()
