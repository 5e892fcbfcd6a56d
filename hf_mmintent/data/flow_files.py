"""Optical flow as people publish it: two grey pictures per frame, horizontal and vertical, in a folder per clip."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_mmintent.data.checks import DataError, resolve_inside

_PICTURES = (".jpg", ".jpeg", ".png")


def find_flow(folder: Path, roots: Sequence[str] = ("flow", "tvl1_flow")) -> dict[str, Path]:
    """
    The flow folders of clips.

    Args:
        folder: Given by the user.
        roots: Folders in it that are searched; absent ones are skipped. They may be links, what is in them may not lead
            out of them.

    Returns:
        Lower-case name of the clip, since releases differ in capitals, to the path that [`flow_frames`] reads. That is
        `<root>/<clip>` or `<root>/<class>/<clip>`, or `<root>/u/<clip>` where `<root>/v/<clip>` is the vertical part.
    """
    found: dict[str, Path] = {}
    for root in roots:
        for entry in _folders(folder / root):
            clips = [entry] if entry.name.startswith("v_") else _folders(entry) if entry.name != "v" else []
            for clip in clips:
                resolve_inside(folder / root, clip.relative_to(folder / root))
                found[clip.name.lower()] = clip
    return found


def flow_frames(path: str | Path) -> list[tuple[Path, Path]]:
    """
    The pictures of one clip, in the order of time.

    Args:
        path: A folder with `flow_x_*` and `flow_y_*`, or with the folders `u` and `v`, or `…/u/<clip>` with `…/v/<clip>`
            beside it; pictures end in a number.

    Returns:
        Horizontal and vertical part of every frame.

    Raises:
        DataError: No pictures, a frame with one of the two parts only, or a link that leads out of the folder.
    """
    path = Path(path)
    if (path / "u").is_dir():
        parts = (_numbered(path, "u"), _numbered(path, "v"))
    elif path.parent.name == "u":
        parts = (_numbered(path), _numbered(path.parent.parent, f"v/{path.name}"))
    else:
        parts = (_numbered(path, prefix="flow_x"), _numbered(path, prefix="flow_y"))
    odd = sorted(parts[0].keys() ^ parts[1].keys())
    if odd or not parts[0]:
        what = f"frame {odd[0]} has one of the two parts only" if odd else "there are no pictures"
        raise DataError(f"{path}: {what}, of {len(parts[0])} horizontal and {len(parts[1])} vertical ones.")
    return [(parts[0][number], parts[1][number]) for number in sorted(parts[0])]


def flow_stacks(path: str | Path, count: int = 3, length: int = 5, size: Sequence[int] = (224, 224)) -> np.ndarray:
    """
    The flow of a clip as pictures of many channels, as networks of two streams take it.

    Args:
        path: As in [`flow_frames`].
        count: Stacks, around the middles of as many equal parts of the clip.
        length: Consecutive frames per stack; the last frame of a shorter clip is repeated.
        size: Height and width; pictures are stretched to it.

    Returns:
        (count, 2 * length, height, width) float32 in [-1, 1], the horizontal parts before the vertical ones.

    Raises:
        DataError: As in [`flow_frames`], or a picture that does not decode.
    """
    frames = flow_frames(path)
    middles = ((np.arange(count) + 0.5) * len(frames) / count).astype(int)
    starts = np.clip(middles - length // 2, 0, max(len(frames) - length, 0))
    places = np.minimum(starts[:, None] + np.arange(length), len(frames) - 1)  # (count, length)
    parts = [[_picture(frames[place][part], size) for part in (0, 1) for place in stack] for stack in places.tolist()]
    return np.asarray(parts, np.float32) / 127.5 - 1.0


def _picture(path: Path, size: Sequence[int]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L").resize((size[1], size[0]), Image.Resampling.BILINEAR))
    except OSError as error:
        raise DataError(f"{path} is truncated or not a picture: {error}.") from error


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _numbered(root: Path, below: str = ".", prefix: str = "") -> dict[int, Path]:
    """Pictures in a folder below `root`, by the number that their name ends in; links may not lead out of `root`."""
    folder = root / below
    if not folder.is_dir():
        return {}
    resolve_inside(root, below)
    pictures: dict[int, Path] = {}
    for entry in folder.iterdir():
        number = re.search(r"\d+$", entry.stem, re.ASCII)
        if number and entry.suffix.lower() in _PICTURES and entry.name.startswith(prefix):
            if entry.is_symlink():
                resolve_inside(root, f"{below}/{entry.name}")
            pictures[int(number[0])] = entry
    return pictures
