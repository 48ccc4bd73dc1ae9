"""Training that starts from a checkpoint, and the scale that keeps float16 gradients whole."""

import os
import signal
from pathlib import Path

import pytest
import torch
from corpus import tiny_task

from asr import checkpoint
from asr.data.augment import AugmentConfig
from asr.data.loading import Batch
from asr.encoder import EncoderConfig
from asr.errors import CheckpointError, ConfigError
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.runtime.distributed import Process
from asr.text import BLANK, Vocabulary
from asr.training.config import TrainingCallbacks, TrainingConfig
from asr.training.metrics import read_metrics
from asr.training.preparation import make_model
from asr.training.resume import start_from
from asr.training.run import train
from asr.training.trainer import Trainer


@pytest.fixture(scope="module")
def before(tones, tmp_path_factory) -> Path:
    """The checkpoint of another training."""
    folder = tmp_path_factory.mktemp("before")
    train(tiny_task(folder, tones, epochs=25, learning_rate=0.02))
    return folder / "best.pt"


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if row["kind"] == "step"]


def test_it_starts_with_the_loss_of_the_other_training(tones, before, tmp_path) -> None:
    def first_loss(name: str, **values) -> float:
        plain = AugmentConfig(speeds=[1.0], time_masks=0, mel_masks=0)
        train(tiny_task(tmp_path / name, tones, epochs=1, augment=plain, **values))
        return losses(tmp_path / name)[0]

    assert first_loss("on", start_from=str(before)) < 0.8 * first_loss("anew")
    ours, theirs = (
        checkpoint.Checkpoint.read(p).payload["weights"]
        for p in (tmp_path / "on" / "last.pt", before)
    )
    for name in ("features.mean", "features.std"):  # not measured again
        assert torch.equal(ours[name], theirs[name])


class Stopper(TrainingCallbacks):
    """Asks the training to stop after five steps."""

    steps = 0

    def steps_done(self, steps: int, loss: float) -> None:
        self.steps += steps
        if self.steps == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def test_resumed_it_does_not_start_again(tones, before, tmp_path) -> None:
    def run(folder: str, callbacks: TrainingCallbacks) -> bool:
        task = tiny_task(tmp_path / folder, tones, start_from=str(before), callbacks=callbacks)
        return train(task).interrupted

    assert not run("whole", TrainingCallbacks())
    assert run("stopped", Stopper())
    assert not run("stopped", TrainingCallbacks())
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_another_model_is_refused_with_the_values_to_add(tones, before, tmp_path) -> None:
    task = tiny_task(
        tmp_path,
        tones,
        start_from=str(before),
        features=FeaturesConfig(mels=24),
        encoder=EncoderConfig(layers=2, hidden=32, stack=4, dropout=0.3, whole=0.1),
    )
    with pytest.raises(ConfigError, match=r"add features.mels=20 encoder.hidden=16 to the command"):
        train(task)


def test_another_alphabet_keeps_the_rows_of_the_symbols_that_both_have(
    tones, before, tmp_path
) -> None:
    vocabulary = Vocabulary((BLANK, *"dcba éж"))
    task = tiny_task(tmp_path, tones, start_from=str(before), vocabulary=vocabulary)
    model = make_model(task)
    message = start_from(model, task)
    old = checkpoint.Checkpoint.read(before)
    for name, weights in model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(weights, old.weights[name]), name
    ours, theirs = vocabulary.to_list(), old.vocabulary.to_list()
    for symbol in set(ours) & set(theirs):
        row, other = ours.index(symbol), theirs.index(symbol)
        assert torch.equal(model.head.weight[row], old.weights["head.weight"][other])
        assert torch.equal(model.head.bias[row], old.weights["head.bias"][other])
    assert message.startswith(f"Starting from the weights of {before}. Characters that are new")
    assert "new to it: 'éж'. Characters that it loses: \"efghij" in message


def test_a_checkpoint_that_does_not_exist(tones, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        train(tiny_task(tmp_path, tones, start_from=str(tmp_path / "none.pt")))


def test_the_scale_of_half_precision_does_not_change_a_step() -> None:
    """Gradients are those of a loss per batch, divided again: a power of two changes no bit."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        features=torch.randn(4, 80, 20, generator=generator),
        feature_lengths=torch.tensor([80, 80, 60, 40]),
        targets=torch.randint(1, 29, (4, 4), generator=generator),
        target_lengths=torch.tensor([4, 4, 4, 4]),
        ids=list("abcd"),
        symbols=16,
    )
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        model = AcousticModel(FeaturesConfig(mels=20), EncoderConfig(layers=2, hidden=16), 29)
        trainer = Trainer(model, TrainingConfig(accumulate=2), Process(0, 1, torch.device("cpu")))
        assert not trainer.half
        trainer.half = half
        losses, norm = trainer.step(batch, 0, 0.0)
        found.append((losses, norm, [p.detach().clone() for p in model.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert all(torch.equal(a, b) for a, b in zip(found[0][2], found[1][2], strict=True))
