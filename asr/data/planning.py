"""The order of the data: which utterances form each batch of an epoch, and how long each one is.

    Planner(seconds, ids, batch_seconds, augment, seed).epoch(n) -> EpochPlan

A batch is as long as its longest utterance; the rest is padding. Every augmentation that changes an
utterance's length is therefore drawn here, before batches are formed. A plan is a pure function of
(seed, epoch, utterances): it is independent of state, processes and NumPy's random generators.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.augment import UNCHANGED, AugmentConfig, Timing
from asr.errors import ConfigError, DataError

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

# Version of the batch plan; a run that was started with another version is not resumed.
VERSION = 2


@dataclass(frozen=True)
class EpochPlan:
    """The batches of an epoch, and how the timing of each utterance is changed.

    Attributes:
        batches: For each step, the indices of its utterances, the longest utterance first.
        seconds: Length of each utterance after all changes, by index, (N,).
        speeds, before, after, tempos: The fields of each utterance's `Timing`, (N,).
    """

    batches: list[Indices]
    seconds: Floats
    speeds: Floats
    before: Floats
    after: Floats
    tempos: Floats

    def __len__(self) -> int:
        """Number of steps in the epoch, which differs a little between epochs."""
        return len(self.batches)

    def timing(self, index: int) -> Timing:
        """The timing that was drawn for the utterance with this index."""
        parts = (self.speeds, self.before, self.after, self.tempos)
        return Timing(*(float(part[index]) for part in parts))


class Planner:
    """Groups utterances of similar length into batches; each epoch uses every utterance once.

    Lengths, batches and their order depend only on `seed`, the epoch and the utterances' ids and
    lengths.

    Args:
        seconds: Length of each recording, (N,).
        ids: The utterances' ids, or their hashes by `hash_id`, (N,) uint64.
        batch_seconds: Maximum length of a batch, including padding and added silence. A longer
            utterance forms a batch of its own.
        augment: The changes of speed, silence and tempo to draw; None leaves all lengths unchanged.
        seed: Seed of all draws.
        max_utterances: Maximum number of utterances in a batch; None for no limit.

    Raises:
        DataError: If there are no utterances.
        ConfigError: If a batch could not hold a single utterance.

    Example:
        >>> plan = Planner([3.0, 1.0, 2.0], ["a", "b", "c"], batch_seconds=6.0).epoch(0)
        >>> [batch.tolist() for batch in plan.batches]
        [[1], [0, 2]]
    """

    # If lengths hardly vary, sorting by exact length forms the same batches in every epoch.
    # Perturbing each length by up to 2 % costs only 1 % of padding.
    JITTER = 0.02

    def __init__(
        self,
        seconds: npt.ArrayLike,
        ids: Iterable[str] | Hashes,
        batch_seconds: float,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        max_utterances: int | None = None,
    ) -> None:
        self._seconds = np.asarray(seconds, dtype=np.float64)
        if not isinstance(ids, np.ndarray):
            ids = np.array([hash_id(name) for name in ids], dtype=np.uint64)
        self._hashes = ids
        self._batch_seconds = batch_seconds
        augment = augment or AugmentConfig(speeds=[UNCHANGED.speed])
        self._speeds = np.array(augment.speeds)
        self._silence_seconds, self._tempo = augment.silence_seconds, augment.tempo
        self._max_utterances = len(ids) if max_utterances is None else max_utterances
        self._seed = seed
        self._last: tuple[int, EpochPlan] | None = None
        if not len(ids):
            raise DataError("all training utterances were rejected; see the reasons above")
        if len(self._seconds) != len(ids):
            raise ValueError(f"{len(self._seconds)} lengths for {len(ids)} ids")
        if not batch_seconds > 0 or self._max_utterances < 1:
            raise ConfigError(
                f"a batch of {batch_seconds} s and {self._max_utterances} utterances is empty; "
                "set batch_seconds above 0 and max_utterances to at least 1"
            )

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch, counted from 0; the most recent plan is cached."""
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, self._plan(epoch)
        return self._last[1]

    def _plan(self, epoch: int) -> EpochPlan:
        state = mix(mix(np.uint64(self._seed % 2**64)) ^ np.uint64(epoch))
        draws = mix(self._hashes ^ state)
        high, low = draws >> np.uint64(32), draws & np.uint64(0xFFFFFFFF)
        speeds = self._speeds[(high * np.uint64(len(self._speeds))) >> np.uint64(32)]
        before, after = self._draw_silences(draws)
        tempos = self._draw_tempos(draws)
        seconds = (self._seconds / speeds + before + after) / tempos
        order = np.argsort(-seconds * (1 + self.JITTER * low / 2**32), kind="stable")

        # From the longest to the shortest: a batch takes as many utterances as would fit if each
        # were as long as the longest of those that remain.
        longest = np.maximum.accumulate(seconds[order][::-1])[::-1]
        fitting = np.clip(self._batch_seconds // longest, 1, self._max_utterances)
        starts = [0]
        while starts[-1] < len(order):
            starts.append(starts[-1] + int(fitting[starts[-1]]))
        starts[-1] = len(order)

        numbers = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        order = order[np.lexsort((-seconds[order], numbers))]  # within a batch, by exact length
        batches = [order[start:end] for start, end in pairwise(starts)]
        shuffled = np.argsort(mix(~state ^ np.arange(len(batches), dtype=np.uint64)))
        batches = [batches[number] for number in shuffled.tolist()]
        return EpochPlan(batches, seconds, speeds, before, after, tempos)

    def _draw_silences(self, draws: Hashes) -> tuple[Floats, Floats]:
        """Seconds of silence before and after each utterance; half of the utterances get none."""
        if not self._silence_seconds:
            none = np.broadcast_to(0.0, draws.shape)
            return none, none
        before = np.maximum(2 * _uniform(draws, 1) - 1, 0)
        after = np.where(before > 0, _uniform(draws, 2), 0)
        return self._silence_seconds * before, self._silence_seconds * after

    def _draw_tempos(self, draws: Hashes) -> Floats:
        """The tempo of each utterance, uniform in 1 - tempo to 1 + tempo."""
        if not self._tempo:
            return np.broadcast_to(1.0, draws.shape)
        return 1 + self._tempo * (2 * _uniform(draws, 3) - 1)


def hash_id(name: str) -> int:
    """A 64-bit hash of an utterance's id, the same on every machine."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def mix(x: Any) -> Any:
    """The output function of SplitMix64 on uint64: each input bit flips about half of the output.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)  # a new array, changed in place below
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


def _uniform(draws: Hashes, number: int) -> Floats:
    """Uniform numbers in [0, 1), independent for each `number`."""
    mixed = mix(draws ^ mix(np.uint64(number)))
    floats: Floats = (mixed >> np.uint64(11)) * 2.0**-53
    return floats


def shard(batch: Indices, rank: int, processes: int) -> Indices:
    """The part of a batch that one process handles.

    The sizes of the parts differ by at most one utterance, and a part may be empty. Because batches
    list the longest utterance first, the parts are about equally long, too.
    """
    return batch[rank::processes]
