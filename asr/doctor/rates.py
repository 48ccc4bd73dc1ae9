"""Checks of speaking rate: texts that are too long or too short for their recordings."""

from collections.abc import Sequence

import numpy as np

from asr.doctor.findings import Recorder
from asr.doctor.measurements import (
    Floats,
    Indices,
    Mask,
    Measurements,
    estimate_normal,
    group_by_value,
)


def check_rates(measurements: Measurements, recorder: Recorder) -> None:
    """Report texts that are too long or too short for their recordings.

    They are compared first with the limits of human speech, then with the speaker's usual rate.
    """
    indices = np.flatnonzero(measurements.spoken & ~recorder.has_error)
    possible = _check_limits(measurements, recorder, indices)
    _check_usual_rates(measurements, recorder, indices[possible])


def _read_rates(measurements: Measurements, indices: Indices) -> tuple[Floats, Floats, Floats]:
    """The characters, and the seconds of speech with and without pauses, each (n,)."""
    span, active = (measurements.recordings[name][indices] for name in ("span", "active"))
    characters = measurements.characters[indices]
    return characters.astype(np.float64), span.astype(np.float64), active.astype(np.float64)


# The extremes among 7,561 recordings of read speech are 33 and 3.5 characters per second. These
# limits are safely beyond them.
FASTEST = 40.0
SLOWEST = 2.5


def _check_limits(measurements: Measurements, recorder: Recorder, indices: Indices) -> Mask:
    """Report impossible rates; return the mask (n,) of the others."""
    characters, span, active = _read_rates(measurements, indices)
    fast = characters / span > FASTEST
    slow = characters / active < SLOWEST
    for place in np.flatnonzero(fast | slow).tolist():
        seconds, noun = (span, "speech") if fast[place] else (active, "speech without pauses")
        detail = f"{characters[place]:.0f} characters in {seconds[place]:.2f} s of {noun}"
        recorder.add("rate", int(indices[place]), detail)
    possible: Mask = ~(fast | slow)
    return possible


# Minimum number of utterances for estimating how the rate depends on text length.
LEAST_UTTERANCES = 100
# A rate this many standard deviations from what is expected suggests a wrong text.
RATE_DEVIATIONS = 5.0


def _check_usual_rates(measurements: Measurements, recorder: Recorder, indices: Indices) -> None:
    """Report rates that are unlikely for the speaker, both with and without the pauses."""
    if len(indices) < LEAST_UTTERANCES:
        return
    characters, span, active = _read_rates(measurements, indices)
    names = [measurements.utterances[index].speaker for index in indices.tolist()]
    both = [score_rates(characters, characters / seconds, names) for seconds in (span, active)]
    scores = np.where(both[0] * both[1] > 0, np.minimum(*np.abs(both)), 0.0)
    for place in np.flatnonzero(scores > RATE_DEVIATIONS).tolist():
        direction = "more" if both[0][place] > 0 else "fewer"
        detail = (
            f"{characters[place]:.0f} characters in {span[place]:.2f} s, {direction} than "
            f"expected by {scores[place]:.1f} standard deviations"
        )
        recorder.add("mismatch", int(indices[place]), detail)


# The expected rate is a median over about this many utterances with texts of similar length.
LENGTH_GROUP = 30
# Weight of the corpus rate in a speaker's expected rate, in utterances.
SPEAKER_PRIOR = 4
# The least standard deviation of the logarithm of rates: a corpus of one synthetic voice varies
# less, and would make outliers of harmless differences.
LEAST_DEVIATION = 0.1


def score_rates(characters: Floats, rates: Floats, speakers: Sequence[str]) -> Floats:
    """How many standard deviations the logarithm of each rate (n,) is from what is expected.

    The expected rate is the median of texts of this length, as short texts are spoken more slowly,
    moved toward the speaker's own rate. The fewer utterances a speaker has, the less it is moved,
    and the more of the variance between speakers is allowed for.
    """
    lengths, logs = np.log(characters), np.log(rates)
    parts = int(np.clip(len(rates) // LENGTH_GROUP, 1, 10))
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
    middle, within = estimate_normal(residuals)
    within = max(within, LEAST_DEVIATION)
    between = max(estimate_normal(logs)[1] ** 2 - within**2, 0.0)
    scores: Floats = (residuals - middle) / np.sqrt(within**2 + (1 - known) ** 2 * between)
    return scores
