"""From log-probabilities to text: a decoder reads frames as they come and names words and times.

    decoder = GreedyDecoder(vocabulary, frame_seconds=0.04)
    state = decoder.start()
    decoder.advance(state, log_probs)  # (T', V), as often as frames arrive
    hypothesis = decoder.best(state)   # at any moment

However the frames are cut into calls, the result is the same to the last bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.errors import ConfigError, DecodeError
from asr.text import Vocabulary

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


class Word(NamedTuple):
    """A word, when it was said (seconds from the first frame), and how sure that is, in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was said. `score` is its log-probability under the decoder's own definition.

    `alternatives` are the next best hypotheses, where the decoder was asked for any.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    score: float
    alternatives: tuple["Hypothesis", ...] = ()

    def shifted(self, seconds: float) -> "Hypothesis":
        """The same words, so much later."""
        words = tuple(w._replace(start=w.start + seconds, end=w.end + seconds) for w in self.words)
        others = tuple(other.shifted(seconds) for other in self.alternatives)
        return replace(self, words=words, alternatives=others)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; times rounded to milliseconds, the other figures to 4 decimals."""
        document: dict[str, Any] = {
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "score": round(self.score, 4),
            "words": [
                {
                    "text": word.text,
                    "start": round(word.start, 3),
                    "end": round(word.end, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in self.words
            ],
        }
        if self.alternatives:
            document["alternatives"] = [
                {
                    "text": other.text,
                    "confidence": round(other.confidence, 4),
                    "score": round(other.score, 4),
                }
                for other in self.alternatives
            ]
        return document


def join(parts: Sequence[Hypothesis]) -> Hypothesis:
    """The hypothesis of a recording from those of its consecutive segments.

    Scores add up; the confidence is the geometric mean, each segment counting by its words. An
    alternative differs from the best in one segment; there are as many as any segment has.
    """
    if len(parts) == 1:
        return parts[0]
    words = [len(part.words) for part in parts]
    logs = [n * math.log(max(part.confidence, 1e-30)) for n, part in zip(words, parts, strict=True)]
    best = Hypothesis(
        " ".join(part.text for part in parts if part.text),
        tuple(word for part in parts for word in part.words),
        math.exp(math.fsum(logs) / sum(words)) if any(words) else 1.0,
        math.fsum(part.score for part in parts),
    )
    swaps = [
        (part.score - other.score, i, other)
        for i, part in enumerate(parts)
        for other in part.alternatives
    ]
    swaps.sort(key=lambda swap: swap[0])
    room = max((len(part.alternatives) for part in parts), default=0)
    others = [
        join(
            [
                *(replace(p, alternatives=()) for p in parts[:i]),
                other,
                *(replace(p, alternatives=()) for p in parts[i + 1 :]),
            ]
        )
        for _, i, other in swaps[:room]
    ]
    return replace(best, alternatives=tuple(others))


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


@dataclass(slots=True)
class _Run:
    """One symbol of the text: consecutive frames in which it won."""

    symbol: int
    first: int
    last: int
    log_prob: float  # the highest of its frames


@dataclass(slots=True)
class GreedyState:
    """What a `GreedyDecoder` remembers of the frames so far; give each stream its own."""

    frames: int = 0
    score: float = 0.0
    symbol: int = BLANK_ID  # of the last frame
    words: list[Word] = field(default_factory=list)  # those that a space has ended
    text: str = ""  # those words
    symbols: int = 0  # in them
    symbols_log_prob: float = 0.0
    runs: list[_Run] = field(default_factory=list)  # of the word that is still open


class GreedyDecoder:
    """The best symbol of every frame; repeats folded, blanks removed (Graves et al. 2006, 3.2).

    - A word starts with the first frame of its first symbol and ends with the last frame of its
      last symbol. Words are parted by the space; without one in the vocabulary all is one word.
    - A symbol's posterior is the highest of its frames. A word's confidence is the geometric mean
      over its symbols, the hypothesis's that over the symbols of all words; without a word it is
      the geometric mean of the frames' best posteriors, and 1 without a frame.
    - The score is the log-probability of the best path: the sum over all frames.
    """

    def __init__(self, vocabulary: Vocabulary, frame_seconds: float) -> None:
        if not 0 < frame_seconds < math.inf:
            raise DecodeError(f"a frame must last some seconds, not {frame_seconds}")
        self.vocabulary = vocabulary
        self.frame_seconds = frame_seconds
        self._space = vocabulary.space

    def start(self) -> GreedyState:
        """The state before the first frame."""
        return GreedyState()

    def advance(self, state: GreedyState, log_probs: Any) -> None:
        """Reads the next frames into `state`.

        `log_probs`: (T', V) array or tensor of normalised natural log-probabilities, T' >= 0.
        Raises `DecodeError` for anything else, and leaves the state as it was.
        """
        frames = check_log_probs(log_probs, len(self.vocabulary))  # (T', V)
        if not len(frames):
            return
        symbols = frames.argmax(axis=1)  # (T',)
        best = frames.max(axis=1).astype(np.float64)  # (T',)

        starts = np.flatnonzero(np.diff(symbols, prepend=-1))  # (runs,)
        ends = np.append(starts[1:], len(symbols))
        highest = np.maximum.reduceat(best, starts)
        for symbol, first, end, log_prob in zip(
            symbols[starts].tolist(), starts.tolist(), ends.tolist(), highest.tolist(), strict=True
        ):
            if symbol == self._space:
                self._end_word(state)
            elif symbol != BLANK_ID:
                last = state.frames + end - 1
                if first == 0 and symbol == state.symbol:
                    run = state.runs[-1]
                    run.last, run.log_prob = last, max(run.log_prob, log_prob)
                else:
                    state.runs.append(_Run(symbol, state.frames + first, last, log_prob))

        state.frames += len(symbols)
        state.symbol = int(symbols[-1])
        # Frame after frame: np.sum adds pairwise, so its last bits would depend on the chunks.
        best[0] += state.score
        state.score = float(np.add.accumulate(best)[-1])

    def partial(self, state: GreedyState) -> tuple[str, str]:
        """The text so far in two parts: the words that a space has ended, and the open one."""
        return state.text, self._word(state.runs).text if state.runs else ""

    def best(self, state: GreedyState) -> Hypothesis:
        """The hypothesis for the frames so far; words are joined by single spaces."""
        words = state.words
        symbols, symbols_log_prob = state.symbols, state.symbols_log_prob
        if state.runs:
            words = [*words, self._word(state.runs)]
            symbols += len(state.runs)
            symbols_log_prob += _log_prob(state.runs)
        if not symbols:
            symbols, symbols_log_prob = max(state.frames, 1), state.score
        return Hypothesis(
            text=" ".join([word.text for word in words]),
            words=tuple(words),
            confidence=_posterior(symbols_log_prob / symbols),
            score=state.score,
        )

    def decode(self, log_probs: Any) -> Hypothesis:
        """The hypothesis for one whole utterance: (T', V) as in `advance`."""
        state = self.start()
        self.advance(state, log_probs)
        return self.best(state)

    def _end_word(self, state: GreedyState) -> None:
        if state.runs:
            word = self._word(state.runs)
            state.words.append(word)
            state.text = f"{state.text} {word.text}" if state.text else word.text
            state.symbols += len(state.runs)
            state.symbols_log_prob += _log_prob(state.runs)
            state.runs = []

    def _word(self, runs: list[_Run]) -> Word:
        return Word(
            text=self.vocabulary.decode([run.symbol for run in runs]),
            start=runs[0].first * self.frame_seconds,
            end=(runs[-1].last + 1) * self.frame_seconds,
            confidence=_posterior(_log_prob(runs) / len(runs)),
        )


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


def _log_prob(runs: list[_Run]) -> float:
    return math.fsum([run.log_prob for run in runs])


def _posterior(log_prob: float) -> float:
    return min(1.0, math.exp(log_prob))  # rounding may leave a log-probability above 0
