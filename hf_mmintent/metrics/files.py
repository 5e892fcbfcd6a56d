"""Writing a file completely or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """
    Yield a temporary path in the same folder; rename it to `path` when the block succeeds, remove it when it fails.

    A reader therefore never sees half a file, and an interrupted run leaves the previous one in place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; results are shared like any other file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def set_config_field(checkpoint: str | Path, field: str, value: Any) -> None:
    """
    Write one field of the `config.json` of a checkpoint folder, or take it out with `None`, all or nothing; weights stay.

    Raises:
        FileNotFoundError: the folder has no `config.json`: a checkpoint of the Hub has to be downloaded first.
    """
    path = Path(checkpoint) / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if value is None:
        values.pop(field, None)
    else:
        values[field] = value
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
