"""Messages that C libraries print about damaged recordings, which belong in no output of asr.

They go to C's own `stdout` and `stderr`; the streams of Python do not use these.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_users = 0


def _find_streams() -> list[ctypes.c_void_p]:
    """Return C's variables `stdout` and `stderr` where they are known to be some: glibc and macOS."""
    if sys.platform == "darwin":
        names = ["__stdoutp", "__stderrp"]
    elif "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()):
        names = ["stdout", "stderr"]
    else:
        return []
    return [ctypes.c_void_p.in_dll(ctypes.CDLL(None), name) for name in names]


def _open_nothing() -> int | None:
    """Return a FILE pointer that discards what is written to it."""
    open_file = ctypes.CDLL(None).fopen
    open_file.restype = ctypes.c_void_p
    pointer: int | None = open_file(os.devnull.encode(), b"w")
    return pointer


_streams = _find_streams()
_shown = [stream.value for stream in _streams]
_nothing = _open_nothing() if _streams else None


@contextmanager
def discard_messages() -> Iterator[None]:
    """Discard what C code prints, in all threads; Python's own output is not affected.

    libmpg123 prints a line for each damaged frame, and libsndfile one for each damaged ALAC table;
    neither has an option that prevents it.
    """
    global _users
    if not _streams or _nothing is None:
        yield
        return
    with _lock:
        _users += 1
        for stream in _streams:
            stream.value = _nothing
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for stream, shown in zip(_streams, _shown, strict=True):
                    stream.value = shown
