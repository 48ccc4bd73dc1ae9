"""Rivals of `asr`: other toolkits, each in its own environment and its own process.

Separate environments keep the rivals' packages apart from ours. A process reads requests as lines of
JSON from its standard input and writes its answers to its standard output; its first line says that
it is ready and which versions it runs.
"""

import contextlib
import json
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from asr.errors import AsrError
from asr.progress import complain

# Time limits for building an environment and for ending a process.
BUILD_SECONDS = 1200
CLOSE_SECONDS = 10


class WorkerError(AsrError):
    """A worker could not be started or ended too early; the message is the reason."""


class Worker:
    """A process that answers requests.

    Args:
        command: the command that starts it.
        log: file for its standard error.
        threads: number of threads it may use.

    Attributes:
        hello: its first answer.
    """

    def __init__(self, command: list[str], log: Path, threads: int = 1) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": str(threads),
                    "OPENBLAS_NUM_THREADS": str(threads),
                },
            )
        self.hello = self._read()

    def ask(self, request: Any) -> dict[str, Any]:
        """Send a request and return the answer. Raises WorkerError if the process has ended."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).write(json.dumps(request) + "\n")
            _pipe(self._process.stdin).flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        if line := _pipe(self._process.stdout).readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait()
        reason = last_line(self._log.read_text(errors="replace"))
        raise WorkerError(f"the process of {self._log.stem} ended: {reason}")

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def build_environment(folder: Path, packages: Sequence[str], lent: Path | None = None) -> Path:
    """Build an environment unless it exists.

    Args:
        folder: the environment.
        packages: the packages to install, as arguments of pip.
        lent: a folder of installed packages that the environment can import, too; only what they
            lack is installed.

    Returns:
        The environment's Python.

    Raises:
        WorkerError: if it cannot be built.
    """
    python, mark = folder.resolve() / "bin" / "python", folder / "installed"
    wanted = "\n".join((*packages, *([str(lent)] if lent else [])))
    if python.exists() and mark.is_file() and mark.read_text() == wanted:
        return python
    complain(f"building {folder} (some minutes if packages have to be compiled)")
    try:
        venv.create(folder, clear=True, with_pip=True)
        if lent:
            (site,) = folder.resolve().glob("lib/python*/site-packages")
            (site / "lent.pth").write_text(f"{lent}\n")
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
            check=True,
            timeout=BUILD_SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise WorkerError(f"it cannot be installed: {last_line(error.stderr or '')}") from None
    except subprocess.TimeoutExpired:
        raise WorkerError(f"it was not installed within {BUILD_SECONDS} s") from None
    except OSError as error:
        raise WorkerError(f"its environment cannot be created: {error}") from None
    mark.write_text(wanted)
    return python


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason")
