"""FLAC files: their stated length is compared with the number in the last frame (RFC 9639)."""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from asr.audio.section import Section, splice

_SIGNATURE = b"fLaC\0\0\0\x22"  # with the header of the first metadata block, or of a single one
_LONE_SIGNATURE = b"fLaC\x80\0\0\x22"
_TOTAL = (1 << 36) - 1  # mask of the total number of samples, in bytes 18 to 25
_SYNC = re.compile(rb"\xff[\xf8\xf9]")  # a frame begins with it
_LARGEST_FRAME = 1 << 18  # bytes, if the header does not state it
_SCAN_BYTES = 1 << 20

# Samples in a frame by the code in its header; 0: reserved, or written at the header's end.
_BLOCK_FRAMES = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << shift for shift in range(8)))


def split_flac(file: BinaryIO) -> list[Section]:
    """Return the FLAC files that a file consists of, which are more than one if it was joined.

    libsndfile stops at the length in the header, and 0 means that it is unknown. A length that the
    last frame does not confirm is replaced by 0.
    """
    size = _skip_tag(file, file.seek(0, io.SEEK_END))
    starts = _find_signatures(file)
    return [
        _check_total(file, start, end)
        for start, end in zip(starts, [*starts[1:], size], strict=True)
    ]


def _skip_tag(file: BinaryIO, end: int) -> int:
    """Return where a file ends without an ID3v1 tag, which some programs append."""
    file.seek(max(end - 128, 0))
    return end - 128 if file.read(3) == b"TAG" else end


def _find_signatures(file: BinaryIO) -> list[int]:
    """Return the offsets of all FLAC headers; the first is 0."""
    file.seek(0)
    starts, before, tail = [0], 0, b""
    while data := file.read(_SCAN_BYTES):
        data = tail + data
        for signature in (_SIGNATURE, _LONE_SIGNATURE):
            at = data.find(signature)
            while at >= 0:
                starts.append(before + at)
                at = data.find(signature, at + 1)
        tail = data[1 - len(_SIGNATURE) :]
        before += len(data) - len(tail)
    return sorted(set(starts))


def find_frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the frames of a FLAC file, among them bytes that only look like one.

    Each comes as the number of its first sample, its samples per channel, and a FLAC file of this
    frame and the bytes after it.
    """
    header = _LONE_SIGNATURE + data[8:21] + bytes([data[21] & 0xF0]) + bytes(20)  # no total, no MD5
    block_frames = int.from_bytes(data[8:10], "big")
    largest = int.from_bytes(data[15:18], "big") or _LARGEST_FRAME
    for match in _SYNC.finditer(data, 42):
        at = match.start()
        if span := _read_span(data[at : at + 16], block_frames):
            yield *span, header + data[at : at + largest]


def _check_total(file: BinaryIO, start: int, end: int) -> Section:
    file.seek(start)
    header = bytearray(file.read(26))
    packed = int.from_bytes(header[18:26], "big")
    total = packed & _TOTAL
    largest = int.from_bytes(header[15:18], "big") or 1 << 16  # bytes of a frame
    file.seek(max(end - largest - 1024, start))
    tail = file.read(end - file.tell())
    header[18:26] = (packed & ~_TOTAL).to_bytes(8, "big")
    if total and _ends_at(tail, total, int.from_bytes(header[8:10], "big")):
        alone = start == 0 and end == file.seek(0, io.SEEK_END)
        return Section(file if alone else splice(b"", file, start, end))
    return Section(splice(bytes(header), file, start + 26, end), total)


def _ends_at(tail: bytes, total: int, block_frames: int) -> bool:
    """Return whether a frame in the last bytes of a file ends at the sample number `total`."""
    at = tail.rfind(b"\xff")
    while at >= 0:
        span = _read_span(tail[at : at + 16], block_frames)
        if span and sum(span) == total:
            return True
        at = tail.rfind(b"\xff", 0, at)
    return False


def _read_span(header: bytes, block_frames: int) -> tuple[int, int] | None:
    """Return the number of the first sample of the frame with this header, and its samples per channel.

    None if it is not a header.
    """
    if len(header) < 6 or header[1] & 0xFE != 0xF8:
        return None
    number, at = header[4], 5
    if number >= 0xC0:  # the coding of UTF-8, up to 7 bytes
        more = 8 - (~number & 0xFF).bit_length() - 1
        number &= 0x3F >> more
        for byte in header[5 : 5 + more]:
            number = number << 6 | byte & 0x3F
        at += more
    code, rate_code = header[2] >> 4, header[2] & 15
    extra = {6: 1, 7: 2}.get(code, 0)
    frames = _BLOCK_FRAMES[code]
    if extra:
        frames = int.from_bytes(header[at : at + extra], "big") + 1
    at += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(header) <= at or _checksum(header[:at]) != header[at]:
        return None
    return (number if header[1] & 1 else number * block_frames), frames


def _checksum(data: bytes) -> int:
    """Return the CRC-8 of a frame's header (polynomial 0x07)."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value
