"""Batches: recordings are read, augmented and collated, in worker processes or in this one."""

import copy
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asr.audio.waveform import change_speed, load_audio
from asr.data.augment import Augmenter, Timing, random_generator
from asr.data.manifest import Utterance
from asr.data.planning import Indices, Planner, shard
from asr.errors import AsrError, DataError
from asr.features import LogMel
from asr.runtime.signals import STOPPING
from asr.text import Vocabulary


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance as the network sees it: features (T, F) float32, target (U,) int64.

    `second` are the same features under other masks, where training compares the two.
    """

    id: str
    text: str
    features: Tensor
    target: Tensor
    second: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances side by side, or one process's part of them, on the CPU.

    `symbols` counts the target symbols of the whole global batch, on every process alike: a loss
    that is summed, divided by it and added up over processes does not depend on their number.
    """

    features: Tensor  # (B, T, F) float32, 0 where padded
    feature_lengths: Tensor  # (B,) int64
    targets: Tensor  # (B, U) int64, 0 where padded
    target_lengths: Tensor  # (B,) int64
    ids: list[str]
    texts: list[str]
    symbols: int
    epoch: int
    step: int
    second: Tensor | None = None  # (B, T, F): the examples' second features, if they have any


def collate(
    examples: Sequence[Example], mels: int, symbols: int, epoch: int = 0, step: int = 0
) -> Batch:
    """Examples of `mels` features each, padded into a Batch; it may have B = T = U = 0."""
    frames = [len(example.features) for example in examples]
    lengths = [len(example.target) for example in examples]
    features = torch.zeros(len(examples), max(frames, default=0), mels)  # (B, T, F)
    second = torch.zeros_like(features) if any(e.second is not None for e in examples) else None
    targets = torch.zeros(len(examples), max(lengths, default=0), dtype=torch.int64)  # (B, U)
    for i, example in enumerate(examples):
        features[i, : frames[i]] = example.features
        if second is not None and example.second is not None:
            second[i, : frames[i]] = example.second
        targets[i, : lengths[i]] = example.target
    return Batch(
        features,
        torch.tensor(frames, dtype=torch.int64),
        targets,
        torch.tensor(lengths, dtype=torch.int64),
        [example.id for example in examples],
        [example.text for example in examples],
        symbols,
        epoch,
        step,
        second,
    )


class SpeechDataset:
    """Utterances with texts of a vocabulary, and how a recording becomes features.

    `target_lengths` counts the symbols of each text, so that nobody has to read it to know.

    `dataset[epoch, index, timing]` is the Example of an utterance in an epoch, its time changed as
    `timing` says: the same whenever and wherever it is asked for. `log_mel` is copied as it is now,
    to the CPU; without an augmenter there is no other damage. `twice`: Examples have second features.

    Reading raises AudioError, also where a recording is shorter than its utterance says, and
    TextError for a text that the vocabulary cannot spell.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        target_lengths: npt.ArrayLike,
        vocabulary: Vocabulary,
        log_mel: LogMel,
        augmenter: Augmenter | None = None,
        seed: int = 0,
        twice: bool = False,
    ) -> None:
        self.utterances = utterances
        self.target_lengths: Indices = np.asarray(target_lengths, dtype=np.int64)
        self.reader = _Reader(vocabulary, copy.deepcopy(log_mel).cpu(), augmenter, seed, twice)
        if len(self.target_lengths) != len(utterances):
            raise ValueError(
                f"{len(self.target_lengths)} target lengths for {len(utterances)} utterances"
            )

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, key: tuple[int, int, Timing]) -> Example:
        epoch, index, timing = key
        return self.reader.read(self.utterances[index], epoch, timing)


@dataclass(frozen=True, slots=True)
class _Request:
    """All that a worker must know to make a batch."""

    utterances: list[Utterance]
    timings: list[Timing]
    symbols: int
    epoch: int
    step: int


class _Reader(Dataset[Batch | AsrError]):
    """The part of a SpeechDataset that workers hold.

    Requests bring the utterances, so that a worker is small and starts fast, whatever the corpus.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        log_mel: LogMel,
        augmenter: Augmenter | None,
        seed: int,
        twice: bool,
    ) -> None:
        self.vocabulary = vocabulary
        self.log_mel = log_mel
        self.augmenter = augmenter
        self.seed = seed
        self.twice = twice

    def __getitem__(self, request: _Request) -> Batch | AsrError:
        """A batch, or what is wrong: raised in a worker, it would come back inside a traceback."""
        try:
            examples = [
                self.read(utterance, request.epoch, timing)
                for utterance, timing in zip(request.utterances, request.timings, strict=True)
            ]
        except AsrError as error:
            return error
        mels = self.log_mel.config.mels
        return collate(examples, mels, request.symbols, request.epoch, request.step)

    def read(self, utterance: Utterance, epoch: int, timing: Timing) -> Example:
        target = torch.tensor(self.vocabulary.encode(utterance.text, utterance.id))  # (U,)
        rate = self.log_mel.config.sample_rate
        waveform = load_audio(utterance.audio, rate, expected_seconds=utterance.seconds)  # (N,)
        if timing.speed != 1.0:
            waveform = change_speed(waveform, timing.speed)
        if self.augmenter:
            generator = random_generator(self.seed, epoch, utterance.id, "waveform")
            waveform = self.augmenter.augment_waveform(waveform, generator, timing)
        # One thread, as in workers: with more, sums may be rounded in another order.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            features = self.log_mel(torch.from_numpy(waveform))  # (T, F)
        finally:
            torch.set_num_threads(threads)
        second = features if self.twice else None
        if self.augmenter:
            generator = random_generator(self.seed, epoch, utterance.id, "features")
            found = features.numpy()
            if self.twice:
                views = self.augmenter.augment_features_twice(found, generator, timing)
                features, second = map(torch.from_numpy, views)
            else:
                found = self.augmenter.augment_features(found, generator, timing)
                features = torch.from_numpy(found)
        return Example(utterance.id, utterance.text, features, target, second)


def load_batches(
    dataset: SpeechDataset,
    planner: Planner,
    epochs: Iterable[int],
    first_step: int = 0,
    *,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Generator[Batch]:
    """The batches of `epochs`, one after the other, from `first_step` of the first epoch on.

    Each is this process's part of the global batch that `planner` plans for all `processes`. With
    `workers` processes of their own (0: none) they are the same batches, bit for bit, and made
    ahead: also across the end of an epoch, so take all epochs from one call. They then lie in shared
    memory, each with open files, so let go of each when it is done. Closing the iterator ends the
    workers. Torch's global random state is not touched.

    Raises what reading raises, and DataError where a worker is killed.
    """
    loader = DataLoader(
        dataset.reader,
        batch_size=None,  # a request is a whole batch already
        sampler=_plan_requests(dataset, planner, epochs, first_step, rank, processes),
        num_workers=workers,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),  # else a seed is drawn from the global one
    )
    try:
        for batch in _start(loader):
            if isinstance(batch, AsrError):
                raise batch
            yield batch
    except (OSError, EOFError, RuntimeError) as error:
        # What a worker raises begins "Caught"; the rest is torch, or the socket over which a batch
        # should have come, noticing that the worker is no more.
        if not workers or str(error).startswith("Caught"):
            raise
        raise DataError(
            f"A process that reads recordings was lost ({str(error).partition('. ')[0]}), most "
            "likely killed for want of memory, in a container of shared memory; use fewer workers "
            "or smaller batches."
        ) from error


def _plan_requests(
    dataset: SpeechDataset,
    planner: Planner,
    epochs: Iterable[int],
    first_step: int,
    rank: int,
    processes: int,
) -> Iterator[_Request]:
    for epoch in epochs:
        plan = planner.epoch(epoch)
        for step in range(first_step, len(plan)):
            batch = plan.batches[step]
            part = shard(batch, rank, processes)
            yield _Request(
                [dataset.utterances[index] for index in part],
                [plan.timing(index) for index in part],
                int(dataset.target_lengths[batch].sum()),
                epoch,
                step,
            )
        first_step = 0


def _worker_context() -> Any:
    """How workers start: forked from a small process of their own that has imported this module.

    Forking the trainer itself would copy a process full of threads and CUDA state, whose locks may
    never open again; spawning would import torch once a worker.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _start(loader: DataLoader[Batch | AsrError]) -> Iterator[Batch | AsrError]:
    """The loader's iterator, whose processes never hear what asks to stop: the trainer answers.

    Ctrl-C, `timeout`, systemd and Slurm tell all processes. Ignoring them in `_start_worker` alone
    would come too late for one that is still importing.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    resource_tracker.ensure_running()  # its start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    torch.set_flush_denormal(True)  # as the trainer does: the number of workers changes no bit
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """Torch's own watch sees the fork server, which lives on while its workers do."""
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)
