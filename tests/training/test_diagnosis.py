"""Blank collapse and divergence are recognized."""

import signal

import pytest
from corpus import tiny_task
from training_runs import Notes, Saboteur

import asr.training.curves
import asr.training.diagnosis
import asr.training.run
import asr.training.trainer
from asr.training.diagnosis import diagnose
from asr.training.run import train


def epoch_row(**values) -> dict[str, float]:
    row = {"train_loss": 2.0, "gradient_norm": 2.0, "dev_loss": 2.5}
    return {**row, "blank_ratio": 0.8, "empty_ratio": 0.0, **values}


def silent(*losses: float) -> list[dict[str, float]]:
    return [epoch_row(dev_loss=loss, blank_ratio=0.9995) for loss in losses]


@pytest.mark.parametrize(
    ("rows", "collapsed"),
    [
        (silent(3.0, 2.9), False),  # every model begins so
        (silent(3.0, 2.9, 2.8), False),  # it is learning
        (silent(3.0, 2.9, 2.89), True),
        (silent(3.0, 2.9, 3.5), True),
        ([*silent(3.0, 2.9), epoch_row(dev_loss=2.9)], False),  # it says something
        ([*silent(3.0, 2.9), epoch_row(dev_loss=2.9, empty_ratio=1.0)], True),
    ],
)
def test_blank_collapse_is_recognized(rows, collapsed: bool) -> None:
    lines = diagnose(rows)
    assert [line.startswith("Blank collapse: ") for line in lines] == [True] * collapsed
    for cause in ("learning_rate", "too long", "masks", "transcripts"):
        assert all(cause in line for line in lines)


@pytest.mark.parametrize(
    ("losses", "norms", "diverged"),
    [
        ([3.0, 2.0, 1.5], [3.0, 2.0, 1.0], False),
        ([3.0, 2.0, 2.5], [3.0, 2.0, 2.0], False),  # one epoch is no trend
        ([3.0, 2.0, 2.5, 2.6], [3.0, 2.0, 2.0, 2.0], True),
        ([3.0, 2.0, 2.5, 2.1], [3.0, 2.0, 2.0, 2.0], False),
        ([0.01, 0.02, 0.02], [0.1, 0.1, 0.1], False),  # by heart
        ([3.0, 2.0, 2.1], [3.0, 2.0, 21.0], True),
        ([3.0, 2.0, 1.9], [3.0, 2.0, 21.0], False),  # and yet it learns
        ([3.0], [60.0], False),
    ],
)
def test_divergence_is_recognized(losses, norms, diverged: bool) -> None:
    rows = [
        epoch_row(train_loss=loss, gradient_norm=norm)
        for loss, norm in zip(losses, norms, strict=True)
    ]
    lines = diagnose(rows)
    assert [line.startswith("Divergence: ") for line in lines] == [True] * diverged
    assert all("learning_rate" in line for line in lines)


def test_a_resumed_run_reports_its_collapse(tones, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(asr.training.diagnosis, "COLLAPSE_RATIO", -1.0)
    notes = Notes()
    values = {"epochs": 3, "learning_rate": 1e-9}  # it cannot learn
    task = tiny_task(tmp_path, tones, callbacks=Saboteur(5, signal.SIGTERM), **values)
    assert train(task).interrupted
    assert train(tiny_task(tmp_path, tones, callbacks=notes, **values)).epoch == 3
    [line] = [line for line in notes.lines if line.startswith("Blank collapse")]
    position = notes.lines.index(line)
    assert notes.lines[position - 1].startswith("Epoch 3/3: ")
