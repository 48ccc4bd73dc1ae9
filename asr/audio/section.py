"""Sections of a file: the bytes of one recording, with another header if its own is wrong."""

import io
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Section:
    """One of the recordings that a file consists of.

    Attributes:
        file: Its bytes, for libsndfile.
        stated_frames: Samples per channel that its header states, if `file` states none.
        ends_at: Where it ends on the clock of a damaged stream, in seconds; `file` is empty if only
            damage reaches until then.
        follows_damage: Whether what is before it in the stream is lost.
    """

    file: BinaryIO
    stated_frames: int = 0
    ends_at: float | None = None
    follows_damage: bool = False


class Spliced(io.RawIOBase):
    """A header in memory, followed by the bytes from `start` to `end` of a seekable file."""

    def __init__(self, header: bytes, file: BinaryIO, start: int, end: int) -> None:
        self._header, self._file, self._start = header, file, start
        self._size = len(header) + max(end - start, 0)
        self._at = 0

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; raises ValueError before the beginning."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into the buffer and return the number of bytes."""
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = self._header[self._at : self._at + wanted]
        if len(data) < wanted:
            self._file.seek(self._start + self._at + len(data) - len(self._header))
            data += self._file.read(wanted - len(data))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def splice(header: bytes, file: BinaryIO, start: int, end: int) -> BinaryIO:
    """Return a file of the header and the bytes from `start` to `end` of another one."""
    return io.BufferedReader(Spliced(header, file, start, end))
