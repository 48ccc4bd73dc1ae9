"""Two views of an utterance: they differ in their masks, and training brings them together."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import tiny_task
from numpy.typing import NDArray

from asr import checkpoint
from asr.data.augment import AugmentConfig, Augmenter, random_generator
from asr.data.loading import Batch, Example, SpeechDataset, collate, load_batches
from asr.data.manifest import Utterance
from asr.data.planning import Planner
from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig, LogMel
from asr.model import AcousticModel
from asr.runtime.distributed import Process, RuntimeConfig
from asr.text import Vocabulary
from asr.training.config import TrainingCallbacks, TrainingConfig
from asr.training.loss import consistency_loss
from asr.training.metrics import read_metrics
from asr.training.run import train
from asr.training.trainer import Trainer, split

RATE = 16_000
WARPED = AugmentConfig(mel_shift=3.0, tempo=0.1, time_masks=3, mel_mask_bins=6)


# The two views


@pytest.mark.parametrize("epoch", range(5))
def test_the_views_differ_only_in_their_masks(epoch: int) -> None:
    features = np.random.default_rng(1).uniform(1, 2, (200, 40)).astype(np.float32)
    augmenter = Augmenter(WARPED, RATE)
    one = augmenter.augment_features(features, random_generator(0, epoch, "a"))
    first, second = augmenter.augment_features_twice(features, random_generator(0, epoch, "a"))
    np.testing.assert_array_equal(first, one)
    assert first.shape == second.shape
    seen = (first != 0) & (second != 0)
    np.testing.assert_array_equal(first[seen], second[seen])
    assert ((first == 0) != (second == 0)).any()
    assert seen.mean() > 0.2


def views_of(utterances: list[Utterance], augmented: bool) -> list[Batch]:
    vocabulary, log_mel = Vocabulary.english(), LogMel(FeaturesConfig(mels=20))
    lengths = [len(vocabulary.encode(u.text)) for u in utterances]
    augmenter = Augmenter(WARPED, RATE) if augmented else None
    dataset = SpeechDataset(utterances, lengths, vocabulary, log_mel, augmenter, 7, two_views=True)
    planner = Planner([u.seconds for u in utterances], [u.id for u in utterances], 6.0, WARPED, 7)
    return list(load_batches(dataset, planner, range(2)))


def test_batches_hold_both_views(tones) -> None:
    batches, again, plain = (views_of(tones, augmented) for augmented in (True, True, False))
    for batch, other, bare in zip(batches, again, plain, strict=True):
        assert batch.second_view is not None
        assert bare.second_view is not None
        assert batch.second_view.shape == batch.features.shape
        assert not torch.equal(batch.second_view, batch.features)
        for row, length in enumerate(batch.feature_lengths):
            assert not batch.second_view[row, length:].any()
        assert torch.equal(batch.second_view, other.second_view)
        assert torch.equal(bare.second_view, bare.features)  # without augmentation


def test_an_example_without_a_second_view_makes_no_second_views() -> None:
    example = Example("a", torch.ones(3, 2), torch.tensor([5]))
    assert collate([example], 2, symbols=1).second_view is None
    batch = collate([replace(example, second_view=2 * torch.ones(3, 2))], 2, symbols=1)
    assert batch.second_view is not None
    assert batch.second_view.tolist() == [[[2, 2]] * 3]


# The loss


def random_log_probs(seed: int, frames: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, frames, 6, generator=generator).log_softmax(-1)


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """KL(p || q) of two distributions, by its definition."""
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


def test_the_consistency_loss_is_the_divergence_by_its_definition() -> None:
    first, second = random_log_probs(1), random_log_probs(2)
    lengths = torch.tensor([7, 4, 0])
    found = consistency_loss(first, second, lengths)
    p, q = first.double().exp().numpy(), second.double().exp().numpy()
    for row, length in enumerate(lengths.tolist()):
        pairs = [(p[row, t], q[row, t]) for t in range(length)]
        expected = sum(divergence(a, b) + divergence(b, a) for a, b in pairs) / 2
        assert float(found[row]) == pytest.approx(expected, abs=1e-5)
    assert consistency_loss(first, first, lengths).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_each_view_is_a_fixed_target_for_the_other() -> None:
    logits, second = torch.randn(3, 7, 6).requires_grad_(), random_log_probs(2)
    lengths = torch.tensor([7, 4, 1])
    consistency_loss(logits.log_softmax(-1), second, lengths).sum().backward()
    # Of KL(second || softmax(logits)) / 2: cross-entropy's gradient.
    expected = (logits.detach().softmax(-1) - second.exp()) / 2
    expected[torch.arange(7) >= lengths[:, None]] = 0
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-6)


def make_trainer(consistency: float, dropout: float = 0.0, accumulate: int = 1) -> Trainer:
    torch.manual_seed(0)
    encoder = EncoderConfig(layers=2, hidden=8, stack=2, dropout=dropout)
    model = AcousticModel(FeaturesConfig(mels=20), encoder, 6).train()
    config = TrainingConfig(
        warmup_steps=0, learning_rate=1e-2, consistency=consistency, accumulate=accumulate
    )
    return Trainer(model, config, Process(0, 1, torch.device("cpu")))


def make_batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([40 - 6 * i for i in range(count)])
    features = torch.randn(count, 40, 20, generator=generator)
    second = torch.randn(count, 40, 20, generator=generator)
    for row, length in enumerate(lengths):
        features[row, length:] = second[row, length:] = 0
    return Batch(
        features=features,
        feature_lengths=lengths,
        targets=torch.randint(1, 6, (count, 4), generator=generator),
        target_lengths=torch.tensor([4, 3, 2, 4][:count]),
        ids=[f"u{i}" for i in range(count)],
        symbols=13,
        second_view=second,
    )


def test_the_loss_is_the_mean_of_both_plus_the_consistency_loss() -> None:
    trainer, batch = make_trainer(0.3), make_batch()
    assert batch.second_view is not None
    single = [
        trainer.losses(replace(batch, features=view, second_view=None))
        for view in (batch.features, batch.second_view)
    ]
    log_probs = [
        trainer.model(view, batch.feature_lengths).log_probs
        for view in (batch.features, batch.second_view)
    ]
    apart = consistency_loss(*log_probs, -(-batch.feature_lengths // 2))
    expected = (single[0] + single[1]) / 2 + 0.3 * apart / batch.symbols
    torch.testing.assert_close(trainer.losses(batch), expected, rtol=1e-5, atol=1e-6)
    assert (apart > 0.01).all()


def test_dropout_alone_makes_two_views() -> None:
    batch = make_batch()
    batch = replace(batch, second_view=batch.features)
    alike, apart = make_trainer(1.0), make_trainer(1.0, dropout=0.3)
    once = alike.losses(replace(batch, second_view=None))
    torch.testing.assert_close(alike.losses(batch), once, rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    with_distance = apart.losses(batch)
    apart.config = replace(apart.config, consistency=0.0)
    torch.manual_seed(1)
    assert (with_distance > apart.losses(batch) + 1e-3).all()


def test_steps_bring_the_views_together() -> None:
    distances = {}
    for weight in (0.0, 2.0):
        trainer, batch = make_trainer(weight), make_batch()
        assert batch.second_view is not None
        for step in range(60):
            trainer.step(batch, step, 0.0)
        with torch.no_grad():
            log_probs = [
                trainer.model(view, batch.feature_lengths).log_probs
                for view in (batch.features, batch.second_view)
            ]
        distances[weight] = float(
            consistency_loss(*log_probs, -(-batch.feature_lengths // 2)).sum()
        )
    assert distances[2.0] < 0.5 * distances[0.0]


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_is_split_with_its_second_views(parts: int) -> None:
    batch = make_batch()
    assert batch.second_view is not None
    for part in split(batch, parts):
        row = batch.ids.index(part.ids[0])
        frames = part.features.shape[1]
        assert part.second_view is not None
        assert torch.equal(part.second_view, batch.second_view[row : row + len(part.ids), :frames])
    whole, pieces = make_trainer(0.3), make_trainer(0.3, accumulate=parts)
    for step in range(4):
        losses, norm = whole.step(batch, step, 0.0)
        others, other = pieces.step(batch, step, 0.0)
        torch.testing.assert_close(others, losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other, norm, rtol=1e-4, atol=1e-5)


# Training


class Stop(TrainingCallbacks):
    """Interrupts the run at its fourth step."""

    def __init__(self) -> None:
        self.steps = 0

    def steps_done(self, steps: int, loss: float) -> None:
        self.steps += steps
        if self.steps == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def losses_in(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if row["kind"] == "step"]


def test_a_run_is_resumed_exactly_with_any_number_of_workers(tones, tmp_path) -> None:
    train(tiny_task(tmp_path / "whole", tones, epochs=2, consistency=0.2))
    assert train(
        tiny_task(tmp_path / "cut", tones, epochs=2, consistency=0.2, callbacks=Stop())
    ).interrupted
    runtime = RuntimeConfig(device="cpu", processes=1, threads=1, workers=2)
    train(tiny_task(tmp_path / "cut", tones, epochs=2, consistency=0.2, runtime=runtime))
    assert losses_in(tmp_path / "cut") == losses_in(tmp_path / "whole")
    ours, theirs = (
        checkpoint.Checkpoint.read(tmp_path / name / "last.pt").payload for name in ("cut", "whole")
    )
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name


def test_two_processes_have_the_losses_of_one(tones, tmp_path, pair) -> None:
    encoder = EncoderConfig(layers=2, hidden=16, stack=4, dropout=0.0)
    tasks = [
        tiny_task(
            tmp_path / str(processes),
            tones,
            epochs=2,
            consistency=0.5,
            encoder=encoder,
            runtime=RuntimeConfig(device="cpu", processes=processes, threads=1, workers=0),
        )
        for processes in (1, 2)
    ]
    train(tasks[0])
    pair.run(train, tasks[1])
    one, two = losses_in(tmp_path / "1"), losses_in(tmp_path / "2")
    assert one == pytest.approx(two, abs=1e-4)


def test_a_run_is_not_resumed_with_another_weight(tones, tmp_path) -> None:
    train(tiny_task(tmp_path, tones, epochs=1))
    with pytest.raises(ConfigError, match=r"training\.consistency \(0\.0 then, 0\.2 now\)"):
        train(tiny_task(tmp_path, tones, epochs=1, consistency=0.2))


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_an_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"training\.consistency is .*; it must be 0 or more"):
        TrainingConfig(consistency=weight)
