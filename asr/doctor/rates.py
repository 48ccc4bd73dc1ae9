"""Checks of speaking rate: transcripts that are too long or too short for their recordings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.doctor.duplicates import Indices

FASTEST, SLOWEST = 40.0, 2.5  # characters a second: of 7,561 readings the extremes are 33 and 3.5
RATE_DEVIATIONS = 5.0
LEAST_RATE_DEVIATION = 0.1  # of the logarithm: a corpus of one machine voice varies less
RATE_GROUP = 30  # utterances from which a median is taken
LEAST_UTTERANCES = 100  # from which it can be told how rates depend on the length of a text
SPEAKER_PRIOR = 4  # utterances as many as which the corpus's rate counts in a speaker's

TIMES = ("span", "active")
Floats = npt.NDArray[np.float64]


def group_by_value(indices: Indices, keys: npt.NDArray[Any]) -> Iterator[Indices]:
    """The indices that share a key, in their order, for each key that several have."""
    order = indices[np.argsort(keys[indices], kind="stable")]
    edges = np.flatnonzero(np.diff(keys[order].astype(np.uint64)) != 0) + 1
    for group in np.split(order, edges):
        if len(group) > 1:
            yield group


def spread(values: Floats) -> tuple[float, float]:
    """The median, and the standard deviation that a normal distribution of this MAD would have."""
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))


def score_rates(characters: Floats, rates: Floats, speakers: Sequence[str]) -> Floats:
    """How many standard deviations the logarithm of each rate is from what is expected.

    Expected is the median at texts of this length (short ones are spoken more slowly), moved
    towards the speaker's own, the more so the more there is of that speaker. The less there is, the
    more of the spread between speakers is allowed for.
    """
    lengths, logs = np.log(characters), np.log(rates)
    parts = int(np.clip(len(rates) // RATE_GROUP, 1, 10))
    order = np.argsort(lengths, kind="stable")
    medians = [
        (np.median(lengths[part]), np.median(logs[part])) for part in np.array_split(order, parts)
    ]
    centers, heights = np.array(medians).T
    logs = logs - np.interp(lengths, centers, heights)
    residuals, known = logs.copy(), np.zeros(len(logs))
    _, numbers = np.unique(speakers, return_inverse=True)
    for group in group_by_value(np.arange(len(logs)), numbers):
        if speakers[int(group[0])]:
            known[group] = len(group) / (len(group) + SPEAKER_PRIOR)
            residuals[group] -= known[group] * np.median(logs[group])
    middle, within = spread(residuals)
    within = max(within, LEAST_RATE_DEVIATION)
    between = max(spread(logs)[1] ** 2 - within**2, 0.0)
    scores: Floats = (residuals - middle) / np.sqrt(within**2 + (1 - known) ** 2 * between)
    return scores
