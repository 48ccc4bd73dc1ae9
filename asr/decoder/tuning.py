"""Tuning of a beam decoder on a dev set: its weights by word error rate, then its confidence.

The log-probabilities are computed once; a trial only decodes them again.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from asr.decoder.beam import BeamDecoder
from asr.decoder.confidence import Floats, fit_confidence, label_words
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.errors import DataError
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
        row_edges, column_edges = _edges(alphas, columns), _edges(betas, columns)
        rows = _find_cells(alphas, row_edges)
        cells = _find_cells(betas, column_edges)
        lines = ["alpha \\ beta" + "".join(f"{edge:>8.2f}" for edge in _middles(column_edges))]
        for row, middle in enumerate(_middles(row_edges)):
            line = f"{middle:>12.2f}"
            for cell in range(columns):
                here = wers[(rows == row) & (cells == cell)]
                line += f"{here.min():>8.2f}" if len(here) else f"{'.':>8}"
            lines.append(line)
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
        DataError: If there are no utterances, or the decoder has no weights to tune.
    """
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
    search = _Search(best, names, trials, seed)
    done: list[Trial] = []
    fewest = math.inf
    for config in search:
        report = decode(config)[1]
        weights = (config.alpha, config.beta, config.unknown, config.prior)
        done.append(Trial(*weights, report.wer, report.errors))
        on_trial(done[-1])
        if report.errors < fewest:
            search.best, fewest = config, report.errors
    posteriors = replace(search.best, confidence_slope=1.0, confidence_offset=0.0)
    found, report = decode(posteriors)
    return Tuning(tuple(done), _fit_confidence(search.best, found, report), report)


class _Search:
    """The settings to try, one after the other; the caller sets the `best` so far."""

    def __init__(self, start: DecoderConfig, names: list[str], trials: int, seed: int) -> None:
        self.best = start
        self._start, self._names, self._trials, self._seed = start, names, trials, seed

    def __iter__(self) -> Iterator[DecoderConfig]:
        names = self._names
        low, high = np.array([RANGES[name] for name in names]).T
        halton = qmc.Halton(len(names), seed=self._seed)
        spread = qmc.scale(halton.random(max(1, self._trials // 2)), low, high)
        random = np.random.default_rng(self._seed)
        steps = (high - low) / 6
        for number in range(self._trials):
            if number == 0:
                yield self._start
            elif number <= len(spread):
                yield _replace_weights(self.best, names, spread[number - 1])
            else:
                center = np.array([getattr(self.best, name) for name in names])
                step = random.normal(size=len(names)) * steps
                yield _replace_weights(self.best, names, center + step)
                steps = steps * _SHRINK


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
    return {
        "alpha": decoder.language_model is not None,
        "beta": decoder.uses_words,
        "unknown": decoder.uses_words and not decoder.config.strict,
        "prior": decoder.uses_words,
    }[name]


def _replace_weights(config: DecoderConfig, names: list[str], point: Floats) -> DecoderConfig:
    """`config` with other weights, rounded to the digits that matter."""
    values = {name: round(float(value), 3) for name, value in zip(names, point, strict=True)}
    values = {name: abs(v) if name in ("alpha", "prior") else v for name, v in values.items()}
    return DecoderConfig(**{**asdict(config), **values})


def _edges(values: Floats, cells: int) -> Floats:
    return np.linspace(values.min(), values.max() + 1e-9, cells + 1)


def _middles(edges: Floats) -> Floats:
    return (edges[1:] + edges[:-1]) / 2


def _find_cells(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
