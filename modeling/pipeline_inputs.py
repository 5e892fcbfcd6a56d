"""What a user or a dataset row hands to a pipeline, as one description: words, sound, pictures, features, times."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .media_sampling import MediaError

_CLIP_KEYS = {"audio": ("audio", "audio_path"), "video": ("video", "video_path")}
_KEYS = ("clip", "text", "audio", "audio_path", "video", "video_path", "start_time", "end_time")
_LARGEST_DOWNLOAD = 2**31  # bytes; a clip of hours, and no endless stream
_PATIENCE = 30.0  # seconds without an answer


@dataclass
class Sample:
    """
    One thing to label.

    Args:
        text (`str`, *optional*): The words.
        audio, video (media source or array, *optional*): Where sound and pictures come from; often the same file.
        features (`dict[str, np.ndarray]`): `<modality>_features` that were extracted beforehand.
        extra (`dict[str, Any]`): Columns that the processor names in `extra_columns`.
        start, end (`float`, seconds, *optional*): Part of the media to use.
    """

    text: str | None = None
    audio: Any = None
    video: Any = None
    features: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    start: float | None = None
    end: float | None = None


def is_single(inputs: Any) -> bool:
    """Whether `inputs` is one sample rather than several."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Mapping, np.ndarray, torch.Tensor)
    return isinstance(inputs, kinds) or _is_file_object(inputs)


def as_sample(value: Any, modalities: Sequence[str], extra_columns: Sequence[str] = ()) -> Sample:
    """
    Args:
        value: a path, address (`file://`, `http://`, `https://`), bytes, binary file or struct `{"bytes", "path"}`, of
            which sound and pictures are used; or a `dict` with any of the keys "clip" (the same), "text", "audio",
            "video", "audio_path", "video_path", "<modality>_features", "start_time", "end_time". A file under "video"
            gives its sound as well unless there is a key for audio. Further keys, as rows of a dataset have them, are
            not read.
        modalities: of the processor.
        extra_columns: further keys that the processor takes.

    Raises:
        ValueError: nothing to label, a key that looks misspelt, or an array without saying what it is.
    """
    if not isinstance(value, Mapping) or (value.keys() & {"bytes", "path"} and not value.keys() & set(_KEYS)):
        if isinstance(value, (np.ndarray, torch.Tensor)):
            raise ValueError(
                f"an array of shape {tuple(value.shape)}: say what it is, {{'audio': …}} or {{'video': …}}."
            )
        _check_source(value)
        return Sample(audio=value, video=value)
    _check_keys(value, modalities, extra_columns)
    features = {f"{m}_features": _present(value.get(f"{m}_features")) for m in modalities if m != "text"}
    sample = Sample(
        text=value.get("text"),
        features={name: rows for name, rows in features.items() if rows is not None},
        extra={name: value[name] for name in extra_columns if name in value},
        start=value.get("start_time"),
        end=value.get("end_time"),
    )
    for modality, keys in _CLIP_KEYS.items():
        given = [value[key] for key in keys if value.get(key) is not None]
        if len(given) > 1:
            raise ValueError(f"{modality} is given twice, under {keys[0]!r} and {keys[1]!r}: keep one.")
        setattr(sample, modality, given[0] if given else value.get("clip"))
    if value.get("video") is not None and not {"audio", "audio_path"} & value.keys() and not _is_array(value["video"]):
        sample.audio = value["video"]
    for modality in _CLIP_KEYS:
        source = getattr(sample, modality)
        if source is not None and not _is_array(source):
            _check_source(source)
    return sample


def _check_keys(value: Mapping[str, Any], modalities: Sequence[str], extra_columns: Sequence[str]) -> None:
    known = {*_KEYS, *(f"{name}_features" for name in modalities), *extra_columns}
    for key in sorted(value.keys() - known):
        near = get_close_matches(str(key), sorted(known - value.keys()), 1, cutoff=0.8)
        if near and value[key] is not None:
            raise ValueError(f"`{key}` is no input: did you mean {near[0]!r}? Known are {sorted(known)}.")
    if all(value.get(key) is None for key in known - {"start_time", "end_time"}):
        raise ValueError(f"nothing to label: there is none of {sorted(known)} in {sorted(map(str, value))}.")


def _present(features: Any) -> np.ndarray | None:
    """Features of a row as an array; rows of a dataset hold a null as NaN."""
    if features is None or (isinstance(features, float) and np.isnan(features)):
        return None
    return np.asarray(features)


def _check_source(source: Any) -> None:
    """One clear error for words or a missing file where a clip is expected, before a worker thread meets it."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Mapping)
    if not isinstance(source, kinds) and not _is_file_object(source):
        raise TypeError(f"a recording is a path, bytes, a binary file or an array, not {type(source).__name__}.")
    if isinstance(source, str) and "://" not in source and not Path(source).exists():
        raise MediaError(f"{source!r} does not exist in {str(Path.cwd())!r}: check the path; words go under 'text'.")


def _is_array(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "array" in value
    return isinstance(value, (np.ndarray, torch.Tensor, list, tuple))


def _is_file_object(value: Any) -> bool:
    return callable(getattr(value, "read", None))


# ---- addresses ------------------------------------------------------------------------------------------------------


@contextmanager
def local_media(sample: Sample) -> Iterator[Sample]:
    """
    The sample with media behind `http://` or `https://` addresses downloaded; the copies are deleted at the end.

    Raises:
        MediaError: an address cannot be fetched.
    """
    remote = {name: source for name in _CLIP_KEYS if _is_address(source := getattr(sample, name))}
    if not remote:
        yield sample
        return
    with tempfile.TemporaryDirectory(prefix="clips_") as folder:
        addresses = dict.fromkeys(remote.values())
        files = {url: _fetch(url, Path(folder) / f"clip{number}") for number, url in enumerate(addresses)}
        try:
            yield replace(sample, **{name: files[url] for name, url in remote.items()})
        except MediaError as error:
            raise MediaError(f"{' and '.join(addresses)}: {error}") from error


def _is_address(source: Any) -> bool:
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _fetch(url: str, path: Path) -> Path:
    opener = urllib.request.OpenerDirector()  # the default one would follow a redirection to a file of this machine
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        with opener.open(url, timeout=_PATIENCE) as answer, path.open("wb") as file:
            declared = answer.headers.get("Content-Length")
            while block := answer.read(2**20):
                file.write(block)
                if file.tell() > _LARGEST_DOWNLOAD:
                    raise MediaError(f"{url} is larger than {_LARGEST_DOWNLOAD} bytes: download it and cut it.")
            size = file.tell()
    except urllib.error.HTTPError as error:
        raise MediaError(f"{url} cannot be fetched: the server says {error.code} {error.reason}.") from error
    except (urllib.error.URLError, OSError) as error:
        raise MediaError(f"{url} cannot be fetched ({error}): check the address and the network.") from error
    if declared is not None and size < int(declared):
        raise MediaError(f"{url} broke off after {size} of {declared} bytes: fetch it again.")
    return path
