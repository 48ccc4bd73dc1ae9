"""The entry point of the command line: its commands, and how errors become exit codes."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from asr import __version__
from asr.errors import BROKEN_PIPE, EXIT_CODE, INTERRUPTED, AsrError
from asr.progress import complain, neutralize

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

COMMANDS = {  # The module asr.cli.NAME has declare(parser) and run(arguments) -> exit code.
    "transcribe": "transcribe recordings",
    "stream": "transcribe speech as it arrives",
    "serve": "transcribe for programs and browsers, over the network",
    "align": "find when each word of a transcript is spoken",
    "evaluate": "transcribe a manifest and measure the errors",
    "score": "measure the word errors of existing transcripts",
    "compare": "compare the word errors of several systems",
    "doctor": "check manifests and their recordings for errors",
    "train": "train a model on manifests",
    "tune": "tune the weights of the beam decoder on a manifest",
    "average": "average the weights of several checkpoints",
    "release": "turn a trained checkpoint into a model to share",
    "lm": "train, mix, describe, evaluate and convert language models",
    "info": "describe a checkpoint, a manifest or a recording",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; SystemExit for `--help` and usage errors."""
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdin is None:  # closed, as by <&-
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        complain("asr: standard output is closed.")
        return EXIT_CODE
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be valid Unicode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            arguments, unknown = _build_parser(argv).parse_known_args(argv)
            if unknown:  # the command's own parser reports them: options rather than their values
                names = [word for word in unknown if word.startswith("-")] or unknown
                arguments.parser.error(f"unrecognized arguments: {' '.join(names)}")
            code: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
        return code
    except AsrError as error:
        complain(f"asr: {str(error).removesuffix('.')}.")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("asr: interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(f"asr: standard output cannot be written ({error.strerror}).")
        return EXIT_CODE


class _Parser(argparse.ArgumentParser):
    """A parser whose messages cannot steer a terminal, whatever was typed."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(status, message and neutralize(message))


class _Version(argparse.Action):
    """Unlike argparse's own action, this one does not ignore that stdout cannot be written."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"asr {__version__}")
        parser.exit()


def _build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands; only the module of the command in `argv` is imported."""
    parser = _Parser(
        prog="asr",
        description="Speech recognition with an LSTM acoustic model and CTC.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        sentence = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(name, help=summary, description=sentence, allow_abbrev=False)
        if name == named:
            module: Any = import_module(f"asr.cli.{name}")
            command.set_defaults(run=module.run, parser=command)
            module.declare(command)
    return parser
