"""The printed results of `training.py`."""

import os
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from harness import verdict
from training_bench import WORKERS, Bench

from asr.model import AcousticModel
from asr.progress import say

TARGETS = {"step": 1.10, "pipeline": 1.25, "speechbrain": 1.5}


def say_conditions(bench: Bench) -> None:
    """Print the data, the model and the settings."""
    hours = bench.utterances.seconds.sum() / 3600
    encoder, model = bench.encoder, AcousticModel(bench.features, bench.encoder, 29)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    say(
        f"{len(bench.utterances)} utterances, {hours:.2f} h; {encoder.layers} x {encoder.hidden} "
        f"cells a direction ({size:.1f} M parameters as {encoder.kind}), float32, "
        f"{bench.threads} thread(s) of {os.cpu_count()} cores; {bench.rounds} rounds of "
        f"{bench.batches} batches of {bench.training.batch_seconds:g} s; torch {torch.__version__}\n"
    )


def say_steps(kind: str, figures: dict[str, Any]) -> None:
    """Print the figures of `measure_steps`."""
    say(f"{kind}: CPU ms per second of audio, relative to the bare loop, relative to the LSTMs")
    labels = {"lstms": "LSTMs alone", "bare": "bare loop", "step": "step", "pipeline": "pipeline"}
    for name, label in labels.items():
        if name not in figures:
            continue
        figure = figures[name]
        target = verdict(figure["to_bare"], TARGETS[name]) if name in TARGETS else ""
        say(
            f"  {label:<12} {figure['ms_per_second']:8.2f} {figure['to_bare']:8.3f} "
            f"{figure['to_lstms']:8.3f} {target}"
        )
    if "pipeline" in figures:
        say(
            "  of the pipeline, {workers:.2f} in the workers and {loading:.2f} in taking their "
            "batches".format(**figures["pipeline"])
        )
    steps = figures["steps"]
    for label, some in (
        ("whole recordings", [step for step in steps if step["context"] is None]),
        ("chunks", [step for step in steps if step["context"] is not None]),
    ):
        if some and len(some) < len(steps):
            ratio = median(step["step"] / step["bare"] for step in some)
            say(f"  {len(some)} of the steps used {label}: step {ratio:.3f} times the bare loop")


def say_data(figures: Sequence[dict[str, Any]]) -> None:
    """Print the figures of `measure_data`."""
    say(
        "Data alone: hours of audio per CPU hour, per hour of wall-clock time, and relative to one "
        "worker"
    )
    for figure in figures:
        say(
            f"  augment={figure['augment']:<9} {figure['workers']} worker(s) "
            f"{figure['hours_per_cpu_hour']:8.0f} {figure['hours_per_hour']:8.0f} "
            f"{figure['times_one_worker']:8.2f}"
        )


def say_training(bench: Bench, figures: dict[str, Any]) -> None:
    """Print the figures of `measure_training`."""
    say(
        f"Training ({bench.encoder.kind}, augment=standard, {WORKERS} workers): "
        f"{figures['hours_per_cpu_hour']:.1f} hours of audio per CPU hour, "
        f"{figures['hours_per_hour']:.1f} per hour of wall-clock time; the LSTMs alone "
        f"{figures['lstms_hours_per_cpu_hour']:.1f} per CPU hour, a ratio of "
        f"{figures['to_lstms']:.3f}"
    )
    say(
        f"  end of an epoch: {figures['end_cpu_seconds']:.1f} CPU seconds for the validation on "
        f"{figures['end_dev_seconds']:.0f} s of audio and for saving"
    )


def say_processes(bench: Bench, figures: dict[str, Any]) -> None:
    """Print the figures of `measure_processes`."""
    say(
        f"Processes ({bench.encoder.kind}): two use {figures['cpu_of_two_to_one']:.3f} times the CPU "
        f"time of one on the same batches, and are {figures['speedup']:.2f} times as fast in "
        f"wall-clock time ({figures['hours_per_hour_one']:.1f} and "
        f"{figures['hours_per_hour_two']:.1f} hours of audio per hour). On an idle machine they use 1 "
        f"and 2 cores; here they used {figures['cores_of_one']:.2f} and "
        f"{figures['cores_of_two']:.2f}"
    )


def say_speechbrain(figures: dict[str, Any]) -> None:
    """Print the figures of `measure_speechbrain`."""
    if "left_out" in figures:
        return
    versions = ", ".join(f"{key} {value}" for key, value in figures["versions"].items())
    say(
        f"SpeechBrain ({versions}), bidirectional without layer norm, "
        f"{100 * figures['padding']:.1f} % of the frames are padding: steps per CPU second, per "
        "second of wall-clock time, time relative to ours, and loss of the first batch"
    )
    readings = {
        "packed": "with lengths, the same mathematics",
        "padded": "without lengths, padding is read",
    }
    labels = {name: f"Brain.fit_batch, {meaning}" for name, meaning in readings.items()}
    for name, label in {"ours": "asr, Trainer.step", **labels}.items():
        figure = figures[name]
        say(
            f"  {label:<52} {figure['steps_per_cpu_second']:7.3f} "
            f"{figure['steps_per_second']:7.3f} {figure['times_ours']:6.2f} "
            f"{figure['first_loss']:9.5f}"
        )
    for name, meaning in readings.items():
        ratio = figures[name]["times_ours"]
        target = verdict(ratio, TARGETS["speechbrain"], at_least=True)
        say(f"  {meaning}: {ratio:.2f} times {target}")
    say(
        "  Our step stacks and masks frames, then forward, CTC for each utterance, backward, "
        "clipping, checks of loss and gradient, AdamW; theirs receives stacked frames, then forward, "
        "CTC, a check of the loss, backward, clipping, AdamW."
    )
