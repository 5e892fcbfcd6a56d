"""A validation split for the datasets that were published without one: part of the training rows, by whole groups."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_mmintent.data.builder import MultimodalConfig
from hf_mmintent.data.checks import Row


@dataclass
class HoldOutConfig(MultimodalConfig):
    """
    Options of a dataset without a validation split.

    Args:
        validation_share (`float`, defaults to 0.1): Part of the training rows, or of the groups they come in, that is
            held out for validation; 0 for none.
        validation_seed (`int`, defaults to 0): Of the choice.
    """

    validation_share: float = 0.1
    validation_seed: int = 0


def hold_out(
    rows: Sequence[Row], config: HoldOutConfig, group: str = "id", stratify: str | None = "label"
) -> dict[str, list[Row]]:
    """
    Split training rows into `train` and `validation`, both in the given order.

    Args:
        rows: All training rows.
        config: Share and seed.
        group: Column whose equal values stay together.
        stratify: Column of which every value gives its share of groups; a group counts for the value of its first row.
            `None` draws from all groups at once.

    Returns:
        The two splits; without `validation` where the share is 0.

    Raises:
        ValueError: A share outside [0, 1), or one so small that it holds nothing out.
    """
    share = config.validation_share
    if not 0 <= share < 1:
        raise ValueError(f"`validation_share` is {share}: give a number from 0 (no validation split) to below 1.")
    if share == 0:
        return {"train": list(rows)}
    strata: dict[str, dict[str, None]] = defaultdict(dict)
    seen = set()
    for row in rows:
        if row[group] not in seen:
            seen.add(row[group])
            strata[row[stratify] if stratify else ""][row[group]] = None
    generator = np.random.default_rng(config.validation_seed)
    held: set[str] = set()
    for name in sorted(strata):
        groups = sorted(strata[name])  # the order of rows, of files in a folder above all, must not matter
        held.update(groups[i] for i in generator.permutation(len(groups))[: round(share * len(groups))])
    if not held:
        raise ValueError(
            f"`validation_share` is {share}, which is less than one of the {len(seen)} groups (`{group}`) of training "
            "rows: give a larger share, 0 for no validation split, or the whole dataset if this is not it."
        )
    return {
        "train": [row for row in rows if row[group] not in held],
        "validation": [row for row in rows if row[group] in held],
    }
