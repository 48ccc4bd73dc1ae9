"""The command `asr evaluate`: transcribe a manifest and measure the errors."""

import argparse
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.cli import options
from asr.cli.output import print_report, report_failures, to_json, to_sentence
from asr.errors import AsrError
from asr.files import check_writable, write_text
from asr.progress import Bar

if TYPE_CHECKING:
    from asr.checkpoint import Checkpoint
    from asr.data.manifest import Utterance
    from asr.decoder.config import DecoderConfig
    from asr.decoder.hypothesis import Hypothesis
    from asr.evaluation import Evaluation
    from asr.recognizer import OperatingPoint
    from asr.runtime.distributed import RuntimeConfig


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("manifest", metavar="MANIFEST", help="a manifest (JSONL) with the reference texts")
    options.add_model_options(
        command, "CPU threads of each process (default: number of cores / number of processes)"
    )
    options.add_latency_options(command)
    options.add_decoder_options(command)
    options.add_profile_option(command)
    options.add_output_option(
        command, "FOLDER", "write hypotheses.jsonl and report.json into this folder"
    )
    add(
        "--processes",
        type=options.thread_count,
        default=1,
        metavar="N",
        help="number of processes, each of which transcribes a part of the manifest; on several "
        "GPUs use one process per GPU (default: 1)",
    )


@dataclass(frozen=True)
class Task:
    """The inputs of every evaluation process."""

    checkpoint: "Checkpoint"
    batches: "list[list[Utterance]]"
    runtime: "RuntimeConfig"
    decoder: "DecoderConfig"
    hotwords: dict[str, float]
    operating_point: "OperatingPoint | None"


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import Checkpoint
    from asr.data.manifest import read_manifest
    from asr.evaluation import group_batches, score_hypotheses
    from asr.runtime.device import choose_device, count_cores
    from asr.runtime.distributed import RuntimeConfig, launch

    if arguments.output:
        for name in ("hypotheses.jsonl", "report.json"):
            check_writable(arguments.output / name)
    utterances = read_manifest(arguments.manifest)
    checkpoint = Checkpoint.read(arguments.checkpoint)
    batches = group_batches(utterances)
    processes = min(arguments.processes, len(batches))
    if processes > 1:
        checkpoint.model()  # fails here once for a damaged checkpoint
    runtime = RuntimeConfig(
        device=choose_device(arguments.device),
        processes=processes,
        threads=arguments.threads or max(1, count_cores() // processes),
    )
    point = options.choose_operating_point(arguments)
    decoder = options.choose_decoder(arguments, checkpoint)
    task = Task(checkpoint, batches, runtime, *decoder, point)
    hypotheses, errors = launch(transcribe_share, task, processes)
    evaluation = score_hypotheses(utterances, hypotheses, errors, arguments.profile)
    if arguments.output:
        _write_results(utterances, evaluation, arguments)
    print_report(evaluation.report, len(evaluation.errors))
    failures = [f"{name}: {to_sentence(error)}" for name, error in evaluation.errors.items()]
    return report_failures(failures, len(utterances))


def transcribe_share(task: Task) -> "tuple[dict[str, Hypothesis], dict[str, AsrError]]":
    """Transcribe this process's share; returns the hypotheses and errors of all processes by id."""
    from asr.evaluation import compute_hypotheses, take_share
    from asr.recognizer import Recognizer
    from asr.runtime.distributed import gather, process_group

    with process_group(task.runtime) as process, contextlib.ExitStack() as stack:
        share = take_share(task.batches, process.rank, process.world_size)
        recognizer = Recognizer.load(
            task.checkpoint, str(process.device), None, task.decoder, task.hotwords
        )
        if task.operating_point:
            recognizer.check_operating_point(task.operating_point)
        on_progress = None
        if process.first:
            options.prepare(recognizer)
            bar = stack.enter_context(Bar("transcribing", len(share), "utterances"))
            on_progress = bar.advance
        errors: dict[str, AsrError] = {}
        found = compute_hypotheses(recognizer, share, task.operating_point, errors, on_progress)
        hypotheses = {utterance.id: hypothesis for utterance, hypothesis in found}
        stack.close()  # the bar ends before the other processes are waited for
        shares = gather((hypotheses, errors))
    return (
        {name: hypothesis for part, _ in shares for name, hypothesis in part.items()},
        {name: error for _, part in shares for name, error in part.items()},
    )


def _write_results(
    utterances: "list[Utterance]", evaluation: "Evaluation", arguments: argparse.Namespace
) -> None:
    """Write hypotheses.jsonl and report.json. Raises FileError."""
    lines = []
    for utterance in utterances:
        facts: dict[str, object] = {
            "id": utterance.id,
            "audio_filepath": os.path.abspath(utterance.audio),
            "duration": utterance.seconds,
            "text": utterance.text,
        }
        if hypothesis := evaluation.hypotheses.get(utterance.id):
            facts["pred_text"] = hypothesis.text
            facts["confidence"] = round(hypothesis.confidence, 4)
        else:
            facts |= {"pred_text": "", "error": to_sentence(evaluation.errors[utterance.id])}
        lines.append(f"{to_json(facts)}\n")
    write_text(arguments.output / "hypotheses.jsonl", "".join(lines))
    document = {
        "checkpoint": arguments.checkpoint,
        "manifest": arguments.manifest,
        "unread": {name: to_sentence(error) for name, error in evaluation.errors.items()},
        **evaluation.report.to_dict(),
    }
    write_text(arguments.output / "report.json", to_json(document, indent=1))
