"""What tests of commands share."""

from collections.abc import Callable
from pathlib import Path

RunAsr = Callable[..., tuple[int, str, str]]
"""The fixture `run_asr`: words of a command line -> exit code, stdout, stderr."""


def transcribe(path: Path, checkpoint: Path) -> str:
    """What the library transcribes."""
    from asr.recognizer import Recognizer

    return Recognizer.load(checkpoint).transcribe(path).text


def one_sentence(err: str) -> str:
    """The only line of `err`: a sentence of asr's."""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("asr: ")
    assert lines[0].endswith(".")
    return lines[0]
