"""Exact resume: an interrupted run and its continuation are the unbroken run, bit for bit."""

import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus import tiny_task
from crash_test import differences
from training_runs import Notes, Saboteur, assert_same_run, spoil_losses, steps_in

from asr.checkpoint import Checkpoint
from asr.data.augment import AugmentConfig
from asr.encoder import EncoderConfig
from asr.errors import (
    CheckpointError,
    ConfigError,
    TrainingError,
)
from asr.runtime.distributed import RuntimeConfig
from asr.text import Vocabulary
from asr.training.metrics import read_metrics
from asr.training.run import Task, train


@pytest.fixture(scope="module")
def unbroken(tones, tmp_path_factory) -> Path:
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    outcome = train(tiny_task(folder, tones))
    assert not outcome.interrupted
    assert outcome.epoch == 3
    return folder


@pytest.fixture(scope="module")
def averaged(tones, tmp_path_factory) -> Path:
    """The folder of a run that was never interrupted and averages its weights."""
    folder = tmp_path_factory.mktemp("averaged")
    assert train(tiny_task(folder, tones, average_decay=0.5)).epoch == 3
    return folder


@pytest.mark.parametrize(
    ("at_step", "number"), [(1, signal.SIGTERM), (4, signal.SIGINT), (7, signal.SIGTERM)]
)
def test_interrupted_and_resumed_is_the_unbroken_run(
    tones, unbroken, tmp_path, at_step: int, number: int
) -> None:
    outcome = train(tiny_task(tmp_path, tones, callbacks=Saboteur(at_step, number)))
    assert outcome.interrupted
    assert outcome.step == at_step + 1  # the step that was running is finished
    outcome = train(tiny_task(tmp_path, tones))
    assert not outcome.interrupted
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("at_step", [1, 7])
def test_interrupted_and_resumed_has_the_unbroken_average(
    tones, averaged, tmp_path, at_step: int
) -> None:
    saboteur = Saboteur(at_step, signal.SIGTERM)
    task = tiny_task(tmp_path, tones, average_decay=0.5, callbacks=saboteur)
    assert train(task).interrupted
    assert not train(tiny_task(tmp_path, tones, average_decay=0.5)).interrupted
    assert_same_run(tmp_path, averaged)


@pytest.mark.parametrize(("at_step", "workers", "decay"), [(2, 2, 0), (8, 0, 0.5)])
def test_killed_and_resumed_is_the_unbroken_run(
    tones, unbroken, averaged, tmp_path, at_step: int, workers: int, decay: float
) -> None:
    runtime = RuntimeConfig(device="cpu", processes=1, threads=1, workers=workers)
    values = {"runtime": runtime, "average_decay": decay}
    task = tiny_task(tmp_path, tones, callbacks=Saboteur(at_step, signal.SIGKILL), **values)
    process = multiprocessing.get_context("spawn").Process(target=train, args=(task,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    train(tiny_task(tmp_path, tones, **values))
    assert_same_run(tmp_path, averaged if decay else unbroken)


def test_a_finished_run_has_nothing_left_to_do(tones, unbroken) -> None:
    before = (unbroken / "last.pt").read_bytes()
    outcome = train(tiny_task(unbroken, tones))
    assert (outcome.epoch, outcome.interrupted) == (3, False)
    assert (unbroken / "last.pt").read_bytes() == before


def test_two_processes_interrupted_and_resumed_are_two_unbroken_ones(tones, tmp_path, pair) -> None:
    def task(name: str, **values) -> Task:
        runtime = RuntimeConfig(device="cpu", processes=2, threads=1, workers=0)
        return tiny_task(
            tmp_path / name, tones, epochs=2, average_decay=0.5, runtime=runtime, **values
        )

    pair.run(train, task("unbroken"))
    outcome = pair.run(train, task("broken", callbacks=Saboteur(4, signal.SIGTERM)))
    assert outcome.interrupted
    assert outcome.step == 5
    assert not pair.run(train, task("broken")).interrupted
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-2}, "training.learning_rate"),
        ({"seed": 2}, "training.seed"),
        ({"average_decay": 0.5}, "training.average_decay"),
        ({"encoder": EncoderConfig(layers=1)}, "encoder.layers"),
        ({"augment": AugmentConfig(mel_masks=0)}, "augment.mel_masks"),
    ],
)
def test_resuming_with_other_values_is_refused_by_name(tones, unbroken, change, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        train(tiny_task(unbroken, tones, **change))


def test_resuming_with_other_data_or_vocabulary_is_refused(tones, unbroken) -> None:
    with pytest.raises(ConfigError, match="a different training set"):
        train(tiny_task(unbroken, tones[:-1]))
    task = tiny_task(unbroken, tones)
    task.data.vocabulary = Vocabulary.from_transcripts(["a b c d"])
    with pytest.raises(ConfigError, match="a different vocabulary"):
        train(task)


def test_a_damaged_checkpoint_is_refused(tones, unbroken, tmp_path) -> None:
    whole = (unbroken / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"last\.pt: .*truncated"):
        train(tiny_task(tmp_path, tones))


def test_interrupted_between_bad_steps_and_resumed_is_the_unbroken_run(
    tones, tmp_path, monkeypatch
) -> None:
    spoil_losses(monkeypatch, "u4", "u10", "u3")
    values = {"average_decay": 0.5, "batch_seconds": 4.0}
    train(tiny_task(tmp_path / "unbroken", tones, **values))
    rows = read_metrics(tmp_path / "unbroken")
    bad = [row["step"] for row in rows if row["kind"] == "skipped"]
    at_step = next(step for step in bad if step + 1 in bad)
    saboteur = Saboteur(at_step - 1, signal.SIGTERM)  # takes effect a step later
    assert train(tiny_task(tmp_path / "broken", tones, callbacks=saboteur, **values)).interrupted
    assert Checkpoint.read(tmp_path / "broken" / "last.pt").payload["training"]["counters"][
        "bad_steps"
    ]
    assert not train(tiny_task(tmp_path / "broken", tones, **values)).interrupted
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


def test_bad_steps_are_counted_over_an_interruption(tones, tmp_path, monkeypatch) -> None:
    spoil_losses(monkeypatch, *(u.id for u in tones))
    values = {"batch_seconds": 4.0, "bad_steps_limit": 4}
    task = tiny_task(tmp_path, tones, callbacks=Saboteur(1, signal.SIGTERM), **values)
    assert train(task).step == 2
    with pytest.raises(TrainingError, match=r"loss at step 4 .* the last of 4 such step"):
        train(tiny_task(tmp_path, tones, **values))


def test_a_run_may_be_resumed_with_another_limit(tones, tmp_path, monkeypatch) -> None:
    spoil_losses(monkeypatch, "u3")
    with pytest.raises(TrainingError):
        train(tiny_task(tmp_path, tones, checkpoint_steps=1, bad_steps_limit=1))
    assert train(tiny_task(tmp_path, tones, checkpoint_steps=1, bad_steps_limit=3)).epoch == 3


def test_an_accumulated_run_has_the_losses_of_a_whole_one_and_resumes(tones, tmp_path) -> None:
    values = {
        "encoder": EncoderConfig(layers=2, hidden=16, stack=4, dropout=0.0),
        "average_decay": 0.5,
        "epochs": 2,
    }
    train(tiny_task(tmp_path / "whole", tones, **values))
    train(tiny_task(tmp_path / "pieces", tones, accumulate=2, **values))
    whole, pieces = steps_in(tmp_path / "whole"), steps_in(tmp_path / "pieces")
    assert pieces == pytest.approx(whole, abs=1e-4)
    task = tiny_task(
        tmp_path / "broken", tones, accumulate=2, callbacks=Saboteur(3, signal.SIGTERM), **values
    )
    assert train(task).interrupted
    assert train(tiny_task(tmp_path / "broken", tones, accumulate=2, **values)).epoch == 2
    assert_same_run(tmp_path / "broken", tmp_path / "pieces")


def test_a_run_may_be_resumed_with_other_micro_batches_and_kept_epochs(tones, tmp_path) -> None:
    task = tiny_task(tmp_path, tones, callbacks=Saboteur(4, signal.SIGTERM))
    assert train(task).interrupted
    assert train(tiny_task(tmp_path, tones, accumulate=3, keep=1)).epoch == 3


def test_leftovers_of_a_killed_save_are_removed(tones, tmp_path) -> None:
    for name in ("last.pt", "curves.png"):
        (tmp_path / f".{name}.0123456789abcdef").write_bytes(b"half")
    train(tiny_task(tmp_path, tones, epochs=1))
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


def test_a_best_model_without_a_resumable_checkpoint_is_not_overwritten(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    (tmp_path / "last.pt").unlink()
    before = (tmp_path / "best.pt").read_bytes(), read_metrics(tmp_path)
    with pytest.raises(ConfigError, match=r"best\.pt exists without the last\.pt"):
        train(tiny_task(tmp_path, tones, epochs=1))
    assert before == ((tmp_path / "best.pt").read_bytes(), read_metrics(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b'{"kind": "epoch", "ep\n{"kind": "epo'])
def test_lost_metrics_do_not_stop_the_training(
    tones, unbroken, tmp_path, content: bytes | None
) -> None:
    assert train(tiny_task(tmp_path, tones, callbacks=Saboteur(4, signal.SIGTERM))).interrupted
    path = tmp_path / "metrics.jsonl"
    kept = path.stat().st_size
    path.unlink() if content is None else path.write_bytes(content)
    notes = Notes()
    assert train(tiny_task(tmp_path, tones, callbacks=notes)).epoch == 3
    assert any("continues with a gap" in line for line in notes.lines)
    assert path.read_bytes().endswith((unbroken / "metrics.jsonl").read_bytes()[kept:])
    ours, theirs = (Checkpoint.read(folder / "last.pt").payload for folder in (tmp_path, unbroken))
    assert list(differences(ours["training"]["weights"], theirs["training"]["weights"], "")) == []


def test_curves_missing_after_a_kill_are_drawn(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    (tmp_path / "curves.png").unlink()
    train(tiny_task(tmp_path, tones, epochs=1))
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_config_yaml_is_written_but_not_for_a_refused_command(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1, record="seed: 1\n"))
    with pytest.raises(ConfigError, match=r"training\.seed"):
        train(tiny_task(tmp_path, tones, epochs=1, seed=2, record="seed: 2\n"))
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"


def test_other_recordings_of_noise_are_another_training(tones, tmp_path) -> None:
    def task() -> Task:
        augment = AugmentConfig(noise_folder=str(tmp_path / "noise"))
        return tiny_task(tmp_path / "run", tones, epochs=1, augment=augment)

    (tmp_path / "noise").mkdir()
    for seed in (1, 2):
        noise = np.random.default_rng(seed).normal(0, 0.1, 16_000)
        soundfile.write(tmp_path / "noise" / "n.wav", noise, 16_000)
        if seed == 1:
            train(task())
    with pytest.raises(ConfigError, match="different recordings of noises and rooms"):
        train(task())
