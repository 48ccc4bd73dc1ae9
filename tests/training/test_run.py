"""Training: it learns, resumes exactly (law 3), and does not depend on the number of processes."""

import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from corpus import tiny_task, write_tones

import asr.training.curves
import asr.training.diagnosis
import asr.training.run
import asr.training.trainer
from asr import checkpoint, files
from asr.audio.waveform import load_audio
from asr.data.augment import AugmentConfig
from asr.data.loading import Batch
from asr.data.manifest import Utterance
from asr.data.planning import Planner
from asr.encoder import Context, EncoderConfig
from asr.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DataError,
    FileError,
    TextError,
    TrainingError,
)
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.runtime.distributed import Process, RuntimeConfig, gather, join, launch, sum_over_processes
from asr.text import Vocabulary
from asr.training.config import TrainingCallbacks, TrainingConfig
from asr.training.diagnosis import diagnose
from asr.training.loss import ctc_losses
from asr.training.metrics import Metrics, read_metrics
from asr.training.run import Task, largest_batch, train
from asr.training.trainer import Trainer, is_out_of_memory, split

sys.path.append(str(ROOT / "scripts"))
from crash_test import differences


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> list[Utterance]:
    return write_tones(tmp_path_factory.mktemp("tones"))


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
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def assert_same_run(one: Path, other: Path) -> None:
    """Every metric and every weight, bit for bit."""
    assert read_metrics(one) == read_metrics(other)
    ours, theirs = (
        checkpoint.Checkpoint.read(one / "last.pt").payload,
        checkpoint.Checkpoint.read(other / "last.pt").payload,
    )
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name
        trained = ours["training"]["weights"][name]
        assert torch.equal(trained, theirs["training"]["weights"][name]), name
    assert (
        list(differences(ours["training"]["optimizer"], theirs["training"]["optimizer"], "")) == []
    )
    best, others = (
        checkpoint.Checkpoint.read(one / "best.pt").payload,
        checkpoint.Checkpoint.read(other / "best.pt").payload,
    )
    assert best["facts"] == others["facts"]
    for name, weight in best["weights"].items():
        assert torch.equal(weight, others["weights"][name]), name


def steps_in(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if row["kind"] == "step"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_step", [1, 4, 7])
def test_interrupted_and_resumed_is_the_unbroken_run(
    tones, unbroken, tmp_path, number: int, at_step: int
) -> None:
    outcome = train(tiny_task(tmp_path, tones, listener=Saboteur(at_step, number)))
    assert outcome.interrupted
    assert outcome.step == at_step + 1  # the step in which the wish was heard is finished
    outcome = train(tiny_task(tmp_path, tones))
    assert not outcome.interrupted
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("at_step", [1, 4, 7])
def test_interrupted_and_resumed_has_the_unbroken_average(
    tones, averaged, tmp_path, at_step: int
) -> None:
    saboteur = Saboteur(at_step, signal.SIGTERM)
    task = tiny_task(tmp_path, tones, average_decay=0.5, listener=saboteur)
    assert train(task).interrupted
    assert not train(tiny_task(tmp_path, tones, average_decay=0.5)).interrupted
    assert_same_run(tmp_path, averaged)


@pytest.mark.parametrize(
    ("at_step", "workers", "decay"), [(2, 0, 0), (2, 2, 0), (8, 0, 0), (8, 2, 0), (8, 0, 0.5)]
)
def test_killed_and_resumed_is_the_unbroken_run(
    tones, unbroken, averaged, tmp_path, at_step: int, workers: int, decay: float
) -> None:
    runtime = RuntimeConfig(device="cpu", processes=1, threads=1, workers=workers)
    values = {"runtime": runtime, "average_decay": decay}
    task = tiny_task(tmp_path, tones, listener=Saboteur(at_step, signal.SIGKILL), **values)
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


def test_two_processes_give_the_losses_of_one(tones, tmp_path) -> None:
    def task(name: str, processes: int) -> Task:
        return tiny_task(
            tmp_path / name,
            tones,
            epochs=7,
            batch_seconds=7.0,
            encoder=EncoderConfig(layers=2, hidden=16, stack=4, dropout=0.0),
            runtime=RuntimeConfig(device="cpu", processes=processes, threads=1, workers=0),
        )

    train(task("one", 1))
    outcome = launch(train, task("two", 2), 2)
    assert outcome.epoch == 7
    one, two = steps_in(tmp_path / "one"), steps_in(tmp_path / "two")
    assert len(one) == len(two) >= 20
    assert one == pytest.approx(two, abs=1e-4)


def test_two_processes_interrupted_and_resumed_are_two_unbroken_ones(tones, tmp_path) -> None:
    def task(name: str, **values) -> Task:
        runtime = RuntimeConfig(device="cpu", processes=2, threads=1, workers=0)
        return tiny_task(
            tmp_path / name, tones, epochs=2, average_decay=0.5, runtime=runtime, **values
        )

    launch(train, task("unbroken"), 2)
    outcome = launch(train, task("broken", listener=Saboteur(4, signal.SIGTERM)), 2)
    assert outcome.interrupted
    assert outcome.step == 5
    assert not launch(train, task("broken"), 2).interrupted
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


def fail_on_second(runtime: RuntimeConfig) -> None:
    with join(runtime) as place:
        if place.rank == 1:
            raise DataError("this manifest is wrong on purpose")
        sum_over_processes(torch.zeros(1))  # the other one waits in vain


def test_an_error_in_one_process_is_that_error_here() -> None:
    with pytest.raises(DataError, match=r"^this manifest is wrong on purpose$"):
        launch(fail_on_second, RuntimeConfig(device="cpu", processes=2, threads=1), 2)


def test_it_learns_by_heart(tones, tmp_path) -> None:
    outcome = train(
        tiny_task(
            tmp_path,
            tones,
            epochs=150,
            batch_seconds=20.0,
            learning_rate=1e-2,
            checkpoint_steps=1000,
            augment=AugmentConfig(speeds=[1.0], time_masks=0, mel_masks=0),
            encoder=EncoderConfig(layers=1, hidden=32, stack=2, dropout=0.0),
        )
    )
    assert outcome.best_wer == 0


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
def test_going_on_with_other_values_is_refused_by_name(tones, unbroken, change, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        train(tiny_task(unbroken, tones, **change))


def test_going_on_with_other_data_or_vocabulary_is_refused(tones, unbroken) -> None:
    with pytest.raises(ConfigError, match="the training set"):
        train(tiny_task(unbroken, tones[:-1]))
    task = tiny_task(unbroken, tones)
    task.vocabulary = Vocabulary.from_transcripts(["a b c d"])
    with pytest.raises(ConfigError, match="the vocabulary"):
        train(task)


def test_a_damaged_checkpoint_is_refused(tones, unbroken, tmp_path) -> None:
    whole = (unbroken / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"last\.pt: .*truncated"):
        train(tiny_task(tmp_path, tones))


def test_utterances_that_cannot_be_learned_are_told_and_left_out(tones, tmp_path) -> None:
    notes = Notes()
    odd = [
        dataclasses.replace(tones[0], id="greek", text="α"),
        dataclasses.replace(tones[0], id="hasty", text="abcd" * 100),
    ]
    train(tiny_task(tmp_path, tones + odd, epochs=1, listener=notes))
    told = "\n".join(notes.lines)
    assert "1 left out, characters not in the vocabulary: greek" in told
    assert "1 left out, too short for its text: hasty" in told
    with pytest.raises(DataError, match="No training utterance is left"):
        train(tiny_task(tmp_path / "none", odd, epochs=1, dev_set=tones))


# The average of the weights


def tiny_trainer(
    decay: float = 0.9,
    place: Process | None = None,
    accumulate: int = 1,
    dropout: float = 0.2,
    kind: str = "latency_controlled",
) -> Trainer:
    torch.manual_seed(0)
    encoder = EncoderConfig(kind, layers=2, hidden=8, stack=2, dropout=dropout)
    model = AcousticModel(FeaturesConfig(mels=20), encoder, 6).train()
    config = TrainingConfig(
        average_decay=decay, warmup_steps=0, learning_rate=1e-2, accumulate=accumulate
    )
    return Trainer(model, config, place or Process(0, 1, torch.device("cpu")))


def tiny_batch(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return Batch(
        features=torch.randn(2, 24, 20),
        feature_lengths=torch.tensor([24, 20]),
        targets=torch.tensor([[1, 2, 3, 4], [5, 4, 3, 0]]),
        target_lengths=torch.tensor([4, 3]),
        ids=["a", "b"],
        symbols=7,
    )


def state_of(trainer: Trainer) -> dict[str, bytes]:
    """Every bit that a step may change."""
    parts = {f"model.{n}": t for n, t in trainer.model.state_dict().items()}
    parts |= {f"result.{n}": t for n, t in trainer.result.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        parts |= {f"optimizer.{index}.{n}": t for n, t in state.items()}
    return {name: tensor.numpy().tobytes() for name, tensor in parts.items()}


def test_the_average_is_the_one_computed_by_hand() -> None:
    trainer = tiny_trainer(decay=0.3)
    weights = dict(trainer.model.named_parameters())
    expected = {n: w.detach().numpy().astype(np.float64) for n, w in weights.items()}
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3, 0.3]):  # 4 / 13 is above 0.3
        trainer.step(tiny_batch(step), step, 0.0)
        for name, weight in weights.items():
            now = weight.detach().numpy().astype(np.float64)
            expected[name] = decay * expected[name] + (1 - decay) * now
    for name, average in trainer.result.named_parameters():
        assert average.dtype == torch.float32
        np.testing.assert_allclose(average.numpy(), expected[name], rtol=1e-5, atol=1e-7)
        assert not np.allclose(average.numpy(), weights[name].detach().numpy(), atol=1e-4), name


def test_averaging_changes_nothing_of_the_training(unbroken, averaged) -> None:
    assert steps_in(averaged) == steps_in(unbroken)
    last = checkpoint.Checkpoint.read(unbroken / "last.pt").payload
    same = checkpoint.Checkpoint.read(averaged / "last.pt").payload["training"]["weights"]
    for name, weight in last["training"]["weights"].items():
        assert torch.equal(weight, last["weights"][name]), name
        assert torch.equal(weight, same[name]), name


def test_the_average_is_what_is_validated_and_kept(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1, average_decay=0.9))
    (epoch,) = [row for row in read_metrics(tmp_path) if row["kind"] == "epoch"]
    saved = checkpoint.Checkpoint.read(tmp_path / "best.pt")
    best, vocabulary = saved.model(), saved.vocabulary
    last = checkpoint.Checkpoint.read(tmp_path / "last.pt").payload
    for name, weight in best.state_dict().items():
        assert torch.equal(weight, last["weights"][name]), name

    def dev_loss() -> float:
        waveforms = [load_audio(u.audio, 16_000) for u in tones[:3]]
        targets = [vocabulary.encode(u.text) for u in tones[:3]]
        emissions = best.emit(waveforms)
        total = torch.nn.functional.ctc_loss(
            emissions.log_probs.transpose(0, 1),
            torch.tensor([symbol for target in targets for symbol in target]),
            emissions.lengths,
            torch.tensor([len(t) for t in targets]),
            reduction="sum",
        )
        return float(total) / sum(len(t) for t in targets)

    assert dev_loss() == pytest.approx(epoch["dev_loss"], abs=1e-4)
    best.load_state_dict(last["training"]["weights"])
    assert dev_loss() != pytest.approx(epoch["dev_loss"], abs=1e-2)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"training\.average_decay is .*at least 0 and below 1"):
        TrainingConfig(average_decay=decay)


@pytest.mark.parametrize(("key", "value"), [("accumulate", 0), ("keep", -1)])
def test_a_number_that_means_nothing_is_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key} is {value}; at least {value + 1}"):
        TrainingConfig(**{key: value})


# Steps whose loss or gradient is not finite


def spoil(kind: str, trainer: Trainer, batch: Batch) -> None:
    """Make the next step a bad one."""
    if kind == "not a number":
        batch.features[1, 3, 5] = float("nan")
    elif kind == "infinite loss":
        batch.feature_lengths[1] = 2  # one frame for three symbols
    else:
        trainer.model.head.bias.register_hook(lambda gradient: gradient * float("inf"))


@pytest.mark.parametrize("kind", ["not a number", "infinite loss", "gradient"])
@pytest.mark.parametrize(("first", "accumulate"), [(0, 1), (2, 1), (2, 2)])
def test_a_bad_step_changes_not_a_bit(kind: str, first: int, accumulate: int) -> None:
    trainer = tiny_trainer(accumulate=accumulate)
    for step in range(first):
        trainer.step(tiny_batch(step), step, 0.0)
    before = state_of(trainer)
    batch = tiny_batch()
    spoil(kind, trainer, batch)
    losses, norm = trainer.step(batch, first, 0.0)
    assert not torch.isfinite(norm)
    assert torch.isfinite(losses).tolist() == [True, kind == "gradient"]
    after = state_of(trainer)
    assert {name: after[name] for name in before} == before
    untouched = {name for name in after if name not in before}  # Adam's, where it is its first step
    assert all(not any(after[name]) for name in untouched)
    trainer.model.head.bias._backward_hooks = None
    _, norm = trainer.step(tiny_batch(1), first + 1, 0.0)
    assert torch.isfinite(norm)
    changed = state_of(trainer)
    for name, _ in trainer.model.named_parameters():
        assert changed[f"model.{name}"] != before[f"model.{name}"], name
        assert changed[f"result.{name}"] != before[f"result.{name}"], name


def test_an_infinite_loss_without_a_trace_in_the_gradient_is_a_bad_step(monkeypatch) -> None:
    monkeypatch.setattr(
        asr.training.trainer, "ctc_losses", lambda *a: ctc_losses(*a) + float("inf")
    )
    trainer = tiny_trainer()
    before = state_of(trainer)
    _, norm = trainer.step(tiny_batch(), 0, 0.0)
    assert not torch.isfinite(norm)
    after = state_of(trainer)
    assert {name: after[name] for name in before} == before


def step_badly_on_second(runtime: RuntimeConfig) -> list[tuple[bool, bool, bool, bytes]]:
    """On each process: is its loss finite, is its norm, has anything changed; and the average."""
    with join(runtime) as place:
        trainer = tiny_trainer(place=place)
        for step in range(2):
            trainer.step(tiny_batch(10 * place.rank + step), step, 0.0)
        before = state_of(trainer)
        batch = tiny_batch()
        if place.rank == 1:
            spoil("infinite loss", trainer, batch)
        losses, norm = trainer.step(batch, 2, 0.0)
        finite = bool(torch.isfinite(losses).all())
        unchanged = state_of(trainer) == before
        average = trainer.result.head.weight.numpy().tobytes()
        return gather((finite, bool(torch.isfinite(norm)), unchanged, average))


def test_a_bad_step_of_one_process_is_skipped_by_all() -> None:
    runtime = RuntimeConfig(device="cpu", processes=2, threads=1)
    one, two = launch(step_badly_on_second, runtime, 2)
    assert one[:3] == (True, False, True)
    assert two[:3] == (False, False, True)
    assert one[3] == two[3]


@pytest.fixture
def spoiled(monkeypatch):
    """Spoils the losses of these utterances wherever they are trained on."""

    def spoil_losses(*ids: str) -> None:
        def spoiled_losses(log_probs, lengths, batch):
            bad = torch.tensor([float("nan") if i in ids else 1.0 for i in batch.ids])
            return ctc_losses(log_probs, lengths, batch) * bad

        monkeypatch.setattr(asr.training.trainer, "ctc_losses", spoiled_losses)

    return spoil_losses


def test_a_bad_step_is_skipped_and_named(tones, spoiled, tmp_path) -> None:
    spoiled("u3")
    notes = Notes()
    assert train(tiny_task(tmp_path, tones, average_decay=0.5, listener=notes)).epoch == 3
    rows = read_metrics(tmp_path)
    skipped = [row for row in rows if row["kind"] == "skipped"]
    assert [row["epoch"] for row in skipped] == [1, 2, 3]
    assert all(row["utterances"] == ["u3"] for row in skipped)
    assert [line for line in notes.lines if line.endswith("skipped.")] == [
        f"The loss at step {row['step']} is nan with gradient norm nan on u3: skipped."
        for row in skipped
    ]
    numbers = [row["step"] for row in rows if row["kind"] in ("step", "skipped")]
    assert numbers == list(range(1, len(numbers) + 1))
    with (tmp_path / "metrics.jsonl").open() as file:
        for line in file:
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_interrupted_between_bad_steps_and_resumed_is_the_unbroken_run(
    tones, spoiled, tmp_path
) -> None:
    spoiled("u4", "u10", "u3")
    values = {"average_decay": 0.5, "batch_seconds": 4.0}
    train(tiny_task(tmp_path / "unbroken", tones, **values))
    rows = read_metrics(tmp_path / "unbroken")
    bad = [row["step"] for row in rows if row["kind"] == "skipped"]
    at_step = next(step for step in bad if step + 1 in bad)
    saboteur = Saboteur(at_step - 1, signal.SIGTERM)  # heard a step later
    assert train(tiny_task(tmp_path / "broken", tones, listener=saboteur, **values)).interrupted
    assert checkpoint.Checkpoint.read(tmp_path / "broken" / "last.pt").payload["training"][
        "counters"
    ]["bad_steps"]
    assert not train(tiny_task(tmp_path / "broken", tones, **values)).interrupted
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.parametrize("limit", [1, 2])
def test_too_many_bad_steps_in_a_row_stop_by_name(tones, spoiled, tmp_path, limit: int) -> None:
    spoiled(*(u.id for u in tones))
    told = rf"loss at step {limit} is nan with gradient norm nan on u\d.*, and {limit} step"
    with pytest.raises(TrainingError, match=told):
        train(tiny_task(tmp_path, tones, bad_steps_limit=limit))


def test_bad_steps_are_counted_over_an_interruption(tones, spoiled, tmp_path) -> None:
    spoiled(*(u.id for u in tones))
    values = {"batch_seconds": 4.0, "bad_steps_limit": 4}
    task = tiny_task(tmp_path, tones, listener=Saboteur(1, signal.SIGTERM), **values)
    assert train(task).step == 2
    with pytest.raises(TrainingError, match=r"loss at step 4 .* 4 step"):
        train(tiny_task(tmp_path, tones, **values))


def test_bad_steps_apart_from_each_other_do_not_stop(tones, spoiled, tmp_path) -> None:
    spoiled("u3")
    assert train(tiny_task(tmp_path, tones, bad_steps_limit=3)).epoch == 3
    bad = [row["kind"] == "skipped" for row in read_metrics(tmp_path) if row["kind"] != "epoch"]
    assert sum(bad) == 3  # as many as would stop it in a row


def test_an_epoch_of_bad_steps_stops_below_the_limit(tones, spoiled, tmp_path) -> None:
    spoiled(*(u.id for u in tones))
    with pytest.raises(TrainingError, match=r"on (u\d+, )+u\d+( and \d+ more)?, and \d step"):
        train(tiny_task(tmp_path, tones, bad_steps_limit=1000))
    assert not (tmp_path / "best.pt").exists()


def test_weights_that_went_astray_stop_by_name(tones, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"no probabilities for u\d, .*learning_rate"):
        train(tiny_task(tmp_path, tones, learning_rate=1e30, warmup_steps=0))


def test_a_run_may_go_on_with_another_limit(tones, spoiled, tmp_path) -> None:
    spoiled("u3")
    with pytest.raises(TrainingError):
        train(tiny_task(tmp_path, tones, checkpoint_steps=1, bad_steps_limit=1))
    assert train(tiny_task(tmp_path, tones, checkpoint_steps=1, bad_steps_limit=3)).epoch == 3


# A batch in pieces


def ragged_batch(count: int, seed: int = 0) -> Batch:
    """Utterances of falling lengths."""
    torch.manual_seed(seed)
    lengths = torch.tensor([40 - 3 * i for i in range(count)], dtype=torch.int64)
    features = torch.randn(count, 40, 20)
    for row, length in zip(features, lengths, strict=True):
        row[length:] = 0
    return Batch(
        features=features,
        feature_lengths=lengths,
        targets=torch.randint(1, 6, (count, 5)),
        target_lengths=torch.tensor([5 - i % 3 for i in range(count)], dtype=torch.int64),
        ids=[f"u{i}" for i in range(count)],
        symbols=23,
    )


@pytest.mark.parametrize(
    ("parts", "sizes"), [(1, [5]), (2, [2, 3]), (3, [1, 2, 2]), (5, [1] * 5), (9, [1] * 5)]
)
def test_a_batch_is_cut_by_utterances_and_its_padding_off(parts: int, sizes: list[int]) -> None:
    batch = ragged_batch(5)
    cut = split(batch, parts)
    assert [len(part.ids) for part in cut] == sizes
    assert [name for part in cut for name in part.ids] == batch.ids
    assert torch.cat([part.feature_lengths for part in cut]).tolist() == [40, 37, 34, 31, 28]
    for part in cut:
        assert part.symbols == 23
        assert part.features.shape == (len(part.ids), int(part.feature_lengths[0]), 20)
        assert part.targets.shape == (len(part.ids), int(part.target_lengths.max()))
    assert split(ragged_batch(0), 3)[0].ids == []


@pytest.mark.parametrize("accumulate", [2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["latency_controlled", "bidirectional"])
def test_accumulated_steps_are_the_whole_ones_to_rounding(accumulate: int, kind: str) -> None:
    whole = tiny_trainer(dropout=0.0, kind=kind)
    pieces = tiny_trainer(dropout=0.0, kind=kind, accumulate=accumulate)
    for step in range(6):
        losses, norm = whole.step(ragged_batch(5, step), step, 0.0)
        others, other = pieces.step(ragged_batch(5, step), step, 0.0)
        torch.testing.assert_close(others, losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other, norm, rtol=1e-4, atol=1e-5)
    for (name, weight), ours in zip(
        whole.model.named_parameters(), pieces.model.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, weight, rtol=1e-3, atol=2e-4, msg=name)
    for (name, weight), ours in zip(
        whole.result.named_parameters(), pieces.result.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, weight, rtol=1e-3, atol=2e-4, msg=name)


def test_accumulation_holds_one_piece_at_a_time(monkeypatch) -> None:
    trainer = tiny_trainer(accumulate=3)
    seen = []
    monkeypatch.setattr(
        trainer, "losses", lambda part, context: seen.append(part) or Trainer.losses(trainer, part)
    )
    trainer.step(ragged_batch(5), 0, 0.0)
    assert [part.features.shape[:2] for part in seen] == [(1, 40), (2, 37), (2, 31)]


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
        tmp_path / "broken", tones, accumulate=2, listener=Saboteur(3, signal.SIGTERM), **values
    )
    assert train(task).interrupted
    assert train(tiny_task(tmp_path / "broken", tones, accumulate=2, **values)).epoch == 2
    assert_same_run(tmp_path / "broken", tmp_path / "pieces")


Sums = torch.futures.Future[torch.Tensor]


def sum_in_pieces(task: tuple[RuntimeConfig, int]) -> list[tuple[int, float, list[float]]]:
    """On each process: how often gradients were summed, the last norm and some weights.

    The first process has so many of the utterances.
    """
    runtime, first = task
    with join(runtime) as place:
        trainer = tiny_trainer(place=place, accumulate=3, dropout=0.0)
        sums = []

        def count(_: object, bucket: torch.distributed.GradBucket) -> Sums:
            sums.append(bucket)
            future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
            return future.then(lambda done: done.value()[0] / place.processes)

        trainer._parallel.register_comm_hook(None, count)
        share = slice(first) if place.rank == 0 else slice(first, None)
        for step in range(3):
            whole = ragged_batch(7)
            batch = dataclasses.replace(
                whole,
                features=whole.features[share],
                feature_lengths=whole.feature_lengths[share],
                targets=whole.targets[share],
                target_lengths=whole.target_lengths[share],
                ids=whole.ids[share],
            )
            _, norm = trainer.step(batch, step, 0.0)
        return gather((len(sums), float(norm), trainer.model.head.bias.tolist()))


@pytest.mark.parametrize("first", [4, 6, 7])  # the other has as many pieces, fewer, none
def test_processes_sum_gradients_once_a_step_however_many_pieces(first: int) -> None:
    runtime = RuntimeConfig(device="cpu", processes=2, threads=1)
    one, two = launch(sum_in_pieces, (runtime, first), 2)
    assert one == two
    assert one[0] == 3 * 1  # the model is one bucket
    trainer = tiny_trainer(dropout=0.0)
    for step in range(3):
        _, norm = trainer.step(ragged_batch(7), step, 0.0)
    assert one[1] == pytest.approx(float(norm), rel=1e-4)
    assert one[2] == pytest.approx(trainer.model.head.bias.tolist(), abs=2e-4)


def test_a_run_may_go_on_in_other_pieces_and_keep_other_epochs(tones, tmp_path) -> None:
    task = tiny_task(tmp_path, tones, listener=Saboteur(4, signal.SIGTERM))
    assert train(task).interrupted
    assert train(tiny_task(tmp_path, tones, accumulate=3, keep=1)).epoch == 3


# The largest batch first


@pytest.mark.parametrize("augment", [None, AugmentConfig(speeds=[0.5, 1.0], tempo=0.2)])
def test_the_largest_batch_holds_the_most_padded_audio(augment: AugmentConfig | None) -> None:
    seconds = [1.0, 7.5, 2.0, 2.2, 3.9, 4.0, 1.1, 1.2]
    plan = Planner(seconds, [f"u{i}" for i in range(8)], 8.0, augment, seed=3).epoch(2)
    padded = [max(plan.seconds[i] for i in batch) * len(batch) for batch in plan.batches]
    largest = largest_batch(plan)
    assert max(padded) == max(plan.seconds[i] for i in largest) * len(largest)
    assert len({round(p, 6) for p in padded}) > 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("first", [0, 1])
def test_a_rehearsal_leaves_no_trace(accumulate: int, first: int) -> None:
    trainer = tiny_trainer(accumulate=accumulate)
    for step in range(first):
        trainer.step(tiny_batch(), step, 0.0)
    trainer.model.zero_grad()
    batch = ragged_batch(4)
    before, random = state_of(trainer), torch.get_rng_state()
    trainer.check_memory(batch)
    assert state_of(trainer) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_rehearsal_sees_as_much_as_any_step(monkeypatch) -> None:
    trainer = tiny_trainer()
    contexts = []
    monkeypatch.setattr(
        trainer,
        "losses",
        lambda part, context: contexts.append(context) or Trainer.losses(trainer, part, context),
    )
    trainer.check_memory(ragged_batch(4))
    config = trainer.model.encoder.config
    assert contexts == [None, Context(config.chunk[0], config.right[1])]


def test_a_rehearsed_run_is_the_same_run(tones, averaged, tmp_path, monkeypatch) -> None:
    rehearsed = []

    def check_memory(trainer: Trainer, batch: Batch) -> None:
        rehearsed.append(batch)
        original(trainer, batch)

    original = Trainer.check_memory
    monkeypatch.setattr(asr.training.run, "REHEARSING", ("cpu",))
    monkeypatch.setattr(Trainer, "rehearse", check_memory)
    values = {"average_decay": 0.5}
    task = tiny_task(tmp_path, tones, listener=Saboteur(4, signal.SIGTERM), **values)
    assert train(task).interrupted
    assert train(tiny_task(tmp_path, tones, **values)).epoch == 3
    assert_same_run(tmp_path, averaged)
    assert len(rehearsed) == 2
    frames = [batch.features.shape[0] * batch.features.shape[1] for batch in rehearsed]
    assert min(frames) > 350  # of the 600 that 6 s of audio make
    train(tiny_task(tmp_path, tones, **values))  # is finished
    assert len(rehearsed) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_too_large_a_batch_is_told_before_the_first_step(
    tones, tmp_path, monkeypatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(asr.training.run, "REHEARSING", ("cpu",))
    monkeypatch.setattr(asr.training.trainer, "ctc_losses", fail)
    told = (
        r"^\d+ utterance\(s\) of \d+ feature frames.*batch_seconds \(now 6\).*accumulate \(now 2\)"
    )
    with pytest.raises(TrainingError, match=told):
        train(tiny_task(tmp_path, tones, accumulate=2))
    assert steps_in(tmp_path) == []


def test_torch_on_a_cpu_says_so_when_memory_is_wanting() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


# Trainings that go wrong


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
def test_blank_collapse_is_called_by_its_name(rows, collapsed: bool) -> None:
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
def test_divergence_is_called_by_its_name(losses, norms, diverged: bool) -> None:
    rows = [
        epoch_row(train_loss=loss, gradient_norm=norm)
        for loss, norm in zip(losses, norms, strict=True)
    ]
    lines = diagnose(rows)
    assert [line.startswith("Divergence: ") for line in lines] == [True] * diverged
    assert all("learning_rate" in line for line in lines)


def test_a_run_says_that_it_collapsed_also_when_resumed(tones, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(asr.training.diagnosis, "COLLAPSE_RATIO", -1.0)
    notes = Notes()
    values = {"epochs": 3, "learning_rate": 1e-9}  # it cannot learn
    task = tiny_task(tmp_path, tones, listener=Saboteur(5, signal.SIGTERM), **values)
    assert train(task).interrupted
    assert train(tiny_task(tmp_path, tones, listener=notes, **values)).epoch == 3
    [line] = [line for line in notes.lines if line.startswith("Blank collapse")]
    told = notes.lines.index(line)
    assert notes.lines[told - 1].startswith("Epoch 3/3: ")


def test_the_share_of_blanks_is_that_of_the_dev_set(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    [row] = [row for row in read_metrics(tmp_path) if row["kind"] == "epoch"]
    model = checkpoint.Checkpoint.read(tmp_path / "best.pt").model()
    emissions = [model.emit([load_audio(u.audio, 16_000)]) for u in tones[:3]]
    blanks = [int((e.log_probs[0].argmax(-1) == 0).sum()) for e in emissions]
    frames = [int(e.lengths[0]) for e in emissions]
    assert row["blank_ratio"] == pytest.approx(sum(blanks) / sum(frames))
    norms = [r["gradient_norm"] for r in read_metrics(tmp_path) if r["kind"] == "step"]
    assert row["gradient_norm"] == pytest.approx(sum(norms) / len(norms))


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


def test_tensorboard_forgets_what_is_done_again(tmp_path) -> None:
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


# Epochs that are kept


def test_the_last_epochs_are_kept(tones, averaged, tmp_path) -> None:
    values = {"average_decay": 0.5, "epochs": 3}
    train(tiny_task(tmp_path, tones, keep=2, **values))
    kept = sorted(tmp_path.glob("epoch-*.pt"))
    assert [path.name for path in kept] == ["epoch-0002.pt", "epoch-0003.pt"]
    assert_same_run(tmp_path, averaged)
    last, newest = (
        checkpoint.Checkpoint.read(path).payload for path in (tmp_path / "last.pt", kept[-1])
    )
    assert newest["training"] is None
    assert newest["facts"]["epoch"] == 3
    for name, weight in last["weights"].items():
        assert torch.equal(newest["weights"][name], weight)
        assert weight.dtype == torch.float32
    assert not list(averaged.glob("epoch-*.pt"))


def test_an_older_epoch_goes_only_when_the_new_one_stands(tones, tmp_path, monkeypatch) -> None:
    write = checkpoint.write_atomically

    def fail_in_second(path, fill) -> None:
        if path.name == "epoch-0002.pt":
            raise FileError(f"{path} could not be written")
        write(path, fill)

    monkeypatch.setattr(checkpoint, "write_atomically", fail_in_second)
    with pytest.raises(FileError, match="epoch-0002"):
        train(tiny_task(tmp_path, tones, keep=1))
    assert [path.name for path in tmp_path.glob("epoch-*.pt")] == ["epoch-0001.pt"]


# A full disk


class Limiter(TrainingCallbacks):
    """Lets no file of this process grow beyond a part of this one, once the first epoch is over."""

    def __init__(self, file: Path, part: float) -> None:
        self.file = file
        self.part = part

    def epoch_begins(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        if epoch == 2:
            size = int(self.part * self.file.stat().st_size)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def train_and_tell(task: Task, told) -> None:
    try:
        train(task)
    except FileError as error:
        told.send(str(error))


@pytest.mark.parametrize(
    ("file", "part", "named"),
    [("last.pt", 0.5, "last.pt could not"), ("metrics.jsonl", 1.1, "metrics.jsonl or the Tens")],
)
def test_a_full_disk_stops_in_one_sentence_and_destroys_nothing(
    tones, unbroken, tmp_path, capfd, file: str, part: float, named: str
) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    task = tiny_task(tmp_path, tones, checkpoint_steps=100, listener=Limiter(tmp_path / file, part))
    process = context.Process(target=train_and_tell, args=(task, sender))
    process.start()
    process.join()
    assert receiver.poll()
    sentence = receiver.recv()
    assert named in sentence
    assert "(File too large)" in sentence
    assert "\n" not in sentence
    assert "Traceback" not in capfd.readouterr().err
    last = checkpoint.Checkpoint.read(tmp_path / "last.pt").payload
    assert last["facts"]["epoch"] == 1
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]
    assert train(tiny_task(tmp_path, tones, checkpoint_steps=100)).epoch == 3
    assert_same_run(tmp_path, unbroken)


def test_a_failed_save_ends_the_recipe_with_2_and_leaves_the_checkpoint(
    tones, tmp_path, monkeypatch
) -> None:
    def fail(payload: object, file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    train(tiny_task(tmp_path, tones, listener=Saboteur(4, signal.SIGTERM)))
    before = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(FileError, match=r"No space left on device\); free some space"):
        train(tiny_task(tmp_path, tones))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*.pt.*"))


def test_an_unreadable_recording_stops_by_name(tones, tmp_path) -> None:
    gone = dataclasses.replace(tones[0], id="gone", audio=str(tmp_path / "gone.wav"))
    with pytest.raises(AudioError, match=r"gone\.wav"):
        train(tiny_task(tmp_path / "run", [*tones, gone], epochs=1))


def test_a_dev_set_that_cannot_be_scored_is_refused_at_the_start(tones, tmp_path) -> None:
    shouted = dataclasses.replace(tones[0], text=tones[0].text.upper())
    assert train(tiny_task(tmp_path / "a", tones, epochs=1, dev_set=[shouted])).epoch == 1
    with pytest.raises(TextError, match=r"u0.*'7'"):
        train(tiny_task(tmp_path, tones, dev_set=[dataclasses.replace(tones[0], text="7")]))
    with pytest.raises(DataError, match="dev set holds no utterance"):
        train(tiny_task(tmp_path, tones, dev_set=[]))
    gone = dataclasses.replace(tones[0], audio=str(tmp_path / "gone.wav"))
    with pytest.raises(DataError, match=r"gone\.wav, the recording of u0 in the dev set"):
        train(tiny_task(tmp_path, tones, dev_set=[gone]))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_another_sample_rate_goes_all_the_way(tones, tmp_path) -> None:
    features = FeaturesConfig(sample_rate=8000, high_hz=4000.0, mels=20)
    train(tiny_task(tmp_path, tones, epochs=1, features=features))
    wide = checkpoint.Checkpoint.read(tmp_path / "best.pt").model()
    waveforms = [load_audio(u.audio, 8000) for u in tones]
    mean = wide.features.mean.clone()
    wide.features.measure(waveforms)
    assert torch.equal(wide.features.mean, mean)


def test_what_a_killed_save_has_left_is_removed(tones, tmp_path) -> None:
    for name in ("last.pt", "curves.png"):
        (tmp_path / f".{name}.0123456789abcdef").write_bytes(b"half")
    train(tiny_task(tmp_path, tones, epochs=1))
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


def test_an_error_within_an_epoch_closes_its_bar(tones, tmp_path) -> None:
    ended = []

    class Watcher(TrainingCallbacks):
        def epoch_ends(self) -> None:
            ended.append(True)

    gone = [dataclasses.replace(u, audio=str(tmp_path / "gone.wav")) for u in tones[1:]]
    task = tiny_task(tmp_path / "run", tones, listener=Watcher())
    train(tiny_task(tmp_path / "run", tones, listener=Saboteur(1, signal.SIGINT)))
    task.training_set = [tones[0], *gone]
    with pytest.raises(AudioError):
        train(task)
    assert ended == [True]


def test_bf16_on_a_cpu_is_refused(tones, tmp_path) -> None:
    with pytest.raises(ConfigError, match="bf16"):
        train(tiny_task(tmp_path, tones, precision="bf16"))


def test_metrics_are_plain_json_lines(unbroken) -> None:
    with (unbroken / "metrics.jsonl").open() as file:
        first = json.loads(file.readline())
    assert set(first) == {"kind", "step", "epoch", "loss", "gradient_norm", "learning_rate"}


# One training in a folder


def test_a_folder_is_one_trainings_alone(tones, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.2)
    notes = Notes()
    with files.lock_folder(tmp_path):
        with pytest.raises(FileError, match="Another process is at work in"):
            train(tiny_task(tmp_path, tones, epochs=1, listener=notes))
        assert notes.lines == [f"Another process is at work in {tmp_path}: waiting for its end."]
        assert not (tmp_path / "last.pt").exists()
    assert train(tiny_task(tmp_path, tones, epochs=1)).epoch == 1


def test_an_interruption_of_the_validation_loses_no_step(
    tones, unbroken, tmp_path, monkeypatch
) -> None:
    honest = asr.training.run.Recognizer.emissions

    def emissions(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from honest(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(asr.training.run.Recognizer, "emissions", emissions)
        assert train(tiny_task(tmp_path, tones)).interrupted
    counters = checkpoint.Checkpoint.read(tmp_path / "last.pt").payload["training"]["counters"]
    assert (counters["epoch"], counters["step"]) == (0, counters["step_in_epoch"])
    assert not (tmp_path / "best.pt").exists()
    notes = Notes()
    assert train(tiny_task(tmp_path, tones, listener=notes)).epoch == 3
    assert f"after 0 epochs and {counters['step']} steps" in notes.lines[0]
    assert_same_run(tmp_path, unbroken)


def test_what_an_error_in_the_validation_stops_goes_on_behind_its_epochs_steps(
    tones, unbroken, tmp_path, monkeypatch
) -> None:
    def emissions(*_: Any) -> Any:
        raise AudioError("gone meanwhile")

    with monkeypatch.context() as patched:
        patched.setattr(asr.training.run.Recognizer, "emissions", emissions)
        with pytest.raises(AudioError, match="gone meanwhile"):
            train(tiny_task(tmp_path, tones, checkpoint_steps=100))
    assert (
        checkpoint.Checkpoint.read(tmp_path / "last.pt").payload["training"]["counters"]["step"] > 1
    )
    assert train(tiny_task(tmp_path, tones, checkpoint_steps=100)).epoch == 3
    assert_same_run(tmp_path, unbroken)


def test_a_best_model_whose_training_is_gone_is_not_written_over(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    (tmp_path / "last.pt").unlink()
    before = (tmp_path / "best.pt").read_bytes(), read_metrics(tmp_path)
    with pytest.raises(ConfigError, match=r"best\.pt is there without the last\.pt"):
        train(tiny_task(tmp_path, tones, epochs=1))
    assert before == ((tmp_path / "best.pt").read_bytes(), read_metrics(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b'{"kind": "epoch", "ep\n{"kind": "epo'])
def test_a_lost_log_does_not_stop_the_training(
    tones, unbroken, tmp_path, content: bytes | None
) -> None:
    assert train(tiny_task(tmp_path, tones, listener=Saboteur(4, signal.SIGTERM))).interrupted
    path = tmp_path / "metrics.jsonl"
    kept = path.stat().st_size
    path.unlink() if content is None else path.write_bytes(content)
    notes = Notes()
    assert train(tiny_task(tmp_path, tones, listener=notes)).epoch == 3
    assert any("goes on with a gap" in line for line in notes.lines)
    assert path.read_bytes().endswith((unbroken / "metrics.jsonl").read_bytes()[kept:])
    ours, theirs = (
        checkpoint.Checkpoint.read(folder / "last.pt").payload for folder in (tmp_path, unbroken)
    )
    assert list(differences(ours["training"]["weights"], theirs["training"]["weights"], "")) == []


def test_curves_that_a_kill_left_undrawn_are_drawn(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    (tmp_path / "curves.png").unlink()
    train(tiny_task(tmp_path, tones, epochs=1))
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_configuration_is_kept_and_not_that_of_a_refused_command(tones, tmp_path) -> None:
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
    with pytest.raises(ConfigError, match="the recordings of noises and rooms"):
        train(task())


def test_the_dev_loss_is_that_of_all_frames_of_a_long_recording(
    tones, tmp_path, monkeypatch
) -> None:
    """Also where the model hears nothing but pauses, in which a transcription would cut it."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 14 * 16_000), 16_000)
    long = Utterance("long", str(path), 14.0, "abc")
    honest = asr.training.run.AcousticModel.__init__

    def deaf(self: Any, *arguments: Any) -> None:
        honest(self, *arguments)
        with torch.no_grad():
            self.head.bias[0] = 30.0  # blank

    monkeypatch.setattr(asr.training.run.AcousticModel, "__init__", deaf)
    train(tiny_task(tmp_path / "run", tones, epochs=1, learning_rate=1e-9, dev_set=[long]))
    [row] = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "epoch"]
    assert row["blank_ratio"] == 1.0
    assert row["dev_loss"] == pytest.approx(24, abs=1.5)  # nats a letter, in any of 350 frames
