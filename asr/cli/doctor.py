"""What the command `asr doctor` does: manifests go in, a report and a cleaned manifest come out."""

import argparse
import json
from pathlib import Path

from asr.doctor.findings import ERROR
from asr.doctor.report import render_lines, render_page
from asr.errors import AsrError, DataError
from asr.progress import Bar, say
from asr.text import Vocabulary, normalize

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
    from asr.doctor.examination import examine
    from asr.doctor.manifests import read_leniently, select_sound, write_sound
    from asr.doctor.requirements import Requirements
    from asr.runtime.device import count_cores

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
            texts = (normalize(utterance.text) for utterance in splits[training])
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
