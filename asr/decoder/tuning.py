"""Tuning of a beam decoder on a dev set: its weights by word error rate, then its confidence.

The log-probabilities are computed once; a trial only decodes them again.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binned_statistic_2d, qmc

from asr.decoder.beam import BeamDecoder
from asr.decoder.confidence import Floats, fit_confidence, label_words
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.defaults import MOST_TRIALS
from asr.errors import DataError, check_number
from asr.scoring import Report, score

RANGES = {"alpha": (0.05, 1.2), "beta": (-1.0, 5.0), "unknown": (-12.0, 0.0), "prior": (0.0, 0.8)}
"""Ranges of the first trials; the best weights may lie outside."""

LEAST_SHARE = 1e-5
"""Lower bound of a symbol's prior, for rare symbols."""

_SHRINK = 0.95  # factor on the size of the random steps, from trial to trial


@dataclass(frozen=True, slots=True)
class Trial:
    """The weights that were tried, and the word errors with them."""

    alpha: float
    beta: float
    unknown: float
    prior: float
    wer: float
    errors: int


@dataclass(frozen=True)
class Tuning:
    """The trials, the first with the weights before the search, and the winner with its report."""

    trials: tuple[Trial, ...]
    config: DecoderConfig
    report: Report

    def surface(self, columns: int = 6) -> str:
        """A table of the trials' lowest WER (%) by alpha and beta; cells without a trial show a dot."""
        alphas = np.array([trial.alpha for trial in self.trials])
        betas = np.array([trial.beta for trial in self.trials])
        wers = 100 * np.array([trial.wer for trial in self.trials])
        spans = [(values.min(), values.max() + 1e-9) for values in (alphas, betas)]
        lowest, *edges, _ = binned_statistic_2d(alphas, betas, wers, "min", columns, spans)
        rows, cells = ((edge[1:] + edge[:-1]) / 2 for edge in edges)  # their middles
        lines = ["alpha \\ beta" + "".join(f"{cell:>8.2f}" for cell in cells)]
        for row, values in zip(rows, lowest, strict=True):
            shown = ["." if math.isnan(wer) else f"{wer:.2f}" for wer in values]
            lines.append(f"{row:>12.2f}" + "".join(f"{text:>8}" for text in shown))
        return "\n".join(lines)


def tune(
    decoder: BeamDecoder,
    log_probs: Mapping[str, Any],
    references: Mapping[str, str],
    trials: int = 100,
    threads: int = 1,
    profile: str = "plain",
    seed: int = 1,
    on_trial: Callable[[Trial], object] = lambda _: None,
) -> Tuning:
    """Find the weights of `decoder` with the fewest word errors, and a confidence that fits them.

    Half of the trials spread evenly over `RANGES` (Halton 1960); the others step at random around
    the best so far, in steps that shrink. Weights that the decoder does not use are left alone. The
    symbols' priors are measured on `log_probs`. If errors are equal, the earlier trial wins. The
    result is the same for any number of threads.

    Args:
        decoder: The decoder to tune, with a language model or a lexicon.
        log_probs: The matrices (T', V) of log-probabilities by utterance id.
        references: The reference texts by utterance id.
        trials: Number of trials, the first with the decoder's own weights.
        threads: Number of threads that decode.
        profile: How both sides are normalized before they are compared.
        seed: Seed of the trials.
        on_trial: Called with every trial.

    Raises:
        ConfigError: If the number of trials is below 1 or above `MOST_TRIALS`.
        DataError: If there are no utterances, or the decoder has no weights to tune.
    """
    check_number("trials", trials, 1, MOST_TRIALS, whole=True)
    if not log_probs:
        raise DataError("there is no utterance to tune on; use a manifest that contains some")
    names = [name for name in RANGES if _has_effect(decoder, name)]
    if not names:
        raise DataError(
            "a beam without language model or lexicon has no weights to tune; specify one"
        )
    texts = {name: references[name] for name in log_probs}

    def decode(config: DecoderConfig) -> tuple[list[Hypothesis], Report]:
        found = decoder.configured(config).decode_many(list(log_probs.values()), threads)
        hypotheses = {name: h.text for name, h in zip(log_probs, found, strict=True)}
        return found, score(texts, hypotheses, profile)

    best = replace(decoder.config, priors=measure_priors(log_probs))
    low, high = np.array([RANGES[name] for name in names]).T
    spread = qmc.scale(qmc.Halton(len(names), seed=seed).random(max(1, trials // 2)), low, high)
    random = np.random.default_rng(seed)
    steps = (high - low) / 6
    done: list[Trial] = []
    fewest = math.inf
    config = best
    for number in range(trials):
        if 1 <= number <= len(spread):
            config = _replace_weights(best, names, spread[number - 1])
        elif number:
            center = np.array([getattr(best, name) for name in names])
            step = random.normal(size=len(names)) * steps
            config = _replace_weights(best, names, center + step)
            steps = steps * _SHRINK
        report = decode(config)[1]
        weights = (config.alpha, config.beta, config.unknown, config.prior)
        done.append(Trial(*weights, report.wer, report.errors))
        on_trial(done[-1])
        if report.errors < fewest:
            best, fewest = config, report.errors
    found, report = decode(replace(best, confidence_slope=1.0, confidence_offset=0.0))
    return Tuning(tuple(done), _fit_confidence(best, found, report), report)


def _fit_confidence(
    config: DecoderConfig, posteriors: list[Hypothesis], report: Report
) -> DecoderConfig:
    """Fit the confidence calibration to hypotheses whose word confidences are raw posteriors.

    The configuration is unchanged if there is nothing to fit.
    """
    pairs = zip(posteriors, report.utterances, strict=True)
    judged = [
        word for hypothesis, utterance in pairs for word in label_words(hypothesis, utterance)
    ]
    if judged:
        confidences, right = (np.array(column) for column in zip(*judged, strict=True))
        if fitted := fit_confidence(confidences, right):
            return replace(config, confidence_slope=fitted[0], confidence_offset=fitted[1])
    return config


def measure_priors(log_probs: Mapping[str, Any]) -> list[float]:
    """Each symbol's mean probability, V values, over all frames of the matrices (T', V)."""
    shares = [np.exp(np.asarray(matrix, np.float64)).sum(axis=0) for matrix in log_probs.values()]
    total = np.sum(shares, axis=0)
    mean = np.clip(total / max(total.sum(), 1.0), LEAST_SHARE, 1.0)
    return [float(f"{share:.4g}") for share in mean]


def _has_effect(decoder: BeamDecoder, name: str) -> bool:
    """Return whether a weight changes what the decoder finds."""
    if name == "alpha":
        return decoder.language_model is not None
    return decoder.uses_words and not (name == "unknown" and decoder.config.strict)


def _replace_weights(config: DecoderConfig, names: list[str], point: Floats) -> DecoderConfig:
    """`config` with other weights, rounded to the digits that matter."""
    values: dict[str, Any] = {}
    for name, value in zip(names, point, strict=True):
        rounded = round(float(value), 3)
        values[name] = abs(rounded) if name in ("alpha", "prior") else rounded
    return replace(config, **values)
