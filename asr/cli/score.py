"""The command `asr score`: measure the word errors of existing transcripts."""

import argparse
from pathlib import Path

from asr.cli.inputs import read_systems
from asr.cli.options import add_profile_option
from asr.cli.output import print_report, to_json
from asr.progress import say


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add(
        "reference",
        metavar="REF",
        help="correct texts: a manifest (JSONL), a table with tabs and a header, sclite's trn, a "
        "Kaldi text file, or plain lines",
    )
    add(
        "hypothesis",
        metavar="HYP",
        help='recognized texts in any of these formats (JSONL: "pred_text" if there is one, otherwise '
        '"text")',
    )
    add(
        "--format",
        choices=("kaldi", "lines"),
        help="format of files whose lines may begin with an id or not: kaldi (id, space, text) or "
        "lines (one text per line, in the same order in both files); by default the format is "
        "recognized, and an unclear one is refused",
    )
    add_profile_option(command)
    add("--json", action="store_true", help="print the whole report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.scoring import score

    references, [hypotheses] = read_systems(
        Path(arguments.reference), [Path(arguments.hypothesis)], arguments.format
    )
    report = score(references, hypotheses, arguments.profile)
    if arguments.json:
        say(to_json(report.to_dict(), indent=1), verbatim=True)
    else:
        print_report(report)
    return 0
