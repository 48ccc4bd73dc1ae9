"""What commands print and write: transcripts, reports, facts and failures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import formats
from asr.decoder.hypothesis import Hypothesis
from asr.errors import SOME_FAILED, AsrError
from asr.files import check_writable, save_figure
from asr.progress import complain, say

if TYPE_CHECKING:
    from asr.scoring import Report

# Format of a transcript -> ending of its files.
FORMATS = {name: name for name in ("txt", "json", "srt", "vtt", "ctm")} | {"textgrid": "TextGrid"}
ALIGNED_FORMATS = [name for name in FORMATS if name != "txt"]  # formats with times
ALONE_FORMATS = ("srt", "vtt", "textgrid")  # formats that describe one recording per file


def to_sentence(error: AsrError) -> str:
    """An error's message, ending in a period."""
    return f"{str(error).removesuffix('.')}."


def report_failures(sentences: Sequence[str], total: int) -> int:
    """Print the failures to stderr and return the exit code."""
    if not sentences:
        return 0
    if total == 1:
        complain(f"asr: {sentences[0]}")
    else:
        lines = [f"asr: {len(sentences)} of {total} recordings failed:", *sentences]
        complain("\n  ".join(lines))
    return SOME_FAILED


def render(name: str, hypothesis: Hypothesis, kind: str) -> str:
    """The transcript of the recording `name` as the content of a file of this format."""
    seconds = hypothesis.seconds or 0.0
    others = {"json": (name, seconds), "ctm": (name,), "textgrid": (seconds,)}  # other arguments
    document: str = getattr(formats, f"to_{kind}")(hypothesis, *others.get(kind, ()))
    return document


def to_json(value: object, indent: int | None = None) -> str:
    """A value as JSON, on one line unless it is indented."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def print_report(report: "Report", unread: int = 0) -> None:
    """Print the summary, the table of errors and the worst utterances."""
    say(report.summary())
    low, high = report.wer_interval()
    say(
        f"95 % confidence interval of the WER, over utterances: {100 * low:.2f} to {100 * high:.2f} %"
    )
    if unread:
        say(
            f"{unread} of {len(report.utterances)} recordings could not be transcribed; all their "
            "words are counted as deleted."
        )
    say("")
    names = ("substitutions", "insertions", "deletions", "word errors")
    counts = (report.substitutions, report.insertions, report.deletions, report.errors)
    for name, count in zip(names, counts, strict=True):
        say(f"{name:<14}{count:>9,}{100 * count / max(report.words, 1):>9.2f} %")
    if report.errors:
        say(f"\nThe worst utterances:\n\n{report.alignment(5)}")


def check_picture(picture: Path | None) -> None:
    """Raise AsrError unless the file name ends in .png and the file can be written."""
    if not picture:
        return
    if picture.suffix.lower() != ".png":
        raise AsrError(f"{picture} is not a PNG file name; use the extension .png")
    check_writable(picture)


def save_picture(figure: Any, path: Path) -> None:
    """Save a figure as PNG and print its path."""
    save_figure(path, figure)
    say(f"picture: {path}")


def print_facts(facts: dict[str, Any], indent: str = "") -> None:
    """Print names and values in two columns, nested facts indented."""
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        if isinstance(value, dict):
            say(f"{indent}{name}")
            print_facts(value, f"{indent}  ")
        else:
            say(f"{indent}{name:<{width}}{_format_value(value)}")


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
