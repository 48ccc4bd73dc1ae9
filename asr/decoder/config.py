"""The configuration of a decoder, and the interface that all decoders share."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoder.hypothesis import Hypothesis
from asr.errors import ConfigError, DecodeError

BLANK_ID = 0
FILES = ("language_model", "lexicon", "hotwords")  # of a DecoderConfig


@dataclass
class DecoderConfig:
    """Which decoder reads the log-probabilities, and how; impossible values are a `ConfigError`.

    Only `kind` concerns the greedy decoder. The beam's score of a text is log p_ctc
    + `alpha` log p_lm + `beta` for each word + `unknown` for each word that the lexicon lacks; p_ctc
    is of log-probabilities from which `prior` times the logarithm of `priors` has been taken.

    A word's confidence is the logistic function of `confidence_slope` times the log-odds of the
    beam's posterior plus `confidence_offset`: fit them on data, as `asr tune` does.
    """

    kind: str = "greedy"  # or "beam"
    beam: int = 32  # texts that are searched on
    alpha: float = 0.4
    beta: float = 3.0
    unknown: float = -2.5
    prior: float = 0.0  # of the symbols' priors, taken out where words are known
    priors: list[float] = field(
        default_factory=list
    )  # each symbol's share of the frames, blank first
    language_model: str = ""  # file; none: the acoustic score alone
    lexicon: str = ""  # file with a word a line; none: the words of the language model
    strict: bool = False  # only words of the lexicon
    hotwords: str = ""  # file with a word or phrase a line, with a tab and its own weight or not
    hotword_weight: float = 3.0  # nats that each word of a hotword earns
    nbest: int = 1  # hypotheses that are returned
    token_floor: float = -5.0  # log-probability below which a symbol is not tried in a frame
    beam_range: float = 12.0  # nats below the best at which a text is dropped
    recombine: bool = True  # keep only the best of texts that nothing to come can tell apart
    confidence_slope: float = 0.5
    confidence_offset: float = 1.8

    def __post_init__(self) -> None:
        if self.kind not in ("greedy", "beam"):
            raise ConfigError(
                f"there is no decoder of kind {self.kind!r}: choose 'greedy' or 'beam'"
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
            kinds = int if whole else int | float
            if not isinstance(value, kinds) or isinstance(value, bool):
                wanted = "whole number" if whole else "number"
                raise ConfigError(f"decoder.{name} is {value!r}; it must be a {wanted}")
            if not low <= value <= high:  # so for NaN too
                raise ConfigError(f"decoder.{name} is {value}; it must be from {low:g} to {high:g}")
        if any(
            isinstance(p, bool) or not isinstance(p, float | int) for p in self.priors
        ) or not all(0 < share <= 1 for share in self.priors):
            raise ConfigError(
                "decoder.priors must be shares above 0 and up to 1, one for each symbol"
            )
        if self.prior and not self.priors:
            raise ConfigError(
                f"decoder.prior is {self.prior:g}, but decoder.priors is empty: "
                "`asr tune` measures them"
            )
        files = [name for name in FILES if getattr(self, name)]
        only_beam = [*files, *["strict"] * self.strict, *["nbest"] * (self.nbest > 1)]
        if self.kind == "greedy" and only_beam:
            raise ConfigError(
                f"the greedy decoder knows no decoder.{only_beam[0]}: choose decoder.kind 'beam'"
            )

    def without_files(self) -> "DecoderConfig":
        """The same numbers, without the paths, which mean nothing on another machine."""
        return replace(self, language_model="", lexicon="", hotwords="")


class Decoder(Protocol):
    """What every decoder can do: read log-probs (T', V), at once or as they come."""

    def start(self) -> Any:
        """The state before the first frame."""

    def advance(self, state: Any, log_probs: Any) -> None:
        """Read the next frames into `state`."""

    def partial(self, state: Any) -> tuple[str, str]:
        """The text so far in two parts: words that can no longer change, and those that may."""

    def best(self, state: Any) -> Hypothesis:
        """The hypothesis for the frames so far."""

    def decode(self, log_probs: Any) -> Hypothesis:
        """The hypothesis for one whole utterance."""


def check_log_probs(log_probs: Any, symbols: int) -> NDArray[np.float32]:
    """`log_probs` (T', V) as a float32 array on the CPU, after a look at every frame.

    Raises `DecodeError` where the shape is not (T', `symbols`) or a frame's probabilities do not
    sum to 1 within 0.01, so for NaN, logits and probabilities too.
    """
    if hasattr(log_probs, "detach"):  # a tensor; NumPy has no bfloat16, hence float()
        log_probs = log_probs.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):
        frames: NDArray[np.float32] = np.asarray(log_probs, dtype=np.float32)
    if frames.ndim != 2 or frames.shape[1] != symbols:
        raise DecodeError(
            f"log-probabilities of shape {frames.shape} cannot be decoded: one utterance of shape "
            f"(T', {symbols}) is expected, a column for each symbol of the vocabulary"
        )
    with np.errstate(over="ignore"):
        sums = np.exp(frames).sum(axis=1)  # (T',)
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= 0.01))  # NaN is never <=
    if len(wrong):
        frame = int(wrong[0])
        problem = (
            "holds NaN" if np.isnan(frames[frame]).any() else f"sums to {sums[frame]:.4g}, not to 1"
        )
        raise DecodeError(
            f"frame {frame} of {len(frames)} {problem}: "
            "give the decoder natural log-probabilities, as log_softmax returns them"
        )
    return frames
