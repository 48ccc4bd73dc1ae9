"""What the command `asr doctor` does: manifests go in, a report and a cleaned manifest come out."""

import argparse
import json
from html import escape
from pathlib import Path

from asr.diagnosis import (
    ERROR,
    INFORMATION,
    SEVERITIES,
    WARNING,
    Diagnosis,
    Finding,
    Histogram,
    Summary,
)
from asr.errors import AsrError, DataError
from asr.progress import Bar, say
from asr.text import Vocabulary, normalise

NAMES_TOLD = 3  # cases of a finding that the terminal shows
PLURALS = {ERROR: "errors", WARNING: "warnings", INFORMATION: "information"}
ERRORS_FOUND = 1


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "manifests",
        nargs="+",
        metavar="MANIFEST",
        help="JSONL, as asr.data reads it: the training set, then sets that it is tested on",
    )
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="judge by this model's vocabulary and frame rate (default: those of the recipes)",
    )
    command.add_argument(
        "--vocabulary",
        choices=("english", "transcripts"),
        help="the characters that may occur, as data.vocabulary of the recipes (default: english)",
    )
    command.add_argument(
        "--batch-seconds",
        type=float,
        default=40.0,
        metavar="SECONDS",
        help="longest utterance, as training.batch_seconds (default: 40)",
    )
    command.add_argument(
        "--fastest",
        type=float,
        default=1.1,
        metavar="FACTOR",
        help="the most by which augmentation speeds up: the highest of augment.speeds times 1 + "
        "augment.tempo (default: 1.1)",
    )
    command.add_argument("--threads", type=int, metavar="N", help="(default: one for each core)")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with all ids and histograms"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    command.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the training manifest without the utterances that have errors",
    )
    command.add_argument(
        "--strict", action="store_true", help="leave out those with warnings as well"
    )


def run(arguments: argparse.Namespace) -> int:
    """Examine the manifests and write what is asked for; the exit code: 1 where there are errors.

    Raises AsrError for arguments that cannot be meant, and DataError where a manifest cannot be
    read or nothing would be left in the cleaned one.
    """
    from asr.distributed import count_cores
    from asr.doctor import Requirements, examine, read_leniently, select_sound, write_sound

    _check_arguments(arguments)
    read = {name: read_leniently(name) for name in arguments.manifests}
    splits = {name: utterances for name, (utterances, _) in read.items()}
    refused = {name: rejects for name, (_, rejects) in read.items()}
    training = arguments.manifests[0]
    limits = arguments.fastest, arguments.batch_seconds
    if arguments.checkpoint:
        requirements = Requirements.of_checkpoint(arguments.checkpoint, *limits)
    else:
        vocabulary = Vocabulary.english()
        if arguments.vocabulary == "transcripts":
            texts = (normalise(utterance.text) for utterance in splits[training])
            vocabulary = Vocabulary.from_transcripts(texts)
        requirements = Requirements(vocabulary, fastest=limits[0], batch_seconds=limits[1])
    with Bar("examining", sum(map(len, splits.values())), "utterances") as bar:
        threads = arguments.threads or count_cores()
        diagnosis = examine(splits, requirements, refused, threads, bar.advance)
    for line in render_lines(diagnosis):
        say(line)
    if arguments.json:
        document = json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False)
        _write(arguments.json, document + "\n")
        say(f"as JSON: {arguments.json}")
    if arguments.html:
        _write(arguments.html, render_page(diagnosis))
        say(f"with all ids and histograms: {arguments.html}")
    if arguments.write:
        kept = select_sound(splits[training], diagnosis, training, arguments.strict)
        if not kept:
            raise DataError(f"Nothing of {training} would be left; mend it first.")
        write_sound(training, arguments.write, kept)
        dropped = len(splits[training]) + len(refused[training]) - len(kept)
        say(f"{arguments.write}: {len(kept):,} utterances of {training}, {dropped:,} left out")
    return ERRORS_FOUND if diagnosis.count(ERROR) else 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse, before any work is done, what cannot be meant."""
    from asr.files import check_writable

    manifests = [Path(name) for name in arguments.manifests]
    if len({path.resolve() for path in manifests}) < len(manifests):
        raise AsrError("A manifest is named twice; name each split once.")
    if arguments.strict and not arguments.write:
        raise AsrError("--strict says what --write leaves out; give a file with --write.")
    if arguments.checkpoint and arguments.vocabulary:
        raise AsrError("A checkpoint has its own vocabulary; omit --vocabulary or --checkpoint.")
    if arguments.threads is not None and arguments.threads < 1:
        raise AsrError(f"--threads {arguments.threads} is impossible; give 1 or more.")
    if not 0 < arguments.batch_seconds < float("inf"):
        raise AsrError(f"--batch-seconds {arguments.batch_seconds:g} is impossible; give seconds.")
    if not 1 <= arguments.fastest < float("inf"):
        raise AsrError(
            f"--fastest {arguments.fastest:g} is impossible; give a factor of 1 or more."
        )
    taken = {path.resolve(): "a manifest" for path in manifests}
    for option in ("html", "json", "write"):
        path: Path | None = getattr(arguments, option)
        if path is None:
            continue
        if path.is_dir():
            raise AsrError(f"{path} is a folder; name a file for --{option}.")
        if path.resolve() in taken:
            other = taken[path.resolve()]
            raise AsrError(f"--{option} {path} would be written over {other}; name another file.")
        taken[path.resolve()] = f"what --{option} names"
        check_writable(path)


def _write(path: Path, text: str) -> None:
    from asr.files import write_atomically

    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


# ---- In a terminal ------------------------------------------------------------------------------


def render_lines(diagnosis: Diagnosis) -> list[str]:
    """The report as lines of text: each finding with its first few cases and what to do."""
    lines = []
    for summary in diagnosis.summaries:
        lines.append(summary.split)
        lines += [f"  {name:<18}{value}" for name, value in summary.facts.items()]
    if diagnosis.cost:
        lines.append(f"an epoch on {diagnosis.summaries[0].split}, estimated")
        lines += [f"  {name:<18}{value}" for name, value in diagnosis.cost.items()]
    for severity in SEVERITIES:
        findings = [f for f in diagnosis.findings if f.severity == severity]
        if findings:
            lines += ["", PLURALS[severity].upper()]
        for finding in findings:
            lines += _render_finding(finding)
    return [*lines, "", _conclude(diagnosis)]


def _render_finding(finding: Finding) -> list[str]:
    where = f" in {finding.split}" if finding.split else ""
    lines = [f"  {finding.title}{where}: {finding.detail}"]
    cases = list(zip(finding.ids, finding.details, strict=True))
    lines += [f"    {_label(finding, name, detail)}" for name, detail in cases[:NAMES_TOLD]]
    if len(cases) > NAMES_TOLD:
        lines.append(f"    and {len(cases) - NAMES_TOLD:,} more")
    return [*lines, f"    -> {finding.fix}"]


def _label(finding: Finding, name: str, detail: str) -> str:
    label = detail if finding.kind == "line" else f"{name}: {detail}"  # a line's detail names it
    return _printable(label)


def _printable(text: str) -> str:
    """A text whose control characters, which could steer a terminal, are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _conclude(diagnosis: Diagnosis) -> str:
    errors, warnings = diagnosis.count(ERROR), diagnosis.count(WARNING)
    if not errors and not warnings:
        return "Nothing is wrong with these manifests."
    return f"Utterances or lines with errors: {errors:,}, with warnings: {warnings:,}."


# ---- As a page ----------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4878a8; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.2rem .15rem 0; text-align: left;
  vertical-align: top; font-weight: normal; } th { opacity: .7; white-space: nowrap; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } .cases { font-size: 13px; margin: .5rem 0; }
.cases td:first-child { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.mark { display: inline-block; min-width: 6.2rem; font-size: 12px; border-radius: 4px; color: #fff;
  text-align: center; margin-right: .6rem; }
.error { background: #b3261e; } .warning { background: #9a6700; } .information { background: #57606a; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; }
figcaption { font-size: 13px; } rect { fill: var(--bar); }
svg text { font-size: 11px; fill: currentColor; }
"""
_CHART_WIDTH, _CHART_HEIGHT = 260, 80  # pixels of the columns


def render_page(diagnosis: Diagnosis) -> str:
    """The report as one HTML page that needs nothing else: all ids, and histograms."""
    findings = "".join(map(_render_details, diagnosis.findings))
    cost = ""
    if diagnosis.cost:
        name = escape(diagnosis.summaries[0].split)
        cost = f"<h2>An epoch on {name}, estimated</h2>{_render_facts(diagnosis.cost)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>asr doctor</title><style>{_STYLE}</style></head>\n<body><h1>asr doctor</h1>"
        f"<p>{escape(_conclude(diagnosis))}</p>\n<h2>Findings</h2>\n"
        f"{findings or '<p>None.</p>'}"
        f"{''.join(map(_render_summary, diagnosis.summaries))}{cost}</body></html>\n"
    )


def _render_details(finding: Finding) -> str:
    where = f" in {escape(finding.split)}" if finding.split else ""
    rows = "".join(
        f"<tr><td>{escape(_printable(name))}</td><td>{escape(_printable(detail))}</td></tr>\n"
        for name, detail in zip(finding.ids, finding.details, strict=True)
    )
    cases = f'<table class="cases">{rows}</table>' if rows else ""
    return (
        f'<details><summary><span class="mark {finding.severity}">{finding.severity}</span>'
        f"{escape(finding.title)}{where}: {escape(finding.detail)}</summary>"
        f"<p>{escape(finding.fix)}</p>{cases}</details>\n"
    )


def _render_summary(summary: Summary) -> str:
    charts = "".join(map(_render_histogram, summary.histograms))
    return (
        f"<h2>{escape(summary.split)}</h2>{_render_facts(summary.facts)}"
        f'<div class="charts">{charts}</div>\n'
    )


def _render_facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _render_histogram(histogram: Histogram) -> str:
    highest = max(histogram.counts)
    width = _CHART_WIDTH / len(histogram.counts)
    columns = "".join(
        f'<rect x="{number * width:.1f}" y="{_CHART_HEIGHT * (1 - count / highest):.1f}" '
        f'width="{width * 0.9:.1f}" height="{_CHART_HEIGHT * count / highest:.1f}">'
        f"<title>{low:.3g} to {high:.3g}: {count:,}</title></rect>"
        for number, (count, low, high) in enumerate(
            zip(histogram.counts, histogram.edges[:-1], histogram.edges[1:], strict=True)
        )
        if count
    )
    first, last = histogram.edges[0], histogram.edges[-1]
    return (
        f'<figure><svg width="{_CHART_WIDTH}" height="{_CHART_HEIGHT + 16}" role="img">{columns}'
        f'<text x="0" y="{_CHART_HEIGHT + 13}">{first:.3g}</text>'
        f'<text x="{_CHART_WIDTH}" y="{_CHART_HEIGHT + 13}" text-anchor="end">{last:.3g}</text>'
        f"</svg><figcaption>{escape(histogram.name)} ({escape(histogram.unit)})</figcaption></figure>"
    )
