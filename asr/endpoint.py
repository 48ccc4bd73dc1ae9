"""Endpointing: where one segment of speech ends, and where the next one begins.

    speech | silence . . . . . . . . | margin | speech
           |<- `silence` ->|         |<------>| the next segment
                           the segment ends

A segment ends after a stretch of silence. The next one begins with a short margin before the next
sound, as a new signal: a network trained on single utterances works best at their start.

A decision depends only on the segment's log-probabilities so far, on its own grid of frames. It does
not depend on when samples arrive or how they are cut into pieces.
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
    """When a segment of speech ends, and how the next one begins.

    Attributes:
        silence: Seconds of silence that end a segment.
        margin: Seconds of silence at the start of the next segment, from 0 to 1.
        longest: Segment length in seconds above which the required silence decreases linearly,
            reaching 0 at twice this length.
        confidence: Probability of blank and space together above which a frame is silent.

    Raises:
        ConfigError: If a value is out of range; the message names it.

    Example:
        >>> EndpointConfig(silence=0.4).longest
        20.0
    """

    silence: float = PAUSE_SECONDS
    margin: float = 0.15
    longest: float = 20.0
    confidence: float = 0.8

    def __post_init__(self) -> None:
        for key, is_valid, rule in (
            ("silence", 0 < self.silence < math.inf, "above 0"),
            ("longest", 0 < self.longest < math.inf, "above 0"),
            ("margin", 0 <= self.margin <= 1, "from 0 to 1"),
            ("confidence", 0 < self.confidence <= 1, "above 0 and at most 1"),
        ):
            if not is_valid:
                raise ConfigError(f"endpoint.{key} is {getattr(self, key)}; it must be {rule}")


class Cut(NamedTuple):
    """How a chunk of frames is divided among segments."""

    kept: int  # number of first frames that belong to the current segment
    ends: bool  # whether the current segment ends after them
    # First frame of the next segment, negative if before the chunk; None if later.
    begin: int | None


class Endpointer:
    """Looks for the end of one segment and the start of the next, which gets its own endpointer."""

    def __init__(
        self, config: EndpointConfig, vocabulary: Vocabulary, frame_seconds: float
    ) -> None:
        self._silent_symbols = [0] if vocabulary.space is None else [0, vocabulary.space]
        self._confidence = config.confidence
        self._silence = config.silence / frame_seconds  # in frames
        self._longest = config.longest / frame_seconds  # in frames
        self._margin = round(config.margin / frame_seconds)  # in frames
        self._frames = 0  # frames of the segment
        self._silent_frames = 0  # consecutive silent frames up to now
        self._pause = 0  # frames since the end of the segment
        self.is_over = False

    def cut(self, log_probs: npt.NDArray[np.float32]) -> Cut:
        """Divide the next chunk, log_probs (T', V)."""
        silence = np.exp(log_probs[:, self._silent_symbols]).sum(axis=1)  # (T',)
        kept, ends = (0 if self.is_over else len(log_probs)), False
        for frame, is_silent in enumerate((silence >= self._confidence).tolist()):
            if self.is_over:
                if not is_silent:
                    return Cut(kept, ends, frame - min(self._margin, self._pause))
                self._pause += 1
                continue
            self._frames += 1
            self._silent_frames = self._silent_frames + 1 if is_silent else 0
            excess = max(0.0, self._frames / self._longest - 1)
            if self._silent_frames >= self._silence * (1 - excess):
                self.is_over = ends = True
                kept = frame + 1
        return Cut(kept, ends, None)
