"""Whether a difference between systems is real: bootstrap intervals, and the matched-pairs test.

All functions take `UtteranceScore`s of the same utterances in the same order. The random numbers are
fixed, so that repeated calls agree.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.errors import ScoreError
from asr.scoring import Report, UtteranceScore

RESAMPLES = 10_000  # bootstrap resamples of an interval
BOUNDARY_WORDS = 2  # words in a row that both systems have right, which separate two segments
_BLOCK = 1_000_000  # counts that are drawn at a time


class Interval(NamedTuple):
    """A 95 % confidence interval, as fractions."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How the second of two systems differs from the first one.

    Attributes:
        wer: The WER of the second system minus that of the first; negative is better.
        interval: Its 95 % confidence interval, by a paired bootstrap.
        probability: Share of the bootstrap's resamples in which the second system is better; equal
            ones count half.
        segments: Segments with an error of either system, see `cut_segments`.
        z: Statistic of the matched-pairs test; positive if the second system has fewer errors.
        p: Probability of such a z, or one farther from 0, if the systems were equally good.
        wins: Utterances in which the second system has fewer errors.
        losses: Utterances in which it has more.
    """

    wer: float
    interval: Interval
    probability: float
    segments: int
    z: float
    p: float
    wins: int
    losses: int


def wer_interval(
    utterances: Sequence[UtteranceScore], groups: Sequence[Hashable] | None = None
) -> Interval:
    """The confidence interval of the WER of utterances, by the percentile bootstrap.

    Bisani and Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance
    evaluation". With `groups`, whole groups are resampled: utterances of one speaker resemble each
    other, so an interval over utterances is too narrow for what other speakers would give.

    Args:
        utterances: The scores of a system.
        groups: The speaker of each utterance; None resamples utterances.

    Returns:
        The interval.

    Raises:
        ScoreError: If there are fewer than two utterances or groups.

    Example:
        >>> from asr.scoring import score
        >>> references = {name: "a b" for name in "abcdefgh"}
        >>> report = score(references, dict.fromkeys("abcd", "a b") | dict.fromkeys("efgh", "a"))
        >>> low, high = wer_interval(report.utterances)
        >>> low < report.wer < high
        True
    """
    errors = [utterance.errors for utterance in utterances]
    words = [utterance.words for utterance in utterances]
    return _interval(_resample(_sum_groups([errors, words], groups)))


def compare(
    first: Report, second: Report, groups: Mapping[str, Hashable] | None = None
) -> Difference:
    """Compare two systems on the same utterances.

    Args:
        first: The scores of one system.
        second: The scores of another one.
        groups: The speaker of each utterance by its id, for the bootstrap; None resamples
            utterances.

    Raises:
        ScoreError: If the utterances or their references differ, or there are fewer than two.

    Example:
        >>> from asr.scoring import score
        >>> references = {name: "a b" for name in "abcdefgh"}
        >>> worse = score(references, dict.fromkeys("abcdefgh", "a"))
        >>> better = score(references, dict.fromkeys("abcdefgh", "a b"))
        >>> compare(worse, better).wer
        -0.5
    """
    pairs = list(zip(first.utterances, second.utterances, strict=False))
    if len(first.utterances) != len(second.utterances) or any(
        a.id != b.id or a.reference != b.reference for a, b in pairs
    ):
        raise ScoreError("the systems were not scored on the same references; score them anew")
    more = [b.errors - a.errors for a, b in pairs]
    names = None if groups is None else [groups[a.id] for a, _ in pairs]
    rates = _resample(_sum_groups([more, [a.words for a, _ in pairs]], names))
    differences = [a - b for pair in pairs for a, b in cut_segments(*pair)]
    z, p = matched_pairs(differences)
    return Difference(
        wer=second.wer - first.wer,
        interval=_interval(rates),
        probability=float((rates < 0).mean() + (rates == 0).mean() / 2),
        segments=len(differences),
        z=z,
        p=p,
        wins=sum(difference < 0 for difference in more),
        losses=sum(difference > 0 for difference in more),
    )


def cut_segments(first: UtteranceScore, second: UtteranceScore) -> list[tuple[int, int]]:
    """Cut an utterance into segments whose errors are independent, and count both systems' errors.

    A segment with errors ends after `BOUNDARY_WORDS` reference words that both systems have right
    (Gillick and Cox 1989, "Some statistical issues in the comparison of speech recognition
    algorithms"; the segments are those of NIST's sc_stats).

    Returns:
        The errors of the first and of the second system in each segment with an error.
    """
    segments: list[tuple[int, int]] = []
    errors, good = [0, 0], 0
    for mistakes in zip(_mistakes(first), _mistakes(second), strict=True):
        for system, (inserted, _) in enumerate(mistakes):
            errors[system] += inserted
        if any(inserted for inserted, _ in mistakes):
            good = 0
        if any(wrong for _, wrong in mistakes):
            for system, (_, wrong) in enumerate(mistakes):
                errors[system] += wrong
            good = 0
            continue
        good += 1
        if good == BOUNDARY_WORDS and any(errors):
            segments.append((errors[0], errors[1]))
            errors = [0, 0]
    if any(errors):
        segments.append((errors[0], errors[1]))
    return segments


def _mistakes(utterance: UtteranceScore) -> Iterator[tuple[int, int]]:
    """Words inserted before each reference word, and whether it is wrong; then those at the end."""
    inserted = 0
    for reference, hypothesis in utterance.alignment:
        if not reference:
            inserted += 1
        else:
            yield inserted, int(reference != hypothesis)
            inserted = 0
    yield inserted, 0


def mended_words(first: Report, second: Report) -> list[tuple[str, int]]:
    """Reference words that the first system has wrong and the second one right, most frequent first.

    Each occurrence counts; the systems must have been scored on the same references.
    """
    counts: Counter[str] = Counter()
    for a, b in zip(first.utterances, second.utterances, strict=True):
        before = [reference == hypothesis for reference, hypothesis in a.alignment if reference]
        after = [
            (reference, reference == hypothesis)
            for reference, hypothesis in b.alignment
            if reference
        ]
        counts.update(
            word
            for was_right, (word, is_right) in zip(before, after, strict=True)
            if is_right and not was_right
        )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def matched_pairs(differences: Sequence[int]) -> tuple[float, float]:
    """The matched-pairs test: whether the mean difference of segments is 0.

    Args:
        differences: Errors of one system minus those of another one, for each segment.

    Returns:
        The statistic z, which is 0 if all differences are equal, as in NIST's sc_stats, and the
        two-sided probability p under the normal distribution.

    Example:
        >>> z, p = matched_pairs([1, 1, 0, 1, -1, 1, 1, 0, 1, 1])
        >>> f"{z:.2f} {p:.3f}"
        '2.71 0.007'
    """
    if len(differences) < 2:
        return 0.0, 1.0
    values = np.array(differences, dtype=float)
    deviation = float(values.std(ddof=1))
    if not deviation:
        return 0.0, 1.0
    z = float(values.mean()) / (deviation / math.sqrt(len(values)))
    return z, math.erfc(abs(z) / math.sqrt(2))


def _sum_groups(
    rows: Sequence[Sequence[int]], groups: Sequence[Hashable] | None
) -> npt.NDArray[np.int64]:
    """Counts (rows, groups) summed by group, or as they are (rows, utterances)."""
    counts: npt.NDArray[np.int64] = np.array(rows, dtype=np.int64)
    if groups is not None:
        numbers: dict[Hashable, int] = {}
        index = [numbers.setdefault(group, len(numbers)) for group in groups]
        sums = np.zeros((len(counts), len(numbers)), np.int64)
        np.add.at(sums.T, index, counts.T)
        counts = sums
    if counts.shape[1] < 2:
        raise ScoreError(
            "an interval needs at least two utterances or speakers; add some, or leave speakers out"
        )
    return counts


def _resample(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The ratio of the sums of counts (2, N) in each bootstrap resample (RESAMPLES,)."""
    random = np.random.default_rng(1)
    size = counts.shape[1]
    rates = []
    for begin in range(0, RESAMPLES, max(1, _BLOCK // size)):
        rows = min(max(1, _BLOCK // size), RESAMPLES - begin)
        drawn = random.integers(size, size=(rows, size))  # (rows, N)
        errors, words = counts[0][drawn].sum(axis=1), counts[1][drawn].sum(axis=1)
        rates.append(errors / np.maximum(words, 1))
    return np.concatenate(rates)


def _interval(rates: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(rates, (0.025, 0.975))
    return Interval(float(low), float(high))
