"""Download and unpack large files: resumable, with checksums, and complete or not at all."""

import errno
import hashlib
import shutil
import ssl
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from http.client import HTTPException
from pathlib import Path
from time import sleep
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from asr.errors import AsrError
from asr.progress import Bar

# Number of consecutive attempts without new bytes after which a download fails.
ATTEMPTS = 5
# Waiting time after the first failed attempt; it doubles after each further one.
FIRST_WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0
BLOCK_BYTES = 1 << 18

NETWORK_PROBLEMS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class DownloadError(AsrError):
    """A file cannot be downloaded, has the wrong checksum, or does not fit on the disk."""


def fetch(url: str, path: Path, size_bytes: int, md5: str) -> None:
    """Download a file and check it; only missing bytes are requested.

    Bytes are written to `path` + ".part", which a later call continues.

    Args:
        url: address of the file.
        path: where the file is stored.
        size_bytes: expected size, which only scales the bar.
        md5: expected checksum.

    Raises:
        DownloadError: if the file cannot be downloaded or has another checksum.
    """
    if path.exists():
        if _md5(path) != md5:
            raise DownloadError(
                f"{path} is not the published file (its MD5 is not {md5}); "
                "delete it, then run the same command again"
            )
        return
    part = path.with_name(path.name + ".part")
    with _disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        continued = _size(part) > 0
        _receive(url, part, size_bytes)
        if _md5(part) == md5:
            part.replace(path)
            return
        part.unlink()
    if not continued:
        raise DownloadError(
            f"{url} is not the published file (its MD5 is not {md5}); try another --mirror"
        )
    fetch(url, path, size_bytes, md5)  # try again without the earlier bytes, which may be wrong


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `LibriSpeech/<name>` of `archive` to `folder` (named `<name>`), completely or not at all.

    Files beside it in the archive (speakers, license) are placed beside `folder`. Raises
    DownloadError if the archive is damaged or would write outside of the target folder.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with _disk(folder.parent):
        if unfinished.exists():  # left by a run that was killed
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        try:
            with (
                archive.open("rb") as file,
                Bar(f"unpacking {archive.name}", _size(archive), "bytes") as bar,
                tarfile.open(fileobj=file, mode="r:gz") as tar,
            ):

                def members() -> Iterator[tarfile.TarInfo]:
                    position = 0
                    for member in tar:
                        yield member
                        bar.advance(file.tell() - position)
                        position = file.tell()

                tar.extractall(unfinished, members(), filter="data")
            content = unfinished / "LibriSpeech"
            if not (content / folder.name).is_dir():
                raise DownloadError(
                    f"{archive} contains no folder LibriSpeech/{folder.name}; delete it, then run the "
                    "same command again"
                )
            for entry in list(content.iterdir()):
                if entry.is_file():
                    entry.replace(folder.with_name(entry.name))
            (content / folder.name).replace(folder)
        except (tarfile.TarError, BadGzipFile, EOFError, zlib.error) as error:
            raise DownloadError(
                f"{archive} cannot be unpacked ({error}); "
                "delete it, then run the same command again"
            ) from error
        finally:
            shutil.rmtree(unfinished)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise DownloadError if the disk of `folder` has fewer than `needed_bytes` free."""
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DownloadError(
            f"{folder} needs about {needed_bytes / 1e9:.1f} GB but its disk has "
            f"{free_bytes / 1e9:.1f} GB free; make room, name another --output or fewer subsets"
        )


def missing_bytes(path: Path, size_bytes: int) -> int:
    """Number of bytes of a file of `size_bytes` that still have to be downloaded."""
    have = size_bytes if path.exists() else _size(path.with_name(path.name + ".part"))
    return max(0, size_bytes - have)


def _receive(url: str, part: Path, size_bytes: int) -> None:
    """Append to `part` until the file is complete, reconnecting while new bytes arrive."""
    failures, furthest = 0, _size(part)
    with Bar(f"fetching {part.stem}", size_bytes, "bytes", done=furthest) as bar:
        while True:
            try:
                _receive_once(url, part, bar)
                return
            except HTTPError as error:
                if error.code < 500 and error.code != 429:
                    raise DownloadError(
                        f"{url} cannot be fetched (HTTP {error.code} {error.reason}); "
                        "try another --mirror"
                    ) from error
                problem: Exception = error
            except NETWORK_PROBLEMS as error:
                problem = error
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures == ATTEMPTS:
                reason = getattr(problem, "reason", problem)
                raise DownloadError(
                    f"{url} cannot be fetched ({reason}); check the network or try another "
                    "--mirror, then run the same command again to continue"
                ) from problem
            sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))


def _receive_once(url: str, part: Path, bar: Bar) -> None:
    """Append to `part` from one connection."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if (
            error.code == 416
        ):  # all bytes are already there; the checksum decides whether they are right
            return
        raise
    with response, part.open("ab") as file:
        if have and response.status != 206:  # this server sends only whole files
            file.truncate(0)
            bar.advance(-have)
        received = 0
        while block := response.read(BLOCK_BYTES):
            file.write(block)
            received += len(block)
            bar.advance(len(block))
    if received < int(response.headers.get("Content-Length", 0)):
        raise ConnectionError("the connection was closed too early")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, Bar(f"checking {path.name}", _size(path), "bytes") as bar:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            bar.advance(len(block))
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Re-raise errors of the file system as DownloadError."""
    try:
        yield
    except OSError as error:
        hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder"
        raise DownloadError(
            f"{folder} cannot be written ({error.strerror or error}); {hint} or name another "
            "--output, then run the same command again"
        ) from error
