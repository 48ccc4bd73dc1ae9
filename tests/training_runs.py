"""What tests of trainings share: callbacks that interrupt or record, and comparisons of runs."""

import os
from pathlib import Path

import pytest
import torch
from crash_test import differences

import asr.training.trainer
from asr.checkpoint import Checkpoint
from asr.training.config import TrainingCallbacks
from asr.training.loss import ctc_losses
from asr.training.metrics import read_metrics


class Saboteur(TrainingCallbacks):
    """Sends this process a signal when the run reaches a step."""

    def __init__(self, at_step: int, number: int) -> None:
        self.at_step = at_step
        self.number = number
        self.step = 0

    def steps_done(self, steps: int, loss: float) -> None:
        self.step += steps
        if self.step == self.at_step:
            os.kill(os.getpid(), self.number)


class Notes(TrainingCallbacks):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def assert_same_run(one: Path, other: Path) -> None:
    """Every metric and every weight, bit for bit."""
    assert read_metrics(one) == read_metrics(other)
    ours, theirs = (
        Checkpoint.read(one / "last.pt").payload,
        Checkpoint.read(other / "last.pt").payload,
    )
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name
        trained = ours["training"]["weights"][name]
        assert torch.equal(trained, theirs["training"]["weights"][name]), name
    assert (
        list(differences(ours["training"]["optimizer"], theirs["training"]["optimizer"], "")) == []
    )
    best, others = (
        Checkpoint.read(one / "best.pt").payload,
        Checkpoint.read(other / "best.pt").payload,
    )
    assert best["facts"] == others["facts"]
    for name, weight in best["weights"].items():
        assert torch.equal(weight, others["weights"][name]), name


def steps_in(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if row["kind"] == "step"]


def spoil_losses(monkeypatch: pytest.MonkeyPatch, *ids: str) -> None:
    """Turn the losses of these utterances into NaN wherever they are trained on."""

    def spoiled_losses(log_probs, lengths, batch):
        factors = torch.tensor([float("nan") if i in ids else 1.0 for i in batch.ids])
        return ctc_losses(log_probs, lengths, batch) * factors

    monkeypatch.setattr(asr.training.trainer, "ctc_losses", spoiled_losses)
