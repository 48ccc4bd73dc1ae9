"""Uncompressed files: the size of the samples that a header states, and the size that there is.

WAV, AIFF, Wave64 and CAF consist of chunks with an id and a size; AU and SPHERE have one header.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from asr.audio.section import Section, splice
from asr.errors import AudioError


@dataclass(frozen=True)
class _Layout:
    """How a format arranges its chunks.

    Attributes:
        offset: Offset of the first chunk.
        id_bytes: Length of a chunk's id.
        size_format: Format of the size that follows the id, for `struct`.
        alignment: Alignment of chunks, in bytes.
        samples_id: Id of the chunk that contains the samples.
        counts_head: Whether a size includes the id and the size itself.
    """

    offset: int
    id_bytes: int
    size_format: str
    alignment: int
    samples_id: bytes
    counts_head: bool = False

    @property
    def head_bytes(self) -> int:
        """Length of a chunk's id and size."""
        return self.id_bytes + struct.calcsize(self.size_format)

    def read_size(self, head: bytes) -> int:
        """Return the length of a chunk's body."""
        size: int = struct.unpack(self.size_format, head[self.id_bytes :])[0]
        return size - len(head) if self.counts_head else size


_CHUNKS = {  # by magic number
    b"RIFF": _Layout(12, 4, "<I", 2, b"data"),
    b"RIFX": _Layout(12, 4, ">I", 2, b"data"),
    b"RF64": _Layout(12, 4, "<I", 2, b"data"),
    b"BW64": _Layout(12, 4, "<I", 2, b"data"),
    b"FORM": _Layout(12, 4, ">I", 2, b"SSND"),  # AIFF
    b"riff": _Layout(40, 16, "<q", 8, b"data", counts_head=True),  # Sony Wave64
    b"caff": _Layout(8, 4, ">q", 1, b"data"),
}
_WAV = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_AU = (b".snd", b"dns.")
_MISCOUNTED_BYTES = 64  # some programs count a header as samples, or leave out a trailing byte
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_MP3_CODE = 0x55  # in the format of a WAV file
_MADE_UP_SIZES = (0x7F000000, 0x7FFFF000, 1 << 31, 1 << 32)  # sox, and limits of 32 bits


@dataclass(frozen=True)
class _Samples:
    """Where the samples of a file are.

    Attributes:
        first: Offset of the samples.
        size: Number of bytes of samples that the header states.
        chunks: Offset and length of each chunk before the samples, without padding.
        is_regular: Whether libsndfile can read the header.
    """

    first: int
    size: int
    chunks: tuple[tuple[int, int], ...] = ()
    is_regular: bool = True


def split_chunks(file: BinaryIO, magic: bytes, name: str) -> list[Section]:
    """Return the recordings in an uncompressed file, several if WAV files were joined.

    A wrong size is corrected where this is possible: a program that writes into a pipe cannot fill
    it in afterwards and leaves 0, all ones or about 2 GiB, and 32 bits cannot hold that of a longer
    file. Raises AudioError if a file ends before its samples do, or has others after them.
    """
    sections: list[Section] = []
    end = file.seek(0, io.SEEK_END)
    start = 0
    if magic == b"NIST":
        _check_sphere(file, name)
    while True:
        found = _find_samples(file, magic, start, end)
        if found is None:
            return sections or [Section(file)]
        size, following = _measure_samples(file, magic, found, (start, end), name)
        if start == 0 and following is None and size == found.size and found.is_regular:
            return [Section(file)]
        sections.append(Section(_with_size(file, magic, start, found, size)))
        if following is None:
            return sections
        start = following
        file.seek(start)
        magic = file.read(4)


def read_mp3(file: BinaryIO, magic: bytes) -> bytes:
    """Return the MP3 stream that a WAV file contains instead of samples; empty if it does not."""
    end = file.seek(0, io.SEEK_END)
    found = _find_samples(file, magic, 0, end) if magic in _WAV else None
    for at, length in found.chunks if found else ():
        file.seek(at)
        head = file.read(min(length, 10))
        code = "<H" if _CHUNKS[magic].size_format == "<I" else ">H"
        if found and head[:4] == b"fmt " and head[8:] == struct.pack(code, _MP3_CODE):
            file.seek(found.first)
            return file.read(min(found.size, end - found.first))
    return b""


def _measure_samples(
    file: BinaryIO, magic: bytes, found: _Samples, span: tuple[int, int], name: str
) -> tuple[int, int | None]:
    """Return the true number of bytes of the samples, and where a joined WAV file begins after them."""
    (start, end), size = span, found.size
    available = max(end - found.first, 0)
    whole = 0
    if magic in (b"RIFF", b"FORM") and size == 0:
        file.seek(start + 4)
        whole = struct.unpack(_CHUNKS[magic].size_format, file.read(4))[0] + 8
    if _is_made_up(magic, size) and not 0 <= size <= available:
        return available, None
    if (
        magic in (b"RIFF", b"FORM")
        and size == 0
        and (whole <= found.first - start or _is_made_up(magic, whole))
    ):
        return available, None
    if size > available:
        if size - available <= _MISCOUNTED_BYTES and available > _MISCOUNTED_BYTES:
            return available, None
        raise AudioError(
            f"{name} is cut short (its header declares {size:,} bytes of samples, but"
            f" only {available:,} are present); copy or export it again"
        )
    rest = _read_rest(file, magic, found.first + size, end)
    if rest is None:
        return size, None
    if rest >= 0:
        return size, rest
    if magic in (*_WAV, *_AU, b"NIST"):
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
    layout = _CHUNKS[magic]
    at += -at % layout.alignment
    while end - at > _MISCOUNTED_BYTES:
        file.seek(at)
        head = file.read(layout.head_bytes)
        if magic in _WAV and head[:4] in _WAV and file.read(4) == b"WAVE":
            return at
        if head.startswith(_TAGS):
            return None
        size = layout.read_size(head)
        if not _is_id(head[:4]) or not 0 <= size <= end - at - len(head):
            return -1
        at = _find_next(file, layout, at + len(head) + size, end)
    return None


def _with_size(file: BinaryIO, magic: bytes, start: int, found: _Samples, size: int) -> BinaryIO:
    """Return the recording at `start`, with `size` bytes of samples, under a header that says so."""
    first = found.first
    file.seek(start)
    header = file.read(first - start)
    chunks = b"".join(
        header[at - start : at - start + length] + bytes(-length % 2)
        for at, length in found.chunks
        if header[at - start : at - start + 4] != b"ds64"
    )
    if magic in _AU:
        order = ">I" if magic == b".snd" else "<I"
        header = header[:8] + struct.pack(order, 0xFFFFFFFF) + header[12:]
    elif magic == b"NIST":
        header = _with_count(header, size)
    elif magic in (b"RF64", b"BW64") or (magic in _WAV and size >= 1 << 32):
        ds64 = struct.pack("<QQQI", size + 100, size, 0, 0)
        chunks = b"ds64" + struct.pack("<I", len(ds64)) + ds64 + chunks
        header = b"RF64\xff\xff\xff\xffWAVE" + chunks + b"data\xff\xff\xff\xff"
    elif magic in _WAV or magic == b"FORM":
        layout = _CHUNKS[magic]
        whole = min(size + len(chunks) + 12, 0xFFFFFFFF)
        header = magic + struct.pack(layout.size_format, whole) + header[8:12] + chunks
        header += layout.samples_id + struct.pack(layout.size_format, size)
    else:
        order = _CHUNKS[magic].size_format
        stated = size + _CHUNKS[magic].head_bytes if magic == b"riff" else size
        header = header[:-8] + struct.pack(order, stated)
    return splice(header, file, first, first + size)


def _with_count(header: bytes, size: int) -> bytes:
    """Return the header of a SPHERE file with the number of samples in `size` bytes."""
    fields = _read_fields(header)
    count = size // (int(fields[b"channel_count"]) * int(fields[b"sample_n_bytes"]))
    lines = [line for line in header.split(b"\n") if not line.startswith(b"sample_count")]
    lines.insert(2, b"sample_count -i %d" % count)
    return b"\n".join(lines)[: len(header)].ljust(len(header))


def _is_made_up(magic: bytes, size: int) -> bool:
    """Return whether a size, signed or unsigned, stands for "until the end"."""
    if magic in (b"riff", b"caff"):
        return size == -1 or size >= 1 << 62
    return any(abs(size - limit) <= 1 << 16 for limit in _MADE_UP_SIZES)


def _find_samples(file: BinaryIO, magic: bytes, start: int, end: int) -> _Samples | None:
    """Return where the samples are; None if the header does not say it."""
    if magic in _AU:
        file.seek(4)
        sizes = file.read(8)
        if len(sizes) < 8:
            return None
        return _Samples(*struct.unpack(">II" if magic == b".snd" else "<II", sizes))
    if magic == b"NIST":
        return _read_sphere(file)
    return _find_chunk(file, magic, start, end) if magic in _CHUNKS else None


def _read_sphere(file: BinaryIO) -> _Samples | None:
    """Implement `_find_samples` for NIST SPHERE files."""
    file.seek(0)
    header = file.read(1024)
    fields = _read_fields(header)
    try:
        keys = (b"sample_count", b"channel_count", b"sample_n_bytes")
        count, channels, width = (int(fields[key]) for key in keys)
        return _Samples(int(header.split()[1]), count * channels * width)
    except (KeyError, ValueError, IndexError):
        return None


def _check_sphere(file: BinaryIO, name: str) -> None:
    """Raise AudioError for a compressed SPHERE file, which no decoder reads."""
    file.seek(0)
    if b"shorten" in _read_fields(file.read(1024)).get(b"sample_coding", b""):
        raise AudioError(
            f"{name} is compressed with shorten, which cannot be decoded; convert it with sph2pipe"
        )


def _read_fields(header: bytes) -> dict[bytes, bytes]:
    """Return the fields of a SPHERE header, which are lines of a name, a type and a value."""
    lines = [line.split() for line in header.splitlines()]
    return {line[0]: line[2] for line in lines if len(line) == 3}


def _find_chunk(file: BinaryIO, magic: bytes, start: int, end: int) -> _Samples | None:
    """Implement `_find_samples` for files that consist of chunks."""
    layout = _CHUNKS[magic]
    position = start + layout.offset
    is_regular = magic != b"BW64"  # the successor of RF64, which libsndfile does not know
    chunks: list[tuple[int, int]] = []
    long_size = None
    while 0 <= position < end:  # a damaged size may point outside the file
        file.seek(position)
        head = file.read(layout.head_bytes)
        if len(head) < layout.head_bytes:
            return None
        size = layout.read_size(head)
        first = position + len(head)
        if head[:4] == layout.samples_id:
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            if size < 0 and not _is_made_up(magic, size):
                return None
            return _Samples(first, size, tuple(chunks), is_regular)
        if size < 0 or head[0] == 0:
            return None
        if head[:4] == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        chunks.append((position, len(head) + size))
        position = _find_next(file, layout, first + size, end)
        is_regular = is_regular and position == first + size + -size % layout.alignment
    return None


def _find_next(file: BinaryIO, layout: "_Layout", at: int, end: int) -> int:
    """Return the offset of the chunk after one whose body ends at `at`.

    Some programs leave out the byte that pads a body of odd length.
    """
    padded = at + -at % layout.alignment
    if layout.alignment == 2 and padded > at:
        file.seek(at)
        head = file.read(layout.head_bytes)
        if len(head) == layout.head_bytes and _is_id(head[:4]):
            size = layout.read_size(head)
            if head[:4] == layout.samples_id or size <= end - at - len(head):
                return at
    return padded


def _is_id(name: bytes) -> bool:
    """Return whether four bytes can be the id of a chunk."""
    return all(32 <= byte < 127 or byte == 0xA9 for byte in name)
