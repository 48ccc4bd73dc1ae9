"""Files that are read line by line or written atomically, and folders that one process locks."""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import re
import secrets
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from asr.errors import AsrError, FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


FilePath = str | os.PathLike[str]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)  # and OSError without a number
MOST_LINE_BYTES = 1 << 24
MOST_PATH = 4096  # characters of a path; Linux, macOS and Windows open no longer one
WAIT_SECONDS = 60.0  # how long to wait for the process that holds a folder's lock
LEFTOVER_SECONDS = 0.5  # after this a temporary file that is being written is locked


def read_lines(
    path: FilePath,
    error: type[AsrError],
    advice: str = "convert the file to UTF-8",
    on_line: Callable[[bytes], object] | None = None,
    undecodable: str = "strict",
) -> Iterator[tuple[int, str]]:
    """Read a UTF-8 text file, with or without a byte order mark, line by line.

    Args:
        path: The file.
        error: What is raised for a file that cannot be read.
        advice: What to do about a file that is not UTF-8 text; it ends the error's message.
        on_line: Called with the bytes of each line before the line is decoded.
        undecodable: How to decode bytes that are not UTF-8, as the `errors` of `bytes.decode`.

    Yields:
        The number of each line, from 1, and the line without its ending.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(
                iter(lambda: file.readline(MOST_LINE_BYTES), b""), start=1
            ):
                if len(line) == MOST_LINE_BYTES:
                    raise error(
                        f"{name}, line {number} is longer than {MOST_LINE_BYTES} bytes; check the file"
                    )
                if on_line:
                    on_line(line)
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8", undecodable)
                except UnicodeDecodeError as problem:
                    raise error(f"{name}, line {number} is not UTF-8 text; {advice}") from problem
                yield number, text.rstrip("\r\n")
    except OSError as problem:
        raise error(f"{name} cannot be read ({problem.strerror}); check the path") from problem


def walk_files(
    folder: FilePath, error: type[AsrError], on_error: Callable[[str], object] | None = None
) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, except for hidden files.

    Links to folders are not followed.

    Args:
        folder: The folder.
        error: What to raise for a subfolder that cannot be read.
        on_error: Called with the message instead, and the other folders are read.
    """

    def refuse(problem: OSError) -> None:
        message = (
            f"the folder {problem.filename} cannot be read ({problem.strerror}); check its access "
            "rights"
        )
        if on_error is None:
            raise error(message) from problem
        on_error(message)

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def decompress(file: io.BufferedReader) -> io.BufferedIOBase:
    """The content of a file in gzip, bzip2 or xz, recognized by its first bytes, or of a plain one.

    Reading damaged content raises one of `DAMAGED`.
    """
    start = file.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if start.startswith(b"\xfd7zXZ\0") else file


def write_text(path: FilePath, text: str) -> None:
    """Write a text as UTF-8, atomically. Raises FileError.

    File names in it that are not valid Unicode are written with backslashes.
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def save_figure(path: FilePath, figure: Any, dpi: int = 100) -> None:
    """Write a figure of matplotlib as PNG, atomically. Raises FileError."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=dpi))


def write_atomically(path: FilePath, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it to the disk, and rename it.

    Missing folders are created. Raises FileError if any step fails; an existing file at `path`
    is then unchanged.
    """
    target = Path(path)
    _refuse_folder(target)
    # `tempfile` is avoided, because it ignores the umask: only the owner can read its files.
    temporary = target.with_name(f".{_shorten(target.name)}.{secrets.token_hex(8)}")
    unchanged = " (an existing file is unchanged)"
    try:
        with reporting_disk_errors(f"{target} could not be written", unchanged):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                _lock(file)  # until it is renamed or this process dies, see `remove_leftovers`
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refuse_folder(target: Path) -> None:
    """Raise FileError if a file to be written is a folder; an empty path is the current one."""
    if target.is_dir():
        raise FileError(f"{target} is a folder; specify a file to write")


def _shorten(name: str) -> str:
    """The beginning of a file's name that leaves room for more within 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def check_writable(path: FilePath) -> None:
    """Raise FileError early if a file cannot be written, before any long computation.

    Missing folders are created. Temporary files that a killed `write_atomically` has left for this
    path are removed.
    """
    target = Path(path)
    _refuse_folder(target)
    with reporting_disk_errors(f"{target} cannot be written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    remove_leftovers(target.parent, target.name, older_than=LEFTOVER_SECONDS)


@contextlib.contextmanager
def reporting_disk_errors(problem: str, ending: str = "") -> Iterator[None]:
    """A context in which an OSError becomes a FileError: the problem, its reason, what to do."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{problem} ({error.strerror}); {advise(error)}{ending}") from error


def advise(error: OSError) -> str:
    """What to do about an error of the disk."""
    if error.errno in FULL:
        return "free some space or choose another folder"
    return "check the path and its access rights, or choose another folder"


def remove_leftovers(folder: FilePath, name: str = "", older_than: float = 0) -> None:
    """Remove the temporary files that a killed `write_atomically` has left in a folder.

    `name` limits this to one target file, `older_than` (seconds) to files that no other process is
    writing anymore. A file that a living process has locked stays. Errors are ignored.
    """
    pattern = re.compile(rf"\.{re.escape(_shorten(name)) or '.+'}\.[0-9a-f]{{16}}")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and time.time() - entry.stat().st_mtime >= older_than:
                with open(entry.path, "ab") as file:
                    if _lock(file):
                        os.unlink(entry.path)


@contextlib.contextmanager
def lock_folder(folder: FilePath, say: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it is missing.

    The system releases the lock when the process ends, however it ends. If another process holds
    it, `say` is called with a message, and that process gets a minute to end. Raises FileError if
    it does not, or if the folder cannot be used.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        with reporting_disk_errors(f"the folder {folder} cannot be used"):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / ".lock").open("ab"))
        began = time.monotonic()
        is_waiting = False
        while not _lock(file):
            if time.monotonic() - began > WAIT_SECONDS:
                raise FileError(
                    f"another process is using {folder}; wait until it finishes, or choose another "
                    "folder"
                )
            if not is_waiting:
                say(f"Another process is using {folder}; waiting until it finishes.")
            is_waiting = True
            time.sleep(0.1)
        yield


def _lock(file: IO[bytes]) -> bool:
    """Try to lock a file; True if that worked, or if the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True
