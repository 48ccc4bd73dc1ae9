"""The learning curve of a training: errors over time, for runs that each start from the last one."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from asr.errors import DataError
from asr.training.metrics import read_metrics

AUDIO_HOURS = re.compile(r"Training set: \d+ utterances, ([\d.]+) h\.")


@dataclass(frozen=True)
class Epoch:
    """The state at the end of an epoch.

    Attributes:
        run: Name of the run's folder.
        epoch: The epoch, counted from 1.
        hours: Wall-clock hours of all runs so far, with validation, without pauses between calls.
        audio_hours: Hours of audio in the epochs of all runs so far; None if unknown.
        wer: Word error rate on dev, as a fraction.
        cer: Character error rate on dev, as a fraction.
    """

    run: str
    epoch: int
    hours: float
    audio_hours: float | None
    wer: float
    cer: float


def read_runs(folders: Iterable[Path]) -> list[Epoch]:
    """Read the epochs of runs, of which each starts from the weights of the one before it.

    Times come from a run's TensorBoard files, because metrics.jsonl holds none, so that runs can be
    compared. The hours of audio in an epoch are in metrics.jsonl; older runs only printed them, and
    they are read from that output if it was saved as `train.log`. Raises DataError for a folder
    without a run.
    """
    epochs: list[Epoch] = []
    hours = 0.0
    audio_hours: float | None = 0.0
    for folder in folders:
        try:
            rows = [row for row in read_metrics(folder) if row["kind"] == "epoch"]
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise DataError(
                f"{folder} is not the folder of a run (its metrics.jsonl cannot be read: {error}); "
                "name one that training wrote"
            ) from error
        times, total = read_times(folder)
        printed = read_audio_hours(folder)
        for row in rows:
            more = row.get("hours", printed)
            audio_hours = None if more is None or audio_hours is None else audio_hours + more
            if row["step"] not in times:
                raise DataError(
                    f"{folder} has no TensorBoard entry, and so no time, of step {row['step']}; leave "
                    "the run out"
                )
            at = hours + times[row["step"]] / 3600
            epochs.append(Epoch(folder.name, row["epoch"], at, audio_hours, row["wer"], row["cer"]))
        hours += total / 3600
    if not epochs:
        raise DataError(
            "none of the runs has finished an epoch; wait for one, or leave out --curve"
        )
    return epochs


def read_times(folder: Path) -> tuple[dict[int, float], float]:
    """When each step of a run was logged, in seconds of work, and the seconds of work in all.

    Each call of a training has a file of its own. Steps that a crash lost count twice.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    times: dict[int, float] = {}
    worked = 0.0
    for path in sorted((folder / "tensorboard").glob("events.*")):
        first = last = None
        for event in LegacyEventFileLoader(str(path)).Load():
            first = event.wall_time if first is None else first
            last = event.wall_time
            times[event.step] = worked + last - first
        if first is not None and last is not None:
            worked += last - first
    return times, worked


def read_audio_hours(folder: Path) -> float | None:
    """The hours of a run's training set as its `train.log` has them; None without that."""
    path = folder / "train.log"
    found = AUDIO_HOURS.search(path.read_text("utf-8")) if path.exists() else None
    return float(found[1]) if found else None


def draw(panels: Sequence[Any], epochs: Sequence[Epoch]) -> None:
    """Draw WER and CER over the hours of training and over those of audio, on two panels."""
    axes: Mapping[str, Any] = dict(zip(("hours", "audio_hours"), panels, strict=True))
    labels = {"hours": "hours of training, wall clock", "audio_hours": "hours of audio"}
    for key, panel in axes.items():
        known = [epoch for epoch in epochs if getattr(epoch, key) is not None]
        x = [getattr(epoch, key) for epoch in known]
        panel.plot(x, [100 * epoch.wer for epoch in known], "o-", ms=3, label="WER, greedy")
        panel.plot(x, [100 * epoch.cer for epoch in known], "o-", ms=3, label="CER, greedy")
        for before, after in pairwise(known):
            if before.run != after.run:
                middle = (getattr(before, key) + getattr(after, key)) / 2
                panel.axvline(middle, color="0.6", linestyle=":", linewidth=1)
        panel.set(xlabel=labels[key], ylabel="errors on dev, %", xlim=(0, None), ylim=(0, None))
        panel.grid(alpha=0.3)
        if known:
            panel.legend()
