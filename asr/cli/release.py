"""The command `asr release`: turn a trained checkpoint into a model folder to share, with a card."""

import argparse
from pathlib import Path

from asr.errors import AsrError
from asr.progress import say


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="RUN",
        help="folder of a training run, whose best.pt is used, or a checkpoint",
    )
    add("output", type=Path, metavar="FOLDER", help="folder to write the released model to")
    add("--lm", type=Path, metavar="FILE.lm", help="binary language model to include, named *.lm")
    add(
        "--results",
        type=Path,
        metavar="FILE",
        help="JSON that a recipe's evaluate.py wrote, for the tables of the model card",
    )
    add(
        "--notes",
        type=Path,
        metavar="FILE",
        help="Markdown for the model card: data and licenses, commands, limitations",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError before anything is written."""
    from asr.checkpoint import Checkpoint
    from asr.lm.model import LanguageModel
    from asr.release import CONFIGURATION, read_results, read_text, save_release, write_card

    source, output = arguments.checkpoint, arguments.output
    if source.is_dir() and (source / "best.pt").exists():
        source = source / "best.pt"
    if source.is_dir():
        raise AsrError(
            f"{source} is a released model already; specify a checkpoint of a training run"
        )
    payload = Checkpoint.read(source).payload
    if output.exists() and not (output / CONFIGURATION).is_file():
        raise AsrError(f"{output} exists and is not a released model; choose another folder")
    if arguments.lm:
        LanguageModel.read(arguments.lm)
        if arguments.lm.suffix != ".lm":
            raise AsrError(
                f"{arguments.lm} is not a binary language model; make one with: "
                f"asr lm convert {arguments.lm} OUT.lm"
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
