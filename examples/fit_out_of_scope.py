"""Teach a finished classifier to answer "none of these": a rule fitted on validation rows, stored in its `config.json`.

    python examples/fit_out_of_scope.py runs/mvcl_daf_mintrec2 --method max_softmax --config_name oos --data_dir MINTREC2
    python examples/evaluate.py runs/mvcl_daf_mintrec2 --config_name oos --split test

Methods: max_softmax, energy, prototype, doc (the protocol of MIntRec2.0), class (a 31-way model, whose last class it is). The
argument is a checkpoint or a run folder with one `seed_<n>` folder per seed. Where the validation split holds rows out of scope
(`--config_name total31`) they choose the threshold, else it keeps 95 % of the rows in scope. The last line is the rule.
"""

from __future__ import annotations

import argparse

from hf_mmintent.fit_rejection import fit_checkpoints
from hf_mmintent.modeling.out_of_scope import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint or run folder; its config.json is changed")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--label", default="UNK", help="what a rejected sample is called")
    parser.add_argument("--dataset", help="dataset to fit on; the one of the run by default")
    parser.add_argument("--data_dir", help="folder with the dataset's files")
    parser.add_argument("--config_name", help="configuration of the dataset")
    parser.add_argument("--train_split", help="rows that describe the classes, for doc and prototype")
    parser.add_argument("--validation_split", help="rows that the threshold is fitted on")
    parser.add_argument("--in_scope_recall", type=float, help="share of the rows in scope that the threshold keeps")
    parser.add_argument("--temperature", type=float, default=1.0, help="of max_softmax and energy")
    parser.add_argument("--scale", type=float, default=1.0, help="of the spread, for doc")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    for path, rule in fit_checkpoints(**vars(arguments)).items():
        limit = rule.threshold if rule.threshold is not None else rule.thresholds
        print(f"{path}: {rule.method}, threshold {limit}, {dict(rule.fitted or {})}")


if __name__ == "__main__":
    main()
