"""The configuration of a decoder, and the interface that all decoders share."""

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoder.hypothesis import Hypothesis
from asr.errors import ConfigError, DecodeError, quote
from asr.files import MOST_PATH

BLANK_ID = 0
FILE_FIELDS = ("language_model", "lexicon", "hotwords")
"""Fields of a `DecoderConfig` that are paths of files."""


@dataclass
class DecoderConfig:
    """Kind and settings of a decoder; everything except `kind` concerns only the beam search.

    The beam search maximizes log p_ctc + `alpha` log p_lm + `beta` words + `unknown` unknown words
    (natural logarithms) plus the bonuses of hotwords.

    Args:
        kind: "greedy" or "beam".
        beam: Beam width: number of prefixes kept after each frame.
        alpha: Weight of the language model.
        beta: Bonus per word in nats.
        unknown: Bonus (negative: penalty) in nats per word that the lexicon lacks.
        prior: Weight of the symbols' log priors, which are subtracted from the log-probabilities
            if there is a language model or a lexicon.
        priors: Prior of each symbol, blank first: its mean probability over many frames.
        language_model: File of an n-gram model; empty for none.
        lexicon: File with one word per line; empty for the words of the language model.
        strict: Whether only words of the lexicon may be found.
        hotwords: File with one word or phrase per line, optionally followed by a tab and its own
            weight; empty for none.
        hotword_weight: Bonus in nats per word of a hotword without a weight of its own.
        nbest: Number of hypotheses, the best one and its alternatives together.
        token_floor: Symbols below this log-probability are not tried in a frame.
        beam_range: Prefixes more than this many nats below the best one are dropped.
        recombine: Whether to keep only the best of prefixes that score all continuations alike.
        confidence_slope: A word's confidence is the logistic function of this times the log-odds
            of its posterior in the beam, plus `confidence_offset`; `asr tune` fits both.
        confidence_offset: See `confidence_slope`.

    Raises:
        ConfigError: If a value is out of range, or the greedy decoder is given what it cannot use.

    Example:
        >>> DecoderConfig("beam", beam=64, language_model="books.lm").nbest
        1
    """

    kind: str = "greedy"
    beam: int = 32
    alpha: float = 0.4
    beta: float = 3.0
    unknown: float = -2.5
    prior: float = 0.0
    priors: list[float] = field(default_factory=list)
    language_model: str = ""
    lexicon: str = ""
    strict: bool = False
    hotwords: str = ""
    hotword_weight: float = 3.0
    nbest: int = 1
    token_floor: float = -5.0
    beam_range: float = 12.0
    recombine: bool = True
    confidence_slope: float = 0.5
    confidence_offset: float = 1.8

    def __post_init__(self) -> None:
        if self.kind not in ("greedy", "beam"):
            raise ConfigError(f"decoder.kind is {quote(self.kind)}; it must be 'greedy' or 'beam'")
        for name, kind in (
            *((name, str | os.PathLike) for name in FILE_FIELDS),
            *((name, bool) for name in ("strict", "recombine")),
        ):
            if not isinstance(getattr(self, name), kind):
                wanted = "true or false" if kind is bool else "the path of a file"
                raise ConfigError(
                    f"decoder.{name} is {quote(getattr(self, name))}; it must be {wanted}"
                )
        for name in FILE_FIELDS:
            if (length := len(os.fspath(getattr(self, name)))) > MOST_PATH:
                raise ConfigError(
                    f"decoder.{name} has {length:,} characters, more than any path; correct it"
                )
        for name, low, high in (
            ("beam", 1, 100_000),
            ("nbest", 1, 100_000),
            ("alpha", 0, 100),
            ("beta", -100, 100),
            ("unknown", -1000, 100),
            ("prior", 0, 10),
            ("hotword_weight", -100, 100),
            ("token_floor", -math.inf, 0),
            ("beam_range", 0, math.inf),
            ("confidence_slope", 0, 1000),
            ("confidence_offset", -1000, 1000),
        ):
            value = getattr(self, name)
            whole = name in ("beam", "nbest")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                wanted = "whole number" if whole else "number"
                raise ConfigError(f"decoder.{name} is {quote(value)}; it must be a {wanted}")
            if not low <= value <= high:  # catches NaN too
                raise ConfigError(f"decoder.{name} is {value}; it must be from {low:g} to {high:g}")
        if not all(
            isinstance(p, float | int) and not isinstance(p, bool) and 0 < p <= 1
            for p in self.priors
        ):
            raise ConfigError(
                "decoder.priors must contain a probability above 0 and up to 1 for each symbol"
            )
        if self.prior and not self.priors:
            raise ConfigError(
                f"decoder.prior is {self.prior:g}, but decoder.priors is empty; "
                "measure the priors with `asr tune`"
            )
        files = [name for name in FILE_FIELDS if getattr(self, name)]
        only_beam = [*files, *["strict"] * self.strict, *["nbest"] * (self.nbest > 1)]
        if self.kind == "greedy" and only_beam:
            raise ConfigError(
                f"the greedy decoder cannot use decoder.{only_beam[0]}; set decoder.kind to 'beam'"
            )

    def without_files(self) -> "DecoderConfig":
        """A copy without file paths, which are valid on this machine only."""
        return replace(self, language_model="", lexicon="", hotwords="")


class Decoder(Protocol):
    """What every decoder can do: read log-probabilities (T', V), at once or in chunks."""

    def start(self) -> Any:
        """The state before the first frame."""

    def advance(self, state: Any, log_probs: Any) -> None:
        """Read the next frames into `state`."""

    def partial(self, state: Any) -> tuple[str, str]:
        """The text so far in two parts: the words that are final, and those that may change."""

    def best(self, state: Any) -> Hypothesis:
        """The hypothesis for the frames so far."""

    def decode(self, log_probs: Any) -> Hypothesis:
        """The hypothesis for a whole utterance; `log_probs` (T', V) as in `advance`."""
        state = self.start()
        self.advance(state, log_probs)
        return self.best(state)


def check_log_probs(log_probs: Any, symbols: int) -> NDArray[np.float32]:
    """Convert `log_probs` to a float32 array (T', V) on the CPU and check every frame.

    Raises DecodeError if the shape is not (T', `symbols`), or if the probabilities of a frame do
    not sum to 1 within 0.01, which also catches NaN, logits and plain probabilities.
    """
    if hasattr(log_probs, "detach"):  # a tensor; NumPy has no bfloat16, hence float()
        log_probs = log_probs.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):
        frames: NDArray[np.float32] = np.asarray(log_probs, dtype=np.float32)
    if frames.ndim != 2 or frames.shape[1] != symbols:
        raise DecodeError(
            f"log-probabilities of shape {frames.shape} cannot be decoded; one utterance of shape "
            f"(T', {symbols}) is expected, with a column for each symbol of the vocabulary"
        )
    with np.errstate(over="ignore"):
        sums = np.exp(frames).sum(axis=1)  # (T',)
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= 0.01))  # comparisons with NaN are false
    if len(wrong):
        frame = int(wrong[0])
        problem = f"sums to {sums[frame]:.4g}, not to 1"
        if np.isnan(frames[frame]).any():
            problem = "contains NaN"
        raise DecodeError(
            f"frame {frame} of {len(frames)} {problem}; "
            "pass natural log-probabilities as log_softmax returns them"
        )
    return frames
