"""Training as a whole: it learns, it keeps what it should, and it stops with a clear message."""

import dataclasses
import json
import multiprocessing
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpus import tiny_task
from training_runs import Notes, Saboteur, assert_same_run, spoil_losses, steps_in

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
from asr.encoder import EncoderConfig
from asr.errors import (
    AudioError,
    ConfigError,
    DataError,
    FileError,
    TrainingError,
)
from asr.features import FeaturesConfig
from asr.runtime.distributed import RuntimeConfig, all_reduce_sum, launch, process_group
from asr.training.config import TrainingCallbacks
from asr.training.metrics import read_metrics
from asr.training.run import Task, largest_batch, train
from asr.training.trainer import Trainer


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


def test_two_processes_give_the_losses_of_one(tones, tmp_path, pair) -> None:
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
    outcome = pair.run(train, task("two", 2))
    assert outcome.epoch == 7
    one, two = steps_in(tmp_path / "one"), steps_in(tmp_path / "two")
    assert len(one) == len(two) >= 20
    assert one == pytest.approx(two, abs=1e-4)


def spoil(tones: list[Utterance], folder: Path, *numbers: int) -> list[Utterance]:
    """The tones, some of them with samples that are not numbers."""
    spoiled = list(tones)
    for number in numbers:
        waveform, rate = soundfile.read(tones[number].audio, dtype="float32")
        waveform[100] = np.nan
        path = folder / f"spoiled-{number}.wav"
        soundfile.write(path, waveform, rate, "FLOAT")
        spoiled[number] = replace(tones[number], audio=str(path))
    return spoiled


def test_a_recording_that_cannot_be_read_is_named_and_skipped(tones, tmp_path) -> None:
    notes = Notes()
    spoiled = spoil(tones, tmp_path, 5)
    assert (
        train(tiny_task(tmp_path / "run", spoiled, dev_set=tones[:3], callbacks=notes)).epoch == 3
    )
    skipped = [line for line in notes.lines if "is skipped" in line]
    assert len(skipped) == 1  # although it is met in every epoch
    assert "The recording of u5 is skipped" in skipped[0]
    assert "spoiled-5.wav contains samples that are not finite numbers" in skipped[0]
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "unreadable"]
    assert [row["utterance"] for row in rows] == ["u5"]


def test_two_processes_skip_the_same_recordings(tones, tmp_path, pair) -> None:
    spoiled = spoil(tones, tmp_path, 5)
    folders = []
    for processes, run in ((1, lambda function, task: function(task)), (2, pair.run)):
        runtime = RuntimeConfig(device="cpu", processes=processes, threads=1, workers=0)
        encoder = EncoderConfig(layers=2, hidden=16, stack=4, dropout=0.0)
        folders.append(tmp_path / str(processes))
        run(
            train,
            tiny_task(folders[-1], spoiled, dev_set=tones[:3], runtime=runtime, encoder=encoder),
        )
    one, two = map(steps_in, folders)
    assert one == pytest.approx(two, abs=1e-4)
    assert any(row["kind"] == "unreadable" for row in read_metrics(folders[1]))


@pytest.mark.parametrize(("numbers", "limit"), [((2, 5), 20), ((5,), 0)])
def test_more_unreadable_recordings_than_the_limit_stop_the_training(
    tones, tmp_path, numbers: tuple[int, ...], limit: int
) -> None:
    spoiled = spoil(tones, tmp_path, *numbers)
    task = tiny_task(tmp_path / "run", spoiled, dev_set=tones[:3], unreadable_limit=limit)
    with pytest.raises(
        TrainingError, match=rf"^{len(numbers)} recordings? .*spoiled-\d\.wav"
    ) as caught:
        train(task)
    # Raising the limit helps only below a tenth of the training set.
    assert ("or raise training.unreadable_limit" in str(caught.value)) == (limit == 0)


def test_a_set_of_which_nothing_can_be_read_is_refused(tones, tmp_path) -> None:
    missing = [replace(tone, audio=str(tmp_path / "gone.wav")) for tone in tones]
    with pytest.raises(AudioError, match=r"gone\.wav does not exist"):
        train(tiny_task(tmp_path / "run", missing, dev_set=tones[:3]))


def fail_on_second(runtime: RuntimeConfig) -> None:
    with process_group(runtime) as process:
        if process.rank == 1:
            raise DataError("this manifest is wrong on purpose")
        all_reduce_sum(torch.zeros(1))  # the other one waits in vain


def test_an_error_in_one_process_is_that_error_here() -> None:
    with pytest.raises(DataError, match=r"^this manifest is wrong on purpose$"):
        launch(fail_on_second, RuntimeConfig(device="cpu", processes=2, threads=1), 2)


def test_it_can_memorize_its_training_set(tones, tmp_path) -> None:
    outcome = train(
        tiny_task(
            tmp_path,
            tones[:6],
            epochs=100,
            batch_seconds=20.0,
            learning_rate=2e-2,
            checkpoint_steps=1000,
            augment=AugmentConfig(speeds=[1.0], time_masks=0, mel_masks=0),
            encoder=EncoderConfig(layers=1, hidden=32, stack=2, dropout=0.0),
        )
    )
    assert outcome.best_wer == 0


def test_utterances_that_cannot_be_learned_are_reported_and_left_out(tones, tmp_path) -> None:
    notes = Notes()
    odd = [
        dataclasses.replace(tones[0], id="greek", text="α"),
        dataclasses.replace(tones[0], id="hasty", text="abcd" * 100),
    ]
    train(tiny_task(tmp_path, tones + odd, epochs=1, callbacks=notes))
    lines = "\n".join(notes.lines)
    assert "1 left out, characters not in the vocabulary: greek" in lines
    assert "1 left out, too short for its text: hasty" in lines
    with pytest.raises(DataError, match="no training utterance is left"):
        train(tiny_task(tmp_path / "none", odd, epochs=1, dev_set=tones))


def test_a_bad_step_is_skipped_and_named(tones, tmp_path, monkeypatch) -> None:
    spoil_losses(monkeypatch, "u3")
    notes = Notes()
    assert train(tiny_task(tmp_path, tones, average_decay=0.5, callbacks=notes)).epoch == 3
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


@pytest.mark.parametrize("limit", [1, 2])
def test_too_many_bad_steps_in_a_row_stop_by_name(tones, tmp_path, monkeypatch, limit: int) -> None:
    spoil_losses(monkeypatch, *(u.id for u in tones))
    message = (
        rf"loss at step {limit} is nan with gradient norm nan on u\d.*, the last of {limit} such"
    )
    with pytest.raises(TrainingError, match=message):
        train(tiny_task(tmp_path, tones, bad_steps_limit=limit))


def test_bad_steps_apart_from_each_other_do_not_stop(tones, tmp_path, monkeypatch) -> None:
    spoil_losses(monkeypatch, "u3")
    assert train(tiny_task(tmp_path, tones, bad_steps_limit=3)).epoch == 3
    bad = [row["kind"] == "skipped" for row in read_metrics(tmp_path) if row["kind"] != "epoch"]
    assert sum(bad) == 3  # as many as would stop it in a row


def test_an_epoch_of_bad_steps_stops_below_the_limit(tones, tmp_path, monkeypatch) -> None:
    spoil_losses(monkeypatch, *(u.id for u in tones))
    with pytest.raises(
        TrainingError, match=r"on (u\d+, )+u\d+( and \d+ more)?, the last of \d such"
    ):
        train(tiny_task(tmp_path, tones, bad_steps_limit=1000))
    assert not (tmp_path / "best.pt").exists()


@pytest.mark.parametrize("augment", [None, AugmentConfig(speeds=[0.5, 1.0], tempo=0.2)])
def test_the_largest_batch_holds_the_most_padded_audio(augment: AugmentConfig | None) -> None:
    seconds = [1.0, 7.5, 2.0, 2.2, 3.9, 4.0, 1.1, 1.2]
    plan = Planner(seconds, [f"u{i}" for i in range(8)], 8.0, augment, seed=3).epoch(2)
    padded = [max(plan.seconds[i] for i in batch) * len(batch) for batch in plan.batches]
    largest = largest_batch(plan)
    assert max(padded) == max(plan.seconds[i] for i in largest) * len(largest)
    assert len({round(p, 6) for p in padded}) > 1


def test_a_run_whose_memory_is_checked_is_the_same_run(
    tones, averaged, tmp_path, monkeypatch
) -> None:
    rehearsed = []

    def check_memory(trainer: Trainer, batch: Batch) -> None:
        rehearsed.append(batch)
        original(trainer, batch)

    original = Trainer.check_memory
    monkeypatch.setattr(asr.training.run, "MEMORY_CHECKED_DEVICES", ("cpu",))
    monkeypatch.setattr(Trainer, "check_memory", check_memory)
    values = {"average_decay": 0.5}
    task = tiny_task(tmp_path, tones, callbacks=Saboteur(4, signal.SIGTERM), **values)
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
def test_too_large_a_batch_is_reported_before_the_first_step(
    tones, tmp_path, monkeypatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(asr.training.run, "MEMORY_CHECKED_DEVICES", ("cpu",))
    monkeypatch.setattr(asr.training.trainer, "ctc_losses", fail)
    message = (
        r"^\d+ utterance\(s\) of \d+ feature frames.*batch_seconds \(now 6\).*accumulate \(now 2\)"
    )
    with pytest.raises(TrainingError, match=message):
        train(tiny_task(tmp_path, tones, accumulate=2))
    assert steps_in(tmp_path) == []


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


def test_an_older_epoch_is_removed_only_after_the_new_one_is_saved(
    tones, tmp_path, monkeypatch
) -> None:
    write = checkpoint.write_atomically

    def fail_in_second(path, fill) -> None:
        if path.name == "epoch-0002.pt":
            raise FileError(f"{path} could not be written")
        write(path, fill)

    monkeypatch.setattr(checkpoint, "write_atomically", fail_in_second)
    with pytest.raises(FileError, match="epoch-0002"):
        train(tiny_task(tmp_path, tones, keep=1))
    assert [path.name for path in tmp_path.glob("epoch-*.pt")] == ["epoch-0001.pt"]


class Limiter(TrainingCallbacks):
    """Lets no file of this process grow beyond a part of this one, once the first epoch is over."""

    def __init__(self, file: Path, part: float) -> None:
        self.file = file
        self.part = part

    def epoch_begins(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        if epoch == 2:
            size = int(self.part * self.file.stat().st_size)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def train_and_report(task: Task, pipe) -> None:
    try:
        train(task)
    except FileError as error:
        pipe.send(str(error))


@pytest.mark.parametrize(
    ("file", "part", "named"),
    [("last.pt", 0.5, "last.pt could not"), ("metrics.jsonl", 1.1, "metrics.jsonl or the Tens")],
)
def test_a_full_disk_stops_with_one_sentence_and_destroys_nothing(
    tones, unbroken, tmp_path, capfd, file: str, part: float, named: str
) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    task = tiny_task(
        tmp_path, tones, checkpoint_steps=100, callbacks=Limiter(tmp_path / file, part)
    )
    process = context.Process(target=train_and_report, args=(task, sender))
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

    train(tiny_task(tmp_path, tones, callbacks=Saboteur(4, signal.SIGTERM)))
    before = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(FileError, match=r"No space left on device\); free some space"):
        train(tiny_task(tmp_path, tones))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*.pt.*"))


def test_another_sample_rate_is_used_everywhere(tones, tmp_path) -> None:
    features = FeaturesConfig(sample_rate=8000, high_hz=4000.0, mels=20)
    train(tiny_task(tmp_path, tones, epochs=1, features=features))
    wide = checkpoint.Checkpoint.read(tmp_path / "best.pt").model()
    waveforms = [load_audio(u.audio, 8000) for u in tones]
    mean = wide.features.mean.clone()
    wide.features.fit_normalization(waveforms)
    assert torch.equal(wide.features.mean, mean)


def test_an_error_within_an_epoch_closes_its_bar(tones, tmp_path) -> None:
    ended = []

    class Watcher(TrainingCallbacks):
        def epoch_ends(self) -> None:
            ended.append(True)

    gone = [dataclasses.replace(u, audio=str(tmp_path / "gone.wav")) for u in tones[1:]]
    task = tiny_task(tmp_path / "run", tones, callbacks=Watcher())
    train(tiny_task(tmp_path / "run", tones, callbacks=Saboteur(1, signal.SIGINT)))
    task.data.training_set = [tones[0], *gone]
    with pytest.raises(TrainingError, match="cannot be read"):
        train(task)
    assert ended == [True]


def test_bf16_on_a_cpu_is_refused(tones, tmp_path) -> None:
    with pytest.raises(ConfigError, match="bf16"):
        train(tiny_task(tmp_path, tones, precision="bf16"))


def test_only_one_training_works_in_a_folder(tones, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.2)
    notes = Notes()
    with files.lock_folder(tmp_path):
        with pytest.raises(FileError, match="another process is using"):
            train(tiny_task(tmp_path, tones, epochs=1, callbacks=notes))
        assert notes.lines == [f"Another process is using {tmp_path}; waiting until it finishes."]
        assert not (tmp_path / "last.pt").exists()
    assert train(tiny_task(tmp_path, tones, epochs=1)).epoch == 1
