"""Metrics on disk: JSON lines, curves and TensorBoard."""

import json
from pathlib import Path

import pytest
from corpus import tiny_task
from training_runs import steps_in

from asr.training.metrics import Metrics, read_metrics
from asr.training.run import train


@pytest.fixture(scope="module")
def unbroken(tones, tmp_path_factory) -> Path:
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    outcome = train(tiny_task(folder, tones))
    assert not outcome.interrupted
    assert outcome.epoch == 3
    return folder


def test_the_run_leaves_metrics_curves_and_tensorboard(unbroken) -> None:
    rows = read_metrics(unbroken)
    assert [row["step"] for row in rows if row["kind"] == "step"] == list(
        range(1, len(steps_in(unbroken)) + 1)
    )
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert (unbroken / "curves.png").stat().st_size > 10_000
    assert any((unbroken / "tensorboard").iterdir())


def board_of(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0})
    board.Reload()
    return board


def test_tensorboard_shows_numbers_and_sample_texts(tones, unbroken, tmp_path) -> None:
    board = board_of(unbroken)
    rows = read_metrics(unbroken)
    for kind, names in {
        "step": ["loss", "learning_rate", "gradient_norm"],
        "epoch": ["train_loss", "dev_loss", "wer", "cer", "blank_ratio", "gradient_norm"],
    }.items():
        for name in names:
            expected = [(row["step"], row[name]) for row in rows if row["kind"] == kind]
            shown = [(e.step, e.value) for e in board.Scalars(f"{kind}/{name}")]
            assert [step for step, _ in shown] == [step for step, _ in expected], name
            assert [v for _, v in shown] == pytest.approx([v for _, v in expected], rel=1e-5)
    for number in (1, 2, 3):
        events = board.Tensors(f"dev/sample {number}")
        assert len(events) == 3
        text = events[-1].tensor_proto.string_val[0].decode()
        name, _, lines = text.partition("\n\n    ")
        assert lines.split("\n")[0] == next(u.text for u in tones if u.id == name)


def test_tensorboard_hides_repeated_steps(tmp_path) -> None:
    with Metrics(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.write("step", step, {"loss": float(step)})
            if step == 1:
                position = metrics.position()
    with Metrics(tmp_path, position, step=1) as metrics:
        metrics.write("step", 2, {"loss": 20.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 20.0)]
    shown = [(e.step, e.value) for e in board_of(tmp_path).Scalars("step/loss")]
    assert shown == [(1, 1.0), (2, 20.0)]


def test_metrics_are_plain_json_lines(unbroken) -> None:
    with (unbroken / "metrics.jsonl").open() as file:
        first = json.loads(file.readline())
    assert set(first) == {"kind", "step", "epoch", "loss", "gradient_norm", "learning_rate"}
