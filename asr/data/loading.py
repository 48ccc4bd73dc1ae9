"""Batches: recordings are read, augmented and collated, in worker processes or in this one.

    load_batches(SpeechDataset, Planner, epochs) -> Batch, Batch, ...

The contents of a batch are a pure function of its plan and of (seed, epoch, utterance); they do not
depend on the number of workers or processes, nor on where a run was interrupted.
"""

import copy
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from asr.errors import AsrError, AudioError, DataError
from asr.features import LogMel
from asr.runtime.signals import STOPPING
from asr.text import Vocabulary


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance as input of the network.

    Attributes:
        id: Name of the utterance.
        features: (T, F) float32.
        target: Symbols of the text, (U,) int64.
        second_view: The same features with other masks, (T, F), if training compares two views.
    """

    id: str
    features: Tensor
    target: Tensor
    second_view: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch of utterances on the CPU, or one process's part of it.

    Attributes:
        features: (B, T, F) float32, padded with 0.
        feature_lengths: (B,) int64.
        targets: (B, U) int64, padded with 0.
        target_lengths: (B,) int64.
        ids: Names of the utterances.
        symbols: Number of target symbols in the global batch, equal on all processes. A loss that
            is summed, divided by it and added over processes does not depend on their number.
        second_view: Second views of the features, (B, T, F), if the examples have them.
        unreadable: Names of the utterances that are missing because their recordings cannot be
            read, each with the reason.
    """

    features: Tensor
    feature_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: list[str]
    symbols: int
    second_view: Tensor | None = None
    unreadable: dict[str, str] = field(default_factory=dict)


def collate(examples: Sequence[Example], mels: int, symbols: int) -> Batch:
    """Pad examples with `mels` mel bins into a Batch, which may be empty (B = T = U = 0)."""
    frames = [len(example.features) for example in examples]
    lengths = [len(example.target) for example in examples]
    features = torch.zeros(len(examples), max(frames, default=0), mels)  # (B, T, F)
    has_views = any(example.second_view is not None for example in examples)
    second = torch.zeros_like(features) if has_views else None
    targets = torch.zeros(len(examples), max(lengths, default=0), dtype=torch.int64)  # (B, U)
    for i, example in enumerate(examples):
        features[i, : frames[i]] = example.features
        if second is not None and example.second_view is not None:
            second[i, : frames[i]] = example.second_view
        targets[i, : lengths[i]] = example.target
    feature_lengths = torch.tensor(frames, dtype=torch.int64)
    target_lengths = torch.tensor(lengths, dtype=torch.int64)
    ids = [example.id for example in examples]
    return Batch(features, feature_lengths, targets, target_lengths, ids, symbols, second)


class SpeechDataset:
    """A training set: utterances, and how their recordings become features and targets.

    `dataset[epoch, index, timing]` is the Example of an utterance in an epoch with the given timing.
    It is the same in every process and whenever it is read. Reading raises AudioError if a recording
    cannot be read or differs in length from its manifest entry, and TextError if the vocabulary cannot
    spell a text.

    Args:
        utterances: The utterances, usually an Index.
        target_lengths: Number of symbols of each text, (N,).
        vocabulary: Encodes the texts.
        log_mel: Computes the features; it is copied to the CPU.
        augmenter: Augments waveforms and features; None changes only the speed.
        seed: Seed of the augmentation.
        two_views: Whether each Example has a second view of its features.

    Example:
        >>> utterances = index_utterances([Utterance("u1", "u1.wav", 1.5, "hello world")])
        >>> log_mel, english = LogMel(FeaturesConfig()), Vocabulary.english()
        >>> len(SpeechDataset(utterances, utterances.symbols, english, log_mel))
        1
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        target_lengths: npt.ArrayLike,
        vocabulary: Vocabulary,
        log_mel: LogMel,
        augmenter: Augmenter | None = None,
        seed: int = 0,
        two_views: bool = False,
    ) -> None:
        self.utterances = utterances
        self.target_lengths: Indices = np.asarray(target_lengths, dtype=np.int64)
        self.reader = _Reader(vocabulary, copy.deepcopy(log_mel).cpu(), augmenter, seed, two_views)
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
    """Everything that a worker needs to build one batch."""

    utterances: list[Utterance]
    timings: list[Timing]
    symbols: int
    epoch: int


@dataclass(eq=False)
class _Reader(Dataset[Batch | AsrError]):
    """The part of a SpeechDataset that is copied to workers.

    Requests carry the utterances, so that workers stay small and start fast for every corpus.
    """

    vocabulary: Vocabulary
    log_mel: LogMel
    augmenter: Augmenter | None
    seed: int
    two_views: bool

    def __getitem__(self, request: _Request) -> Batch | AsrError:
        """Build a batch. Errors are returned, because torch wraps raised ones in a traceback."""
        examples, unreadable = [], {}
        for utterance, timing in zip(request.utterances, request.timings, strict=True):
            try:
                examples.append(self.read(utterance, request.epoch, timing))
            except AudioError as error:
                unreadable[utterance.id] = str(error)
            except AsrError as error:
                return error
        batch = collate(examples, self.log_mel.config.mels, request.symbols)
        return replace(batch, unreadable=unreadable)

    def read(self, utterance: Utterance, epoch: int, timing: Timing) -> Example:
        """Read a recording, augment it and compute its features."""
        target = torch.tensor(self.vocabulary.encode(utterance.text, utterance.id))  # (U,)
        rate = self.log_mel.config.sample_rate
        waveform = load_audio(utterance.audio, rate, expected_seconds=utterance.seconds)  # (N,)
        if timing.speed != 1.0:
            waveform = change_speed(waveform, timing.speed)
        if self.augmenter:
            generator = random_generator(self.seed, epoch, utterance.id, "waveform")
            waveform = self.augmenter.augment_waveform(waveform, generator, timing)
        # Workers use one thread; more threads could change the rounding of sums.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            features = self.log_mel(torch.from_numpy(waveform))  # (T, F)
        finally:
            torch.set_num_threads(threads)
        second = features if self.two_views else None
        if self.augmenter:
            generator = random_generator(self.seed, epoch, utterance.id, "features")
            found = features.numpy()
            if self.two_views:
                views = self.augmenter.augment_features_twice(found, generator, timing)
                features, second = map(torch.from_numpy, views)
            else:
                found = self.augmenter.augment_features(found, generator, timing)
                features = torch.from_numpy(found)
        return Example(utterance.id, features, target, second)


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
    """Load the batches of `epochs` in the order of the plan, starting at `first_step`.

    The batches are bit-identical for any number of workers, which load ahead across epochs, so a
    single call should cover all epochs. Workers' batches lie in shared memory with open files;
    release each one after its step. Torch's global random state is not touched.

    Args:
        dataset: The training set.
        planner: Plans the global batches.
        epochs: The epochs to load, counted from 0.
        first_step: Step of the first epoch to start at.
        rank: Number of this process.
        processes: Number of processes that share each global batch.
        workers: Number of processes that load ahead; 0 loads in this process.

    Yields:
        This process's part of each global batch, without the utterances whose recordings cannot be
        read. Closing the iterator ends the workers.

    Raises:
        TextError: If the vocabulary cannot spell a text.
        DataError: If a worker is killed.

    Example:
        >>> soundfile.write("u1.wav", np.ones(16_000), 16_000)
        >>> utterances = index_utterances([Utterance("u1", "u1.wav", 1.0, "hello world")])
        >>> log_mel = LogMel(FeaturesConfig(mels=40))
        >>> dataset = SpeechDataset(utterances, [11], Vocabulary.english(), log_mel)
        >>> planner = Planner(utterances.seconds, utterances.hashes, batch_seconds=60.0)
        >>> [tuple(batch.features.shape) for batch in load_batches(dataset, planner, range(1))]
        [(1, 98, 40)]
    """

    def plan_requests() -> Iterator[_Request]:
        first = first_step
        for epoch in epochs:
            plan = planner.epoch(epoch)
            for batch in plan.batches[first:]:
                part = shard(batch, rank, processes)
                yield _Request(
                    [dataset.utterances[index] for index in part],
                    [plan.timing(index) for index in part],
                    int(dataset.target_lengths[batch].sum()),
                    epoch,
                )
            first = 0

    try:
        for batch in _start(dataset.reader, plan_requests(), workers):
            if isinstance(batch, AsrError):
                raise batch
            yield batch
    except (OSError, EOFError, RuntimeError) as error:
        # Exceptions of a worker begin with "Caught"; all others mean that it has died.
        if not workers or str(error).startswith("Caught"):
            raise
        raise DataError(
            f"a loader worker died ({str(error).partition('. ')[0]}), most likely out of memory or, "
            "in a container, out of shared memory; use fewer workers or smaller batches"
        ) from error


def _worker_context() -> Any:
    """The multiprocessing context: workers are forked from a server that imported this module.

    Forking the trainer itself would copy its threads and CUDA state, whose locks may never be
    released in the copy; spawning would import torch in each worker.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _start(
    reader: _Reader, requests: Iterator[_Request], workers: int
) -> Iterator[Batch | AsrError]:
    """Start a loader whose worker processes block the signals that stop training.

    Ctrl-C, `timeout`, systemd and Slurm signal all processes, but only the trainer should respond.
    Ignoring the signals in `_start_worker` alone would be too late while a worker is importing.
    """
    loader: DataLoader[Batch | AsrError] = DataLoader(
        reader,
        batch_size=None,  # a request is already a whole batch
        sampler=requests,
        num_workers=workers,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),  # by default torch draws a seed from its global generator
    )
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    resource_tracker.ensure_running()  # starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    torch.set_flush_denormal(True)  # like the trainer, so that results are bit-identical
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """End this worker with the trainer; torch only watches the fork server, which outlives it."""
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)
