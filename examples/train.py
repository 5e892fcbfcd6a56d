"""Train any architecture on any dataset; the best epoch is chosen on the validation split.

    python examples/train.py examples/configs/mvcl_daf_mmintent_mini.yaml
    accelerate launch examples/train.py examples/configs/mvcl_daf_mintrec.yaml --data.data_dir /data/MIntRec --seeds 0 1 2

Every setting of the YAML file can be overridden: `--config.temperature 0.2 --training.num_train_epochs 5`. An interrupted
run goes on from its last complete checkpoint when the same command is given again. The last lines are the validation scores, in
percent where tables show percent.
"""

from __future__ import annotations

import sys

from accelerate import PartialState

from hf_mmintent.metrics import format_score, format_summary, mean_std
from hf_mmintent.training import RunConfig, train_seeds
from hf_mmintent.training.run_config import parse_overrides


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print(RunConfig.__doc__)
        return
    path = arguments.pop(0) if not arguments[0].startswith("--") else None
    run = RunConfig.load(path, parse_overrides(arguments))
    runs = train_seeds(run)
    if not PartialState().is_main_process:
        return
    for trained in runs:
        scores = "  ".join(f"{name} {format_score(name, value)}" for name, value in sorted(trained.validation.items()))
        print(f"seed {trained.seed}: {trained.checkpoint}  {trained.seconds:.0f} s  validation {scores}")
    if len(runs) > 1:
        for name in sorted(runs[0].validation):
            values = [trained.validation[name] for trained in runs]
            print(f"validation {name}: {format_summary(name, mean_std(values))} over {len(values)} seeds")


if __name__ == "__main__":
    main(sys.argv[1:])
