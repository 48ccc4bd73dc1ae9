"""What commands print and write: transcripts, reports, facts and failures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.inputs import Input
from asr.errors import AsrError
from asr.progress import complain, say

if TYPE_CHECKING:
    from asr.decoder.hypothesis import Hypothesis
    from asr.scoring import Report


SOME_FAILED = 1

FORMATS = {  # of a transcript, each with the ending of its files
    "txt": "txt",
    "json": "json",
    "srt": "srt",
    "vtt": "vtt",
    "ctm": "ctm",
    "textgrid": "TextGrid",
}
ALIGNED_FORMATS = [name for name in FORMATS if name != "txt"]  # those that hold times
ALONE_FORMATS = ("srt", "vtt", "textgrid")  # those whose files are about one recording


def to_sentence(error: AsrError) -> str:
    """An error's message with its full stop."""
    return f"{str(error).removesuffix('.')}."


def write_document(path: Path, text: str) -> None:
    """Write a text to a file atomically. Raises FileError."""
    from asr.files import write_atomically

    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def list_failures(sentences: Sequence[str], total: int) -> int:
    """Print the failures to stderr and return the exit code."""
    if not sentences:
        return 0
    if total == 1:
        complain(f"asr: {sentences[0]}")
    else:
        lines = [f"asr: {len(sentences)} of {total} recordings failed:", *sentences]
        complain("\n  ".join(lines))
    return SOME_FAILED


def render(given: Input, hypothesis: "Hypothesis", kind: str) -> str:
    """The transcript as a file of this format holds it."""
    from asr import formats
    from asr.audio.waveform import inspect_audio

    match kind:
        case "json":
            return formats.to_json(hypothesis, given.name, inspect_audio(given.open()).seconds)
        case "textgrid":
            return formats.to_textgrid(hypothesis, inspect_audio(given.open()).seconds)
        case "ctm":
            return formats.to_ctm(hypothesis, given.name)
    plain = {"txt": formats.to_txt, "srt": formats.to_srt, "vtt": formats.to_vtt}
    return plain[kind](hypothesis)


def to_json(value: object) -> str:
    """A value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False)


def print_report(report: "Report", unread: int = 0) -> None:
    """The summary line, the table of errors, the worst utterances."""
    say(report.summary())
    low, high = report.wer_interval()
    say(f"95 % interval of the WER, over utterances: {100 * low:.2f} to {100 * high:.2f} %")
    if unread:
        say(
            f"{unread} of {len(report.utterances)} recordings could not be transcribed: "
            "these rates count all their words as deleted."
        )
    say("")
    rows = {
        "substitutions": report.substitutions,
        "insertions": report.insertions,
        "deletions": report.deletions,
        "word errors": report.errors,
    }
    for name, count in rows.items():
        say(f"{name:<14}{count:>9,}{100 * count / max(report.words, 1):>9.2f} %")
    if report.errors:
        say(f"\nThe worst utterances:\n\n{report.alignment(5)}")


def check_picture(picture: Path | None) -> None:
    """Raise AsrError unless the picture's name ends in .png."""
    if picture and picture.suffix.lower() != ".png":
        raise AsrError(f"{picture} is not the name of a PNG picture; let it end in .png.")


def save_picture(figure: Any, path: Path) -> None:
    """Save a figure as PNG and print its path."""
    from asr.files import write_atomically

    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100))
    say(f"picture: {path}")


def print_facts(facts: dict[str, Any], indent: str = "") -> None:
    """Print names and values in two columns, nested facts indented."""
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        if isinstance(value, dict):
            say(f"{indent}{name}")
            print_facts(value, f"{indent}  ")
        else:
            say(f"{indent}{name:<{width}}{_show(value)}")


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
