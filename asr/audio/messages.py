"""Messages that C libraries print about damaged recordings, which belong in no output of asr."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_users = 0


def _find_stderr() -> ctypes.c_void_p | None:
    """Return C's variable `stderr` where it is known to be one: in glibc, and on macOS."""
    if sys.platform == "darwin":
        name = "__stderrp"
    elif "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()):
        name = "stderr"
    else:
        return None
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), name)


def _open_nothing() -> int | None:
    """Return a FILE pointer that discards what is written to it."""
    open_file = ctypes.CDLL(None).fopen
    open_file.restype = ctypes.c_void_p
    pointer: int | None = open_file(os.devnull.encode(), b"w")
    return pointer


_stderr = _find_stderr()
_shown = _stderr.value if _stderr else None
_nothing = _open_nothing() if _stderr else None


@contextmanager
def discard_messages() -> Iterator[None]:
    """Discard what C code prints to stderr, in all threads; Python's own output is not affected.

    libmpg123 prints a line for each damaged frame, and libsndfile has no option that prevents it.
    """
    global _users
    if _stderr is None or _nothing is None:
        yield
        return
    with _lock:
        _users += 1
        _stderr.value = _nothing
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _stderr.value = _shown
