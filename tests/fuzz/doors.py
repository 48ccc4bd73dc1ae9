"""The doors of asr: what each takes, how that is damaged, and the public function behind it.

An input is a few files. Its law: every call of the library returns or raises an AsrError whose text is
one sentence; every command ends with the exit code 0, 1 or 2 and at most one sentence for a failure.
"""

import contextlib
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest import mock

from asr.cli.main import main
from asr.errors import AsrError
from fuzz.mutations import random_text

Files = dict[str, bytes]  # path below the input's folder -> content

NAME_BYTES = 255
SENTENCE_CHARACTERS = 9_000  # with two paths of 4,096 bytes
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class BrokenLawError(Exception):
    """A door answered, but not as the law says."""


@dataclass(frozen=True)
class Door:
    """One way into asr.

    Attributes:
        name: What the user calls it.
        load_seeds: Makes valid inputs; called once.
        damage: Changes a valid input; gets all of them.
        enter: Takes the folder of an input and calls the public functions.
        judges_memory: Whether the memory of a call is limited; not where the input asks for it.
        share: How many of its inputs are run while a usual door gets one; less than 1 if they are slow.
    """

    name: str
    load_seeds: Callable[[], list[Files]]
    damage: Callable[[Files, Random, list[Files]], Files]
    enter: Callable[[Path], object]
    judges_memory: bool = True
    share: float = 1.0

    @cached_property
    def seeds(self) -> list[Files]:
        """The valid inputs."""
        return self.load_seeds()

    def make_input(self, seed: int, number: int) -> Files:
        """The input with a number, which is a pure function of (door, seed, number)."""
        draw = Random(f"{self.name} {seed} {number}")
        return self.damage(dict(draw.choice(self.seeds)), draw, self.seeds)


def write_input(files: Files, folder: Path) -> None:
    """Write the files of an input; names that no file can have are left out."""
    for name, content in files.items():
        path = folder / name
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def attempt(call: Callable[[], object]) -> object:
    """Call a function of the library; None instead of an AsrError, whose text is checked."""
    try:
        return call()
    except AsrError as error:
        check_sentence(str(error))
        return None


def check_sentence(text: str) -> None:
    """Raise BrokenLawError if the text of an error is no single sentence."""
    if not text.strip() or "\n" in text or "Traceback" in text:
        raise BrokenLawError(f"the error is not one sentence: {text[:500]!r}")
    if len(text) > SENTENCE_CHARACTERS:
        raise BrokenLawError(f"the error has {len(text)} characters: {text[:500]!r}")


def command(*words: object, stdin: bytes = b"") -> tuple[int, str]:
    """Run `asr` with these words; returns the exit code and stdout, after checking both and stderr."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as Python opens stderr
    former = sys.stdin
    sys.stdin = SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(stdin)))  # type: ignore[assignment]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch("asr.runtime.device.count_cores", return_value=1),
            mock.patch("asr.runtime.distributed.count_cores", return_value=1),
        ):
            try:
                code = main([_as_argument(str(word)) for word in words])
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.stdin = former
    printed, complaint = (_read_all(stream) for stream in (out, err))
    _check_command(code, complaint)
    return code, printed


def _as_argument(word: str) -> str:
    """A word as a program can be given it: valid Unicode without zero bytes."""
    return word.replace("\0", "").encode("utf-8", "replace").decode()


def _read_all(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _check_command(code: int, complaint: str) -> None:
    """Raise BrokenLawError for a wrong exit code, or for what stderr shows besides progress."""
    lines = complaint.split("\n")
    sentences = [line for line in lines if line.startswith("asr: ")]
    if code not in (0, 1, 2):
        raise BrokenLawError(f"the exit code is {code}: {complaint[:500]!r}")
    if "Traceback" in complaint or _STEERING.search(complaint):
        raise BrokenLawError(f"a traceback or control characters: {complaint[:500]!r}")
    if any(len(line) > SENTENCE_CHARACTERS for line in lines):
        raise BrokenLawError(f"a line of {max(map(len, lines))} characters: {complaint[:500]!r}")
    if code == 2 and len(sentences) != 1 and not complaint.startswith("usage:"):
        raise BrokenLawError(f"exit code 2 and {len(sentences)} sentences: {complaint[:500]!r}")


def random_name(ending: str, draw: Random) -> str:
    """A plain file name, rarely an odd one."""
    if draw.random() < 0.93:
        return f"input{ending}"
    name = draw.choice((random_text(draw), random_text(draw) * 60, "a" * 245, "-", "..", "~x"))
    name = re.sub("[/\0\n]", "_", name).encode("utf-8", "replace")[: NAME_BYTES - len(ending)]
    return name.decode("utf-8", "ignore") + ending


def only_file(folder: Path) -> Path:
    """The file of an input that has a single one, or a path where none is."""
    return next((path for path in folder.iterdir() if path.is_file()), folder / "missing")
