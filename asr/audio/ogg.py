"""Ogg files: chains of streams, and several streams at once (RFC 3533)."""

import io
from typing import BinaryIO

from asr.audio.section import Section
from asr.errors import AudioError

_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex")
_FIRST = 2  # flag of a stream's first page


def split_ogg(file: BinaryIO, name: str) -> list[Section]:
    """Return the audio streams of an Ogg file, in the order in which they play.

    libsndfile decodes only the first of a chain. Of several streams at the same time, such as video
    and sound, the first with sound is kept. A missing end-of-stream flag is accepted, as RFC 7845
    requires. Raises AudioError if the last page is incomplete.
    """
    file.seek(0)
    data = file.read()
    links: list[dict[bytes, list[tuple[int, int]]]] = []  # pages by the stream's serial number
    is_header = False
    for start, end in _find_pages(data, name):
        if data[start + 5] & _FIRST:
            if not is_header:
                links.append({})
            is_header = True
            links[-1].setdefault(data[start + 14 : start + 18], [])
        else:
            is_header = False
        if links and data[start + 14 : start + 18] in links[-1]:
            links[-1][data[start + 14 : start + 18]].append((start, end))
    if len(links) < 2 and all(len(link) < 2 for link in links):
        return [Section(file)]
    return [_choose_stream(data, link, name) for link in links]


def _find_pages(data: bytes, name: str) -> list[tuple[int, int]]:
    """Return the start and the end of every page."""
    pages = []
    at = 0
    while at < len(data):
        if data[at : at + 4] != b"OggS":  # damaged, or bytes after the last page
            if data[at:] not in (b"O", b"Og", b"Ogg"):  # otherwise a page has just begun
                at = data.find(b"OggS", at + 1)
                if at < 0:
                    break
                continue
            end = len(data) + 1
        else:
            segments = data[at + 26] if len(data) > at + 26 else 0
            end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        if end > len(data):
            raise AudioError(
                f"{name} is cut short (its last page is incomplete); copy or export it again"
            )
        pages.append((at, end))
        at = end
    return pages


def _choose_stream(data: bytes, link: dict[bytes, list[tuple[int, int]]], name: str) -> Section:
    """Return the first stream of sound among those that play at the same time."""
    for pages in link.values():
        start, end = pages[0]
        body = start + 27 + data[start + 26]
        if data[body:end].startswith(_CODECS):
            return Section(io.BytesIO(b"".join(data[start:end] for start, end in pages)))
    raise AudioError(f"{name} has a part without sound that can be decoded; export it again")
