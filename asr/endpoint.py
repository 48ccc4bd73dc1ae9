"""Endpoints: where one stretch of speech is over, and where the next one begins.

    speech | silence . . . . . . . . | margin | speech
           |<- `silence` ->|         |<------>| the next segment
                           the segment ends

A segment ends with a stretch of silence, and the next begins shortly before sound is heard again, as
if nothing had been: a network that was trained on single utterances is at its best at their start.

A decision depends on the log-probabilities of the segment so far, on its grid of frames, and on
nothing else: not on when samples arrive nor on how they are cut.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.defaults import PAUSE_SECONDS
from asr.errors import ConfigError
from asr.text import Vocabulary


@dataclass
class EndpointConfig:
    """When a segment ends, and how much silence the next one begins with. Durations in seconds.

    A frame is silent where blank and space together are at least as likely as `confidence`. A
    segment ends with `silence` of such frames in a row. From a length of `longest` on, fewer will
    do: none at all at twice that.
    """

    silence: float = PAUSE_SECONDS
    margin: float = 0.15
    longest: float = 20.0
    confidence: float = 0.8

    def __post_init__(self) -> None:
        for key in ("silence", "longest"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"endpoint.{key} is {getattr(self, key)}; it must be above 0.")
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"endpoint.margin is {self.margin}; it must be from 0 to 1.")
        if not 0 < self.confidence <= 1:
            raise ConfigError(
                f"endpoint.confidence is {self.confidence}; it must be above 0 and at most 1."
            )


class Cut(NamedTuple):
    """What becomes of a chunk of frames: the first `kept` go on with the segment, which may end.

    `begin` is where in the chunk the next segment begins, before the chunk where it is negative;
    None: not in this chunk. What lies between is of no segment.
    """

    kept: int
    ends: bool
    begin: int | None


class Endpointer:
    """Looks for the end of one segment and the begin of the next, which gets an endpointer anew."""

    def __init__(
        self, config: EndpointConfig, vocabulary: Vocabulary, frame_seconds: float
    ) -> None:
        self._quiet = [0] if vocabulary.space is None else [0, vocabulary.space]  # symbols
        self._confidence = config.confidence
        self._silence = config.silence / frame_seconds  # the durations in frames
        self._longest = config.longest / frame_seconds
        self._margin = round(config.margin / frame_seconds)
        self._frames = 0
        self._run = 0  # silent frames until now
        self._pause = 0  # frames since the segment's end
        self.is_over = False

    def cut(self, log_probs: npt.NDArray[np.float32]) -> Cut:
        """Look at the next chunk, log_probs (T', V)."""
        quiet = np.exp(log_probs[:, self._quiet]).sum(axis=1) >= self._confidence  # (T',)
        kept, ends = (0 if self.is_over else len(log_probs)), False
        for frame, silent in enumerate(quiet.tolist()):
            if self.is_over:
                if not silent:
                    return Cut(kept, ends, frame - min(self._margin, self._pause))
                self._pause += 1
                continue
            self._frames += 1
            self._run = self._run + 1 if silent else 0
            beyond = max(0.0, self._frames / self._longest - 1)
            if self._run >= self._silence * (1 - beyond):
                self.is_over = ends = True
                kept = frame + 1
        return Cut(kept, ends, None)
