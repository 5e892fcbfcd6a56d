"""Sound and pictures of a media file as arrays: mono waveforms at one rate, RGB frames at one constant rate.

One pass over the file, one open: packets are decoded in turn, sound is mixed down and resampled in blocks, a picture is
converted only when a sampling instant needs it, so the memory used is that of the result. A file that cannot be decoded
raises `MediaError`; it is never replaced by zeros, because a silent zero tensor trains a model on nothing.
"""

import io
import math
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

from .media_sampling import DecodingError, MediaError, PictureSink, Request, SoundSink, require_av, resample
from .media_structure import structure_fault

__all__ = ["Clip", "MediaError", "MediaSource", "decode_audio", "decode_clip", "decode_video", "require_av", "resample"]

MediaSource = str | os.PathLike | bytes | io.IOBase | dict[str, Any]

# Demuxers that hold their sound and pictures themselves. Play lists (hls, concat, dash) are left out because they make
# the decoder open other files or addresses; text demuxers because they "recognise" a renamed text file.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,asf,rm,ivf,nut,gif,"
    "wav,w64,aiff,au,mp3,flac,ogg,aac,ac3,eac3,amr,caf"
)
_INDEXED = {"mov", "matroska"}  # an exact index: seeking lands where it says
_DECLARED = {"mov", "matroska", "flac", "flv"}  # the header states the duration instead of the file size implying it
_HEADER_SLACK = 4096  # bytes that a header may declare too many: some writers count it twice, or a trailing chunk
SEEK_MARGIN = 1.0  # seconds decoded before `start`, so that overlapping audio transforms have warmed up


@dataclass
class Clip:
    """
    A decoded clip, or the part of it between two times.

    Args:
        audio (`np.ndarray` of shape `(num_samples,)`, float32 in about [-1, 1], *optional*):
            Mono waveform; its first sample is the clip's start. `None` when there is no sound.
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`, uint8 RGB, *optional*):
            Frame `k` is the picture shown `k / fps` seconds after the start. `None` when there are no pictures.
        sampling_rate (`int`): Samples per second of `audio`.
        fps (`float`): Frames per second of `frames` (the file's mean rate when all frames were asked for).
        duration (`float`): Seconds covered by the longer of the two.
    """

    audio: np.ndarray | None
    frames: np.ndarray | None
    sampling_rate: int
    fps: float
    duration: float


def decode_clip(
    source: MediaSource,
    sampling_rate: int = 16000,
    fps: float | None = 8.0,
    size: int | tuple[int, int] | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    crop: bool = False,
    audio: bool = True,
    video: bool = True,
) -> Clip:
    """
    Decode the sound and the pictures of a clip in one pass.

    Args:
        source (`str`, `os.PathLike`, `bytes`, seekable binary file or `dict`):
            Path (or `file://` address), encoded bytes, or the struct `{"bytes", "path"}` of a dataset row, whose bytes
            win over its path.
        sampling_rate (`int`, samples per second): Rate of the returned waveform.
        fps (`float`, frames per second, *optional*):
            Pictures are sampled at `start + k / fps` by their timestamps, so a variable frame rate keeps its timing.
            `None` returns every picture once.
        size (`int` or `(height, width)`, pixels, *optional*):
            Size of the frames; an `int` is a square, `None` keeps the file's.
        start, end (`float`, seconds from the beginning of the file, *optional*): Part to decode, `[start, end)`.
        max_frames (`int`, *optional*): Keep only the first frames; decoding of pictures stops there.
        crop (`bool`): Cut the centre to the proportions of `size` before resizing instead of stretching.
        audio, video (`bool`): Whether the sound, the pictures are wanted at all.

    Returns:
        [`Clip`]. A part is `None` when it was not asked for, or when the file has none of it between `start` and `end`.

    Raises:
        MediaError: missing, empty, cut off or damaged file, not a media file, nothing between `start` and `end`, or
            neither sound nor pictures at all. What a file says of itself (lengths, checksums, numbers of its pages) is
            held against what is there once its end is reached. Two things nobody can notice: a stream without such
            statements that was cut between two packets, and bytes exchanged within the data of a codec without checksums
            (PCM and VP8 always, VP9 beyond 8 bits and 4:2:0, at times WMV, H.264 and HEVC).
        ImportError: PyAV is not installed.
    """
    request = _check_request(
        Request(start or 0.0, math.inf if end is None else end, sampling_rate, fps, _pair(size), max_frames, crop)
    )
    seekable = request.start > 2 * SEEK_MARGIN
    try:
        clip = _decode(source, request, audio, video, seek=seekable)
    except DecodingError:
        if not seekable:
            raise
        # A stream may be undecodable from the point that was sought (open groups of pictures): start at the front.
        clip = _decode(source, request, audio, video, seek=False)
    return clip


def decode_audio(
    source: MediaSource, sampling_rate: int = 16000, start: float | None = None, end: float | None = None
) -> np.ndarray | None:
    """
    Decode the sound of a media file to one channel.

    Args:
        source, sampling_rate, start, end: As in [`decode_clip`].

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32, or `None` when the file has no sound track.

    Raises:
        MediaError: as [`decode_clip`].
    """
    return decode_clip(source, sampling_rate=sampling_rate, start=start, end=end, video=False).audio


def decode_video(
    source: MediaSource,
    fps: float | None = 8.0,
    size: int | tuple[int, int] | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    crop: bool = False,
) -> np.ndarray | None:
    """
    Decode the pictures of a media file at a constant rate.

    Args:
        source, fps, size, start, end, max_frames, crop: As in [`decode_clip`].

    Returns:
        `np.ndarray` of shape `(num_frames, height, width, 3)`, uint8 RGB, or `None` when the file has no pictures.

    Raises:
        MediaError: as [`decode_clip`].
    """
    return decode_clip(
        source, fps=fps, size=size, start=start, end=end, max_frames=max_frames, crop=crop, audio=False
    ).frames


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else None if size is None else (int(size[0]), int(size[1]))


def _check_request(request: Request) -> Request:
    size = request.size and min(request.size)
    for name, value in (("fps", request.fps), ("max_frames", request.max_frames), ("size", size)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"`{name}` is {value}: pass a positive number or None.")
    if request.sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` is {request.sampling_rate}: pass a positive number of samples per second.")
    if not 0 <= request.start < request.end or request.start == math.inf:
        raise MediaError(f"`start` is {request.start} and `end` is {request.end}: pass 0 <= start < end, in seconds.")
    return request


def source_name(source: MediaSource) -> str:
    if isinstance(source, dict):
        return (
            source_name(source["path"])
            if source.get("path")
            else f"a struct of {len(source.get('bytes') or b'')} bytes"
        )
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"an object of {len(source)} bytes"
    return repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else repr(getattr(source, "name", source))


def _local_path(source: str | os.PathLike) -> Path:
    text = os.fspath(source)
    parsed = urlparse(text)
    if parsed.scheme == "file":
        text = unquote(parsed.path)
    elif "://" in text:
        raise MediaError(f"{text!r} is an address of scheme {parsed.scheme!r}: download it and pass the local path.")
    path = Path(text)
    if not path.exists():
        raise MediaError(f"{text!r} does not exist: check the path, relative paths start at {str(Path.cwd())!r}.")
    if not path.is_file():
        raise MediaError(f"{text!r} is a folder or a device: pass the path of one media file.")
    return path


def _readable(source: MediaSource) -> tuple[str | io.IOBase, int, bytes]:
    """What the decoder opens, the size in bytes, and the first bytes."""
    if isinstance(source, dict):
        if source.get("bytes") is None and source.get("path") is None:
            raise MediaError("The struct has neither 'bytes' nor 'path': a row without media must be null.")
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (str, os.PathLike)):
        path = _local_path(source)
        with path.open("rb") as file:
            head = file.read(64)
        return f"file:{path}", path.stat().st_size, head  # the prefix keeps a name such as "concat:x" a plain file
    stream: Any = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
    if not callable(getattr(stream, "read", None)) or not callable(getattr(stream, "seek", None)):
        raise TypeError(
            f"A media source is a path, bytes, a seekable binary file or a struct, not {type(source).__name__}."
        )
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(64)
    stream.seek(0)
    return stream, size, head


@contextmanager
def open_media(source: MediaSource) -> Iterator[Any]:
    av = require_av()
    name = source_name(source)
    file, size, head = _readable(source)
    if size == 0:
        raise MediaError(f"{name} is empty (0 bytes): copy or download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise MediaError(f"{name} is a Git LFS pointer, not the media itself: run `git lfs pull` in its repository.")
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"AVI "):
        declared = int.from_bytes(head[4:8], "little") + 8
        if size + _HEADER_SLACK < declared < 0xFFFFFFF0:  # streamed files declare the maximum
            raise MediaError(f"{name} is cut off: its header declares {declared} bytes, it has {size}. Copy it again.")
    try:
        container = av.open(file, options={"format_whitelist": _FORMATS}, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
            reason = "is an MP4/MOV file without a readable index ('moov'): it is cut off or damaged"
        else:
            reason = "is not a media file of a known kind"
        raise MediaError(f"{name} {reason} ({size} bytes, {error.strerror}). Copy it again or convert it.") from error
    with container:
        yield container


def _decode(source: MediaSource, request: Request, audio: bool, video: bool, seek: bool) -> Clip:
    name = source_name(source)
    with open_media(source) as container:
        tracks = media_tracks(container, name)
        origin = (container.start_time or 0) / require_av().time_base
        sound = next((s for s in tracks if s.type == "audio"), None) if audio else None
        pictures = next((s for s in tracks if s.type == "video"), None) if video else None
        clip = Clip(None, None, request.sampling_rate, request.fps or 0.0, 0.0)
        sinks: dict[int, SoundSink | PictureSink] = {}
        if sound is not None:
            sinks[sound.index] = SoundSink(name, origin, request)
        if pictures is not None:
            sinks[pictures.index] = PictureSink(name, origin, request, pictures)
        if not sinks:
            return clip
        seek_to = origin + request.start - SEEK_MARGIN if seek else None
        extent = _pump(container, tracks, sinks, source, seek_to) - origin
    for sink in sinks.values():
        if isinstance(sink, SoundSink):
            clip.audio = sink.finish()
        else:
            clip.frames, clip.fps = sink.finish(), sink.rate
    if clip.audio is None and clip.frames is None:
        what = " and ".join(sink.what for sink in sinks.values())
        raise MediaError(
            f"{name} has no {what} between {request.start:g} and {request.end:g} s; it lasts {extent:.2f} s: "
            "check the start and end times, or the file when it is all of it."
        )
    seconds = 0.0 if clip.audio is None else len(clip.audio) / clip.sampling_rate
    clip.duration = seconds if clip.frames is None else max(seconds, len(clip.frames) / clip.fps)
    return clip


def media_tracks(container: Any, name: str) -> list:
    """Sound and picture tracks of an open file."""
    tracks = [s for s in container.streams if s.type == "audio" or (s.type == "video" and not _is_cover(s))]
    if not tracks:
        raise MediaError(f"{name} has neither sound nor pictures: use another file.")
    return tracks


def _is_cover(stream: Any) -> bool:
    av = require_av()
    return bool(stream.disposition & av.stream.Disposition.attached_pic)  # the cover of a song is not a video


def _pump(
    container: Any, tracks: list, sinks: dict[int, SoundSink | PictureSink], source: MediaSource, seek: float | None
) -> float:
    """Decode packets into the sinks until they are done or the file ends; return the seconds that were read."""
    steps = decoding_steps(container, tracks, sinks, source, seek)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def decoding_steps(
    container: Any, tracks: list, sinks: dict[int, SoundSink | PictureSink], source: MediaSource, seek: float | None
) -> Generator[None, None, float]:
    """As `_pump`, stopping after every packet, so that whoever reads the sinks can keep them short."""
    av, name = require_av(), source_name(source)
    decoders: dict[int, Any] = {}
    for stream in tracks:
        if stream.index in sinks:
            if stream.codec_context is None:
                raise MediaError(
                    f"{name} has a {stream.type} track of an unknown codec: convert it, e.g. to H.264/AAC."
                )
            stream.thread_type = "AUTO"
            # Without "explode" some decoders repair damage by guessing; a guess must not pass for data. Checksums are
            # only looked at on request.
            stream.codec_context.options = {"err_detect": "explode+crccheck"}
            plain = stream.codec_context.name == "vp9" and stream.codec_context.pix_fmt == "yuv420p"
            if plain and _Vp9.name in av.codecs_available:
                decoders[stream.index] = _Vp9(stream)
    family = container.format.name.split(",")[0]
    ticks = {stream.index: float(stream.time_base or 0) for stream in tracks}  # of its packets, in seconds
    last, time = 0.0, 0.0
    try:
        if seek is not None and family in _INDEXED:
            container.seek(int(seek * av.time_base))
        for packet in container.demux(tracks):
            stream = packet.stream
            if packet.pts is not None:
                tick = ticks[stream.index]
                time = packet.pts * tick
                last = max(last, time + (packet.duration or 0) * tick)
            sink = sinks.get(stream.index)
            if sink is None or sink.done:
                continue
            if packet.is_corrupt and not stream.codec_context.name.startswith("pcm_"):  # streamed PCM may end anywhere
                raise DecodingError(f"{name} is damaged or cut off near {time:.2f} s. Copy it again.")
            decoder = decoders.get(stream.index)
            for frame in packet.decode() if decoder is None else decoder.decode(packet):
                if frame.is_corrupt:
                    raise DecodingError(
                        f"{name} is damaged near {time:.2f} s: a {stream.type} frame is corrupt. Copy it again."
                    )
                sink.add(frame)
            if all(sink.done for sink in sinks.values()):
                return last
            yield
    except av.error.FFmpegError as error:
        text = (
            f"{name} cannot be decoded near {time:.2f} s ({error.strerror}): it is damaged or cut off. Copy it again."
        )
        raise DecodingError(text) from error
    _check_extent(container, tracks, name, family, last)
    _check_structure(container, sinks, source, family)
    return last


class _Vp9:
    """
    VP9 by libvpx, which notices most damage within a frame where the decoder that comes first plays on.

    It is not told how the pictures are turned: the other one decodes the first frame, and all of them when they are.
    """

    name = "libvpx-vp9"

    def __init__(self, stream: Any) -> None:
        self.strict = require_av().CodecContext.create(self.name, "r")
        stream.thread_type = "SLICE"  # threads over frames would hold the first one back
        self.turned: bool | None = None

    def decode(self, packet: Any) -> list[Any]:
        frames = self.strict.decode(packet if packet.size else None)
        if self.turned is False:
            return frames
        shown = packet.decode()
        if shown and self.turned is None:
            self.turned = bool(shown[0].rotation)
        return shown if self.turned else frames


def _check_structure(
    container: Any, sinks: dict[int, SoundSink | PictureSink], source: MediaSource, family: str
) -> None:
    """Raise when something was lost that the decoders stepped over."""
    file, _, _ = _readable(source)
    with Path(file.removeprefix("file:")).open("rb") if isinstance(file, str) else nullcontext(file) as opened:
        fault = structure_fault(opened, family)
    for index, sink in sinks.items():
        declared = container.streams[index].duration
        # The header of FLAC counts its samples; blocks that do not decode are left out without a word.
        if family == "flac" and isinstance(sink, SoundSink) and declared and sink.received != declared:
            fault = fault or f"is damaged or cut off: {declared - sink.received} of its {declared} samples are missing"
    if fault:
        raise DecodingError(f"{source_name(source)} {fault}. Copy it again.")


def _check_extent(container: Any, tracks: list, name: str, family: str, last: float) -> None:
    """Raise when the packets end much earlier than the header says."""
    if family not in _DECLARED or not container.duration:
        return
    av = require_av()
    declared = container.duration / av.time_base
    durations = [float(stream.duration * stream.time_base) for stream in tracks if stream.duration]
    declared = min([declared, max(durations)]) if durations else declared  # text tracks may run on after both
    reached = last - (container.start_time or 0) / av.time_base
    if declared - reached > 0.5 + 0.02 * declared:  # headers round, and count what an edit list hides
        text = (
            f"{name} is cut off: its header declares {declared:.2f} s, its data end at {reached:.2f} s. Copy it again."
        )
        raise DecodingError(text)
