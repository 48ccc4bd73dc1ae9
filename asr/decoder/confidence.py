"""Confidence of words: fitting it, applying the fit, and measuring how well it is calibrated."""

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import rankdata

from asr.decoder.hypothesis import Hypothesis
from asr.scoring import UtteranceScore

BINS = 10
"""Number of bins into which words are sorted by their confidence."""

POSTERIOR_MARGIN = 1e-3
"""Posteriors closer than this to 0 or 1 are moved away before a fit."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def label_words(hypothesis: Hypothesis, utterance: UtteranceScore) -> list[tuple[float, bool]]:
    """The confidence of each word of a hypothesis, and whether the word is right.

    Whether a word is right comes from the alignment with the reference. The result is empty if the
    alignment has another number of words, because its text profile splits words or drops them.
    """
    right = [reference == word for reference, word in utterance.alignment if word]
    if len(right) != len(hypothesis.words):
        return []
    return [(word.confidence, r) for word, r in zip(hypothesis.words, right, strict=True)]


def fit_confidence(posteriors: Floats, right: Flags) -> tuple[float, float] | None:
    """Fit the slope and offset that turn posteriors into confidences.

    This is logistic regression on the log-odds of the posteriors (Platt 1999).

    Args:
        posteriors: (n,) posteriors of words, in (0, 1).
        right: (n,) whether each word is right.

    Returns:
        Slope and offset, or None if all words are right or all are wrong.
    """
    if right.all() or not right.any():
        return None
    # A posterior of 1 only means that the beam held no competitor. Without the margin, such words
    # would dominate the fit, because their log-odds lie far from all others.
    bounded = np.clip(posteriors, POSTERIOR_MARGIN, 1 - POSTERIOR_MARGIN)
    x = np.log(bounded / (1 - bounded))
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0.0, -signs * (weights[0] * x + weights[1])).mean())

    slope, offset = minimize(loss, [0.5, 0.0], bounds=[(0.0, 100.0), (-100.0, 100.0)]).x
    return round(float(slope), 4), round(float(offset), 4)


def calibrate(posteriors: Floats, slope: float, offset: float) -> Floats:
    """The confidences (n,) that a `BeamDecoder` gives to words with these posteriors (n,)."""
    return 1 / (1 + np.exp(-(slope * np.log(posteriors / (1 - posteriors)) + offset)))


def reliability(confidences: Floats, right: Flags) -> list[tuple[float, float, int]]:
    """Compare confidence with accuracy: (mean confidence, share of right words, count) per bin.

    Words (n,) are sorted by confidence into at most `BINS` bins of equal size, lowest first.
    """
    order = np.argsort(confidences, kind="stable")
    bins = [bin for bin in np.array_split(order, BINS) if len(bin)]
    return [(float(confidences[b].mean()), float(right[b].mean()), len(b)) for b in bins]


def calibration_error(confidences: Floats, right: Flags) -> float:
    """The expected calibration error (Naeini, Cooper & Hauskrecht 2015) of words (n,), n > 0.

    This is the mean distance between confidence and accuracy over the bins of `reliability`. Chance
    keeps it above 0 even for a perfect confidence: about 0.8 sqrt(p (1 - p) / words per bin).
    """
    bins = reliability(confidences, right)
    return sum(count * abs(mean - share) for mean, share, count in bins) / len(right)


def auroc(confidences: Floats, right: Flags) -> float:
    """The area under the ROC curve, computed from ranks.

    It is the probability that a right word has a higher confidence than a wrong one; ties count
    one half. NaN if all words (n,) are right or all are wrong.
    """
    positives = int(right.sum())
    pairs = positives * (len(right) - positives)
    if not pairs:
        return math.nan
    ranks = rankdata(confidences)
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / pairs)
