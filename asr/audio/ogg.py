"""Ogg files: chains of streams, several streams at once, and damaged pages (RFC 3533)."""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import BinaryIO

from asr.audio.recording import check_track, describe_choice
from asr.audio.section import Section
from asr.errors import AudioError

_OPUS, _VORBIS = b"OpusHead", b"\x01vorbis"
_CODECS = (_OPUS, _VORBIS, b"\x7fFLAC", b"Speex")
_FIRST, _LAST = 2, 4  # flags of a stream's first and last page
_HEAD_BYTES = 27
_NOISE_BYTES = 64  # more stray bytes than this after the last page count as a damaged page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class _Page:
    """A page whose checksum is right.

    Attributes:
        position: Position of the last sample that ends in the page; -1 if none does.
    """

    start: int
    end: int
    flags: int
    position: int
    serial: int
    number: int


@dataclass
class _Link:
    """The streams that play at the same time: one link of a chain.

    Attributes:
        pages: Pages by the serial number of their stream.
        lost: Byte ranges that contain no page of these streams.
    """

    pages: dict[int, list[_Page]] = field(default_factory=dict)
    lost: list[tuple[int, int]] = field(default_factory=list)


def split_ogg(file: BinaryIO, name: str, track: int | None) -> tuple[list[Section], list[str]]:
    """Return the audio streams of an Ogg file, in the order in which they play, and notes on them.

    libsndfile decodes only the first of a chain. Of several streams at the same time, such as video
    and sound, the one with the number `track` is kept, or the first with sound. A missing
    end-of-stream flag is accepted, as RFC 7845 requires. A damaged page divides a stream. Raises
    AudioError if the last page is incomplete.
    """
    file.seek(0)
    data = file.read()
    links, is_damaged = _find_links(data, name)
    tracks = max((len(_find_tracks(data, link)) for link in links), default=0)
    if tracks:
        check_track(track, tracks, name)
    notes = describe_choice(1, tracks, name) if track is None else []
    if len(links) < 2 and all(len(link.pages) < 2 for link in links) and not is_damaged:
        return [Section(file)], notes
    sections: list[Section] = []
    for link in links:
        sections += _split_link(data, link, track or 1, name)
    return sections or [Section(file)], notes


def _find_links(data: bytes, name: str) -> tuple[list[_Link], bool]:
    """Return the links of a chain, and whether any page in them is damaged or lost."""
    links: list[_Link] = []
    is_header = is_damaged = False
    numbers: dict[int, int] = {}  # of the last page, by serial number
    for part in _find_pages(data, name):
        if isinstance(part, _Page) and part.flags & _FIRST:
            if not is_header:
                links.append(_Link())
            is_header = True
            links[-1].pages[part.serial] = [part]
        elif isinstance(part, _Page) and links and part.serial in links[-1].pages:
            is_header = False
            is_damaged |= part.number != numbers[part.serial] + 1
            links[-1].pages[part.serial].append(part)
        elif links:
            start, end = (part.start, part.end) if isinstance(part, _Page) else part
            links[-1].lost.append((start, end))
            is_damaged |= _is_lost(data, links[-1], start, end)
        if isinstance(part, _Page):
            numbers[part.serial] = part.number
    return links, is_damaged


def _is_lost(data: bytes, link: _Link, start: int, end: int) -> bool:
    """Return whether bytes were pages, and not a tag after the end of the streams."""
    has_ended = all(pages[-1].flags & _LAST for pages in link.pages.values())
    is_tag = data[start : start + 3] in (b"TAG", b"ID3") or (has_ended and end == len(data))
    return b"OggS" in data[start:end] or (end - start > _NOISE_BYTES and not is_tag)


def _find_pages(data: bytes, name: str) -> list[_Page | tuple[int, int]]:
    """Return all pages, and the start and end of the bytes between them that are none."""
    parts: list[_Page | tuple[int, int]] = []
    at = begin = 0  # of the bytes that are no page
    while at < len(data):
        page = _read_page(data, at)
        if page is not None:
            if at > begin:
                parts.append((begin, at))
            parts.append(page)
            at = begin = page.end
            continue
        following = data.find(b"OggS", at + 1)
        if following < 0:
            if _is_cut(data, at):
                raise AudioError(
                    f"{name} is cut short (its last page is incomplete); copy or export it again"
                )
            break
        at = following
    if begin < len(data):
        parts.append((begin, len(data)))
    return parts


def _is_cut(data: bytes, at: int) -> bool:
    """Return whether the data end within a page that begins at `at` or has just begun."""
    if data[at : at + 4] != b"OggS":
        return data.endswith((b"O", b"Og", b"Ogg"))
    return _measure(data, at) > len(data)


def _measure(data: bytes, at: int) -> int:
    """Return where the page at `at` ends, which is beyond the data if the page is incomplete."""
    if len(data) < at + _HEAD_BYTES:
        return len(data) + 1
    segments = data[at + 26]
    table = data[at + _HEAD_BYTES : at + _HEAD_BYTES + segments]
    return at + _HEAD_BYTES + segments + sum(table) + (len(table) < segments)


def _read_page(data: bytes, at: int) -> _Page | None:
    """Return the page that begins at `at`; None if there is none, or if it is damaged."""
    end = _measure(data, at)
    if data[at : at + 4] != b"OggS" or end > len(data):
        return None
    page = data[at:end]
    if _checksum(page) != struct.unpack("<I", page[22:26])[0]:
        return None
    flags, position, serial, number = struct.unpack("<BqII", page[5:22])
    return _Page(at, end, flags, position, serial, number)


def _checksum(page: bytes) -> int:
    """Return the checksum of a page: the CRC of zlib, with the opposite order of bits.

    Ogg starts with 0 and inverts nothing, unlike zlib.
    """
    blank = page[:22] + bytes(4) + page[26:]
    value = ~zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def _find_tracks(data: bytes, link: _Link) -> list[int]:
    """Return the serial numbers of the streams with sound."""
    return [
        serial
        for serial, pages in link.pages.items()
        if _get_body(data, pages[0]).startswith(_CODECS)
    ]


def _get_body(data: bytes, page: _Page) -> bytes:
    return data[page.start + _HEAD_BYTES + data[page.start + 26] : page.end]


def _split_link(data: bytes, link: _Link, track: int, name: str) -> list[Section]:
    """Return the undamaged parts of the stream with this number, each after the stream's header."""
    tracks = _find_tracks(data, link)
    if not tracks:
        raise AudioError(f"{name} has a part without a decodable audio stream; export it again")
    pages = link.pages[tracks[min(track, len(tracks)) - 1]]
    header = list(takewhile(lambda page: page.position <= 0, pages))
    runs: list[list[_Page]] = []
    before = header[-1].number if header else -1
    is_damaged = False
    for page in pages[len(header) :]:
        if not runs or page.number != before + 1:
            is_damaged |= page.number != before + 1
            runs.append([])
        runs[-1].append(page)
        before = page.number
    lost = sum(
        end - start
        for start, end in link.lost
        if start >= pages[-1].end and _is_lost(data, link, start, end)
    )
    if not is_damaged and not lost:
        return [Section(io.BytesIO(b"".join(data[page.start : page.end] for page in pages)))]
    rate, delay, packets = _read_clock(_get_body(data, pages[0]))
    if not rate or not runs or sum(_count_packets(data, page) for page in header) < packets:
        raise AudioError(f"{name} is damaged and cannot be decoded; copy or export it again")
    first = header[-1].number + 1
    sections = [
        Section(
            io.BytesIO(_renumber(data, [*header, *run], run[0].number == first)),
            ends_at=(max(page.position for page in run) - delay) / rate,
            follows_damage=run[0].number != first,
        )
        for run in runs
    ]
    if lost:
        kept = sum(page.end - page.start for run in runs for page in run)
        seconds = sections[-1].ends_at or 0.0
        sections.append(
            Section(io.BytesIO(), ends_at=seconds * (1 + lost / kept), follows_damage=True)
        )
    return sections


def _read_clock(head: bytes) -> tuple[int, int, int]:
    """Return granule positions per second, pre-skip, and number of header packets."""
    if head.startswith(_OPUS):
        return 48_000, int.from_bytes(head[10:12], "little"), 2
    if head.startswith(_VORBIS):
        return int.from_bytes(head[12:16], "little"), 0, 3
    return 0, 0, 0


def _count_packets(data: bytes, page: _Page) -> int:
    """Return how many packets end in a page."""
    table = data[page.start + _HEAD_BYTES : page.start + _HEAD_BYTES + data[page.start + 26]]
    return sum(byte < 255 for byte in table)


def _renumber(data: bytes, pages: Sequence[_Page], is_first: bool) -> bytes:
    """Return pages as one stream with consecutive numbers.

    At a gap in the page numbers, decoders lose more than the missing page. The pre-skip of Opus is
    set to 0 in all parts but the first, because samples must be dropped only at its beginning.
    """
    stream = b""
    for number, page in enumerate(pages):
        body = data[page.start + 26 : page.end]
        if number == 0 and not is_first and body[2:].startswith(_OPUS):
            body = body[:12] + bytes(2) + body[14:]
        head = data[page.start : page.start + 18] + struct.pack("<I", number)
        checksum = _checksum(head + bytes(4) + body)
        stream += head + struct.pack("<I", checksum) + body
    return stream
