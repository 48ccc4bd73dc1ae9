"""The loader: batches follow the plan, bit for bit for any number of workers and processes."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from files import write_text, write_wav

from asr.data.augment import UNCHANGED, AugmentConfig, Augmenter, Timing
from asr.data.loading import Batch, Example, SpeechDataset, collate, load_batches
from asr.data.manifest import Utterance
from asr.data.planning import Planner
from asr.errors import AudioError, DataError
from asr.features import FeaturesConfig, LogMel
from asr.text import Vocabulary

ENGLISH = Vocabulary.english()


def test_collate_pads_with_zeros() -> None:
    examples = [
        Example("a", torch.ones(3, 2), torch.tensor([5])),
        Example("b", torch.full((4, 2), 2.0), torch.tensor([6, 7])),
    ]
    batch = collate(examples, 2, symbols=9)
    assert (batch.ids, batch.symbols) == (["a", "b"], 9)
    assert batch.features.dtype == torch.float32
    assert batch.features[:, :, 0].tolist() == [[1, 1, 1, 0], [2, 2, 2, 2]]
    assert batch.targets.tolist() == [[5, 0], [6, 7]]
    assert (batch.feature_lengths.tolist(), batch.target_lengths.tolist()) == ([3, 4], [1, 2])
    integers = (batch.targets, batch.feature_lengths, batch.target_lengths)
    assert {tensor.dtype for tensor in integers} == {torch.int64}
    assert collate([], 80, symbols=3).features.shape == (0, 0, 80)


class Corpus:
    """Nine short recordings and everything that loads them, with every kind of augmentation."""

    def __init__(self, folder: Path) -> None:
        words = "one two three four five six seven eight nine".split()
        self.utterances = [
            Utterance(
                word, str(write_wav(folder / f"{word}.wav", 0.3 + 0.1 * i, i)), 0.3 + 0.1 * i, word
            )
            for i, word in enumerate(words)
        ]
        write_wav(folder / "noise" / "n.wav", 0.5, 99)
        self.targets = [ENGLISH.encode(word) for word in words]
        self.lengths = [len(word) for word in words]
        self.log_mel = LogMel(FeaturesConfig())
        self.config = AugmentConfig(
            noise_folder=str(folder / "noise"),
            reverb_folder=str(folder / "noise"),
            gain_db=6.0,
            silence_seconds=0.2,
            tempo=0.1,
            mel_shift=3.0,
        )
        self.planner = Planner(
            [utterance.seconds for utterance in self.utterances],
            words,
            batch_seconds=1.5,
            augment=self.config,
            seed=5,
        )

    def dataset(self, seed: int = 5) -> SpeechDataset:
        augmenter = Augmenter(self.config, 16_000)
        return SpeechDataset(self.utterances, self.lengths, ENGLISH, self.log_mel, augmenter, seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("features", "feature_lengths", "targets", "target_lengths"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("ids", "symbols"):
            assert getattr(one, name) == getattr(other, name), name


def test_batches_follow_the_plan_and_hold_the_examples(corpus: Corpus) -> None:
    dataset = corpus.dataset()
    batches = list(load_batches(dataset, corpus.planner, range(2)))
    plans = [corpus.planner.epoch(0), corpus.planner.epoch(1)]
    steps = [(epoch, step) for epoch in (0, 1) for step in range(len(plans[epoch]))]
    for (epoch, step), batch in zip(steps, batches, strict=True):
        plan = plans[epoch]
        indices = plan.batches[step]
        assert batch.ids == [corpus.utterances[i].id for i in indices]
        for row, index in enumerate(indices):
            example = dataset[epoch, int(index), plan.timing(index)]
            frames, symbols = len(example.features), len(example.target)
            assert example.target.tolist() == corpus.targets[index]
            assert torch.equal(batch.features[row, :frames], example.features)
            assert not batch.features[row, frames:].any()
            assert batch.targets[row, :symbols].tolist() == corpus.targets[index]
            assert not batch.targets[row, symbols:].any()
            assert batch.feature_lengths[row] == frames
            assert batch.target_lengths[row] == symbols


def test_loading_resumes_in_the_middle_of_an_epoch(corpus: Corpus) -> None:
    whole = list(load_batches(corpus.dataset(), corpus.planner, range(3)))
    second = len(corpus.planner.epoch(0)) + 2
    rest = list(load_batches(corpus.dataset(), corpus.planner, range(1, 3), first_step=2))
    assert_same(whole[second:], rest)
    finished = len(corpus.planner.epoch(1))
    rest = list(load_batches(corpus.dataset(), corpus.planner, range(1, 3), first_step=finished))
    assert_same(whole[len(corpus.planner.epoch(0)) + finished :], rest)


@pytest.mark.parametrize(
    "augmentation",
    [{"gain_db": 6.0, "time_masks": 0, "mel_masks": 0}, {"mel_masks": 2}],
    ids=["waveform", "features"],
)
def test_augmentation_depends_only_on_seed_epoch_and_utterance(
    corpus: Corpus, augmentation: dict[str, float]
) -> None:
    def make(seed: int) -> SpeechDataset:
        augmenter = Augmenter(AugmentConfig(**augmentation), 16_000)  # type: ignore[arg-type]
        return SpeechDataset(
            corpus.utterances, corpus.lengths, ENGLISH, corpus.log_mel, augmenter, seed
        )

    dataset = make(5)
    features = dataset[3, 4, UNCHANGED].features
    assert not torch.equal(dataset[4, 4, UNCHANGED].features, features)
    assert not torch.equal(make(6)[3, 4, UNCHANGED].features, features)
    assert torch.equal(dataset[3, 4, UNCHANGED].features, features)
    assert torch.equal(make(5)[3, 4, UNCHANGED].features, features)
    dataset.utterances = [replace(utterance, id="other") for utterance in corpus.utterances]
    assert not torch.equal(dataset[3, 4, UNCHANGED].features, features)


def test_without_an_augmenter_features_are_those_of_the_recording(corpus: Corpus) -> None:
    log_mel = LogMel(FeaturesConfig(mels=40))
    dataset = SpeechDataset(corpus.utterances, corpus.lengths, ENGLISH, log_mel)
    waveform, _ = soundfile.read(corpus.utterances[2].audio, dtype="float32")
    expected = log_mel(torch.from_numpy(waveform))
    log_mel.mean += 1  # the dataset holds a copy of the model's features
    example = dataset[0, 2, UNCHANGED]
    torch.testing.assert_close(example.features, expected, rtol=1e-5, atol=1e-5)
    assert len(dataset[0, 2, Timing(0.5)].features) == pytest.approx(2 * len(expected), abs=3)
    assert not example.features.requires_grad
    assert len(dataset) == 9


@pytest.mark.parametrize("processes", [2, 20])
def test_processes_share_the_same_global_batches(corpus: Corpus, processes: int) -> None:
    """A global batch may have fewer utterances than there are processes."""
    dataset = corpus.dataset()
    whole = list(load_batches(dataset, corpus.planner, range(1)))
    parts = [
        list(load_batches(dataset, corpus.planner, range(1), rank=rank, processes=processes))
        for rank in range(processes)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(name for share in shares for name in share.ids) == sorted(batch.ids)
        assert {share.symbols for share in shares} == {batch.symbols}
        assert batch.symbols == batch.target_lengths.sum()
        assert batch.symbols == sum(int(share.target_lengths.sum()) for share in shares)
        assert max(share.features.shape[1] for share in shares) == batch.features.shape[1]
        assert all(share.features.shape[2] == 80 for share in shares)


def test_workers_change_nothing(corpus: Corpus) -> None:
    """Law 3: equal batches bit for bit, also across epochs, and unchanged global random states."""
    dataset = corpus.dataset()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        alone = list(load_batches(dataset, corpus.planner, range(2)))
        assert_same(alone, list(load_batches(dataset, corpus.planner, range(2), workers=2)))
        assert_same(alone[1:], list(load_batches(dataset, corpus.planner, range(2), 1, workers=1)))
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_cannot_be_read_is_named_and_left_out(
    corpus: Corpus, tmp_path: Path, workers: int
) -> None:
    dataset = corpus.dataset()
    dataset.utterances = [
        replace(utterance, audio=str(tmp_path / "gone.wav")) if utterance.id == "six" else utterance
        for utterance in corpus.utterances
    ]
    good = list(load_batches(corpus.dataset(), corpus.planner, [0]))
    bad = next(step for step, batch in enumerate(good) if "six" in batch.ids)
    batches = load_batches(dataset, corpus.planner, [0], workers=workers)
    found = list(batches)
    assert_same(good[:bad], found[:bad])
    assert found[bad].ids == [name for name in good[bad].ids if name != "six"]
    assert found[bad].symbols == good[bad].symbols
    assert list(found[bad].unreadable) == ["six"]
    assert "gone.wav does not exist" in found[bad].unreadable["six"]
    assert not any(batch.unreadable for step, batch in enumerate(found) if step != bad)
    assert not multiprocessing.active_children()


def test_a_recording_shorter_than_its_utterance_is_refused(corpus: Corpus) -> None:
    utterances = [replace(corpus.utterances[0], seconds=0.36)]
    dataset = SpeechDataset(utterances, [3], ENGLISH, corpus.log_mel)
    with pytest.raises(AudioError, match=r"one\.wav"):
        dataset[0, 0, UNCHANGED]
    with pytest.raises(ValueError, match="2 target lengths for 1 utterances"):
        SpeechDataset(utterances, [3, 3], ENGLISH, corpus.log_mel)


def test_workers_ignore_signals_and_end_with_their_iterator(corpus: Corpus) -> None:
    batches = load_batches(corpus.dataset(), corpus.planner, range(50), workers=2)
    first = next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:  # a terminal, `timeout` and Slurm signal all processes
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            os.kill(worker.pid or 0, number)
    rest = [next(batches) for _ in range(20)]
    alone = load_batches(corpus.dataset(), corpus.planner, range(50))
    assert_same([first, *rest], [next(alone) for _ in range(21)])
    batches.close()
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_a_data_error(corpus: Corpus) -> None:
    batches = load_batches(corpus.dataset(), corpus.planner, range(10**6), workers=1)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(DataError, match="a loader worker died"):
        list(batches)


TRAINER = """
import multiprocessing, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}

if __name__ == "__main__":
    from test_loading import Corpus, load_batches
    corpus = Corpus(Path({folder!r}))
    batches = load_batches(corpus.dataset(), corpus.planner, range(10**6), workers=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_trainer(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parents[level]) for level in (0, 1)]
    script = write_text(tmp_path / "train.py", TRAINER.format(paths=paths, folder=str(tmp_path)))
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python's resource tracker reports leaked semaphores
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        os.kill(worker, 0)
        trainer.kill()
    deadline = time.monotonic() + 5
    while _is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
