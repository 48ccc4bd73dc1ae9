"""The command `asr transcribe`: write down what is said in recordings."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli.inputs import Input, find_inputs, sort_by_seconds
from asr.cli.options import (
    WHOLE_SECONDS,
    add_decoder_options,
    add_latency_options,
    add_model_options,
    choose_operating_point,
    load_recognizer,
    positive,
)
from asr.cli.output import (
    ALONE_FORMATS,
    FORMATS,
    list_failures,
    render,
    to_sentence,
    write_document,
)
from asr.errors import AsrError, AudioError
from asr.progress import Bar, say, track

if TYPE_CHECKING:
    from asr.decoder.hypothesis import Hypothesis


LONG_SECONDS = 60.0  # a recording of more is shown a bar of its own


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|-",
        help="recordings, folders that are searched for recordings, - for standard input",
    )
    add_model_options(command)
    add_latency_options(command, f"default: recordings up to {WHOLE_SECONDS:g} s are heard whole")
    add_decoder_options(command)
    command.add_argument(
        "--nbest", type=positive, metavar="N", help="show the N best texts (json; beam decoder)"
    )
    command.add_argument("--format", choices=FORMATS, default="txt", help="(default: txt)")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write a file for each recording into this folder instead of all to stdout",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    inputs, failures = find_inputs(arguments.inputs)
    total = len(inputs) + len(failures)
    alone = len(arguments.inputs) == 1 and not Path(arguments.inputs[0]).is_dir()
    if arguments.nbest and arguments.format != "json":
        raise AsrError(f"--nbest shows nothing as {arguments.format}; choose --format json.")
    if arguments.output:
        _check_outputs(inputs, arguments.output, FORMATS[arguments.format])
    elif arguments.format in ALONE_FORMATS and not alone:
        raise AsrError(
            f"Several recordings cannot go to one stream as {arguments.format}; choose a folder "
            "for them with --output."
        )
    elif arguments.format == "ctm":
        _check_ctm_names(inputs)
    for given, result in _recognize(inputs, arguments):
        try:
            if isinstance(result, AsrError):
                raise result
            document = render(given, result, arguments.format)
        except AudioError as error:
            failures.append(to_sentence(error))
            continue
        if arguments.output:
            write_document(
                _output_path(given, arguments.output, FORMATS[arguments.format]), document
            )
        elif arguments.format == "txt" and not alone:
            say(f"{given.name}\t{result.text}")
        elif document:
            say(document.removesuffix("\n"))
    return list_failures(failures, total)


def _recognize(
    inputs: list[Input], arguments: argparse.Namespace
) -> Iterator[tuple[Input, "Hypothesis | AsrError"]]:
    from asr.checkpoint import Checkpoint
    from asr.cli.options import choose_decoder, prepare

    checkpoint = Checkpoint.read(arguments.checkpoint)
    decoder, hotwords = choose_decoder(arguments, checkpoint)
    recognizer = load_recognizer(arguments, checkpoint, decoder, hotwords)
    point = choose_operating_point(arguments)
    if point:
        recognizer.check_operating_point(point)
    if decoder.kind == "beam":
        prepare(recognizer)
    sources = (given.open() for given in inputs)
    seconds = sort_by_seconds(inputs[0]) if len(inputs) == 1 else 0.0
    if seconds > LONG_SECONDS:
        with Bar("transcribing", seconds, "s") as bar:
            for _, result in recognizer.transcribe_many(
                sources, operating_point=point, on_progress=bar.advance
            ):
                yield inputs[0], result
        return
    results = recognizer.transcribe_many(sources, operating_point=point)
    if len(inputs) > 1:
        results = track(results, "transcribing", total=len(inputs), unit="recordings")
    for index, result in results:
        yield inputs[index], result


def _output_path(given: Input, folder: Path, ending: str) -> Path:
    return folder / given.output.with_name(f"{given.output.name}.{ending}")


def _check_outputs(inputs: list[Input], folder: Path, ending: str) -> None:
    """Refuse, before any work is done, to write a transcript over another."""
    if folder.exists() and not folder.is_dir():
        raise AsrError(f"{folder} is a file; name a folder for --output.")
    written: dict[Path, Input] = {}
    for given in inputs:
        path = _output_path(given, folder, ending)
        other = written.setdefault(path, given)
        if other is not given:
            raise AsrError(
                f"{other.name} and {given.name} would both be written to {path}; transcribe them "
                "into different folders, or name a folder that holds both."
            )


def _check_ctm_names(inputs: list[Input]) -> None:
    """Refuse recordings that one stream of CTM could not tell apart."""
    named: dict[str, Input] = {}
    for given in inputs:
        other = named.setdefault(Path(given.name).stem, given)
        if other is not given:
            raise AsrError(
                f"{other.name} and {given.name} would have the same name in one CTM stream; write "
                "a file for each into a folder with --output."
            )
