"""Hypotheses: recognized words with times and confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


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
    seconds: float | None = field(default=None, compare=False)  # duration of the whole recording

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
