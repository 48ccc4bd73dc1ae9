"""One step: the average of the weights, bad steps, micro-batches, and the check of the memory."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch

import asr.training.curves
import asr.training.diagnosis
import asr.training.run
import asr.training.trainer
from asr.data.loading import Batch
from asr.encoder import Context, EncoderConfig
from asr.errors import (
    ConfigError,
)
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.runtime.distributed import Process, RuntimeConfig, gather, process_group
from asr.training.config import TrainingConfig
from asr.training.loss import ctc_losses
from asr.training.trainer import Trainer, is_out_of_memory, split


def tiny_trainer(
    decay: float = 0.9,
    process: Process | None = None,
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
    return Trainer(model, config, process or Process(0, 1, torch.device("cpu")))


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


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"training\.average_decay is .*at least 0 and below 1"):
        TrainingConfig(average_decay=decay)


@pytest.mark.parametrize(("key", "value"), [("accumulate", 0), ("keep", -1)])
def test_an_impossible_number_is_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is {value}; it must be at least {value + 1}"):
        TrainingConfig(**{key: value})


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
def test_a_bad_step_changes_nothing(kind: str, first: int, accumulate: int) -> None:
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


def test_an_infinite_loss_with_a_finite_gradient_is_a_bad_step(monkeypatch) -> None:
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
    with process_group(runtime) as process:
        trainer = tiny_trainer(process=process)
        for step in range(2):
            trainer.step(tiny_batch(10 * process.rank + step), step, 0.0)
        before = state_of(trainer)
        batch = tiny_batch()
        if process.rank == 1:
            spoil("infinite loss", trainer, batch)
        losses, norm = trainer.step(batch, 2, 0.0)
        finite = bool(torch.isfinite(losses).all())
        unchanged = state_of(trainer) == before
        average = trainer.result.head.weight.numpy().tobytes()
        return gather((finite, bool(torch.isfinite(norm)), unchanged, average))


def test_a_bad_step_of_one_process_is_skipped_by_all(pair) -> None:
    runtime = RuntimeConfig(device="cpu", processes=2, threads=1)
    one, two = pair.run(step_badly_on_second, runtime)
    assert one[:3] == (True, False, True)
    assert two[:3] == (False, False, True)
    assert one[3] == two[3]


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
def test_a_batch_is_split_by_utterances_without_unneeded_padding(
    parts: int, sizes: list[int]
) -> None:
    batch = ragged_batch(5)
    parts_found = split(batch, parts)
    assert [len(part.ids) for part in parts_found] == sizes
    assert [name for part in parts_found for name in part.ids] == batch.ids
    assert torch.cat([part.feature_lengths for part in parts_found]).tolist() == [
        40,
        37,
        34,
        31,
        28,
    ]
    for part in parts_found:
        assert part.symbols == 23
        assert part.features.shape == (len(part.ids), int(part.feature_lengths[0]), 20)
        assert part.targets.shape == (len(part.ids), int(part.target_lengths.max()))
    assert split(ragged_batch(0), 3)[0].ids == []


@pytest.mark.parametrize("accumulate", [2, 3, 5, 8])
@pytest.mark.parametrize("kind", ["latency_controlled", "bidirectional"])
def test_accumulated_steps_equal_whole_ones_except_for_rounding(accumulate: int, kind: str) -> None:
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


def test_accumulation_holds_one_micro_batch_at_a_time(monkeypatch) -> None:
    trainer = tiny_trainer(accumulate=3)
    seen = []
    monkeypatch.setattr(
        trainer, "losses", lambda part, context: seen.append(part) or Trainer.losses(trainer, part)
    )
    trainer.step(ragged_batch(5), 0, 0.0)
    assert [part.features.shape[:2] for part in seen] == [(1, 40), (2, 37), (2, 31)]


def sum_in_pieces(task: tuple[RuntimeConfig, int]) -> list[tuple[int, float, list[float]]]:
    """On each process: how often gradients were summed, the last norm and some weights.

    The first process has so many of the utterances.
    """
    runtime, first = task
    with process_group(runtime) as process:
        trainer = tiny_trainer(process=process, accumulate=3, dropout=0.0)
        sums = mock.Mock(side_effect=torch.distributed.all_reduce)
        share = slice(first) if process.rank == 0 else slice(first, None)
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
            with mock.patch("torch.distributed.all_reduce", sums):
                _, norm = trainer.step(batch, step, 0.0)
        return gather((sums.call_count, float(norm), trainer.model.head.bias.tolist()))


@pytest.mark.parametrize("first", [4, 6, 7])  # the other has as many pieces, fewer, none
def test_processes_sum_gradients_once_per_step(first: int, pair) -> None:
    runtime = RuntimeConfig(device="cpu", processes=2, threads=1)
    one, two = pair.run(sum_in_pieces, (runtime, first))
    assert one == two
    assert one[0] == 3
    trainer = tiny_trainer(dropout=0.0)
    for step in range(3):
        _, norm = trainer.step(ragged_batch(7), step, 0.0)
    assert one[1] == pytest.approx(float(norm), rel=1e-4)
    assert one[2] == pytest.approx(trainer.model.head.bias.tolist(), abs=2e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("first", [0, 1])
def test_checking_the_memory_changes_nothing(accumulate: int, first: int) -> None:
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


def test_checking_the_memory_uses_the_largest_contexts(monkeypatch) -> None:
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


def test_torch_on_a_cpu_reports_that_it_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
