"""The order of the data: which utterances make up which batch of an epoch, and how long each is there.

    Planner(seconds, ids, batch_seconds, augment, seed).epoch(n) -> EpochPlan

A batch is as long as its longest utterance, and the rest is padding. So whatever augmentation does to
an utterance's length is drawn here, before batches are made, and not where it is read. All of it is a
pure function of (seed, epoch, utterance): of no state, no process and no version of a generator.
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

VERSION = 2  # of what is planned: a run that another version began is not gone on with


@dataclass(frozen=True)
class EpochPlan:
    """Which utterances make up each batch of an epoch, and how each one's time is changed.

    batches: for each step, indices of utterances, the longest first.
    seconds: how long each utterance is then, by index; what follows are the parts of its `Timing`.
    """

    batches: list[Indices]
    seconds: Floats
    speeds: Floats
    before: Floats
    after: Floats
    tempos: Floats

    def __len__(self) -> int:
        """Steps in the epoch; not quite the same in every epoch."""
        return len(self.batches)

    def timing(self, index: int) -> Timing:
        """How an utterance's time is changed."""
        parts = (self.speeds, self.before, self.after, self.tempos)
        return Timing(*(float(part[index]) for part in parts))


class Planner:
    """Puts every utterance once an epoch into batches of about equal length.

    A batch holds at most `batch_seconds` of audio, everything that `augment` adds and padding
    included, and at most `max_utterances`; an utterance that is longer than that makes a batch of its
    own. `ids` may be given as what `hash_id` makes of them; without `augment` no time is changed.

    Lengths, batches and their order depend on (seed, epoch) and the utterances' ids and lengths
    alone. Raises DataError without utterances, and ConfigError for impossible values.
    """

    # Sorting by length alone would make the same batches every epoch where lengths do not vary. Off
    # by up to this part, lengths still cost only 1 % of padding.
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
        self._speeds = np.array(augment.speeds if augment else [UNCHANGED.speed])
        self._silence_seconds = augment.silence_seconds if augment else 0.0
        self._tempo = augment.tempo if augment else 0.0
        self._max_utterances = len(ids) if max_utterances is None else max_utterances
        self._seed = seed
        self._last: tuple[int, EpochPlan] | None = None
        if not len(ids):
            raise DataError("There is no utterance to train on; see why they were left out.")
        if len(self._seconds) != len(ids):
            raise ValueError(f"{len(self._seconds)} lengths for {len(ids)} ids")
        if not batch_seconds > 0 or self._max_utterances < 1:
            raise ConfigError(
                f"A batch of {batch_seconds} s and {self._max_utterances} utterances holds "
                "nothing; give it more than 0 s and at least 1 utterance."
            )

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch, counted from 0; the last one is kept, not planned again."""
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

        # From the longest to the shortest: a batch is as many as fit if each were as long as the
        # longest that is still to come.
        longest = np.maximum.accumulate(seconds[order][::-1])[::-1]
        fitting = np.clip(self._batch_seconds // longest, 1, self._max_utterances)
        starts = [0]
        while starts[-1] < len(order):
            starts.append(starts[-1] + int(fitting[starts[-1]]))
        starts[-1] = len(order)

        numbers = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        order = order[np.lexsort((-seconds[order], numbers))]  # inside a batch, by true length
        batches = [order[start:end] for start, end in pairwise(starts)]
        shuffled = np.argsort(mix(~state ^ np.arange(len(batches), dtype=np.uint64)))
        batches = [batches[number] for number in shuffled.tolist()]
        return EpochPlan(batches, seconds, speeds, before, after, tempos)

    def _draw_silences(self, draws: Hashes) -> tuple[Floats, Floats]:
        """Seconds before and after each utterance; one time in two there are none."""
        if not self._silence_seconds:
            none = np.broadcast_to(0.0, draws.shape)
            return none, none
        before = np.maximum(2 * _uniform(draws, 1) - 1, 0)
        after = np.where(before > 0, _uniform(draws, 2), 0)
        return self._silence_seconds * before, self._silence_seconds * after

    def _draw_tempos(self, draws: Hashes) -> Floats:
        if not self._tempo:
            return np.broadcast_to(1.0, draws.shape)
        return 1 + self._tempo * (2 * _uniform(draws, 3) - 1)


def hash_id(name: str) -> int:
    """64 bits that stand for an utterance's id, the same on every machine."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def mix(x: Any) -> Any:
    """Splitmix64's output function, on uint64: every bit of the input moves half of the output's.

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)  # a new array, from here on changed in place
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


def _uniform(draws: Hashes, number: int) -> Floats:
    """Numbers in [0, 1), others for each `number`: the highest 53 bits, mixed once more."""
    mixed = mix(draws ^ mix(np.uint64(number)))
    floats: Floats = (mixed >> np.uint64(11)) * 2.0**-53
    return floats


def shard(batch: Indices, rank: int, processes: int) -> Indices:
    """A process's part of a batch, dealt out so that parts differ by one utterance at most.

    Batches come longest first, so all parts are about as long, too. Parts may be empty.
    """
    return batch[rank::processes]
