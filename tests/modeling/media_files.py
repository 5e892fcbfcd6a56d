"""Small media files for the tests, made on the spot: every picture shows its own index, the sound is a tone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS, CELL = 10, 16  # the index as black and white squares of 16 pixels: they survive any codec
HEIGHT, WIDTH = 2 * CELL, BITS * CELL
TICKS = 1000  # of the video time base, per second
TONE = 440.0  # Hz
AMPLITUDE = 0.5


def picture(index: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: the bits of the index in the upper row, their opposites in the lower one."""
    bits = np.array([index >> bit & 1 for bit in range(BITS)], np.uint8) * 220 + 16
    rows = np.stack([bits, 252 - bits]).repeat(CELL, 0).repeat(CELL, 1)
    return np.repeat(rows[..., None], 3, -1)


def index_of(frame: np.ndarray) -> int:
    """The index shown in a decoded frame of any size."""
    height, width = frame.shape[:2]
    rows = (np.array([0.25, 0.75]) * height).astype(int)
    columns = ((np.arange(BITS) + 0.5) / BITS * width).astype(int)
    upper, lower = (frame[row, columns, 1] > 126 for row in rows)
    assert (upper != lower).all(), "the picture is damaged or not upright"
    return int((upper << np.arange(BITS)).sum())


def tone(seconds: float, rate: int, frequency: float = TONE) -> np.ndarray:
    """(seconds * rate,) float32 sine."""
    time = np.arange(round(seconds * rate)) / rate
    return (AMPLITUDE * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_media(
    target: Path,
    container: str | None = None,
    seconds: float = 2.0,
    video: str | None = "libx264",
    audio: str | None = "aac",
    fps: int = 25,
    times: Sequence[float] | None = None,
    rate: int = 44100,
    layout: str = "stereo",
    gains: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """
    Write a file, its format from its suffix unless `container` names one, and return its path.

    `times` are the seconds at which the pictures begin; constant by default. `gains` scale the channels of the tone.
    """
    with av.open(str(target), "w", format=container, options=options or {}) as out:
        pictures = None if video is None else _video_stream(out, video, fps, size, TICKS if times is not None else fps)
        sound = None if audio is None else out.add_stream(audio, rate=rate, layout=layout)
        if pictures is not None:
            for index, time in enumerate(times if times is not None else np.arange(round(seconds * fps)) / fps):
                frame = av.VideoFrame.from_ndarray(picture(index % 2**BITS), format="rgb24")
                if size != (HEIGHT, WIDTH):
                    frame = frame.reformat(width=size[1], height=size[0], interpolation="POINT")
                frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
                out.mux(pictures.encode(frame))
            out.mux(pictures.encode(None))
        if sound is not None:
            _write_sound(out, sound, seconds, rate, layout, gains)
    return target


def _video_stream(out: Any, codec: str, fps: int, size: tuple[int, int], ticks: int) -> Any:
    stream = out.add_stream(codec, rate=fps)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = Fraction(1, ticks)  # MPEG-1 takes none but its frame rate
    stream.codec_context.thread_count = 1
    if codec == "libx264":
        stream.options = {"preset": "ultrafast", "crf": "12"}
    return stream


def _write_sound(out: Any, stream: Any, seconds: float, rate: int, layout: str, gains: Sequence[float] | None) -> None:
    channels = av.AudioLayout(layout).nb_channels
    wave = np.outer(gains if gains is not None else [1.0] * channels, tone(seconds, rate)).astype(np.float32)
    convert = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
    for begin in range(0, wave.shape[1], 4800):
        packed = np.ascontiguousarray(wave[:, begin : begin + 4800].T).reshape(1, -1)  # PyAV takes at most 7 planes
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        for converted in convert.resample(frame):
            out.mux(stream.encode(converted))
    out.mux(stream.encode(None))


def rotate_mp4(data: bytes, degrees: int) -> bytes:
    """The MP4 with the display matrix of its first track set, as a phone held upright writes it (90: clockwise)."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 0x4000]  # 16.16 fixed point, the last 2.30
    at = data.index(b"tkhd") + 4 + 40  # version and flags, five words, then eight reserved bytes, four half words
    packed = b"".join((value * 65536 & 0xFFFFFFFF).to_bytes(4, "big") for value in matrix)
    return data[:at] + packed + data[at + 36 :]
