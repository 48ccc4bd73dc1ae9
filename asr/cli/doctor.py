"""The command `asr doctor`: check manifests, write a report and a cleaned manifest."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from asr.defaults import BATCH_SECONDS, SPEEDS
from asr.doctor.findings import ERROR
from asr.doctor.report import render_lines, render_page
from asr.errors import SOME_FAILED, AsrError, DataError
from asr.files import check_writable, write_text
from asr.progress import Bar, say
from asr.text import Vocabulary, normalize

if TYPE_CHECKING:
    from asr.data.manifest import Reject, Utterance
    from asr.doctor.examination import Requirements
    from asr.doctor.findings import Diagnosis


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "manifests",
        nargs="+",
        metavar="MANIFEST",
        help="manifests (JSONL): the training set first, then the sets that the model is tested on",
    )
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="check for this model's vocabulary and frame rate (default: those of the recipes)",
    )
    command.add_argument(
        "--vocabulary",
        choices=("english", "transcripts"),
        help="characters that may occur: those of English, or those of the training transcripts; as "
        "the setting data.vocabulary (default: english)",
    )
    command.add_argument(
        "--batch-seconds",
        type=float,
        default=BATCH_SECONDS,
        metavar="SECONDS",
        help="longest utterance, as the setting training.batch_seconds "
        f"(default: {BATCH_SECONDS:g})",
    )
    command.add_argument(
        "--fastest",
        type=float,
        default=max(SPEEDS),
        metavar="FACTOR",
        help="largest speed-up by augmentation, max(augment.speeds) * (1 + augment.tempo) "
        f"(default: {max(SPEEDS):g})",
    )
    command.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: one per core)"
    )
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with all ids and histograms"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    command.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the training manifest without the utterances that have errors",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="with --write: leave out utterances with warnings, too",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check the manifests and write the requested files; the exit code is 1 if there are errors.

    Raises AsrError for impossible arguments, and DataError if a manifest cannot be read or the
    cleaned one would be empty.
    """
    from asr.doctor.examination import examine
    from asr.doctor.manifests import read_leniently
    from asr.runtime.device import count_cores

    _check_arguments(arguments)
    read = {name: read_leniently(name) for name in arguments.manifests}
    splits = {name: utterances for name, (utterances, _) in read.items()}
    refused = {name: rejects for name, (_, rejects) in read.items()}
    requirements = _choose_requirements(arguments, splits)
    with Bar("examining", sum(map(len, splits.values())), "utterances") as bar:
        threads = arguments.threads or count_cores()
        diagnosis = examine(splits, requirements, refused, threads, bar.advance)
    for line in render_lines(diagnosis):
        say(line)
    if arguments.json:
        document = json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False)
        write_text(arguments.json, document + "\n")
        say(f"as JSON: {arguments.json}")
    if arguments.html:
        write_text(arguments.html, render_page(diagnosis))
        say(f"with all ids and histograms: {arguments.html}")
    if arguments.write:
        _write_cleaned(arguments, splits, refused, diagnosis)
    return SOME_FAILED if diagnosis.count(ERROR) else 0


def _choose_requirements(
    arguments: argparse.Namespace, splits: "dict[str, list[Utterance]]"
) -> "Requirements":
    from asr.doctor.examination import Requirements

    limits = arguments.fastest, arguments.batch_seconds
    if arguments.checkpoint:
        return Requirements.of_checkpoint(arguments.checkpoint, *limits)
    vocabulary = Vocabulary.english()
    if arguments.vocabulary == "transcripts":
        texts = (normalize(utterance.text) for utterance in splits[arguments.manifests[0]])
        vocabulary = Vocabulary.from_transcripts(texts)
    return Requirements(vocabulary, fastest=limits[0], batch_seconds=limits[1])


def _write_cleaned(
    arguments: argparse.Namespace,
    splits: "dict[str, list[Utterance]]",
    refused: "dict[str, list[Reject]]",
    diagnosis: "Diagnosis",
) -> None:
    """Write the training manifest without what the diagnosis rejects."""
    from asr.doctor.manifests import select_sound, write_sound

    training = arguments.manifests[0]
    kept = select_sound(splits[training], diagnosis, training, arguments.strict)
    if not kept:
        raise DataError(f"no utterance of {training} would be left; fix it first")
    write_sound(training, arguments.write, kept)
    dropped = len(splits[training]) + len(refused[training]) - len(kept)
    say(f"{arguments.write}: {len(kept):,} utterances of {training}, {dropped:,} left out")


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Raise AsrError for impossible arguments before any work is done."""
    manifests = [Path(name) for name in arguments.manifests]
    if len({path.resolve() for path in manifests}) < len(manifests):
        raise AsrError("a manifest is named twice; name each set once")
    if arguments.strict and not arguments.write:
        raise AsrError("--strict says what --write leaves out; give a file with --write")
    if arguments.checkpoint and arguments.vocabulary:
        raise AsrError("a checkpoint has its own vocabulary; omit --vocabulary or --checkpoint")
    if arguments.threads is not None and arguments.threads < 1:
        raise AsrError(f"--threads {arguments.threads} is impossible; give 1 or more")
    if not 0 < arguments.batch_seconds < float("inf"):
        raise AsrError(f"--batch-seconds {arguments.batch_seconds:g} is impossible; give seconds")
    if not 1 <= arguments.fastest < float("inf"):
        raise AsrError(f"--fastest {arguments.fastest:g} is impossible; give a factor of 1 or more")
    taken = {path.resolve(): "a manifest" for path in manifests}
    for option in ("html", "json", "write"):
        path: Path | None = getattr(arguments, option)
        if path is None:
            continue
        if path.is_dir():
            raise AsrError(f"{path} is a folder; name a file for --{option}")
        if path.resolve() in taken:
            other = taken[path.resolve()]
            raise AsrError(f"--{option} {path} would be written over {other}; name another file")
        taken[path.resolve()] = f"what --{option} names"
        check_writable(path)
