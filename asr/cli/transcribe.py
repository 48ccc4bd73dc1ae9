"""The command `asr transcribe`: transcribe recordings."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli import options
from asr.cli.inputs import Input, find_inputs
from asr.cli.output import ALONE_FORMATS, FORMATS, render, report_failures, to_sentence
from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError, AudioError, FileError
from asr.files import LEFTOVER_SECONDS, remove_leftovers, write_text
from asr.progress import Bar, complain, say, track

if TYPE_CHECKING:
    from asr.recognizer import OperatingPoint, Recognizer

LONG_SECONDS = 60.0  # a single recording that is longer gets a bar


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|-",
        help="recordings, folders that are searched for recordings, or - for standard input",
    )
    options.add_model_options(command)
    options.add_latency_options(command)
    options.add_decoder_options(command)
    options.add_count_option(
        command,
        "--nbest",
        "number of best texts to write, with the beam decoder and --format json only (default: 1)",
    )
    options.add_track_option(command, "transcribe")
    add("--format", choices=FORMATS, default="txt", help="format of the transcripts (default: txt)")
    options.add_output_option(
        command, "FOLDER", "write one file per recording into this folder (default: all to stdout)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.audio.recording import describe_gaps

    inputs, failures = find_inputs(arguments.inputs)
    inputs = [replace(given, track=arguments.track) for given in inputs]
    total = len(inputs) + len(failures)
    is_single = len(arguments.inputs) == 1 and not Path(arguments.inputs[0]).is_dir()
    if arguments.nbest and arguments.format != "json":
        raise AsrError(f"--nbest has no effect with --format {arguments.format}; use --format json")
    folder, ending = arguments.output, FORMATS[arguments.format]
    if folder:
        if folder.exists() and not folder.is_dir():
            raise AsrError(f"{folder} is a file; specify a folder for --output")
        targets = [_output_path(given, folder, ending) for given in inputs]
        for parent in {target.parent for target in targets}:
            remove_leftovers(parent, older_than=LEFTOVER_SECONDS)
        _check_distinct(inputs, targets, "both be written to {}")
    elif arguments.format in ALONE_FORMATS and not is_single:
        raise AsrError(
            f"several recordings cannot be written to stdout as {arguments.format}; choose a folder "
            "for them with --output"
        )
    elif arguments.format == "ctm":
        stems = [Path(given.name).stem for given in inputs]
        _check_distinct(inputs, stems, "have the same name in one CTM stream")
    for given, result in _recognize(inputs, arguments):
        if isinstance(result, AudioError):
            failures.append(to_sentence(result))
            continue
        if isinstance(result, AsrError):
            raise result
        for warning in result.warnings:
            complain(f"asr: {warning}.")
        if result.gaps:
            failures.append(f"{describe_gaps(given.name, result.gaps)}.")
        document = render(given.name, result, arguments.format)
        if folder:
            try:
                write_text(_output_path(given, folder, ending), document)
            except FileError as error:
                failures.append(to_sentence(error))
        elif arguments.format == "txt" and not is_single:
            say(f"{given.name}\t{result.text}")
        elif document:
            say(document.removesuffix("\n"), verbatim=arguments.format != "txt")
    return report_failures(failures, total)


def _recognize(
    inputs: list[Input], arguments: argparse.Namespace
) -> Iterator[tuple[Input, Hypothesis | AsrError]]:
    """Transcribe the recordings in their order, showing progress."""
    from asr.checkpoint import Checkpoint

    checkpoint = Checkpoint.read(arguments.checkpoint)
    decoder = options.choose_decoder(arguments, checkpoint)
    recognizer = options.load_recognizer(arguments, checkpoint, *decoder)
    if point := options.choose_operating_point(arguments):
        recognizer.check_operating_point(point)
    options.prepare(recognizer)
    if len(inputs) == 1:
        yield inputs[0], _recognize_one(recognizer, inputs[0], point)
        return
    sources = (given.source for given in inputs)
    results = recognizer.transcribe_many(sources, operating_point=point)
    if inputs:
        results = track(results, "transcribing", total=len(inputs), unit="recordings")
    for index, result in results:
        yield inputs[index], result


def _recognize_one(
    recognizer: "Recognizer", given: Input, point: "OperatingPoint | None"
) -> Hypothesis | AsrError:
    """Transcribe one recording, with a bar of its seconds if it is long."""
    from asr.audio.containers import open_recording

    read = 0.0  # seconds
    bar: Bar | None = None
    with ExitStack() as stack:

        def show(seconds: float) -> None:
            nonlocal read, bar
            read += seconds
            if bar:
                bar.advance(seconds)
            elif read > LONG_SECONDS:  # although the header states no duration
                bar = stack.enter_context(Bar("transcribing", None, "s", done=round(read)))

        try:
            recording = stack.enter_context(open_recording(given.source))
            if recording.seconds and recording.seconds > LONG_SECONDS:
                bar = stack.enter_context(Bar("transcribing", recording.seconds, "s"))
            hypothesis = recognizer.transcribe(recording, point, on_progress=show)
        except AsrError as error:
            return error
        if bar:
            bar.complete()
        return hypothesis


def _output_path(given: Input, folder: Path, ending: str) -> Path:
    return folder / given.output.with_name(f"{given.output.name}.{ending}")


def _check_distinct(inputs: list[Input], targets: Sequence[object], problem: str) -> None:
    """Raise AsrError if two recordings have the same target; `problem` says what then happens."""
    first: dict[object, Input] = {}
    for given, target in zip(inputs, targets, strict=True):
        other = first.setdefault(target, given)
        if other is given:
            continue
        folders = {Path(each.name).absolute().parent for each in (given, other)}
        advice = "rename one of them"
        if len(folders) > 1:  # subfolders of a folder that is passed are kept under --output
            advice = f"pass the folder {os.path.commonpath(folders)} instead, with --output"
        raise AsrError(f"{other.name} and {given.name} would {problem.format(target)}; {advice}")
