"""Checks of speaking rate: texts that are too long or too short for their recordings."""

from collections.abc import Sequence

import numpy as np

from asr.doctor.measurements import Examination, Floats, Indices, estimate_normal, group_by_value

# The extremes among 7,561 recordings of read speech are 33 and 3.5 characters per second. These
# limits are safely beyond them.
FASTEST = 40.0
SLOWEST = 2.5
# Minimum number of utterances for estimating how the rate depends on text length.
LEAST_UTTERANCES = 100
# A rate this many standard deviations from what is expected suggests a wrong text.
RATE_DEVIATIONS = 5.0


def check_rates(examination: Examination) -> None:
    """Report texts that are too long or too short for their recordings.

    They are compared first with the limits of human speech, then with the speaker's usual rate.
    """
    indices: Indices = np.flatnonzero(examination.spoken & ~examination.has_error)
    characters = examination.characters[indices].astype(np.float64)
    recordings = examination.recordings[indices]
    span, active = (recordings[name].astype(np.float64) for name in ("span", "active"))
    fast, slow = characters / span > FASTEST, characters / active < SLOWEST
    for place in np.flatnonzero(fast | slow).tolist():
        seconds, noun = (span, "speech") if fast[place] else (active, "speech without pauses")
        detail = f"{characters[place]:.0f} characters in {seconds[place]:.2f} s of {noun}"
        examination.add("rate", int(indices[place]), detail)
    possible = ~(fast | slow)
    if np.count_nonzero(possible) < LEAST_UTTERANCES:
        return
    indices, characters = indices[possible], characters[possible]
    span, active = span[possible], active[possible]
    # A rate must be unlikely for the speaker both with and without the pauses.
    names = [examination.utterances[index].speaker for index in indices.tolist()]
    both = [score_rates(characters, characters / seconds, names) for seconds in (span, active)]
    scores = np.where(both[0] * both[1] > 0, np.minimum(*np.abs(both)), 0.0)
    for place in np.flatnonzero(scores > RATE_DEVIATIONS).tolist():
        direction = "more" if both[0][place] > 0 else "fewer"
        detail = (
            f"{characters[place]:.0f} characters in {span[place]:.2f} s, {direction} than "
            f"expected by {scores[place]:.1f} standard deviations"
        )
        examination.add("mismatch", int(indices[place]), detail)


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
    count = int(np.clip(len(rates) // LENGTH_GROUP, 1, 10))
    parts = np.array_split(np.argsort(lengths, kind="stable"), count)
    centers = [float(np.median(lengths[part])) for part in parts]
    heights = [float(np.median(logs[part])) for part in parts]
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
