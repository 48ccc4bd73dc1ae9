"""What the command `asr release` does: a training's model made into a folder for others, with its card.

Only light modules are imported here: the command line reads the declaration of every command.
"""

import argparse
from pathlib import Path

from asr.errors import AsrError
from asr.progress import say
from asr.release import read_results, read_text, write_card


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "checkpoint", type=Path, metavar="RUN", help="a run's folder (its best.pt), or a checkpoint"
    )
    command.add_argument("output", type=Path, metavar="FOLDER", help="the released model")
    command.add_argument(
        "--lm", type=Path, metavar="FILE", help="language model that goes with it, a binary"
    )
    command.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="what evaluate.py measured (JSON): the card's tables",
    )
    command.add_argument(
        "--notes",
        type=Path,
        metavar="FILE",
        help="Markdown for the card: data and licenses, commands, what the model cannot do",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the released model; the exit code. Raises AsrError before anything is written."""
    from asr.checkpoint import Checkpoint
    from asr.lm.model import LanguageModel
    from asr.release import CONFIGURATION, save_release

    source, output = arguments.checkpoint, arguments.output
    if source.is_dir() and (source / "best.pt").exists():
        source = source / "best.pt"
    if source.is_dir():
        raise AsrError(f"{source} is a released model already; name a training's checkpoint.")
    payload = Checkpoint.read(source).payload
    if output.exists() and not (output / CONFIGURATION).is_file():
        raise AsrError(f"{output} exists and is no released model; name another folder.")
    if arguments.lm:
        LanguageModel.read(arguments.lm)
        if arguments.lm.suffix != ".lm":
            raise AsrError(
                f"{arguments.lm} is no binary; make one with: asr lm convert {arguments.lm} OUT.lm"
            )
    results = read_results(arguments.results) if arguments.results else {}
    notes = read_text(arguments.notes) if arguments.notes else ""
    card = "\n".join(write_card(output.name, payload, results, notes))
    save_release(output, payload, arguments.lm, arguments.results, card)
    sizes = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    for name, size in sizes.items():
        say(f"{name:<20}{size / 1e6:8.2f} MB")
    say(f"{output}: {sum(sizes.values()) / 1e6:.2f} MB; asr info {output} shows its card")
    return 0
