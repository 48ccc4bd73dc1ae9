"""What the benchmarks share that hold `asr` against others: environments, and processes that answer.

A rival lives in an environment of its own, so that its packages never meet ours, and in a process of
its own: a line of JSON on its standard input is a request, a line on its standard output the answer,
and the first line of all says that it is ready, and what it is.
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

BUILD_SECONDS = 1200
CLOSE_SECONDS = 10


class WorkerError(AsrError):
    """A worker could not be had, or ended too early; the message is the reason."""


class Worker:
    """A process that answers; `hello` is what it said first. What it complains of is in `log`."""

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
        """The answer to a request. Raises WorkerError where the process ended."""
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
    """The Python of an environment that holds `packages`, built unless it is there.

    With `lent`, a folder of installed packages, it can import those too, and only what they lack is
    installed. Raises WorkerError.
    """
    python, mark = folder.resolve() / "bin" / "python", folder / "installed"
    wanted = "\n".join((*packages, *([str(lent)] if lent else [])))
    if python.exists() and mark.is_file() and mark.read_text() == wanted:
        return python
    complain(f"building {folder} (some minutes, where something has to be compiled)")
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
        raise WorkerError(f"its environment cannot be made: {error}") from None
    mark.write_text(wanted)
    return python


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason")
