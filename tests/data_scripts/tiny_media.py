"""Real, tiny media files, encoded on the spot with PyAV: a third of a second of sound and pictures of 32 x 32."""

from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

_VIDEO = {"avi": "mpeg4", "mp4": "mpeg4", "flv": "flv", "mkv": "mpeg4", "mpg": "mpeg1video"}
_AUDIO = {"avi": "pcm_s16le", "mp4": "aac", "flv": "mp3", "mkv": "aac", "mpg": "mp2", "wav": "pcm_s16le", "mp3": "mp3"}
_FORMATS = {"mkv": "matroska", "mpg": "mpeg"}
_RATE = 44_100  # one that every one of the codecs takes


@lru_cache
def media_bytes(ending: str, sound: bool = True) -> bytes:
    """A file of this kind; sound files have no pictures, `sound=False` gives pictures alone."""
    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format=_FORMATS.get(ending, ending)) as container:
        if ending in _VIDEO:
            pictures = container.add_stream(_VIDEO[ending], rate=25 if ending == "mpg" else 10)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        if sound:
            noise = container.add_stream(_AUDIO[ending], rate=_RATE, layout="mono")
        if ending in _VIDEO:
            for value in (60, 120, 180):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
        if sound:
            wave = (np.sin(np.arange(_RATE // 3) / 9) * 8000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = _RATE, Fraction(1, _RATE), 0
            fit = av.AudioResampler(noise.format, "mono", _RATE, frame_size=noise.codec_context.frame_size or None)
            for piece in [*fit.resample(frame), *fit.resample(None)]:
                container.mux(noise.encode(piece))
            container.mux(noise.encode())
    return buffer.getvalue()


def write_media(path: Path, sound: bool = True) -> Path:
    """A real file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(media_bytes(path.suffix[1:].lower(), sound))
    return path
