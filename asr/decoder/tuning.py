"""Finding a beam decoder's numbers on a dev set: weights by word error rate, then confidence.

The log-probabilities are computed once; a trial only decodes them again. How good a confidence is:
`reliability`, `calibration_error`, `auroc`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from asr.decoder.beam import BeamDecoder
from asr.decoder.confidence import Floats, fit_confidence, judge
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.errors import DataError
from asr.scoring import Report, score

RANGES = {
    "alpha": (0.05, 1.2),
    "beta": (-1.0, 5.0),
    "unknown": (-12.0, 0.0),
    "prior": (0.0, 0.8),
}
"""Where the first trials lie; what is best may lie outside."""

LEAST_SHARE = 1e-5
"""Of the frames, for a symbol that is hardly ever said."""

_SHRINK = 0.95  # of the steps around the best, from trial to trial


@dataclass(frozen=True, slots=True)
class Trial:
    """The weights that were tried, and the errors that they led to."""

    alpha: float
    beta: float
    unknown: float
    prior: float
    wer: float
    errors: int


@dataclass(frozen=True)
class Tuning:
    """All trials, the first with the numbers that the search began with; and the winner."""

    trials: tuple[Trial, ...]
    config: DecoderConfig
    report: Report

    def surface(self, columns: int = 6) -> str:
        """The lowest WER (%) of the trials by alpha and beta, as a table; dots: not tried there."""
        alphas = np.array([trial.alpha for trial in self.trials])
        betas = np.array([trial.beta for trial in self.trials])
        wers = 100 * np.array([trial.wer for trial in self.trials])
        row_edges, column_edges = _edges(alphas, columns), _edges(betas, columns)
        rows = _places(alphas, row_edges)
        cells = _places(betas, column_edges)
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
    each: Callable[[Trial], object] = lambda _: None,
) -> Tuning:
    """The weights of `decoder` with the fewest word errors, and a confidence that fits them.

    `log_probs` are the matrices (T', V) by utterance id, `references` the texts. Half of the trials
    spread evenly over `RANGES` (Halton 1960), the others step at random around the best so far, in
    steps that shrink. Weights that the decoder does not use are left alone. The symbols' priors are
    those of `log_probs`. Equal errors: the earlier trial wins. `each` is told of every trial. The
    result depends on nothing but the arguments; not on `threads`.

    Raises DataError without an utterance, or where the decoder has neither a language model nor a
    lexicon, and so nothing to tune.
    """
    if not log_probs:
        raise DataError("there is no utterance to tune on: give a manifest that holds some")
    names = [name for name in RANGES if _acts(decoder, name)]
    if not names:
        raise DataError("a beam without language model or lexicon has no weights to tune: give one")
    texts = {name: references[name] for name in log_probs}
    start = replace(decoder.config, priors=measure_priors(log_probs))

    def decode(config: DecoderConfig) -> tuple[list[Hypothesis], Report]:
        found = decoder.configured(config).decode_many(list(log_probs.values()), threads)
        hypotheses = {name: h.text for name, h in zip(log_probs, found, strict=True)}
        return found, score(texts, hypotheses, profile)

    low, high = np.array([RANGES[name] for name in names]).T
    spread = qmc.scale(qmc.Halton(len(names), seed=seed).random(max(1, trials // 2)), low, high)
    random = np.random.default_rng(seed)
    steps = (high - low) / 6
    done: list[Trial] = []
    best, best_report = start, None
    for number in range(trials):
        config = start
        if number > len(spread):
            center = np.array([getattr(best, name) for name in names])
            config = _at(best, names, center + random.normal(size=len(names)) * steps)
            steps = steps * _SHRINK
        elif number:
            config = _at(best, names, spread[number - 1])
        report = decode(config)[1]
        weights = (config.alpha, config.beta, config.unknown, config.prior)
        done.append(Trial(*weights, report.wer, report.errors))
        each(done[-1])
        if best_report is None or report.errors < best_report.errors:
            best, best_report = config, report
    posteriors = replace(best, confidence_slope=1.0, confidence_offset=0.0)
    found, report = decode(posteriors)
    pairs = zip(found, report.utterances, strict=True)
    judged = [word for hypothesis, utterance in pairs for word in judge(hypothesis, utterance)]
    if judged:
        confidences, right = (np.array(column) for column in zip(*judged, strict=True))
        if fitted := fit_confidence(confidences, right):
            best = replace(best, confidence_slope=fitted[0], confidence_offset=fitted[1])
    return Tuning(tuple(done), best, report)


def measure_priors(log_probs: Mapping[str, Any]) -> list[float]:
    """Each symbol's mean probability (V values) over all frames of the matrices (T', V)."""
    shares = [np.exp(np.asarray(matrix, np.float64)).sum(axis=0) for matrix in log_probs.values()]
    total = np.sum(shares, axis=0)
    mean = np.clip(total / max(total.sum(), 1.0), LEAST_SHARE, 1.0)
    return [float(f"{share:.4g}") for share in mean]


def _acts(decoder: BeamDecoder, name: str) -> bool:
    """Whether a weight changes what the decoder finds."""
    return {
        "alpha": decoder.language_model is not None,
        "beta": decoder.guided,
        "unknown": decoder.guided and not decoder.config.strict,
        "prior": decoder.guided,
    }[name]


def _at(config: DecoderConfig, names: list[str], point: Floats) -> DecoderConfig:
    """`config` with other weights, rounded: more digits than these have no meaning."""
    values = {name: round(float(value), 3) for name, value in zip(names, point, strict=True)}
    values = {name: abs(v) if name in ("alpha", "prior") else v for name, v in values.items()}
    return DecoderConfig(**{**asdict(config), **values})


def _edges(values: Floats, cells: int) -> Floats:
    return np.linspace(values.min(), values.max() + 1e-9, cells + 1)


def _middles(edges: Floats) -> Floats:
    return (edges[1:] + edges[:-1]) / 2


def _places(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
