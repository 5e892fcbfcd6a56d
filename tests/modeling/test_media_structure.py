"""Files that decoders play without a word although something of them is missing."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from hf_mmintent.modeling.media_decoding import MediaError, decode_clip
from hf_mmintent.modeling.media_structure import ogg_checksum, structure_fault

from .media_files import write_media

SECONDS = 3.0
SOUND: dict[str, Any] = {"video": None, "seconds": SECONDS}
BOTH: dict[str, Any] = {"seconds": SECONDS, "size": (96, 160), "fps": 12}
# name -> (family, how it is written)
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "opus": ("ogg", {"container": "ogg", "audio": "libopus", "rate": 48000, **SOUND}),
    "flac": ("flac", {"container": "flac", "audio": "flac", **SOUND}),
    "mp3": ("mp3", {"container": "mp3", "audio": "libmp3lame", **SOUND}),
    "mp3 without header": (
        "mp3",
        {"container": "mp3", "audio": "libmp3lame", "options": {"write_xing": "0", "id3v2_version": "0"}, **SOUND},
    ),
    "mp3 of MPEG-2": ("mp3", {"container": "mp3", "audio": "libmp3lame", "rate": 16000, "layout": "mono", **SOUND}),
    "mkv": ("matroska", {"container": "matroska", **BOTH}),
    "webm": ("matroska", {"container": "webm", "video": "libvpx", "audio": "libopus", "rate": 48000, **BOTH}),
    "live webm": (
        "matroska",
        {
            "container": "webm",
            "video": "libvpx",
            "audio": "libopus",
            "rate": 48000,
            "options": {"live": "1"},
            **BOTH,
        },
    ),
    "avi": ("avi", {"container": "avi", "video": "mpeg4", "audio": "mp2", **BOTH}),
    "flv": ("flv", {"container": "flv", "video": "flv1", "audio": "libmp3lame", **BOTH}),
    "mpg": ("mpeg", {"container": "mpeg", "video": "mpeg1video", "audio": "mp2", **BOTH, "fps": 25}),
    "mpg of MPEG-2": (
        "mpeg",
        {"container": "vob", "video": "mpeg2video", "audio": "mp2", "rate": 48000, **BOTH, "fps": 25},
    ),
    "ts": ("mpegts", {"container": "mpegts", **BOTH}),
    "m2ts": ("mpegts", {"container": "mpegts", "options": {"mpegts_m2ts_mode": "1"}, **BOTH}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("structure")
    return {name: write_media(folder / "file", **how).read_bytes() for name, (_, how) in FILES.items()}


def fault(data: bytes, name: str) -> str | None:
    return structure_fault(io.BytesIO(data), FILES[name][0])


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_whole(files: dict[str, bytes], name: str) -> None:
    assert fault(files[name], name) is None
    clip = decode_clip(files[name])
    assert clip.duration == pytest.approx(SECONDS, abs=0.15)


def refused(data: bytes) -> bool:
    try:
        decode_clip(data)
    except MediaError as error:
        assert any(what in str(error) for what in ("cut off", "damaged", "not a media file")), error
        return True
    return False


@pytest.mark.parametrize("name", FILES)
def test_no_cut_goes_unnoticed(files: dict[str, bytes], name: str) -> None:
    data = files[name]
    for share in (0.23, 0.45, 0.61, 0.83, 0.95):
        end = int(len(data) * share)
        while not data[end - 16 : end].strip(b"\0"):  # not in the zeros between two packs of MPEG
            end += 1
        # Between two frames or packets of a stream without header nothing tells of a cut; a little further on it does.
        assert refused(data[:end]) or refused(data[: end + 5]), share


@pytest.mark.parametrize("name", FILES)
def test_no_lost_piece_goes_unnoticed(files: dict[str, bytes], name: str) -> None:
    data, numbers = files[name], random.Random(0)
    size = max(3000, len(data) // 20)  # larger than a packet: smaller damage inside one only its decoder may notice
    for share in (0.3, 0.5, 0.7):
        at = int(len(data) * share)
        for filling in (bytes(size), numbers.randbytes(size)):
            with pytest.raises(MediaError):
                decode_clip(data[:at] + filling + data[at + size :])
        with pytest.raises(MediaError):
            decode_clip(data[:at] + data[at + size :])


def test_a_shift_of_a_lost_block_is_an_error(files: dict[str, bytes]) -> None:
    """Blocks of FLAC that do not decode are left out; nothing else tells that the rest moved."""
    data = bytearray(files["flac"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(MediaError, match=r"of its 132300 samples are missing"):
        decode_clip(bytes(data))
    assert len(decode_clip(bytes(data), end=1.0).audio) == 16000  # in front of the damage


def test_tags_around_the_sound_are_no_fault(files: dict[str, bytes]) -> None:
    tag = b"TAG" + bytes(125)
    for name in ("mp3", "mp3 without header", "opus"):
        assert fault(files[name] + tag, name) is None
        assert decode_clip(files[name] + tag).duration == pytest.approx(SECONDS, abs=0.15)
    picture = b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)  # 257 = 2 * 128 + 1
    assert fault(picture + files["mp3 without header"], "mp3") is None
    assert "cut off" in str(fault((picture + files["mp3 without header"])[:-9], "mp3"))


def test_pages_of_ogg(files: dict[str, bytes]) -> None:
    data = files["opus"]
    second = data.index(b"OggS", 4)
    page = bytearray(data[:second])
    stored = int.from_bytes(page[22:26], "little")
    page[22:26] = bytes(4)
    assert ogg_checksum(bytes(page)) == stored
    assert ogg_checksum(b"123456789") == 0x89A1897F  # CRC-32 of this polynomial, from zero, neither side mirrored
    third = data.index(b"OggS", second + 4)
    fourth = data.index(b"OggS", third + 4)
    assert "pages are missing" in str(fault(data[:third] + data[fourth:], "opus"))
    assert "checksum" in str(fault(data[: third + 60] + b"\0\1\2" + data[third + 63 :], "opus"))
    assert "last page is missing" in str(fault(data[:third], "opus"))
    assert fault(data + data, "opus") is None  # one recording after the other


def test_formats_that_do_not_tell_are_left_to_their_decoders(tmp_path: Path) -> None:
    assert structure_fault(io.BytesIO(b"anything"), "mov") is None
    for family in ("ogg", "matroska", "flv", "mpeg"):
        assert structure_fault(io.BytesIO(b"\xff" * 100), family) is not None
