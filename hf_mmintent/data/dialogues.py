"""Previous turns of a dialogue, for the datasets that are cut from dialogues."""

from collections import defaultdict
from collections.abc import Iterable

import datasets

from hf_mmintent.data.checks import Row

CONTEXT = [{"speaker": datasets.Value("string"), "text": datasets.Value("string")}]


def previous_turns(turns: Iterable[Row]) -> dict[str, list[dict[str, str]]]:
    """
    What was said before each turn of a dialogue.

    Args:
        turns: Rows with `id`, `dialogue_id`, `turn` (int), `speaker` and `text`, in any order.

    Returns:
        `id` to the earlier turns of the same dialogue as `{"speaker", "text"}`, oldest first.
    """
    dialogues: dict[str, list[Row]] = defaultdict(list)
    for row in turns:
        dialogues[row["dialogue_id"]].append(row)
    contexts: dict[str, list[dict[str, str]]] = {}
    for rows in dialogues.values():
        rows.sort(key=lambda row: row["turn"])
        said = [{"speaker": row["speaker"], "text": row["text"]} for row in rows]
        contexts.update({row["id"]: said[:place] for place, row in enumerate(rows)})
    return contexts
