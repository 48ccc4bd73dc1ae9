"""Confidence of words: fitting, calibration and its measures."""

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import rankdata

from asr.decoder.hypothesis import Hypothesis
from asr.scoring import UtteranceScore

BINS = 10
"""Of the words, by confidence."""

DOUBT = 1e-3
"""How far from 0 and 1 a posterior that is fitted on is at least."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def judge(hypothesis: Hypothesis, utterance: UtteranceScore) -> list[tuple[float, bool]]:
    """The confidence of each word of a hypothesis, and whether the scoring's alignment has it right.

    Empty where the words cannot be told apart: a profile may split words, or drop them.
    """
    right = [reference == word for reference, word in utterance.alignment if word]
    if len(right) != len(hypothesis.words):
        return []
    return [(word.confidence, r) for word, r in zip(hypothesis.words, right, strict=True)]


def fit_confidence(posteriors: Floats, right: Flags) -> tuple[float, float] | None:
    """Slope and offset with which words' posteriors (n,) say best which of them are right (n,).

    Logistic regression on their log-odds (Platt 1999), the posteriors being in (0, 1). None where
    there is nothing to learn from: all words are right, or all are wrong.
    """
    if right.all() or not right.any():
        return None
    # A posterior of 1 only says that the beam was too narrow for a doubt. Such words, at log-odds far
    # from all others, would else decide the slope.
    bounded = np.clip(posteriors, DOUBT, 1 - DOUBT)
    x = np.log(bounded / (1 - bounded))
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0.0, -signs * (weights[0] * x + weights[1])).mean())

    slope, offset = minimize(loss, [0.5, 0.0], bounds=[(0.0, 100.0), (-100.0, 100.0)]).x
    return round(float(slope), 4), round(float(offset), 4)


def calibrate(posteriors: Floats, slope: float, offset: float) -> Floats:
    """The confidences of words (n,) with these posteriors, as a `BeamDecoder` gives them."""
    return 1 / (1 + np.exp(-(slope * np.log(posteriors / (1 - posteriors)) + offset)))


def reliability(confidences: Floats, right: Flags) -> list[tuple[float, float, int]]:
    """How sure words (n,) were against how many were right: (mean, share, count) for each bin.

    The bins, `BINS` of them at most, hold equally many words, from the least sure to the surest.
    """
    order = np.argsort(confidences, kind="stable")
    bins = [bin for bin in np.array_split(order, BINS) if len(bin)]
    return [(float(confidences[b].mean()), float(right[b].mean()), len(b)) for b in bins]


def calibration_error(confidences: Floats, right: Flags) -> float:
    """The expected calibration error (Naeini, Cooper & Hauskrecht 2015) of words (n,), n > 0.

    The mean distance of how sure words were from how many were right, over the bins of
    `reliability`. Even where nothing is wrong with the confidence it is not 0, since chance parts
    them: about 0.8 sqrt(p (1 - p) / words in a bin).
    """
    bins = reliability(confidences, right)
    return sum(count * abs(mean - share) for mean, share, count in bins) / len(right)


def auroc(confidences: Floats, right: Flags) -> float:
    """How often, of a right and a wrong word, the right one was surer; equals count one half.

    The area under the ROC curve, by ranks. NaN where all words (n,) are right, or all are wrong.
    """
    positives = int(right.sum())
    pairs = positives * (len(right) - positives)
    if not pairs:
        return math.nan
    ranks = rankdata(confidences)
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / pairs)
