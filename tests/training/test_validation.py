"""Validation: what is measured on the dev set, and what interrupts it."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from corpus import tiny_task
from training_runs import Notes, assert_same_run, steps_in

import asr.training.curves
import asr.training.diagnosis
import asr.training.run
import asr.training.trainer
from asr.audio.waveform import load_audio
from asr.checkpoint import Checkpoint
from asr.data.manifest import Utterance
from asr.errors import (
    AudioError,
    DataError,
    TextError,
    TrainingError,
)
from asr.training.metrics import read_metrics
from asr.training.run import train


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


def test_averaging_changes_nothing_of_the_training(unbroken, averaged) -> None:
    assert steps_in(averaged) == steps_in(unbroken)
    last = Checkpoint.read(unbroken / "last.pt").payload
    same = Checkpoint.read(averaged / "last.pt").payload["training"]["weights"]
    for name, weight in last["training"]["weights"].items():
        assert torch.equal(weight, last["weights"][name]), name
        assert torch.equal(weight, same[name]), name


def test_the_average_is_what_is_validated_and_kept(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1, average_decay=0.9))
    (epoch,) = [row for row in read_metrics(tmp_path) if row["kind"] == "epoch"]
    saved = Checkpoint.read(tmp_path / "best.pt")
    best, vocabulary = saved.model(), saved.vocabulary
    last = Checkpoint.read(tmp_path / "last.pt").payload
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


def test_diverged_weights_stop_the_training(tones, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"no probabilities for u\d, .*learning_rate"):
        train(tiny_task(tmp_path, tones, learning_rate=1e30, warmup_steps=0))


def test_the_blank_ratio_is_that_of_the_dev_set(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    [row] = [row for row in read_metrics(tmp_path) if row["kind"] == "epoch"]
    model = Checkpoint.read(tmp_path / "best.pt").model()
    emissions = [model.emit([load_audio(u.audio, 16_000)]) for u in tones[:3]]
    blanks = [int((e.log_probs[0].argmax(-1) == 0).sum()) for e in emissions]
    frames = [int(e.lengths[0]) for e in emissions]
    assert row["blank_ratio"] == pytest.approx(sum(blanks) / sum(frames))
    norms = [r["gradient_norm"] for r in read_metrics(tmp_path) if r["kind"] == "step"]
    assert row["gradient_norm"] == pytest.approx(sum(norms) / len(norms))


def test_a_dev_set_that_cannot_be_scored_is_refused_at_the_start(tones, tmp_path) -> None:
    shouted = dataclasses.replace(tones[0], text=tones[0].text.upper())
    assert train(tiny_task(tmp_path / "a", tones, epochs=1, dev_set=[shouted])).epoch == 1
    with pytest.raises(TextError, match=r"u0.*'7'"):
        train(tiny_task(tmp_path, tones, dev_set=[dataclasses.replace(tones[0], text="7")]))
    with pytest.raises(DataError, match="the dev set contains no utterance"):
        train(tiny_task(tmp_path, tones, dev_set=[]))
    gone = dataclasses.replace(tones[0], audio=str(tmp_path / "gone.wav"))
    with pytest.raises(DataError, match=r"gone\.wav, the recording of u0 in the dev set"):
        train(tiny_task(tmp_path, tones, dev_set=[gone]))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_interrupting_the_validation_loses_no_step(tones, unbroken, tmp_path, monkeypatch) -> None:
    honest = asr.training.validation.Recognizer.emissions

    def emissions(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from honest(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(asr.training.validation.Recognizer, "emissions", emissions)
        assert train(tiny_task(tmp_path, tones)).interrupted
    counters = Checkpoint.read(tmp_path / "last.pt").payload["training"]["counters"]
    assert (counters["epoch"], counters["step"]) == (0, counters["step_in_epoch"])
    assert not (tmp_path / "best.pt").exists()
    notes = Notes()
    assert train(tiny_task(tmp_path, tones, callbacks=notes)).epoch == 3
    assert f"after 0 epochs and {counters['step']} steps" in notes.lines[0]
    assert_same_run(tmp_path, unbroken)


def test_after_an_error_in_the_validation_no_step_is_repeated(
    tones, unbroken, tmp_path, monkeypatch
) -> None:
    def emissions(*_: Any, **__: Any) -> Any:
        raise AudioError("gone meanwhile")

    with monkeypatch.context() as patched:
        patched.setattr(asr.training.validation.Recognizer, "emissions", emissions)
        with pytest.raises(AudioError, match="gone meanwhile"):
            train(tiny_task(tmp_path, tones, checkpoint_steps=100))
    assert Checkpoint.read(tmp_path / "last.pt").payload["training"]["counters"]["step"] > 1
    assert train(tiny_task(tmp_path, tones, checkpoint_steps=100)).epoch == 3
    assert_same_run(tmp_path, unbroken)


def test_the_dev_loss_covers_all_frames_of_a_long_recording(tones, tmp_path, monkeypatch) -> None:
    """Even if the model emits only blanks, where a transcription would be split."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 14 * 16_000), 16_000)
    long = Utterance("long", str(path), 14.0, "abc")
    honest = asr.training.preparation.AcousticModel.__init__

    def deaf(self: Any, *arguments: Any) -> None:
        honest(self, *arguments)
        with torch.no_grad():
            self.head.bias[0] = 30.0  # blank

    monkeypatch.setattr(asr.training.preparation.AcousticModel, "__init__", deaf)
    train(tiny_task(tmp_path / "run", tones, epochs=1, learning_rate=1e-9, dev_set=[long]))
    [row] = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "epoch"]
    assert row["blank_ratio"] == 1.0
    assert row["dev_loss"] == pytest.approx(24, abs=1.5)  # nats a letter, in any of 350 frames
