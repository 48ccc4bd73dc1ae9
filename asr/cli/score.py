"""The command `asr score`: measure the word errors of existing transcripts."""

import argparse
from pathlib import Path

from asr.cli.inputs import read_texts
from asr.cli.options import add_profile_option
from asr.cli.output import print_report, to_json
from asr.progress import say


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("reference", metavar="REF", help="correct texts: a manifest (JSONL) or a Kaldi text file")
    add(
        "hypothesis",
        metavar="HYP",
        help='recognized texts in either format (JSONL: "pred_text" if there is one, otherwise "text")',
    )
    add_profile_option(command)
    add("--json", action="store_true", help="print the whole report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.scoring import score

    report = score(
        read_texts(Path(arguments.reference), ("text",)),
        read_texts(Path(arguments.hypothesis), ("pred_text", "text")),
        arguments.profile,
    )
    if arguments.json:
        say(to_json(report.to_dict(), indent=1), verbatim=True)
    else:
        print_report(report)
    return 0
