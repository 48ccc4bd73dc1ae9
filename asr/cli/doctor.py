"""The command `asr doctor`: check manifests, write a report and a cleaned manifest."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.defaults import BATCH_SECONDS, SPEEDS
from asr.errors import SOME_FAILED, AsrError, DataError
from asr.files import check_writable, write_text
from asr.progress import Bar, say
from asr.text import Vocabulary, normalize

if TYPE_CHECKING:
    from asr.data.manifest import Utterance
    from asr.doctor.requirements import Requirements

OUTPUTS = {  # option -> what it does
    "html": "write an HTML page with all ids and histograms",
    "json": "write the report as JSON",
    "write": "write the training manifest without the utterances that have errors",
}


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "manifests",
        nargs="+",
        metavar="MANIFEST",
        help="JSONL manifests: the training set first, then the development and test sets",
    )
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="check the utterances against the vocabulary and frame rate of this model (default: "
        "those of the recipes)",
    )
    command.add_argument(
        "--vocabulary",
        metavar="english|transcripts|FILE.txt",
        help="characters that texts may contain: those of English, all in the training "
        "transcripts, or those in a text file, as data.vocabulary of the recipes (default: english)",
    )
    command.add_argument(
        "--batch-seconds",
        type=float,
        default=BATCH_SECONDS,
        metavar="SECONDS",
        help="length of the longest utterance, as training.batch_seconds "
        f"(default: {BATCH_SECONDS:g})",
    )
    command.add_argument(
        "--fastest",
        type=float,
        default=max(SPEEDS),
        metavar="FACTOR",
        help="greatest speed-up by augmentation, after which utterances must still be long enough "
        "for their texts: the largest of augment.speeds times 1 + augment.tempo in the configuration "
        f"of the training (default: {max(SPEEDS):g})",
    )
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="number of recordings that are read at the same time (default: one for each core)",
    )
    for option, purpose in OUTPUTS.items():
        command.add_argument(f"--{option}", type=Path, metavar="FILE", help=purpose)
    command.add_argument(
        "--strict",
        action="store_true",
        help="with --write: leave out the utterances that have warnings as well",
    )


def run(arguments: argparse.Namespace) -> int:
    """Examine the manifests and write what was requested; the exit code is 1 if there are errors.

    Raises AsrError for invalid arguments, and DataError if a manifest cannot be read or the
    cleaned one would be empty.
    """
    from asr.doctor.examination import examine
    from asr.doctor.findings import ERROR
    from asr.doctor.manifests import read_leniently, select_clean, write_clean
    from asr.doctor.report import render_json, render_lines, render_page
    from asr.runtime.device import count_cores

    _check_arguments(arguments)
    read = {name: read_leniently(name) for name in arguments.manifests}
    splits = {name: utterances for name, (utterances, _) in read.items()}
    refused = {name: rejects for name, (_, rejects) in read.items()}
    training = arguments.manifests[0]
    requirements = _choose_requirements(arguments, splits[training])
    with Bar("examining", sum(map(len, splits.values())), "utterances") as bar:
        threads = arguments.threads or count_cores()
        diagnosis = examine(splits, requirements, refused, threads, bar.advance)
    for line in render_lines(diagnosis):
        say(line)
    if arguments.json:
        write_text(arguments.json, render_json(diagnosis))
        say(f"report as JSON: {arguments.json}")
    if arguments.html:
        write_text(arguments.html, render_page(diagnosis))
        say(f"report with all ids and histograms: {arguments.html}")
    if arguments.write:
        kept = select_clean(splits[training], diagnosis, training, arguments.strict)
        if not kept:
            raise DataError(f"no utterance of {training} would be left; correct the manifest first")
        write_clean(training, arguments.write, kept)
        dropped = len(splits[training]) + len(refused[training]) - len(kept)
        say(f"{arguments.write}: {len(kept):,} utterances of {training}, {dropped:,} left out")
    return SOME_FAILED if diagnosis.count(ERROR) else 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Raise AsrError for invalid arguments before any work is done.

    Every output must be writable, and must not replace a manifest or another output.
    """
    taken = {Path(name).resolve(): "a manifest" for name in arguments.manifests}
    threads, seconds, fastest = arguments.threads, arguments.batch_seconds, arguments.fastest
    if len(taken) < len(arguments.manifests):
        raise AsrError("a manifest is given twice; pass each one once")
    if arguments.strict and not arguments.write:
        raise AsrError("--strict only affects --write; add --write FILE")
    if arguments.checkpoint and arguments.vocabulary:
        raise AsrError("a checkpoint has its own vocabulary; omit --vocabulary or --checkpoint")
    vocabulary = arguments.vocabulary or "english"
    if vocabulary not in ("english", "transcripts") and not vocabulary.lower().endswith(".txt"):
        raise AsrError(
            f"--vocabulary is {vocabulary!r}; it must be english, transcripts, or a text file (.txt) "
            "with the characters"
        )
    if threads is not None and threads < 1:
        raise AsrError(f"--threads is {threads}; it must be 1 or more")
    if not 0 < seconds < float("inf"):
        raise AsrError(f"--batch-seconds is {seconds:g}; it must be a positive, finite number")
    if not 1 <= fastest < float("inf"):
        raise AsrError(f"--fastest is {fastest:g}; it must be a finite factor of 1 or more")
    for option in OUTPUTS:
        if not (path := getattr(arguments, option)):
            continue
        if path.is_dir():
            raise AsrError(f"{path} is a folder; specify a file for --{option}")
        if other := taken.get(path.resolve()):
            raise AsrError(f"--{option} {path} would overwrite {other}; choose another file")
        taken[path.resolve()] = f"the file of --{option}"
        check_writable(path)


def _choose_requirements(
    arguments: argparse.Namespace, training: "Sequence[Utterance]"
) -> "Requirements":
    """The requirements of the checkpoint, or else those of the recipes with the options' limits."""
    from asr.doctor.requirements import Requirements

    limits = arguments.fastest, arguments.batch_seconds
    if arguments.checkpoint:
        return Requirements.of_checkpoint(arguments.checkpoint, *limits)
    if arguments.vocabulary in (None, "english"):
        vocabulary = Vocabulary.english()
    elif arguments.vocabulary == "transcripts":
        vocabulary = Vocabulary.from_transcripts(normalize(u.text) for u in training)
    else:
        vocabulary = Vocabulary.read(arguments.vocabulary)
    return Requirements(vocabulary, fastest=limits[0], batch_seconds=limits[1])
