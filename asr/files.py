"""Files that are whole or not there, and folders in which one process works at a time."""

import contextlib
import errno
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from asr.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WAIT_SECONDS = 60.0  # for who was there before and may be about to end


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it to the disk, and rename it.

    Missing folders are made. Raises FileError where the disk refuses any of this; what stood at
    `path` before is then untouched.
    """
    target = Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not by tempfile, whose files only their owner may read, whatever the umask says.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise FileError(
            f"{target} could not be written ({error.strerror}); {advise(error)}, what stood there "
            "before is untouched."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise FileError where a file could not be written, before hours of work end with that.

    Missing folders are made.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise FileError(
            f"{target} cannot be written ({error.strerror}); {advise(error)}."
        ) from error


def advise(error: OSError) -> str:
    """What to do about a disk that refuses."""
    if error.errno in FULL:
        return "free some space or choose another folder"
    return "check the path and its access rights, or choose another folder"


def remove_leftovers(folder: str | os.PathLike[str], name: str = "", older_than: float = 0) -> None:
    """Remove what writings that were killed have left in a folder: of all files, or of one.

    Only what is older than so many seconds: another process may be writing. Nothing is raised.
    """
    pattern = re.compile(rf"\.{re.escape(name) or '.+'}\.[0-9a-f]{{16}}")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and time.time() - entry.stat().st_mtime >= older_than:
                os.unlink(entry.path)


@contextlib.contextmanager
def lock_folder(
    folder: str | os.PathLike[str], say: Callable[[str], object] = lambda _: None
) -> Iterator[None]:
    """Within it no other process locks the same folder, which is made where it is missing.

    The system lets go of it when the process ends, however it ends. Who holds it is given a minute,
    and `say` is told. Raises FileError where that is not enough, or the folder cannot be had.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / ".lock").open("ab"))
        except OSError as error:
            raise FileError(
                f"The folder {folder} cannot be used ({error.strerror}); {advise(error)}."
            ) from error
        began = time.monotonic()
        waits = False
        while not _lock(file):
            if time.monotonic() - began > WAIT_SECONDS:
                raise FileError(
                    f"Another process is at work in {folder}; wait for its end, or choose another "
                    "folder."
                )
            if not waits:
                say(f"Another process is at work in {folder}: waiting for its end.")
            waits = True
            time.sleep(0.1)
        yield


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is this process's now; so it is where the file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
