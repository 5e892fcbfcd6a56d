"""Decoded frames of a media file, one at a time, into a waveform at one rate and pictures at constant instants."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_EPSILON = 1e-6  # seconds; far below a time base tick, above the rounding of times kept as floats
_JITTER = 0.1  # seconds; smaller deviations of sound timestamps are rounding of the container (1 ms in Matroska)
_LONGEST_GAP = 600.0  # seconds of silence filled in for a gap of the timestamps; more is a damaged file
_LONGEST_STILL = 3600.0  # seconds for which one picture is shown; more is a damaged file
_STEP_BACK = 1.0  # seconds by which times may fall behind, as parts that overlap do; more would be left out unseen
_BLOCK = 8192  # samples that are mixed down and resampled together; 0.2 s of sound

# Weights of a mono mix after ITU-R BS.775: front left/right 0.71, centre 1, surround 0.5, no low-frequency channel.
_CHANNEL_WEIGHTS = {"FC": 1.0, "FL": 2**-0.5, "FR": 2**-0.5, "LFE": 0.0, "LFE2": 0.0}
_CHANNEL_WEIGHTS |= dict.fromkeys(("BL", "BR", "BC", "SL", "SR"), 0.5)
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class MediaError(ValueError):
    """A media source that cannot be decoded; the message names the source, what is wrong and what to do."""


class DecodingError(MediaError):
    """Damage met while decoding (as opposed to a wrong request); worth one more try from the front after a seek."""


def require_av() -> Any:
    """Return the module `av`.

    Raises:
        ImportError: PyAV is not installed; names the extra that brings it.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('Decoding media needs PyAV: pip install "hf_mmintent[media]".') from error
    return av


@dataclass(frozen=True)
class Request:
    """What is wanted of a file: the window `[start, end)` in seconds, the rest as the arguments of `decode_clip`."""

    start: float
    end: float
    sampling_rate: int
    fps: float | None
    size: tuple[int, int] | None
    max_frames: int | None
    crop: bool


class SoundSink:
    """Collects mono samples at one rate inside a window, in step with the timestamps."""

    what = "sound"

    def __init__(self, name: str, origin: float, request: Request) -> None:
        self.name, self.origin, self.request = name, origin, request
        self.resampler = _Resampler(request.sampling_rate, request.sampling_rate)
        self.done = False
        self.received = 0  # samples decoded, at their own rate
        self.seen = False  # whether a first block has set the cursor
        self.rate = 0  # of the samples pushed so far; 0 before the first
        self.cursor = 0  # where the last block ended, in samples after the window's start (negative before it)
        self.written = 0  # samples taken
        self.waiting: Any = None  # `av.AudioFifo` of blocks of one kind: mixing hundreds of small ones takes longer
        self.kind: tuple[Any, ...] = ()
        self.buffer = bytearray()  # grows in place: joining a list of blocks would need twice the memory

    def add(self, frame: Any) -> None:
        rate = frame.sample_rate
        self.received += frame.samples
        if rate != self.rate:
            self._change_rate(rate)
        start, end = self.request.start, self.request.end
        index = self.cursor if frame.pts is None else round((frame.time - self.origin - start) * rate)
        if self.seen and abs(index - self.cursor) <= _JITTER * rate:
            index = self.cursor
        elif self.seen and index < self.cursor - _STEP_BACK * rate:
            raise _steps_back(self.name, self.what, (self.cursor - index) / rate)
        self.seen = True
        self.cursor = index + frame.samples
        stop = math.inf if end == math.inf else round((end - start) * rate)
        self.done = self.cursor >= stop
        skipped = max(self.written - index, 0)  # before the window, or a repetition of what was written
        kept = min(frame.samples, stop - index) - skipped
        if kept <= 0:
            return
        self._fill(index + skipped - self.written)
        self.written += int(kept)
        if kept == frame.samples:
            self._wait(frame)
        else:
            self._drain()
            self._push(_mono(frame, self.name)[skipped : skipped + int(kept)])

    def _wait(self, frame: Any) -> None:
        """Keep a block until there are enough of them."""
        kind = frame.format.name, frame.layout.name, frame.layout.nb_channels
        if kind != self.kind:
            self._drain()
            self.waiting, self.kind = require_av().AudioFifo(), kind
        frame.pts = None  # where it belongs is known; rounded times would not follow each other
        self.waiting.write(frame)
        if self.waiting.samples >= _BLOCK:
            self._drain()

    def _drain(self) -> None:
        if self.waiting is not None and self.waiting.samples:
            self._push(_mono(self.waiting.read(), self.name))

    def _change_rate(self, rate: int) -> None:
        self._drain()
        self.waiting, self.kind = None, ()
        if self.rate:  # the decoder may learn the true rate late (HE-AAC): positions are kept in time
            self._store(self.resampler.flush())
            self.cursor, self.written = (round(x * rate / self.rate) for x in (self.cursor, self.written))
        self.rate, self.resampler = rate, _Resampler(rate, self.request.sampling_rate)

    def _fill(self, gap: int) -> None:
        """Silence where the timestamps leave a gap, so that sound and pictures stay in step."""
        if gap > _LONGEST_GAP * self.rate:
            seconds = gap / self.rate
            raise DecodingError(f"{self.name} is damaged: its sound times jump by {seconds:.0f} s. Convert it again.")
        if gap > 0:
            self._drain()
        while gap > 0:
            self.written += min(gap, self.rate)
            self._push(np.zeros(min(gap, self.rate), np.float32))
            gap -= self.rate

    def _push(self, samples: np.ndarray) -> None:
        self._store(self.resampler.push(samples))

    def _store(self, samples: np.ndarray) -> None:
        self.buffer += np.ascontiguousarray(samples).data.cast("B") if samples.size else b""

    def flush(self) -> None:
        """The stream has ended: store what is still held back."""
        self._drain()
        if self.written:
            self._store(self.resampler.flush())

    def finish(self) -> np.ndarray | None:
        self.flush()
        return np.frombuffer(self.buffer, np.float32) if self.buffer else None


class PictureSink:
    """Samples pictures at constant instants inside a window; holds one undecoded picture, the one being shown."""

    what = "pictures"

    def __init__(self, name: str, origin: float, request: Request, stream: Any) -> None:
        self.name, self.origin, self.request = name, origin, request
        self.native_rate = float(stream.average_rate or stream.guessed_rate or 0) or 25.0
        self.rate = request.fps or self.native_rate
        self.reformatter = require_av().video.reformatter.VideoReformatter()  # keeps its scaler from frame to frame
        self.buffer = bytearray()
        self.count = 0
        self.shape: tuple[int, ...] = ()
        self.shown: Any = None
        self.shown_from, self.shown_until = 0.0, 0.0
        self.done = False

    def add(self, frame: Any) -> None:
        time = self.shown_until if frame.pts is None else frame.time - self.origin
        self._check_step(time)
        if self.request.fps is not None:
            self._emit_until(time, self.shown or frame)  # a track that begins late shows its first picture until then
        elif self.shown is not None:
            self._emit_once()
        self.shown, self.shown_from = frame, time
        duration = frame.duration * float(frame.time_base) if frame.duration else 1 / self.native_rate
        self.shown_until = time + duration
        if time >= self.request.end:
            self.done = True

    def _check_step(self, time: float) -> None:
        if self.shown is not None and time < self.shown_from - _STEP_BACK:
            raise _steps_back(self.name, self.what, self.shown_from - time)
        still = min(time, self.request.end) - max(self.shown_from, self.request.start)
        if self.request.fps is not None and self.request.max_frames is None and still > _LONGEST_STILL:
            raise DecodingError(
                f"{self.name} is damaged: the times of its pictures jump by {still:.0f} s. Convert it again, or pass `end`."
            )

    def _emit_once(self) -> None:
        start, end = self.request.start, self.request.end
        if start - _EPSILON <= self.shown_from < end - _EPSILON and not self.done:
            self._store(self._convert(self.shown))

    def _emit_until(self, time: float, frame: Any) -> None:
        start, end = self.request.start, self.request.end
        limit = min(time, end) - _EPSILON
        if frame is not None and not self.done and start + self.count / self.rate < limit:
            picture = self._convert(frame)
            while not self.done and start + self.count / self.rate < limit:
                self._store(picture)
        self.done = self.done or start + self.count / self.rate >= end - _EPSILON

    def _store(self, picture: np.ndarray) -> None:
        if self.shape and picture.shape != self.shape:
            shapes = f"{self.shape[:2]} to {picture.shape[:2]}"
            raise MediaError(f"The pictures of {self.name} change size from {shapes}: pass `size` to resize them all.")
        self.shape = picture.shape
        self.buffer += picture.data.cast("B")
        self.count += 1
        self.done = self.request.max_frames is not None and self.count >= self.request.max_frames

    def _convert(self, frame: Any) -> np.ndarray:
        return picture_array(frame, self.reformatter, self.request.size, self.request.crop)

    def flush(self) -> None:
        """The stream has ended: store what the last picture still covers."""
        if self.shown is not None and not self.done:
            if self.request.fps is not None:
                self._emit_until(self.shown_until, self.shown)
            else:
                self._emit_once()
        self.shown = None

    def finish(self) -> np.ndarray | None:
        self.flush()
        return np.frombuffer(self.buffer, np.uint8).reshape(-1, *self.shape) if self.count else None


def _steps_back(name: str, what: str, seconds: float) -> DecodingError:
    return DecodingError(
        f"{name} is damaged, or several recordings in one file: the times of its {what} fall back by {seconds:.1f} s. "
        "Convert it again, or take it apart."
    )


def picture_array(frame: Any, reformatter: Any, size: tuple[int, int] | None, crop: bool) -> np.ndarray:
    """
    One picture upright, resized, as uint8 RGB.

    Args:
        frame (`av.VideoFrame`): Decoded picture.
        reformatter (`av.video.reformatter.VideoReformatter`): Keeps its scaler from call to call.
        size (`(height, width)`, pixels, *optional*): Size wanted; `None` keeps the picture's.
        crop (`bool`): Cut the centre to the proportions of `size` instead of stretching.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`.
    """
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, from the display matrix of phone recordings
    height, width = (frame.height, frame.width) if size is None else size if turns % 2 == 0 else size[::-1]
    cover = height, width
    if crop:
        scale = max(height / frame.height, width / frame.width)
        cover = math.ceil(frame.height * scale - _EPSILON), math.ceil(frame.width * scale - _EPSILON)
    scaled = reformatter.reformat(frame, width=cover[1], height=cover[0], format="rgb24")
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    picture = scaled.to_ndarray()[top : top + height, left : left + width]
    return np.ascontiguousarray(np.rot90(picture, turns))


class _Resampler:
    """Streaming resampler of mono float blocks (libswresample through PyAV)."""

    def __init__(self, rate: int, target_rate: int) -> None:
        av = require_av()
        self.rate = rate
        self.inner = None if rate == target_rate else av.AudioResampler(format="fltp", layout="mono", rate=target_rate)

    def push(self, samples: np.ndarray) -> np.ndarray:
        if self.inner is None or not samples.size:
            return samples
        frame = require_av().AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate = self.rate
        return self._join(self.inner.resample(frame))

    def flush(self) -> np.ndarray:
        return np.zeros(0, np.float32) if self.inner is None else self._join(self.inner.resample(None))

    @staticmethod
    def _join(frames: list) -> np.ndarray:
        blocks = [frame.to_ndarray()[0] for frame in frames]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _mono(frame: Any, name: str) -> np.ndarray:
    """One decoded block as float32 `(num_samples,)`, channels weighted by their place."""
    names = [channel.name for channel in frame.layout.channels]
    values = _samples(frame, len(names), name)
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / (np.iinfo(values.dtype).max + 1)
    if len(names) == 1:
        return values[0].astype(np.float32, copy=False)
    weights = np.array([_CHANNEL_WEIGHTS.get(name, 2**-0.5) for name in names], np.float32)
    return (weights / weights.sum()) @ values.astype(np.float32, copy=False)


def _samples(frame: Any, channels: int, name: str) -> np.ndarray:
    """
    The values of a block as `(channels, num_samples)`.

    Not by `to_ndarray`: PyAV takes what lies behind the pointers of a frame for further planes when there are eight or
    more, and the process dies.
    """
    kind = frame.format.name.removesuffix("p")
    if kind not in _SAMPLE_TYPES:
        raise MediaError(
            f"{name} has sound samples of the unknown format {frame.format.name!r}: convert it, e.g. to AAC."
        )
    planar = frame.format.is_planar
    count = frame.samples if planar else frame.samples * channels
    planes = frame.planes[: channels if planar else 1]
    values = np.stack([np.frombuffer(plane, _SAMPLE_TYPES[kind], count) for plane in planes])
    return values if planar else values.reshape(-1, channels).T


def resample(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """
    Resample a mono waveform.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`, float): Values.
        sampling_rate, target_rate (`int`, samples per second): Its rate and the one wanted.

    Returns:
        `np.ndarray` of shape `(about num_samples * target_rate / sampling_rate,)`, float32.
    """
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    if sampling_rate == target_rate:
        return waveform
    resampler = _Resampler(sampling_rate, target_rate)
    blocks = [resampler.push(waveform[i : i + 65536]) for i in range(0, len(waveform), 65536)]
    return np.concatenate([*blocks, resampler.flush()])
