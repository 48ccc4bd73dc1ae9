"""Hypotheses: recognized words with times and confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


class Word(NamedTuple):
    """A recognized word.

    Attributes:
        text: The word as the vocabulary spells it.
        start: Time in seconds from the first frame to the beginning of the word.
        end: Time in seconds from the first frame to the end of the word.
        confidence: Estimated probability that the word is right, in [0, 1].

    Example:
        >>> word = Word("cat", start=0.25, end=0.6, confidence=0.98)
        >>> f"{word.start:.2f} {word.end:.2f} {word.text} ({word.confidence:.0%})"
        '0.25 0.60 cat (98%)'
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The text that a decoder found, with its words and scores.

    Attributes:
        text: The words, separated by single spaces.
        words: The same words with times and confidence.
        confidence: Geometric mean of the confidence of the words (the greedy decoder averages
            over symbols), in [0, 1]; 1 if there are no words and no frames.
        score: Natural log-probability of the text, as the decoder defines it.
        alternatives: The next best hypotheses, best first, if the decoder was asked for any.
        seconds: Duration of the whole recording; None if unknown.
        gaps: (start, end) in seconds of the recording's damaged parts, which were decoded as silence.
        warnings: Sentences on what makes the recording hard to recognize, such as its level.
        span: Where the segment of a stream begins and ends, in seconds; None for a recording.

    Example:
        >>> hypothesis = Hypothesis("cat", (Word("cat", 0.25, 0.6, 0.98),), 0.98, score=-1.5)
        >>> hypothesis.shifted(1.0).words[0].start
        1.25
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    score: float
    alternatives: tuple["Hypothesis", ...] = ()
    seconds: float | None = field(default=None, compare=False)
    gaps: tuple[tuple[float, float], ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    span: tuple[float, float] | None = field(default=None, compare=False)

    def shifted(self, seconds: float) -> "Hypothesis":
        """The same hypothesis with all times moved by `seconds`."""
        words = tuple(w._replace(start=w.start + seconds, end=w.end + seconds) for w in self.words)
        others = tuple(other.shifted(seconds) for other in self.alternatives)
        return replace(self, words=words, alternatives=others)

    def to_dict(self) -> dict[str, Any]:
        """The hypothesis as JSON data: times rounded to milliseconds, the rest to 4 decimals."""
        document = self._summary()
        document["words"] = [
            {
                "text": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in self.words
        ]
        if self.gaps:
            document["gaps"] = [[round(start, 3), round(end, 3)] for start, end in self.gaps]
        if self.alternatives:
            document["alternatives"] = [other._summary() for other in self.alternatives]
        return document

    def _summary(self) -> dict[str, Any]:
        confidence, score = round(self.confidence, 4), round(self.score, 4)
        return {"text": self.text, "confidence": confidence, "score": score}


def join_hypotheses(parts: Sequence[Hypothesis]) -> Hypothesis:
    """Join the hypotheses of consecutive segments into one for the whole recording.

    Scores are added. The confidence is the geometric mean, weighted by each segment's number of
    words. Each alternative differs from the best hypothesis in exactly one segment; their number
    is limited to the largest number of alternatives of any segment.
    """
    if len(parts) == 1:
        return parts[0]
    logs = [len(part.words) * math.log(max(part.confidence, 1e-30)) for part in parts]
    text = " ".join(part.text for part in parts if part.text)
    words = tuple(word for part in parts for word in part.words)
    confidence = math.exp(math.fsum(logs) / len(words)) if words else 1.0
    best = Hypothesis(text, words, confidence, math.fsum(part.score for part in parts))
    swaps = [
        (part.score - other.score, i, other)
        for i, part in enumerate(parts)
        for other in part.alternatives
    ]
    swaps.sort(key=lambda swap: swap[0])
    room = max((len(part.alternatives) for part in parts), default=0)
    plain = [replace(part, alternatives=()) for part in parts]
    others = [join_hypotheses([*plain[:i], other, *plain[i + 1 :]]) for _, i, other in swaps[:room]]
    return replace(best, alternatives=tuple(others))
