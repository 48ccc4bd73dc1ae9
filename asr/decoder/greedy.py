"""Greedy CTC decoding: the best symbol of every frame, with times and confidence.

    decoder = GreedyDecoder(vocabulary, frame_seconds=0.04)
    state = decoder.start()
    decoder.advance(state, log_probs)  # (T', V), as often as frames arrive
    hypothesis = decoder.best(state)   # at any moment

The result is bit-identical however the frames are split into calls.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoder.config import BLANK_ID, Decoder, check_log_probs
from asr.decoder.hypothesis import Hypothesis, Word
from asr.errors import DecodeError
from asr.text import Vocabulary


def find_runs(
    path: NDArray[np.int64], log_probs: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Split `path` (T',), one symbol per frame, into runs of equal symbols.

    `log_probs` (T',) holds the log-probability of each symbol in `path`. Returns the first frame of
    each run (R,), the frame after its last one (R,), and its highest log-probability (R,).
    """
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))
    return starts, ends, np.maximum.reduceat(log_probs, starts)


def to_posterior(mean_log_prob: float) -> float:
    """The geometric mean of probabilities, given the mean of their logarithms."""
    return min(1.0, math.exp(mean_log_prob))  # rounding can leave a log-probability above 0


@dataclass(slots=True)
class _Run:
    """One symbol of the text: consecutive frames in which it is the most probable."""

    symbol: int
    first: int  # first frame
    last: int  # last frame
    log_prob: float  # highest log-probability within the run


@dataclass(slots=True)
class GreedyState:
    """The state of a `GreedyDecoder` after the frames so far; each stream needs its own."""

    frames: int = 0
    score: float = 0.0
    symbol: int = BLANK_ID  # best symbol of the last frame
    words: list[Word] = field(default_factory=list)  # words ended by a space
    text: str = ""  # text of `words`
    symbols: int = 0  # number of symbols in `words`
    symbols_log_prob: float = 0.0  # sum of the log-probabilities of these symbols
    runs: list[_Run] = field(default_factory=list)  # symbols of the open word


class GreedyDecoder(Decoder):
    """Takes the best symbol of every frame, merges repeats and removes blanks.

    This is best-path decoding (Graves et al. 2006, section 3.2).

    - A word starts with the first frame of its first symbol and ends with the last frame of its
      last symbol. The space separates words; if the vocabulary has none, the text is one word.
    - The posterior of a symbol is the highest among its frames. The confidence of a word is the
      geometric mean over its symbols, that of the hypothesis the geometric mean over the symbols of
      all words. If there are no words, it is the geometric mean of the frames' highest posteriors,
      and 1 if there are no frames either.
    - The score is the log-probability of the best path, summed over all frames.

    Args:
        vocabulary: Symbols of the model; symbol 0 is the blank.
        frame_seconds: Duration of an encoder frame in seconds.

    Raises:
        DecodeError: If `frame_seconds` is not a positive finite number.

    Example:
        decoder = GreedyDecoder(vocabulary, frame_seconds=0.04)
        text = decoder.decode(log_probs).text
    """

    def __init__(self, vocabulary: Vocabulary, frame_seconds: float) -> None:
        if not 0 < frame_seconds < math.inf:
            raise DecodeError(
                f"frame_seconds is {frame_seconds}; a frame must last a positive number of seconds"
            )
        self.vocabulary = vocabulary
        self.frame_seconds = frame_seconds
        self._space = vocabulary.space

    def start(self) -> GreedyState:
        """The state before the first frame."""
        return GreedyState()

    def advance(self, state: GreedyState, log_probs: Any) -> None:
        """Read the next frames into `state`.

        Args:
            state: State of the stream, changed in place.
            log_probs: (T', V) array or tensor of normalized natural log-probabilities, T' >= 0.

        Raises:
            DecodeError: If `log_probs` is anything else; the state is then unchanged.
        """
        frames = check_log_probs(log_probs, len(self.vocabulary))  # (T', V)
        if not len(frames):
            return
        symbols = frames.argmax(axis=1)  # (T',)
        best = frames.max(axis=1).astype(np.float64)  # (T',)
        starts, ends, highest = find_runs(symbols, best)
        runs = [part.tolist() for part in (symbols[starts], starts, ends, highest)]
        for symbol, first, end, log_prob in zip(*runs, strict=True):
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
        # np.sum adds pairwise, so its last bits would depend on the chunks; this adds in order.
        best[0] += state.score
        state.score = float(np.add.accumulate(best)[-1])

    def partial(self, state: GreedyState) -> tuple[str, str]:
        """The text so far in two parts: the words that a space has ended, and the open word."""
        return state.text, self._word(state.runs).text if state.runs else ""

    def best(self, state: GreedyState) -> Hypothesis:
        """The hypothesis for the frames so far."""
        ended = replace(state, words=[*state.words])
        self._end_word(ended)
        total, count = ended.symbols_log_prob, ended.symbols
        if not count:
            total, count = ended.score, max(ended.frames, 1)
        return Hypothesis(ended.text, tuple(ended.words), to_posterior(total / count), ended.score)

    def _end_word(self, state: GreedyState) -> None:
        if state.runs:
            word = self._word(state.runs)
            state.words.append(word)
            state.text = f"{state.text} {word.text}" if state.text else word.text
            state.symbols += len(state.runs)
            state.symbols_log_prob += _log_prob(state.runs)
            state.runs = []

    def _word(self, runs: list[_Run]) -> Word:
        text = self.vocabulary.decode([run.symbol for run in runs])
        start, end = runs[0].first * self.frame_seconds, (runs[-1].last + 1) * self.frame_seconds
        return Word(text, start, end, to_posterior(_log_prob(runs) / len(runs)))


def _log_prob(runs: list[_Run]) -> float:
    return math.fsum([run.log_prob for run in runs])
