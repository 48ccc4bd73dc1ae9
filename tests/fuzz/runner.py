"""Runs inputs in a forked process, and notices what each does: crashes, hangs, memory, exceptions.

One process takes many inputs. If it dies, hangs or needs too much memory, the fault is attributed to
its input, and another process continues.
"""

import contextlib
import faulthandler
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fuzz.doors import Door, Files, write_input

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
TAIL_CHARACTERS = 3_000
LOOK_SECONDS = 0.2  # between two looks at a process that has not answered
FIRST_SECONDS = 300.0  # for valid inputs, at which code is compiled


@dataclass(frozen=True)
class Limits:
    """What an input may cost.

    Attributes:
        seconds: Time of the processor until an answer.
        patience: How many times longer an answer may take, as other processes are at work too.
        bytes: Memory in addition to that of the process before it, in which the libraries have
            about half a GB.
    """

    seconds: float = 10.0
    patience: float = 6.0
    bytes: int = 500_000_000


@dataclass(frozen=True)
class Finding:
    """An input that broke the law.

    Attributes:
        door: The door.
        seed: The seed of the random numbers.
        number: The number of the input; None for a valid one.
        problem: The exception, the signal or the limit, in one line.
        detail: A traceback or what the process printed; may be empty.
    """

    door: str
    seed: int
    number: int | None
    problem: str
    detail: str = ""


class Runner:
    """Runs inputs of doors, as a context: its processes and files end with it."""

    def __init__(self, doors: dict[str, Door], limits: Limits | None = None) -> None:
        self.doors = doors
        self.limits = limits or Limits()
        self.folder = Path(tempfile.mkdtemp(prefix="asr-fuzz-"))
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._worker:
            self._worker.kill(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def check_seeds(self, door: Door, most: int | None = None) -> Iterator[Finding]:
        """Run the valid inputs of a door, or the first `most`; each must be accepted."""
        for files in door.seeds[:most]:
            yield from self._run(door, files, 0, None, FIRST_SECONDS)

    def run(self, door: Door, seed: int, number: int) -> Iterator[Finding]:
        """Run one damaged input; yields what it did wrong."""
        files = door.make_input(seed, number)
        yield from self._run(door, files, seed, number, self.limits.seconds)

    def _run(
        self, door: Door, files: Files, seed: int, number: int | None, seconds: float
    ) -> Iterator[Finding]:
        place = self.folder / "input"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        write_input(files, place)
        worker = self._worker = self._worker or _Worker(self.doors, self.limits, self.folder)
        answer = worker.ask({"door": door.name, "is_valid": number is None}, seconds)
        if answer is None:
            self._worker = None
            problem, detail = worker.describe_end(seconds)
            yield Finding(door.name, seed, number, problem, detail)
            return
        for problem, detail in answer["problems"]:
            yield Finding(door.name, seed, number, problem, detail)


class _Worker:
    """A forked process and the two pipes to it."""

    def __init__(self, doors: dict[str, Door], limits: Limits, folder: Path) -> None:
        self.log = folder / "output"
        questions, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        self.timed_out = False
        self.patience = limits.patience
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of the parent are idle
            self.process = os.fork()
        if not self.process:
            with contextlib.suppress(BaseException):
                os.close(self._ask)
                os.close(self._answers)
                _serve(doors, limits, folder, self.log, questions, answers)
            os._exit(1)
        os.close(questions)
        os.close(answers)

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Let it run one input; None if it died or was killed at the end of the time."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._ask, json.dumps(question).encode() + b"\n")
        end = time.monotonic() + seconds * self.patience
        most = self._processor_seconds() + seconds
        answer = b""
        while not answer.endswith(b"\n"):
            ready = select.select([self._answers], [], [], LOOK_SECONDS)[0]
            if not ready and time.monotonic() < end and self._processor_seconds() < most:
                continue
            if not ready:
                self.timed_out = True
                self.kill(signal.SIGABRT)  # at which it prints where it hangs
                return None
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                return None
            answer += piece
        return dict(json.loads(answer))

    def _processor_seconds(self) -> float:
        """The time that the process has computed; 0 where the system does not tell."""
        stat = Path(f"/proc/{self.process}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self, sign: signal.Signals) -> None:
        """End the process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, sign)
            deadline = time.monotonic() + 2
            while sign != signal.SIGKILL and time.monotonic() < deadline:
                if os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.01)
            os.kill(self.process, signal.SIGKILL)
        self._wait()

    def _wait(self) -> int:
        """Wait for its end and close the pipes; returns its exit status as `os.waitpid` does."""
        status = 0
        with contextlib.suppress(ChildProcessError):
            status = os.waitpid(self.process, 0)[1]
        for pipe in (self._ask, self._answers):
            with contextlib.suppress(OSError):
                os.close(pipe)
        return status

    def describe_end(self, seconds: float) -> tuple[str, str]:
        """Why there was no answer, and what the process printed, with a stack."""
        if self.timed_out:
            problem = f"hung: no answer within {seconds:g} s"
        else:
            code = os.waitstatus_to_exitcode(self._wait())
            problem = f"crashed: the process ended with {_name_end(code)}"
        printed = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return problem, printed.partition("Extension modules")[0][:TAIL_CHARACTERS]


def _name_end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(
    doors: dict[str, Door], limits: Limits, folder: Path, log: Path, questions: int, answers: int
) -> None:
    """Answer the questions of the parent until it closes the pipe."""
    for descriptor, file in ((1, folder / "results"), (2, log)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND), descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    warnings.simplefilter("error")
    tempfile.tempdir = str(folder)
    place = folder / "input"
    with open(questions, encoding="utf-8") as lines:
        for line in lines:
            question = json.loads(line)
            door = doors[question["door"]]
            os.chdir(place)
            memory = _Memory(limits.bytes)
            problems = [] if memory.is_limited else [("cannot limit the memory", "")]
            problems += _enter(door, place, question["is_valid"])
            if door.judges_memory and (excess := memory.measure()) > limits.bytes:
                problems.append((f"needed {excess / 1e6:,.0f} MB of memory", ""))
            if printed := _take_output():
                problems.append((f"printed {printed[:300]!r}", printed[:TAIL_CHARACTERS]))
            os.write(answers, json.dumps({"problems": problems}).encode() + b"\n")


def _enter(door: Door, place: Path, is_valid: bool) -> list[tuple[str, str]]:
    """Run an input; returns what went wrong, as (problem, detail)."""
    try:
        result = door.enter(place)
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        lines = traceback.format_exception(error)
        return [(problem, "".join(lines)[-TAIL_CHARACTERS:].partition("\n")[2])]
    if is_valid and result is None:
        return [("refused a valid input", str(sorted(path.name for path in place.iterdir())))]
    return []


def _take_output() -> str:
    """What was printed past the streams of Python since the last call, which is removed."""
    printed = ""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        descriptor = stream.fileno()
        if size := os.fstat(descriptor).st_size:
            printed += os.pread(descriptor, size, 0).decode("utf-8", "replace")
            os.ftruncate(descriptor, 0)
    return printed


class _Memory:
    """The memory of this process while it runs an input, which is limited far above what is judged.

    The limit of the address space only protects the machine: memory that is asked for and never
    used costs nothing.
    """

    RESERVE = 4

    def __init__(self, most: int) -> None:
        gc.collect(0)
        self.is_limited = True
        if CLEAR.exists():
            CLEAR.write_text(RESET_PEAK)
        self._before = _read_status("VmRSS")
        limit = _read_status("VmSize") + self.RESERVE * most
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        except (OSError, ValueError):
            self.is_limited = False

    def measure(self) -> int:
        """The peak memory since construction minus the memory in use before, in bytes."""
        return _read_status("VmHWM") - self._before


def _read_status(field: str) -> int:
    """A size of this process in bytes; 0 where the system has no /proc."""
    if not STATUS.exists():
        return 0
    lines = STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
