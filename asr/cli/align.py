"""The command `asr align`: find when each word of a transcript is spoken."""

import argparse
from dataclasses import replace
from pathlib import Path

from asr.cli import options
from asr.cli.inputs import find_inputs, read_transcript
from asr.cli.output import ALIGNED_FORMATS, render
from asr.errors import AsrError, AudioError
from asr.files import check_writable, write_text
from asr.progress import say


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("audio", metavar="AUDIO", help="a recording, or - for standard input")
    add(
        "text",
        metavar="TEXT",
        help="transcript of the recording: the words in quotes, a .txt file, or - for standard "
        "input",
    )
    options.add_model_options(command)
    options.add_profile_option(
        command, "english", "how the text is normalized before it is aligned"
    )
    options.add_track_option(command, "align")
    add("--format", choices=ALIGNED_FORMATS, default="json", help="output format (default: json)")
    options.add_output_option(command, "FILE", "write to this file (default: to stdout)")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import Checkpoint
    from asr.decoder.config import DecoderConfig

    if arguments.audio == arguments.text == "-":
        raise AsrError("standard input (-) can be read only once; specify a file for the other")
    if Path(arguments.audio).is_dir():
        raise AudioError(f"{arguments.audio} is a folder; specify one recording")
    if arguments.output and arguments.output.is_dir():
        raise AsrError(f"{arguments.output} is a folder; specify a file for --output")
    if arguments.output:
        check_writable(arguments.output)
    text = read_transcript(arguments.text)
    [given], _ = find_inputs([arguments.audio])
    checkpoint = Checkpoint.read(arguments.checkpoint)
    recognizer = options.load_recognizer(arguments, checkpoint, DecoderConfig())  # it only aligns
    where = f"the transcript of {given.name}"
    source = replace(given, track=arguments.track).source
    hypothesis = recognizer.align(source, text, arguments.profile, where)
    document = render(given.name, hypothesis, arguments.format)
    if arguments.output:
        write_text(arguments.output, document)
    else:
        say(document.removesuffix("\n"), verbatim=True)
    return 0
