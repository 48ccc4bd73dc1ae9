"""Measurements of every utterance, with all splits in one table.

Every recording is decoded once (`asr.doctor.sound`); only about a hundred bytes of it are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Utterance
from asr.doctor.sound import ENVELOPE_BINS, Sound

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The numbers of `Sound` that are kept as float32.
NUMBERS = (
    "seconds sample_rate channels peak level dynamic_range dc_offset clipped_share crest "
    "leading_silence trailing_silence longest_pause span active band_limit_hz band_limit_drop "
    "mirror_correlation downmix_gain channel_balance channel_correlation"
).split()
RECORDING = np.dtype(
    [(name, np.float32) for name in NUMBERS]
    + [("content", np.uint64), ("envelope", np.int8, ENVELOPE_BINS)]
)


class Measurements:
    """Numbers about each of N utterances, which the checks read; every array starts as zeros.

    Attributes:
        splits: The utterances of each split, the training set first.
        names: The names of the splits.
        utterances: The utterances of all splits, one split after the other.
        split: (N,) The position of each utterance's split in `names`.
        recordings: (N,) The numbers of each recording, with the fields of `RECORDING`.
        readable: (N,) True if the recording could be decoded.
        spoken: (N,) True if the recording is readable and contains speech, and the text is not empty.
        text_hashes: (N,) A 64-bit hash of each normalized text.
        characters: (N,) The number of characters of each normalized text.
        words: (N,) The number of words of each normalized text.
        reading_seconds: CPU time spent on decoding and measuring the recordings.
    """

    def __init__(self, splits: Mapping[str, Sequence[Utterance]]) -> None:
        self.splits = splits
        self.names = list(splits)
        self.utterances = [utterance for split in splits.values() for utterance in split]
        self.split = np.repeat(np.arange(len(splits)), [len(split) for split in splits.values()])
        count = len(self.utterances)
        self.recordings = np.zeros(count, RECORDING)
        self.readable = np.zeros(count, np.bool_)
        self.spoken = np.zeros(count, np.bool_)
        self.text_hashes = np.zeros(count, np.uint64)
        self.characters = np.zeros(count, np.int32)
        self.words = np.zeros(count, np.int32)
        self.reading_seconds = 0.0

    def store(self, index: int, sound: Sound) -> None:
        """Keep the numbers of a recording that could be decoded."""
        row = self.recordings[index]
        for name in NUMBERS:
            row[name] = getattr(sound, name)
        row["content"], row["envelope"] = sound.content, sound.envelope
        self.readable[index] = True

    def label(self, index: int, beside: int) -> str:
        """The id of an utterance, followed by its split unless `beside` is in the same split."""
        name = self.utterances[index].id
        if self.split[index] == self.split[beside]:
            return name
        return f"{name} in {self.names[self.split[index]]}"


def group_by_value(indices: Indices, keys: npt.NDArray[Any]) -> Iterator[Indices]:
    """Yield, for each key that occurs several times, the indices that share it, in their order."""
    order = indices[np.argsort(keys[indices], kind="stable")]
    edges = np.flatnonzero(np.diff(keys[order].astype(np.uint64)) != 0) + 1
    for group in np.split(order, edges):
        if len(group) > 1:
            yield group


def estimate_normal(values: Floats) -> tuple[float, float]:
    """Robust estimates of a normal distribution's mean and standard deviation.

    These are the median and 1.4826 times the median absolute deviation from it.
    """
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))
