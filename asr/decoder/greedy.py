"""From log-probabilities to text: a decoder reads frames as they come and names words and times.

    decoder = GreedyDecoder(vocabulary, frame_seconds=0.04)
    state = decoder.start()
    decoder.advance(state, log_probs)  # (T', V), as often as frames arrive
    hypothesis = decoder.best(state)   # at any moment

However the frames are cut into calls, the result is the same to the last bit.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asr.decoder.config import BLANK_ID, check_log_probs
from asr.decoder.hypothesis import Hypothesis, Word
from asr.errors import DecodeError
from asr.text import Vocabulary


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

        `log_probs`: (T', V) array or tensor of normalized natural log-probabilities, T' >= 0.
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


def _log_prob(runs: list[_Run]) -> float:
    return math.fsum([run.log_prob for run in runs])


def _posterior(log_prob: float) -> float:
    return min(1.0, math.exp(log_prob))  # rounding may leave a log-probability above 0
