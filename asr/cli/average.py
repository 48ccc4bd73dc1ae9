"""The command `asr average`: average the weights of checkpoints."""

import argparse
import os

from asr.cli.options import add_output_option
from asr.errors import AsrError
from asr.files import check_writable
from asr.progress import Bar, say


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="two or more checkpoints of one training run, such as epoch-0008.pt, epoch-0009.pt and "
        "epoch-0010.pt: a run with training.keep=3 keeps the models of its last 3 epochs",
    )
    add_output_option(command, "FILE", "file of the averaged model", required=True)
    command.add_argument(
        "--manifest",
        metavar="FILE",
        help="a dev set (JSONL): print the word error rate of each checkpoint and of the average",
    )


def run(arguments: argparse.Namespace) -> int:
    """Average the checkpoints, measure them all if asked, and return the exit code.

    Raises AsrError, before anything is written, if they cannot be averaged.
    """
    from asr.checkpoint import Checkpoint, average_checkpoints
    from asr.data.manifest import read_manifest
    from asr.decoder.config import DecoderConfig
    from asr.evaluation import compute_hypotheses, score_hypotheses
    from asr.recognizer import Recognizer

    names, output, manifest = arguments.checkpoints, arguments.output, arguments.manifest
    if len(names) < 2:
        raise AsrError(f"only {names[0]} was given; averaging needs at least two checkpoints")
    if any(os.path.realpath(name) == os.path.realpath(output) for name in names):
        raise AsrError(f"--output {output} is one of the checkpoints; choose another file")
    if len({os.path.realpath(name) for name in names}) < len(names):
        raise AsrError("a checkpoint is given twice; pass each one once")
    if os.path.isfile(output) and Checkpoint.read(output).training is not None:
        raise AsrError(
            f"--output {output} is a resumable checkpoint and would be overwritten; choose "
            "another file"
        )
    check_writable(output)
    utterances = read_manifest(manifest) if manifest else []
    for utterance in utterances:
        if not os.path.isfile(utterance.audio):
            raise AsrError(f"{utterance.audio} of {manifest} does not exist; fix the manifest")
    checkpoints = [Checkpoint.read(name) for name in names]
    average = average_checkpoints(checkpoints, output)
    for checkpoint in [*checkpoints, average] if manifest else []:
        recognizer = Recognizer.load(checkpoint, "auto", decoder=DecoderConfig())
        with Bar(f"measuring {checkpoint.path}", len(utterances), "utterances") as bar:
            found = compute_hypotheses(recognizer, utterances, on_progress=bar.advance)
            hypotheses = {utterance.id: hypothesis for utterance, hypothesis in found}
        report = score_hypotheses(utterances, hypotheses, {}).report
        say(f"WER {100 * report.wer:6.2f} %, CER {100 * report.cer:6.2f} %: {checkpoint.path}")
    say(f"The average of {len(names)} checkpoints is saved in {output}.")
    return 0
