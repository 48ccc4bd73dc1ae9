"""Training: it learns, resumes exactly (law 3), and does not depend on the number of processes."""

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from corpus import tiny_task, write_tones

from asr import checkpoint
from asr.audio import load_audio
from asr.augment import AugmentConfig
from asr.curves import read_metrics
from asr.data import Utterance
from asr.distributed import RuntimeConfig, join, launch, sum_over_processes
from asr.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DataError,
    TextError,
    TrainingError,
)
from asr.features import FeaturesConfig
from asr.lstm import EncoderConfig
from asr.text import Vocabulary
from asr.train import Listener, Task, train


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


class Saboteur(Listener):
    """Sends this process a signal when the run reaches a step."""

    def __init__(self, at_step: int, number: int) -> None:
        self.at_step = at_step
        self.number = number
        self.step = 0

    def steps_done(self, steps: int, loss: float) -> None:
        self.step += steps
        if self.step == self.at_step:
            os.kill(os.getpid(), self.number)


def assert_same_run(one: Path, other: Path) -> None:
    """Every metric and every weight, bit for bit."""
    assert read_metrics(one) == read_metrics(other)
    ours, theirs = checkpoint.read(one / "last.pt"), checkpoint.read(other / "last.pt")
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name
    assert str(ours["training"]["optimizer"]) == str(theirs["training"]["optimizer"])
    best, others = checkpoint.read(one / "best.pt"), checkpoint.read(other / "best.pt")
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


@pytest.mark.parametrize("at_step", [2, 8])
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_the_unbroken_run(
    tones, unbroken, tmp_path, at_step: int, workers: int
) -> None:
    runtime = RuntimeConfig(device="cpu", processes=1, threads=1, workers=workers)
    task = tiny_task(tmp_path, tones, runtime=runtime, listener=Saboteur(at_step, signal.SIGKILL))
    process = multiprocessing.get_context("spawn").Process(target=train, args=(task,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    train(tiny_task(tmp_path, tones, runtime=runtime))
    assert_same_run(tmp_path, unbroken)


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
        return tiny_task(tmp_path / name, tones, epochs=2, runtime=runtime, **values)

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


def test_utterances_that_cannot_be_learnt_are_told_and_left_out(tones, tmp_path) -> None:
    lines = []

    class Notes(Listener):
        def say(self, line: str) -> None:
            lines.append(line)

    odd = [
        dataclasses.replace(tones[0], id="greek", text="α"),
        dataclasses.replace(tones[0], id="hasty", text="abcd" * 100),
    ]
    train(tiny_task(tmp_path, tones + odd, epochs=1, listener=Notes()))
    told = "\n".join(lines)
    assert "1 left out, characters not in the vocabulary: greek" in told
    assert "1 left out, too short for its text: hasty" in told
    with pytest.raises(DataError, match="No training utterance is left"):
        train(tiny_task(tmp_path / "none", odd, epochs=1, dev_set=tones))


def test_a_loss_that_is_not_finite_stops_by_name(tones, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"loss at step \d+ is .* on .*u\d"):
        train(tiny_task(tmp_path, tones, learning_rate=1e30, warmup_steps=0))


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
    assert not (tmp_path / "metrics.jsonl").exists()


def test_another_sample_rate_goes_all_the_way(tones, tmp_path) -> None:
    features = FeaturesConfig(sample_rate=8000, high_hz=4000.0, mels=20)
    train(tiny_task(tmp_path, tones, epochs=1, features=features))
    wide, _ = checkpoint.load_model(tmp_path / "best.pt")
    waveforms = [load_audio(u.audio, 8000) for u in tones]
    mean = wide.features.mean.clone()
    wide.features.measure(waveforms)
    assert torch.equal(wide.features.mean, mean)


def test_what_a_killed_save_has_left_is_removed(tones, tmp_path) -> None:
    (tmp_path / ".last.pt.abc").write_bytes(b"half")
    train(tiny_task(tmp_path, tones, epochs=1))
    assert not (tmp_path / ".last.pt.abc").exists()


def test_an_error_within_an_epoch_closes_its_bar(tones, tmp_path) -> None:
    ended = []

    class Watcher(Listener):
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
