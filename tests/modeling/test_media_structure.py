"""Files that decoders play without a word although something of them is missing."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hf_mmintent.modeling.media_decoding import MediaError, decode_clip
from hf_mmintent.modeling.media_structure import ogg_checksum, structure_fault

from .media_files import index_of, rotate_mp4, write_media

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
    "mp4": ("mov", {"container": "mp4", **BOTH}),
    "mp4, index first": ("mov", {"container": "mp4", "options": {"movflags": "faststart"}, **BOTH}),
    "mp4 of fragments": ("mov", {"container": "mp4", "options": {"movflags": "frag_keyframe+empty_moov"}, **BOTH}),
    "mov": ("mov", {"container": "mov", "audio": "pcm_s16le", **BOTH}),
    "3gp": ("mov", {"container": "3gp", "video": "mpeg4", **BOTH}),
    "avi": ("avi", {"container": "avi", "video": "mpeg4", "audio": "mp2", **BOTH}),
    "flv": ("flv", {"container": "flv", "video": "flv1", "audio": "libmp3lame", **BOTH}),
    "wmv": ("asf", {"container": "asf", "video": "wmv2", "audio": "libmp3lame", **BOTH}),
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


def test_asf_that_was_written_live(files: dict[str, bytes]) -> None:
    """Its header knows neither its size nor how many packets follow."""
    data = bytearray(files["wmv"])
    properties = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    data[properties + 88] |= 1
    begin = data.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"))
    stored, packet = int.from_bytes(data[begin + 16 : begin + 24], "little"), 3200
    for extent in (stored, 0):
        data[begin + 16 : begin + 24] = extent.to_bytes(8, "little")
        assert fault(bytes(data), "wmv") is None
        assert "cut off" in str(fault(bytes(data[: begin + 50 + 5 * packet + 7]), "wmv"))
        shifted = data[: begin + 50 + 3 * packet + 100] + data[begin + 50 + 3 * packet + 150 :]
        assert "damaged" in str(fault(bytes(shifted), "wmv")) or "cut off" in str(fault(bytes(shifted), "wmv"))
    assert "do not fill" in str(
        fault(files["wmv"].replace(stored.to_bytes(8, "little"), (stored + 1).to_bytes(8, "little")), "wmv")
    )


def test_bytes_changed_within_frames_of_vp9(tmp_path: Path) -> None:
    """One in a hundred of some frames."""
    path = write_media(tmp_path / "a.webm", video="libvpx-vp9", audio=None, seconds=2.0, size=(96, 160), options={})
    data = path.read_bytes()
    with av.open(str(path)) as container:
        frames = [bytes(packet) for packet in container.demux(video=0) if packet.size > 40]
    assert len(frames) > 8
    for seed in range(5):
        numbers, changed = random.Random(seed), bytearray(data)
        for frame in numbers.sample(frames, 8):
            at = data.index(frame)
            for _ in range(max(len(frame) // 100, 2)):
                changed[at + 12 + numbers.randrange(len(frame) - 12)] = numbers.randrange(256)
        assert refused(bytes(changed))


def test_vp9_is_upright(tmp_path: Path) -> None:
    """The decoder that notices damage is not told of the rotation."""
    data = write_media(tmp_path / "a.mp4", video="libvpx-vp9", seconds=0.6).read_bytes()
    upright, turned = decode_clip(data).frames, decode_clip(rotate_mp4(data, 90)).frames
    assert len(turned) == len(upright) == 5
    for one, other in zip(upright, turned, strict=True):
        assert index_of(np.rot90(other, 1)) == index_of(one)


def test_formats_that_do_not_tell_are_left_to_their_decoders(tmp_path: Path) -> None:
    assert structure_fault(io.BytesIO(b"anything"), "mov") is None
    for family in ("ogg", "matroska", "flv", "mpeg"):
        assert structure_fault(io.BytesIO(b"\xff" * 100), family) is not None


@pytest.mark.parametrize("name", ["mp4", "mov", "3gp"])
def test_damage_of_the_index_does_not_lose_a_track(files: dict[str, bytes], name: str) -> None:
    """Demuxers leave out a track whose tables they cannot read, and play the other."""
    data = files[name]
    index = data.index(b"moov") - 4
    lost = []
    for at in range(index + 4, len(data), 29):
        for changed in (data[:at], data[:at] + data[at + 4 :]):
            try:
                clip = decode_clip(changed, fps=2, size=16)
            except MediaError:
                continue
            if clip.audio is None or clip.frames is None:
                lost.append(at - index)
    assert not lost


def test_what_boxes_need_not_say(files: dict[str, bytes]) -> None:
    data = files["mp4"]
    assert fault(data + b"TAG" + bytes(125), "mp4") is None  # a tag behind the file
    assert fault(data + bytes(4096), "mp4") is None  # padding
    at = data.index(b"mdat") - 4
    first = files["mp4, index first"]
    to_the_end = first.index(b"mdat") - 4
    assert fault(first[:to_the_end] + bytes(4) + first[to_the_end + 4 :], "mp4") is None  # the last box has no length
    long = (1).to_bytes(4, "big") + b"mdat" + (int.from_bytes(data[at : at + 4], "big") + 8).to_bytes(8, "big")
    assert fault(data[:at] + long + data[at + 8 :], "mp4") is None
    trak = data.index(b"trak")
    assert "'trak'" in str(fault(data[: trak + 4] + b"\0\0\0\x07" + data[trak + 8 :], "mp4"))
    media, index = data[: trak - 8], data[trak - 8 :]
    assert "'vide'" in str(fault(media + index.replace(b"vide", b"junk", 1), "mp4"))
    assert "'stts'" in str(fault(media + index.replace(b"stts", b"sttx", 1), "mp4"))
