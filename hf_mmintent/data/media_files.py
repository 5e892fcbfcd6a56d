"""Clips of the builders that yield paths: found by name, checked before a training meets them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_mmintent.data.builder import MultimodalBuilder, MultimodalConfig
from hf_mmintent.data.checks import DataError, Row, resolve_inside
from hf_mmintent.modeling.media_sampling import require_av

AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg")
VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".flv", ".mov", ".mpg")
_LFS_STUB = b"version https://git-lfs"


@dataclass
class MediaConfig(MultimodalConfig):
    """
    Options of a dataset of clips.

    Args:
        check_clips (`bool`, defaults to `True`): Decode the first frame of every clip and make those that do not decode
            null; needs PyAV. Otherwise a clip counts as there when its file is.
    """

    check_clips: bool = True


class MediaBuilder(MultimodalBuilder):
    """Base of the builders of clips. Its `config` has the options of [`MediaConfig`]."""

    def found_media(self) -> Sequence[str]:
        """Those of `MEDIA` that the folder holds; the others have no column."""
        raise NotImplementedError

    def has_media(self) -> bool:
        return bool(self.found_media())

    @cached_property
    def media_modalities(self) -> tuple[str, ...]:
        """Modalities with a `<modality>_path` column."""
        return tuple(modality for modality in super().media_modalities if modality in self.found_media())

    def media_is_there(self, modality: str, path: Path) -> bool:
        """Whether the medium exists; a subclass whose medium is no single file overrides it."""
        return path.is_file()

    def media_problem(self, modality: str, path: Path) -> str | None:
        """What is wrong with a medium that exists, in words for the report, or `None`."""
        if path.stat().st_size == 0:
            return "file empty"
        return None if not self.config.check_clips or decodes(path, modality) else "does not decode"

    def _media_columns(self, row: Row) -> dict[str, str | None]:
        paths = self._media_paths(row)
        columns: dict[str, str | None] = {}
        for modality in self.media_modalities:
            path = paths.get(modality)
            problem: str | None = "file missing"
            if path is not None and self.media_is_there(modality, path):
                check_no_stub(path)
                problem = self.media_problem(modality, path)
            columns[f"{modality}_path"] = str(path) if problem is None else None
            if problem is not None:
                self.report.problem(f"{modality} {problem}", row["id"])
        return columns


def decodes(path: str | Path, modality: str) -> bool:
    """Whether the file has a stream of `modality`, `"audio"` or `"video"`, whose first frame decodes."""
    av: Any = require_av()
    try:
        with av.open(str(path)) as clip:
            streams = getattr(clip.streams, modality)
            return bool(streams) and next(clip.decode(streams[0]), None) is not None
    except av.FFmpegError:
        return False


def check_no_stub(path: Path) -> None:
    """Raise where the file is the pointer that Git LFS leaves in place of a file that was not fetched."""
    if path.is_file() and path.stat().st_size < 1024:
        with path.open("rb") as file:
            if file.read(len(_LFS_STUB)) == _LFS_STUB:
                raise DataError(f"{path} is a pointer of Git LFS, not the clip: run `git lfs pull` in its repository.")


def clips_by_name(folder: Path, below: Iterable[str] = (".",)) -> dict[str, dict[str, Path]]:
    """
    The clips in some folders, by the name of the file without its ending.

    Args:
        folder: Given by the user.
        below: Folders in it that are searched with all theirs; absent ones are skipped. They may be links, what is in
            them may not lead out of them.

    Returns:
        Name to `"audio"` and `"video"`; a clip without a sound file of its own has its video file for both.

    Raises:
        DataError: Two files of the same kind have the same name.
    """
    found: dict[str, dict[str, Path]] = {}
    seen: set[Path] = set()
    for start in below:
        for parent, folders, names in os.walk(folder / start):
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                kind = "audio" if path.suffix.lower() in AUDIO_ENDINGS else "video"
                if (kind == "video" and path.suffix.lower() not in VIDEO_ENDINGS) or path in seen:
                    continue
                seen.add(path)
                resolve_inside(folder / start, path.relative_to(folder / start))
                entry = found.setdefault(path.stem, {})
                if kind in entry:
                    raise DataError(f"{entry[kind]} and {path} have the same name: which is the {kind} of the clip?")
                entry[kind] = path
    return {name: {**_sound(entry), **entry} for name, entry in found.items()}


def _sound(entry: Mapping[str, Path]) -> dict[str, Path]:
    return {"audio": entry["video"]} if "video" in entry else {}
