"""What the command `asr average` does: the mean of several checkpoints' weights, and its errors.

Only light modules are imported here: the command line reads the declaration of every command.
"""

import argparse
import os
from pathlib import Path

from asr.errors import AsrError
from asr.progress import say, track


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="two or more of one training, such as the epoch-*.pt of training.keep",
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the averaged model"
    )
    command.add_argument(
        "--manifest",
        metavar="FILE",
        help="a dev set (JSONL): print the word error rate of each checkpoint and of the average",
    )


def run(arguments: argparse.Namespace) -> int:
    """Average the checkpoints and, if asked, measure them all; the exit code.

    Raises AsrError before anything is written where that cannot be done.
    """
    from asr.checkpoint import average_models, read
    from asr.data.manifest import read_manifest

    names, output = arguments.checkpoints, arguments.output
    if len(names) < 2:
        raise AsrError(f"{names[0]} alone has no average; name at least two checkpoints.")
    if any(os.path.realpath(name) == os.path.realpath(output) for name in names):
        raise AsrError(f"--output {output} is one of the checkpoints; name another file.")
    if len({os.path.realpath(name) for name in names}) < len(names):
        raise AsrError("A checkpoint is named twice; name each once.")
    if os.path.isfile(output) and read(output)["training"] is not None:
        raise AsrError(
            f"--output {output} holds a training to go on with, which would be lost; name another "
            "file."
        )
    for utterance in read_manifest(arguments.manifest) if arguments.manifest else []:
        if not os.path.isfile(utterance.audio):
            raise AsrError(f"{utterance.audio} of {arguments.manifest} is not there.")
    average_models(names, output)
    for name in [*names, str(output)] if arguments.manifest else []:
        wer, cer = measure(name, arguments.manifest)
        say(f"WER {100 * wer:6.2f} %, CER {100 * cer:6.2f} %: {name}")
    say(f"The average of {len(names)} checkpoints is saved in {output}.")
    return 0


def measure(checkpoint: str, manifest: str) -> tuple[float, float]:
    """WER and CER of a checkpoint on a manifest, decoded greedily, on a GPU if there is one.

    Raises AsrError where one of the recordings cannot be read.
    """
    from asr.data.manifest import read_manifest
    from asr.decoder.config import DecoderConfig
    from asr.recognizer import Recognizer
    from asr.scoring import score

    recognizer = Recognizer.load(checkpoint, "auto", decoder=DecoderConfig())
    utterances = read_manifest(manifest)
    ordered = sorted(utterances, key=lambda utterance: -utterance.seconds)
    results = recognizer.transcribe_many((u.audio, u.seconds) for u in ordered)
    texts = {}
    for index, result in track(results, f"measuring {checkpoint}", len(ordered), "utterances"):
        if isinstance(result, AsrError):
            raise result
        texts[ordered[index].id] = result.text
    report = score({utterance.id: utterance.text for utterance in utterances}, texts)
    return report.wer, report.cer
