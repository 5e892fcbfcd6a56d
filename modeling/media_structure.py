"""Whether a media file is whole by its own structure, where decoders step over what is missing.

Some demuxers look for the next thing they know after damage, and what was lost becomes a shift or a stretch of silence. The
formats below say enough to notice that: checksums, sequence numbers, sizes that must fill each other exactly.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))  # bytes with their bits in opposite order
_UNKNOWN = -1  # size of an EBML element that was written as a live stream

# Elements of a Matroska segment and of its clusters (RFC 9559), with Void and CRC-32, which may be anywhere.
_ANYWHERE = {0xEC, 0xBF}
_CLUSTER = 0x1F43B675
_IN_SEGMENT = _ANYWHERE | {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, _CLUSTER, 0x1254C367, 0x1043A770, 0x1941A469}
_IN_CLUSTER = _ANYWHERE | {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}
_TOP = {0x1A45DFA3, 0x18538067}  # EBML header, segment

_BITRATES = {  # kbit/s by (MPEG-1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BITRATES[False, 3] = _BITRATES[False, 2]


def structure_fault(file: BinaryIO, family: str) -> str | None:
    """
    What is wrong with the structure of a file.

    Args:
        file: seekable; its position changes.
        family: first name that the demuxer has for the format, e.g. "matroska".

    Returns:
        "is cut off …" or "is damaged …", or `None` when nothing is found, or the format does not tell.
    """
    check = _CHECKS.get(family)
    if check is None:
        return None
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        return check(file, size)
    except EOFError:
        return f"is cut off after {size} bytes"


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


# ---- Ogg (RFC 3533) ---------------------------------------------------------------------------------------------------


def ogg_checksum(page: bytes) -> int:
    """CRC-32 with polynomial 0x04c11db7, most significant bit first, as pages carry it; their own field counts as 0."""
    state = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF  # the usual one is its mirror image
    return int(f"{state:032b}"[::-1], 2)


def _ogg(file: BinaryIO, size: int) -> str | None:
    following: dict[bytes, int] = {}  # next page number of the streams that have not ended
    while (at := file.tell()) < size:
        head = _exactly(file, 27)
        if head[:4] != b"OggS":
            # a tag behind the last page is none of the stream's business
            return f"is damaged at byte {at}" if following or not at else None
        table = _exactly(file, head[26])
        body = _exactly(file, sum(table))
        if ogg_checksum(head[:22] + bytes(4) + head[26:] + table + body) != int.from_bytes(head[22:26], "little"):
            return f"is damaged at byte {at} (checksum of a page)"
        serial, number, flags = head[14:18], int.from_bytes(head[18:22], "little"), head[5]
        if number != following.get(serial, number):
            return f"is damaged at byte {at} (pages are missing)"
        following[serial] = number + 1
        if flags & 4:
            del following[serial]
    return f"is cut off after {size} bytes (its last page is missing)" if following else None


# ---- Matroska and WebM (RFC 8794, RFC 9559) -----------------------------------------------------------------------------


def _number(file: BinaryIO, keep_marker: bool) -> int:
    """A number of variable length; of an ID the marker bit belongs to it."""
    first = _exactly(file, 1)[0]
    if not first:
        raise ValueError("no number of EBML begins with a zero byte")
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first]) + _exactly(file, length - 1), "big")
    if keep_marker:
        return value
    value -= 1 << 7 * length
    return _UNKNOWN if value == (1 << 7 * length) - 1 else value


def _matroska(file: BinaryIO, size: int) -> str | None:
    ends = [size]  # of the elements around, the file outermost
    allowed = [_TOP]
    while (at := file.tell()) < size:
        while len(ends) > 1 and at == ends[-1]:
            ends.pop(), allowed.pop()
        try:
            name, length = _number(file, True), _number(file, False)
        except ValueError:
            return f"is damaged at byte {at}"
        while name not in allowed[-1] and len(ends) > 1 and ends[-1] == ends[-2]:
            ends.pop(), allowed.pop()  # an element of unknown size ends where something of a level above begins
        if name not in allowed[-1]:
            return f"is damaged at byte {at}"
        start = file.tell()
        end = ends[-1] if length == _UNKNOWN else start + length
        if end > size:
            return f"is cut off: {end - size} of its bytes are missing"
        if end > ends[-1]:
            return f"is damaged at byte {at}"
        inner = {0x18538067: _IN_SEGMENT, _CLUSTER: _IN_CLUSTER}.get(name)
        if inner is None:
            file.seek(end)
        else:
            ends.append(end), allowed.append(inner)
    return None


# ---- MP4 and QuickTime (ISO/IEC 14496-12) -------------------------------------------------------------------------------

_MOV_TOP = {b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"styp", b"free", b"skip", b"wide", b"uuid", b"meta"}
_MOV_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}  # boxes that hold others and nothing else
_MOV_TABLES = {  # bytes in front of the entries, bytes of an entry
    b"stts": (8, 8),
    b"ctts": (8, 8),
    b"stsc": (8, 12),
    b"stss": (8, 4),
    b"stco": (8, 4),
    b"co64": (8, 8),
}
_MOV_MEDIA = {b"vmhd": b"vide", b"smhd": b"soun"}  # header of a track's media -> what its handler is called


def _mov(file: BinaryIO, size: int) -> str | None:
    """Boxes fill the file, and within the index each other; a track of sound or pictures has all of its tables."""
    at = 0
    while at + 8 <= size:
        name, begin, end = _mov_box(file, at, size)
        if not _mov_name(name) or (name not in _MOV_TOP and end > size):
            return None  # what lies behind the last box, a tag or padding, is none of the decoder's business
        if end > size:
            return f"is cut off: {end - size} of its bytes are missing"
        if end < begin:
            return f"is damaged at byte {at}"
        if name in _MOV_NESTED and (fault := _mov_boxes(file, name, begin, end)):
            return fault
        at = end
    return None


def _mov_box(file: BinaryIO, at: int, limit: int) -> tuple[bytes, int, int]:
    """Name of the box at `at`, begin and end of what it holds; one of no stated length goes on up to `limit`."""
    file.seek(at)
    length, name = int.from_bytes(_exactly(file, 4), "big"), _exactly(file, 4)
    if length == 1:
        return name, at + 16, at + int.from_bytes(_exactly(file, 8), "big")
    return name, at + 8, limit if length == 0 else at + length


def _mov_name(name: bytes) -> bool:
    return all(32 <= byte < 127 or byte == 169 for byte in name)


def _mov_boxes(file: BinaryIO, parent: bytes, at: int, limit: int) -> str | None:
    found: dict[bytes, tuple[int, int]] = {}
    while at + 8 <= limit:
        name, begin, end = _mov_box(file, at, limit)
        if not begin <= end <= limit or not _mov_name(name):
            return f"is damaged at byte {at} (a box of {parent.decode()!r})"
        if name in _MOV_TABLES and not _mov_table_fits(file, name, begin, end):
            return f"is damaged at byte {at} ({name.decode()!r} is too short for its entries)"
        if name in _MOV_NESTED and (fault := _mov_boxes(file, name, begin, end)):
            return fault
        found[name], at = (begin, end), end
    if b"cmov" in found:  # an index that is compressed
        return None
    if missing := _mov_missing(file, parent, found):
        return f"is damaged near byte {limit} ({parent.decode()!r} has no {missing})"
    return None


def _mov_table_fits(file: BinaryIO, name: bytes, begin: int, end: int) -> bool:
    front, entry = _MOV_TABLES[name]
    if end - begin < front:
        return False
    file.seek(begin + front - 4)
    return front + entry * int.from_bytes(_exactly(file, 4), "big") <= end - begin


def _mov_missing(file: BinaryIO, parent: bytes, found: dict[bytes, tuple[int, int]]) -> str | None:
    """What a box should hold and does not."""
    needed: dict[bytes, tuple[tuple[bytes, ...], ...]] = {
        b"moov": ((b"mvhd",), (b"trak",)),
        b"trak": ((b"tkhd",), (b"mdia",)),
        b"mdia": ((b"mdhd",), (b"hdlr",), (b"minf",)),
        b"minf": ((b"stbl",),),
        b"stbl": ((b"stsd",), (b"stts",), (b"stsc",), (b"stsz", b"stz2"), (b"stco", b"co64")),
    }
    for names in needed.get(parent, ()):
        if not found.keys() & set(names):
            return " or ".join(repr(name.decode()) for name in names)
    if parent != b"mdia":
        return None
    inner, limit = found[b"minf"]
    file.seek(found[b"hdlr"][0] + 8)
    handler = _exactly(file, 4)
    while inner + 8 <= limit:
        name, _, end = _mov_box(file, inner, limit)
        if _MOV_MEDIA.get(name, handler) != handler:
            return f"handler {_MOV_MEDIA[name].decode()!r}"
        inner = end
    return None


# ---- AVI ----------------------------------------------------------------------------------------------------------------


def _avi(file: BinaryIO, size: int) -> str | None:
    """Chunks must fill the list of pictures and sound; what is in front and behind it is left alone."""
    for start, end in _avi_media(file, size):
        file.seek(start)
        while (at := file.tell()) + 8 <= end:
            name, length = _exactly(file, 4), int.from_bytes(_exactly(file, 4), "little")
            if name == b"LIST":  # chunks that belong together
                file.seek(4, io.SEEK_CUR)
                continue
            known = name[:2].isalnum() and name[2:] in (b"dc", b"db", b"wb", b"tx", b"pc")
            if not (known or name in (b"JUNK", b"idx1") or name[:2] == b"ix") or at + 8 + length > end:
                return f"is damaged at byte {at}"
            file.seek(length + length % 2, io.SEEK_CUR)
    return None


def _avi_media(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what lies in the lists of pictures and sound; large files have several."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        name, length, kind = _exactly(file, 4), int.from_bytes(_exactly(file, 4), "little"), _exactly(file, 4)
        if name == b"RIFF" and kind in (b"AVI ", b"AVIX"):
            at += 12
        elif name == b"LIST" and kind == b"movi" and length:
            yield at + 12, min(at + 8 + length, size)
            at += 8 + length + length % 2
        elif name == b"LIST" and kind == b"movi":
            return  # a capture that was never closed
        else:
            at += 8 + length + length % 2


# ---- Flash video --------------------------------------------------------------------------------------------------------


def _flv(file: BinaryIO, size: int) -> str | None:
    """Every tag is followed by its length."""
    file.seek(int.from_bytes(_exactly(file, 9)[5:], "big") + 4)
    if file.tell() > size:
        raise EOFError
    while (at := file.tell()) < size:
        head = _exactly(file, 11)
        length = int.from_bytes(head[1:4], "big")
        file.seek(length, io.SEEK_CUR)
        if head[0] & 31 not in (8, 9, 18) or int.from_bytes(_exactly(file, 4), "big") != 11 + length:
            return f"is damaged at byte {at}"
    return None


# ---- ASF (WMV, WMA) -----------------------------------------------------------------------------------------------------

_ASF_HEADER, _ASF_DATA, _ASF_FILE = (  # first bytes of objects, as a file has them
    bytes.fromhex(text)
    for text in (
        "3026b2758e66cf11a6d900aa0062ce6c",
        "3626b2758e66cf11a6d900aa0062ce6c",
        "a1dcab8c47a9cf118ee400c00c205365",
    )
)
_ASF_LIVE = 1  # flag: sizes and numbers of packets were not known


def _asf(file: BinaryIO, size: int) -> str | None:
    """Objects fill the file, packets of one length the data object; each begins as the first one does."""
    live, length = True, 0
    while (at := file.tell()) < size:
        name, extent = _exactly(file, 16), int.from_bytes(_exactly(file, 8), "little")
        if name == _ASF_DATA:
            head = _exactly(file, 26)
            count = int.from_bytes(head[16:24], "little")
            end = size if live and extent <= 50 else at + extent
            if not live and count * length != extent - 50:
                return f"is damaged at byte {at} (its packets do not fill the data)"
            if end > size:
                return f"is cut off: {end - size} of its bytes are missing"
            if fault := _asf_packets(file, at + 50, end, length, live):
                return fault
            file.seek(end)
            continue
        if name == _ASF_HEADER:
            live, length = _asf_properties(_exactly(file, max(extent - 24, 0)))
        elif not at:
            return None  # framed for a network: left to the demuxer
        elif extent < 24:
            return f"is damaged at byte {at}"
        elif at + extent > size:
            return f"is cut off: {at + extent - size} of its bytes are missing"
        file.seek(at + extent)
    return None


def _asf_properties(header: bytes) -> tuple[bool, int]:
    """Whether the file was written live, and the bytes of a packet."""
    at = header.index(_ASF_FILE) if _ASF_FILE in header else len(header)
    flags, least, most = (int.from_bytes(header[at + start : at + start + 4], "little") for start in (88, 92, 96))
    return bool(flags & _ASF_LIVE), most if least == most else 0


def _asf_packets(file: BinaryIO, start: int, end: int, length: int, live: bool) -> str | None:
    if not length:
        return None  # packets of several lengths
    file.seek(start)
    mark = file.read(3)
    if mark[:1] != b"\x82":
        return None  # without error correction data a packet begins with flags of its own
    for at in range(start, end - length + 1, length):
        file.seek(at)
        if file.read(3) != mark:
            # a live file may have an index behind its packets, which says its own length
            return None if live and at > start and _asf_objects_follow(file, at, end) else f"is damaged at byte {at}"
    rest = (end - start) % length
    if rest and not _asf_objects_follow(file, end - rest, end):
        return f"is cut off: its last packet has {rest} of {length} bytes"
    return None


def _asf_objects_follow(file: BinaryIO, at: int, end: int) -> bool:
    while at < end:
        file.seek(at + 16)
        extent = int.from_bytes(file.read(8), "little")
        if extent < 24:
            return False
        at += extent
    return at == end


# ---- MPEG: audio, program stream, transport stream ----------------------------------------------------------------------


def _mpeg_frame(head: bytes) -> tuple[int, bool] | None:
    """Bytes of a frame and whether it is MPEG-1; `None` for anything else, also for frames without a stated bit rate."""
    bits = int.from_bytes(head, "big")
    version, layer = bits >> 19 & 3, 4 - (bits >> 17 & 3)
    rate, place, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if len(head) < 4 or bits >> 21 != 0x7FF or version == 1 or layer == 4 or rate in (0, 15) or place == 3:
        return None
    first = version == 3
    hertz = (44100, 48000, 32000)[place] // {3: 1, 2: 2, 0: 4}[version]
    bitrate = 1000 * _BITRATES[first, layer][rate]
    if layer == 1:
        return (12 * bitrate // hertz + padding) * 4, first
    return (144 if first or layer == 2 else 72) * bitrate // hertz + padding, first


def _mp3(file: BinaryIO, size: int) -> str | None:
    """The bytes that the first frame announces are there, and so is all of the last frame."""
    at = 0
    while (tag := file.read(10))[:3] == b"ID3":
        at += 10 + int("".join(f"{byte & 127:07b}" for byte in tag[6:10]), 2) + (10 if tag[5] & 16 else 0)
        file.seek(at)
    head, begin = tag[:4], at
    if (frame := _mpeg_frame(head)) is None:
        return None
    mono = head[3] >> 6 == 3
    place = 4 + ((17 if mono else 32) if frame[1] else (9 if mono else 17))  # behind the side information
    file.seek(at + place)
    announced = file.read(16)
    if announced[:4] in (b"Xing", b"Info") and announced[7] & 2:
        flags = announced[7]
        total = int.from_bytes(announced[12:16] if flags & 1 else announced[8:12], "big")
        if begin + total > size:
            return f"is cut off: {begin + total - size} of the bytes that it announces are missing"
    while frame is not None:
        at += frame[0]
        if at > size:
            return f"is cut off: {at - size} bytes of its last frame are missing"
        file.seek(at)
        frame = _mpeg_frame(file.read(4))
    return None  # tags, or something else that decoders may judge


def _program(file: BinaryIO, size: int) -> str | None:
    """Packs and packets follow each other; zeros may lie between them."""
    while (at := file.tell()) < size:
        code = file.read(4)
        if code[:3] != b"\0\0\1":
            if code.strip(b"\0\1"):
                return f"is damaged at byte {at}"
            file.seek(at + 1)  # zeros before a start code
            continue
        if code[3] == 0xB9:  # the end; another program may follow
            continue
        if code[3] == 0xBA:  # a pack: MPEG-2 states its stuffing
            head = _exactly(file, 8)
            file.seek((_exactly(file, 2)[1] & 7) if head[0] >> 6 == 1 else 0, io.SEEK_CUR)
            continue
        if code[3] < 0xBB:
            return f"is damaged at byte {at}"
        length = int.from_bytes(_exactly(file, 2), "big")
        if not length:
            return None  # of unstated length
        if file.tell() + length > size:
            return f"is cut off: {file.tell() + length - size} bytes of its last packet are missing"
        file.seek(length, io.SEEK_CUR)
    return None


def _transport(file: BinaryIO, size: int) -> str | None:
    """Packets of one length, each with its mark."""
    head = file.read(4 + 204 * 4)
    for length, first in ((188, 0), (192, 4), (204, 0)):
        if all(head[first + number * length : first + number * length + 1] == b"G" for number in range(4)):
            break
    else:
        return None  # too short, or it begins with something else
    file.seek(0)
    for at in range(0, size // length * length, 4096 * length):
        marks = file.read(4096 * length)[first::length]
        if marks.strip(b"G"):
            return f"is damaged at byte {at + (len(marks) - len(marks.lstrip(b'G'))) * length}"
    return f"is cut off: its last packet has {size % length} of {length} bytes" if size % length else None


_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "ogg": _ogg,
    "matroska": _matroska,
    "avi": _avi,
    "mov": _mov,
    "flv": _flv,
    "asf": _asf,
    "mp3": _mp3,
    "mpeg": _program,
    "mpegts": _transport,
}
