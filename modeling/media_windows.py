"""A recording of any length as windows of fixed length, holding only the window at hand in memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .media_decoding import SEEK_MARGIN, MediaSource, decoding_steps, media_tracks, open_media, source_name
from .media_sampling import DecodingError, MediaError, PictureSink, Request, SoundSink, require_av
from .processing_media import MediaSettings, _frames, _is_source, _same_source, _waveform, infinite_sound

T = TypeVar("T")

TAIL = 0.1  # of a window: a shorter rest joins the last window instead of becoming one of its own


@dataclass
class Window:
    """
    Part of a recording.

    Args:
        start, end (`float`, seconds from the beginning of the recording): Where it lies.
        audio (`np.ndarray` of shape `(num_samples,)`, float32, *optional*): Its sound, where there is some.
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`, uint8, *optional*): Its pictures.
        last (`bool`): Whether it is the last one.
    """

    start: float
    end: float
    audio: np.ndarray | None
    frames: np.ndarray | None
    last: bool


class _Track:
    """The sound or the pictures of a source, read as far as they are asked for and forgotten behind that."""

    def __init__(self, rate: float) -> None:
        self.rate = rate  # items per second
        self.first = 0  # index of the first item that is kept
        self.ended = False

    @property
    def count(self) -> int:
        """Items read so far."""
        raise NotImplementedError

    def advance(self) -> None:
        """Read a little more, or note the end."""
        raise NotImplementedError

    def items(self, first: int, last: int) -> np.ndarray:
        """Copy of items that are kept."""
        raise NotImplementedError

    def forget(self, first: int) -> None:
        """Free the items before `first`."""
        raise NotImplementedError

    def index(self, seconds: float) -> int:
        return round(seconds * self.rate)

    def read_past(self, seconds: float) -> None:
        while not self.ended and self.count <= self.index(seconds):
            self.advance()

    def part(self, start: float, end: float) -> np.ndarray | None:
        first, last = self.index(start), min(self.index(end), self.count)
        return self.items(first, last) if first < last else None


class _ArrayTrack(_Track):
    """Values that are in memory already."""

    def __init__(self, values: np.ndarray, rate: float) -> None:
        super().__init__(rate)
        self.values, self.ended = values, True

    @property
    def count(self) -> int:
        return len(self.values)

    def items(self, first: int, last: int) -> np.ndarray:
        return self.values[first:last]

    def forget(self, first: int) -> None:
        pass


class _FileTrack(_Track):
    """One stream of a media file, decoded packet by packet."""

    def __init__(self, source: MediaSource, kind: str, request: Request) -> None:
        assert request.fps is not None
        super().__init__(request.sampling_rate if kind == "audio" else request.fps)
        self.sink: SoundSink | PictureSink | None = None
        self.whole = source, kind, request
        self.seeks = request.start > 2 * SEEK_MARGIN
        self.steps = self._decode(source, kind, request, self.seeks)
        self.advance()

    def _decode(self, source: MediaSource, kind: str, request: Request, seek: bool) -> Generator[None, None, None]:
        name = source_name(source)
        with open_media(source) as container:
            tracks = media_tracks(container, name)
            stream = next((track for track in tracks if track.type == kind), None)
            if stream is None:
                return
            origin = (container.start_time or 0) / require_av().time_base
            sink = SoundSink(name, origin, request) if kind == "audio" else PictureSink(name, origin, request, stream)
            self.sink = sink
            yield
            seek_to = origin + request.start - SEEK_MARGIN if seek else None
            yield from decoding_steps(container, tracks, {stream.index: sink}, source, seek_to)
            sink.flush()

    def advance(self) -> None:
        try:
            self.ended = next(self.steps, self) is self
        except DecodingError:
            if not self.seeks or self.first:
                raise
            # A stream may be undecodable from the point that was sought: start at the front.
            self.seeks = False
            self.steps = self._decode(*self.whole, seek=False)
            self.advance()

    @property
    def _item_bytes(self) -> int:
        return 4 if isinstance(self.sink, SoundSink) else math.prod(self.sink.shape) if self.sink else 1

    @property
    def count(self) -> int:
        if isinstance(self.sink, PictureSink):
            return self.sink.count
        return 0 if self.sink is None else self.first + len(self.sink.buffer) // 4

    def items(self, first: int, last: int) -> np.ndarray:
        assert self.sink is not None
        size = self._item_bytes
        kept = bytes(memoryview(self.sink.buffer)[(first - self.first) * size : (last - self.first) * size])
        if isinstance(self.sink, SoundSink):
            return np.frombuffer(kept, np.float32)
        return np.frombuffer(kept, np.uint8).reshape(-1, *self.sink.shape)

    def forget(self, first: int) -> None:
        first = min(first, self.count)
        if self.sink is not None and first > self.first:
            del self.sink.buffer[: (first - self.first) * self._item_bytes]
            self.first = first


def read_windows(
    audio: Any,
    video: Any,
    settings: MediaSettings,
    seconds: float,
    stride: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Iterator[Window]:
    """
    The windows of a recording, one after the other, decoded in one pass each for sound and pictures.

    A recording that is not longer than a window (and a tenth) is one window. A file may be named for both.

    Args:
        audio, video (media source or array, *optional*): Where sound and pictures come from, as in [`prepare_media`].
        settings ([`MediaSettings`]): Rates and size.
        seconds (`float`): Length of a window.
        stride (`float`, seconds, *optional*): From the start of a window to the next one; half a window when `None`.
        start, end (`float`, seconds, *optional*): Part of the recording to use.

    Returns:
        Iterator of [`Window`]; `audio` or `frames` are `None` where the recording has none.

    Raises:
        MediaError: as [`decode_clip`]; damage is met only when its window is reached.
        ValueError: `seconds` or `stride` do not make sense.
    """
    stride = seconds / 2 if stride is None else stride
    if not 0 < stride <= seconds < math.inf:
        raise ValueError(f"`stride` is {stride} and `seconds` is {seconds}: pass 0 < stride <= seconds.")
    request = _request(settings, start, end)
    if audio is video and callable(getattr(audio, "read", None)):
        audio.seek(0)
        audio = video = audio.read()  # two readers cannot share one position
    sources = {kind: source for kind, source in (("audio", audio), ("video", video)) if source is not None}
    tracks = {kind: _track(kind, source, request, settings) for kind, source in sources.items()}
    names = [source_name(source) for source in sources.values() if _is_source(source)]
    yield from _windows(tracks, request.start, seconds, stride, names)


def read_parts(
    kind: str,
    source: Any,
    settings: MediaSettings,
    items: int,
    start: float | None = None,
    end: float | None = None,
) -> Iterator[np.ndarray]:
    """
    The sound or the pictures of a recording in parts that follow each other, holding only the part at hand.

    Args:
        kind (`str`): "audio" or "video".
        source (media source or array): As in [`prepare_media`].
        settings ([`MediaSettings`]): Rates and size; `num_frames` and `max_clip_seconds` are the caller's affair.
        items (`int`): Samples or frames of a part; the last one has what is left.
        start, end (`float`, seconds, *optional*): Part of the recording to use.

    Returns:
        Iterator of arrays, `(items,)` float32 or `(items, height, width, 3)` uint8; empty where the recording has none.

    Raises:
        MediaError: as [`decode_clip`]; damage is met only when its part is reached.
        ValueError: sound that is not finite.
    """
    track = _track(kind, source, _request(settings, start, end), settings)
    first = 0
    while True:
        while not track.ended and track.count < first + items:
            track.advance()
        last = min(first + items, track.count)
        if last > first:
            part = track.items(first, last)
            if kind == "audio" and not np.isfinite(part).all():
                raise infinite_sound(source, part)
            yield part
        if track.ended and last == track.count:
            return
        first = last
        track.forget(first)


def clip_seconds(audio: Any, video: Any, settings: MediaSettings, start: float | None, end: float | None) -> float:
    """
    About how long a recording, or the part of it, is: as its header says, infinite where that says nothing.

    Args:
        audio, video (media source or array, *optional*): As in [`prepare_media`], of one sample.
        settings ([`MediaSettings`]): Rates of arrays, and `max_clip_seconds`.
        start, end (`float`, seconds, *optional*): Part of the recording.

    Raises:
        MediaError: a file cannot be opened.
    """
    limit = math.inf if settings.max_clip_seconds is None else settings.max_clip_seconds
    wanted = math.inf if end is None else end - (start or 0.0)
    found = 0.0
    for kind, source in (("audio", audio), ("video", video)):
        if source is None or (kind == "video" and audio is not None and _same_source(audio, video)):
            continue
        if not _is_source(source):
            rate = source["sampling_rate"] if isinstance(source, dict) else settings.sampling_rate
            values = source["array"] if isinstance(source, dict) else source
            found = max(found, len(values) / (rate if kind == "audio" else settings.frame_rate))
            continue
        with open_media(source) as container:
            declared = container.duration or 0
        found = max(found, declared / require_av().time_base if declared > 0 else math.inf)
    return min(limit, wanted, max(found - (start or 0.0), 0.0))


def _request(settings: MediaSettings, start: float | None, end: float | None) -> Request:
    origin, stop = start or 0.0, math.inf if end is None else end
    if not 0 <= origin < stop:
        raise MediaError(f"`start` is {start} and `end` is {end}: pass 0 <= start < end, in seconds.")
    return Request(
        origin, stop, settings.sampling_rate, settings.frame_rate, settings.image_shape, None, settings.image_crop
    )


def _track(kind: str, source: Any, request: Request, settings: MediaSettings) -> _Track:
    if _is_source(source):
        return _FileTrack(source, kind, request)
    values = _waveform(source, settings) if kind == "audio" else _frames(source, settings)
    rate = settings.sampling_rate if kind == "audio" else settings.frame_rate
    last = None if request.end == math.inf else round(request.end * rate)
    return _ArrayTrack(values[round(request.start * rate) : last], rate)


def _windows(
    tracks: dict[str, _Track], origin: float, seconds: float, stride: float, names: list[str]
) -> Iterator[Window]:
    begin, number = 0.0, 0
    while True:
        look = begin + seconds * (1 + TAIL)
        for track in tracks.values():
            track.read_past(look)
        longest = max((track.count / track.rate for track in tracks.values()), default=0.0)
        last = longest <= look
        end = longest if last else begin + seconds
        parts = {kind: track.part(begin, end + 1e-6) for kind, track in tracks.items()}
        if not longest:
            what = " or ".join({"audio": "sound", "video": "pictures"}[kind] for kind in tracks)
            where = names[0] if names else "the recording"
            raise MediaError(f"{where} has no {what} from {origin:g} s on: check the file, or the start and end times.")
        yield Window(origin + begin, origin + end, parts.get("audio"), parts.get("video"), last)
        if last:
            return
        number += 1
        begin = number * stride
        for track in tracks.values():
            track.forget(track.index(begin))


def run_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The items in order, up to `depth` of them made in a thread before they are asked for."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, items, end))
                yield item
        finally:
            for future in waiting:
                future.cancel()
