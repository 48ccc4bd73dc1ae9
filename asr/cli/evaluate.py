"""The command `asr evaluate`: transcribe a manifest and measure the errors."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import (
    WHOLE_SECONDS,
    add_compared_profile_option,
    add_decoder_options,
    add_latency_options,
    add_model_options,
    choose_operating_point,
    thread_count,
)
from asr.cli.output import list_failures, print_report, to_json, to_sentence, write_document
from asr.errors import AsrError
from asr.progress import track

if TYPE_CHECKING:
    pass


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("manifest", metavar="MANIFEST", help="JSONL, as asr.data reads it")
    add_model_options(command)
    add_latency_options(command, f"default: recordings up to {WHOLE_SECONDS:g} s are heard whole")
    add_decoder_options(command)
    add_compared_profile_option(command)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write hypotheses.jsonl and report.json into this folder",
    )
    command.add_argument(
        "--processes",
        type=thread_count,
        default=1,
        metavar="N",
        help="share the utterances out among so many processes; on GPUs, one each (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import load_model
    from asr.cli.options import choose_decoder
    from asr.data.manifest import read_manifest
    from asr.files import check_writable
    from asr.recognizer import BATCH_SECONDS, group_by_seconds
    from asr.runtime.device import choose_device, count_cores
    from asr.runtime.distributed import RuntimeConfig, launch
    from asr.scoring import score

    if arguments.output:
        check_writable(arguments.output / "report.json")
    utterances = read_manifest(arguments.manifest)
    load_model(arguments.checkpoint)  # one complaint about it, rather than one of each process
    longest_first = sorted(utterances, key=lambda utterance: -utterance.seconds)
    batches = list(group_by_seconds(((u.seconds, u) for u in longest_first), BATCH_SECONDS))
    processes = min(arguments.processes, len(batches))
    runtime = RuntimeConfig(
        device=choose_device(arguments.device),
        processes=processes,
        threads=arguments.threads or max(1, count_cores() // processes),
    )
    point = choose_operating_point(arguments)
    task = (arguments.checkpoint, batches, runtime, choose_decoder(arguments), point)
    found: dict[str, dict[str, Any]] = launch(transcribe_share, task, processes)
    report = score(
        {utterance.id: utterance.text for utterance in utterances},
        {utterance.id: found[utterance.id]["pred_text"] for utterance in utterances},
        arguments.profile,
    )
    unread = {u.id: found[u.id]["error"] for u in utterances if "error" in found[u.id]}
    if arguments.output:
        lines = [
            to_json(
                {
                    "id": utterance.id,
                    "audio_filepath": os.path.abspath(utterance.audio),
                    "duration": utterance.seconds,
                    "text": utterance.text,
                    **found[utterance.id],
                }
            )
            for utterance in utterances
        ]
        write_document(
            arguments.output / "hypotheses.jsonl", "".join(f"{line}\n" for line in lines)
        )
        facts = {"checkpoint": arguments.checkpoint, "manifest": arguments.manifest}
        document = {**facts, "unread": unread, **report.to_dict()}
        write_document(
            arguments.output / "report.json", json.dumps(document, indent=1, ensure_ascii=False)
        )
    print_report(report, len(unread))
    failures = [f"{name}: {sentence}" for name, sentence in unread.items()]
    return list_failures(failures, len(utterances))


def transcribe_share(
    task: tuple[str, list[list[Any]], Any, tuple[Any, Any], Any],
) -> dict[str, dict[str, Any]]:
    """What every process does: its share of the batches; returns the results of all by id.

    The batches are the same whatever the number of processes, so the texts are too.
    """
    from asr.cli.options import prepare
    from asr.recognizer import Recognizer
    from asr.runtime.distributed import gather, process_group

    checkpoint, batches, runtime, decoder, point = task
    with process_group(runtime) as place:
        first = len(batches) * place.rank // place.world_size
        last = len(batches) * (place.rank + 1) // place.world_size
        share = [utterance for batch in batches[first:last] for utterance in batch]
        recognizer = Recognizer.load(checkpoint, str(place.device), None, *decoder)
        if point:
            recognizer.set_operating_point(*point)
        if place.first and decoder[0].kind == "beam":
            prepare(recognizer)
        results = recognizer.transcribe_many((u.audio, u.seconds) for u in share)
        if place.first:
            results = track(results, "transcribing", total=len(share), unit="utterances")
        found: dict[str, dict[str, Any]] = {}
        for index, result in results:
            found[share[index].id] = (
                {"pred_text": "", "error": to_sentence(result)}
                if isinstance(result, AsrError)
                else {"pred_text": result.text, "confidence": round(result.confidence, 4)}
            )
        return {name: result for part in gather(found) for name, result in part.items()}
