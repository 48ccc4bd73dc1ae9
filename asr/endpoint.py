"""Endpoints: where one stretch of speech is over and the next may begin as if nothing had been.

A decision depends on the log-probabilities of the segment so far, on its grid of frames, and on
nothing else: not on when samples arrive nor on how they are cut.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.errors import ConfigError
from asr.text import Vocabulary


@dataclass
class EndpointConfig:
    """When a segment ends. Durations in seconds.

    A frame is silent where blank and space together are at least as likely as `confidence`. A
    segment ends when `silence` of such frames follow on speech. From a length of `longest` on, less
    will do: none at all at twice that. What holds no speech ends after `idle`.
    """

    silence: float = 0.8
    longest: float = 20.0
    idle: float = 5.0
    confidence: float = 0.8

    def __post_init__(self) -> None:
        for key in ("silence", "longest", "idle"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"endpoint.{key} is {getattr(self, key)}; it must be above 0.")
        if not 0 < self.confidence <= 1:
            raise ConfigError(
                f"endpoint.confidence is {self.confidence}; it must be above 0 and at most 1."
            )


class Endpointer:
    """Looks for the end of one segment; the next one gets another."""

    def __init__(
        self, config: EndpointConfig, vocabulary: Vocabulary, frame_seconds: float
    ) -> None:
        self._config = config
        self._quiet = [0] if vocabulary.space is None else [0, vocabulary.space]  # symbols
        self._silence = config.silence / frame_seconds  # the durations in frames
        self._longest = config.longest / frame_seconds
        self._idle = config.idle / frame_seconds
        self._frames = 0
        self._run = 0  # silent frames until now
        self._is_spoken = False
        self._is_found = False  # an end in this run of silence

    def find(self, log_probs: npt.NDArray[np.float32]) -> int | None:
        """How many of the segment's next frames, log_probs (T', V), belong to it; None: all.

        Of several ends the last one counts.
        """
        quiet = np.exp(log_probs[:, self._quiet]).sum(axis=1) >= self._config.confidence  # (T',)
        end = None
        for frame, silent in enumerate(quiet.tolist(), start=1):
            self._frames += 1
            self._run = self._run + 1 if silent else 0
            self._is_spoken |= not silent
            self._is_found &= silent
            if not self._is_found and self._is_due():
                self._is_found = True
                end = frame
        return end

    def _is_due(self) -> bool:
        if not self._is_spoken:
            return self._run >= self._idle
        beyond = max(0.0, self._frames / self._longest - 1)
        return self._run >= self._silence * (1 - beyond)
