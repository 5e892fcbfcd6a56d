"""Train on every fold of a dataset and score each on its test split; mean ± std over the folds.

    python examples/cross_validate.py examples/configs/plum_net_mustard_text.yaml --data.data_dir /data/MUStARD \\
        --folds own_fold0 own_fold1 own_fold2 own_fold3 own_fold4 --seeds 0

A fold is a configuration of the dataset (`data.config_name`). Further settings are flags as for `examples/train.py`. The
table ends the output.
"""

from __future__ import annotations

import sys

from hf_mmintent.folds import run_folds
from hf_mmintent.training.run_config import parse_overrides


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return
    overrides = parse_overrides(arguments[1:])
    folds = overrides.pop("folds", [])
    print(run_folds(arguments[0], folds if isinstance(folds, list) else [folds], overrides))


if __name__ == "__main__":
    main(sys.argv[1:])
