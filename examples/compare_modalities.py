"""Train on each modality alone and on all of them, from scratch, and score each on the test split.

    python examples/compare_modalities.py examples/configs/mvcl_daf_mmintent_mini.yaml --seeds 0 1 2

Further settings are flags as for `examples/train.py`. The table ends the output.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_mmintent.scoring import score_checkpoints
from hf_mmintent.training import RunConfig, train_seeds
from hf_mmintent.training.run_config import parse_overrides

MODALITIES = ("text", "audio", "video")


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return
    path, overrides = arguments[0], parse_overrides(arguments[1:])
    base = RunConfig.load(path, overrides).output_dir
    tables = {}
    for kept in (*MODALITIES, "all"):
        dropped = [] if kept == "all" else [name for name in MODALITIES if name != kept]
        settings = {"data.drop_modalities": dropped, "output_dir": str(Path(base) / kept)}
        if kept != "all":
            settings["modality_dropout"] = 0.0  # nothing may be dropped from the only one
        run = RunConfig.load(path, {**overrides, **settings})
        train_seeds(run)
        tables[kept] = score_checkpoints(run.output_dir, split="test").splitlines()
    first = next(iter(tables.values()))
    print("\n".join([first[0], "", first[2].replace("modalities", "trained on"), first[3]]))
    for kept, lines in tables.items():
        print(lines[-1].replace("| all |", f"| {kept} |"))


if __name__ == "__main__":
    main(sys.argv[1:])
