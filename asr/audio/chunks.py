"""Uncompressed files: the size of the samples that a header states, and the size that there is.

WAV, AIFF, Wave64 and CAF consist of chunks with an id and a size; AU and SPHERE have one header.
"""

import io
import struct
from typing import BinaryIO

from asr.audio.section import Section, splice
from asr.errors import AudioError

# By magic number: offset of the first chunk, length of a chunk's id, struct format of its size,
# alignment of chunks, and id of the chunk that contains the samples.
_CHUNKS = {
    b"RIFF": (12, 4, "<I", 2, b"data"),
    b"RIFX": (12, 4, ">I", 2, b"data"),
    b"RF64": (12, 4, "<I", 2, b"data"),
    b"BW64": (12, 4, "<I", 2, b"data"),
    b"FORM": (12, 4, ">I", 2, b"SSND"),  # AIFF
    b"riff": (40, 16, "<q", 8, b"data"),  # Sony Wave64
    b"caff": (8, 4, ">q", 1, b"data"),
}
_WAV = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_AU = (b".snd", b"dns.")
_MISCOUNTED_BYTES = 64  # some programs count a header as samples, or leave out a trailing byte
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")


def split_chunks(file: BinaryIO, magic: bytes, name: str) -> list[Section]:
    """Return the recordings in an uncompressed file, several if WAV files were joined.

    A wrong size is corrected where this is possible: a program that writes into a pipe cannot fill
    it in afterwards and leaves 0, all ones or about 2 GiB, and 32 bits cannot hold that of a longer
    file. Raises AudioError if a file ends before its samples do, or has others behind them.
    """
    sections: list[Section] = []
    end = file.seek(0, io.SEEK_END)
    start = 0
    while True:
        found = _find_samples(file, magic, start, end)
        if found is None:
            return sections or [Section(file)]
        first, size = found
        size, following = _measure_samples(file, magic, found, (start, end), name)
        if start == 0 and following is None and size == found[1]:
            return [Section(file)]
        sections.append(Section(_with_size(file, magic, start, first, size)))
        if following is None:
            return sections
        start = following
        file.seek(start)
        magic = file.read(4)


def _measure_samples(
    file: BinaryIO, magic: bytes, found: tuple[int, int], span: tuple[int, int], name: str
) -> tuple[int, int | None]:
    """Return the true number of bytes of the samples, and where a joined WAV file begins after them."""
    start, end = span
    first, size = found
    available = max(end - first, 0)
    whole = 0
    if magic == b"RIFF" and size == 0:
        file.seek(start + 4)
        whole = struct.unpack("<I", file.read(4))[0] + 8
    if _is_placeholder(size) and size > available:
        return available, None
    if magic == b"RIFF" and size == 0 and (whole <= first - start or _is_placeholder(whole)):
        return available, None
    if size > available:
        if size - available <= _MISCOUNTED_BYTES and available > _MISCOUNTED_BYTES:
            return available, None
        raise AudioError(
            f"{name} is cut short (its header declares {size:,} bytes of samples, but"
            f" only {available:,} are present); copy or export it again"
        )
    rest = _read_rest(file, magic, first + size, end)
    if rest is None:
        return size, None
    if rest >= 0:
        return size, rest
    if magic in _WAV or magic in _AU:
        return available, None
    raise AudioError(
        f"{name} has {available - size:,} bytes more than its header declares; export it again, for"
        " example as wav"
    )


def _read_rest(file: BinaryIO, magic: bytes, at: int, end: int) -> int | None:
    """Return what follows the samples that end at `at`: None if it is no sound, otherwise where a
    joined WAV file begins, or -1 for samples that the header leaves out.
    """
    if magic not in _CHUNKS:
        return None if end - at <= _MISCOUNTED_BYTES else -1
    _, id_bytes, size_format, alignment, _ = _CHUNKS[magic]
    at += -at % alignment
    while end - at > _MISCOUNTED_BYTES:
        file.seek(at)
        head = file.read(id_bytes + struct.calcsize(size_format))
        if magic in _WAV and head[:4] in _WAV and file.read(4) == b"WAVE":
            return at
        if head.startswith(_TAGS):
            return None
        size = struct.unpack(size_format, head[id_bytes:])[0]
        size -= len(head) if magic == b"riff" else 0
        is_id = all(32 <= byte < 127 or byte == 0xA9 for byte in head[:4])
        if not is_id or not 0 <= size <= end - at - len(head):
            return -1
        at += len(head) + size + -size % alignment
    return None


def _with_size(file: BinaryIO, magic: bytes, start: int, first: int, size: int) -> BinaryIO:
    """Return the recording at `start`, with samples from `first`, under a header of the true size."""
    file.seek(start)
    header = file.read(first - start)
    if magic in _AU:
        order = ">I" if magic == b".snd" else "<I"
        header = header[:8] + struct.pack(order, 0xFFFFFFFF) + header[12:]
    elif magic in _WAV:
        chunks = header[12:-8]
        if magic in (b"RF64", b"BW64") or size >= 1 << 32:
            if chunks[:4] == b"ds64":
                chunks = chunks[8 + struct.unpack("<I", chunks[4:8])[0] :]
            ds64 = struct.pack("<QQQI", size + 100, size, 0, 0)
            chunks = b"ds64" + struct.pack("<I", len(ds64)) + ds64 + chunks
            header = b"RF64\xff\xff\xff\xffWAVE" + chunks + b"data\xff\xff\xff\xff"
        else:
            order = _CHUNKS[magic][2]
            whole = struct.pack(order, min(size + len(chunks) + 12, 0xFFFFFFFF))
            header = magic + whole + b"WAVE" + chunks + b"data" + struct.pack(order, size)
    return splice(header, file, first, first + size)


def _is_placeholder(size: int) -> bool:
    """Return whether a 32-bit size, signed or unsigned, stands for "until the end"."""
    return any(abs(size - limit) <= 1 << 16 for limit in (1 << 31, 1 << 32))


def _find_samples(file: BinaryIO, magic: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return the offset of the samples and their promised bytes; None if the header has neither."""
    if magic in _AU:
        file.seek(4)
        sizes = file.read(8)
        if len(sizes) < 8:
            return None
        first, size = struct.unpack(">II" if magic == b".snd" else "<II", sizes)
        return first, size
    if magic == b"NIST":
        return _read_sphere(file)
    return _find_chunk(file, magic, start, end) if magic in _CHUNKS else None


def _read_sphere(file: BinaryIO) -> tuple[int, int] | None:
    """Implement `_find_samples` for NIST SPHERE files."""
    file.seek(0)
    lines = [line.split() for line in file.read(1024).splitlines()]
    fields = {line[0]: line[2] for line in lines if len(line) == 3}
    try:
        keys = (b"sample_count", b"channel_count", b"sample_n_bytes")
        count, channels, width = (int(fields[key]) for key in keys)
        return int(lines[1][0]), count * channels * width
    except (KeyError, ValueError, IndexError):
        return None


def _find_chunk(file: BinaryIO, magic: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Implement `_find_samples` for files that consist of chunks."""
    offset, id_bytes, size_format, alignment, wanted = _CHUNKS[magic]
    position = start + offset
    long_size = None
    while 0 <= position < end:  # a damaged size may point outside the file
        file.seek(position)
        head = file.read(id_bytes + struct.calcsize(size_format))
        if len(head) < id_bytes + struct.calcsize(size_format):
            return None
        size = struct.unpack(size_format, head[id_bytes:])[0]
        if magic == b"riff":
            size -= len(head)
        if size < 0 or head[0] == 0:
            return None
        first = position + len(head)
        if head[:4] == wanted:
            return first, long_size if size == 0xFFFFFFFF and long_size is not None else size
        if head[:4] == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        position = first + size + -size % alignment
    return None
