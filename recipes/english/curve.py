"""The errors of a training over its time: runs that go on from one another, as one line."""

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
    """An epoch's end. Hours are those of all the runs until then; `audio_hours`: None if unknown.

    `hours` are of the wall clock, validation included, pauses between calls of a run left out.
    """

    run: str
    epoch: int
    hours: float
    audio_hours: float | None
    wer: float
    cer: float


def read_runs(folders: Iterable[Path]) -> list[Epoch]:
    """The epochs of runs, each begun with the weights that the one before it left.

    Times are those of a run's TensorBoard files: metrics.jsonl holds none, so that it can be
    compared. The hours of audio in an epoch are in metrics.jsonl; for runs of before that, in what
    training printed, if that was kept as `train.log`. Raises DataError for a folder without.
    """
    epochs: list[Epoch] = []
    hours = 0.0
    audio_hours: float | None = 0.0
    for folder in folders:
        try:
            rows = [row for row in read_metrics(folder) if row["kind"] == "epoch"]
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise DataError(
                f"{folder} is no folder of a run: its metrics.jsonl cannot be read ({error})"
            ) from error
        times, total = read_times(folder)
        printed = read_audio_hours(folder)
        for row in rows:
            more = row.get("hours", printed)
            audio_hours = None if more is None or audio_hours is None else audio_hours + more
            if row["step"] not in times:
                raise DataError(
                    f"{folder}: its TensorBoard files do not have step {row['step']}, nor its time"
                )
            at = hours + times[row["step"]] / 3600
            epochs.append(Epoch(folder.name, row["epoch"], at, audio_hours, row["wer"], row["cer"]))
        hours += total / 3600
    if not epochs:
        raise DataError("none of the runs has finished an epoch: there is no curve to draw")
    return epochs


def read_times(folder: Path) -> tuple[dict[int, float], float]:
    """When each step of a run was logged, in seconds of its work, and how many those are in all.

    Each call of a training has a file of its own. What a crash cost counts: it was done twice.
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
    """The hours of a run's training set by what it printed, if that is there."""
    path = folder / "train.log"
    found = AUDIO_HOURS.search(path.read_text("utf-8")) if path.exists() else None
    return float(found[1]) if found else None


def draw(panels: Sequence[Any], epochs: Sequence[Epoch]) -> None:
    """WER and CER over the hours of training and over those of audio, on two panels."""
    axes: Mapping[str, Any] = dict(zip(("hours", "audio_hours"), panels, strict=True))
    labels = {"hours": "hours of training, wall clock", "audio_hours": "hours of audio heard"}
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
