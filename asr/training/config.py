"""The configuration of a training, its callbacks and its outcome."""

import math
from dataclasses import dataclass
from pathlib import Path

from asr.defaults import BATCH_SECONDS
from asr.errors import ConfigError


@dataclass
class TrainingConfig:
    """The optimization. A step is one batch, summed over all processes."""

    epochs: int = 40
    # Audio in a batch, with added silence and padding, all processes' shares together; also the
    # longest utterance admitted.
    batch_seconds: float = BATCH_SECONDS
    # Micro-batches into which each process cuts its part of a batch, one in memory after the other,
    # for batches that are larger than the memory. But for rounding and dropout the step is the same.
    accumulate: int = 1
    learning_rate: float = 2e-3  # the peak, reached after the warm-up, then a half cosine to 0
    warmup_steps: int = 200
    weight_decay: float = 0.01  # of weight matrices
    clip_norm: float = 1.0  # largest gradient norm; the loss is per character
    # Of the moving average of the weights, per step; what is validated and kept. 0: the weights as
    # they are. It begins lower, see `average_decay`.
    average_decay: float = 0.0
    # A step whose loss or gradient is not finite is skipped; so many in a row end the training, or
    # as many as an epoch has, if that is fewer.
    bad_steps_limit: int = 20
    seed: int = 1
    checkpoint_steps: int = 200  # between resumable checkpoints, besides each epoch's end
    keep: int = 0  # models of the last epochs kept as epoch-0001.pt and so on; 0: none
    # The checkpoint whose weights a new training begins with, to go on with other data, say. Its
    # features, layers and vocabulary have to be this training's too. "released": the model that
    # comes with asr; "": random weights.
    start_from: str = ""
    precision: str = "auto"  # "auto" (bf16 on a GPU), "float32", "bf16"
    # How much it counts that two views of an utterance, under other masks and dropout, are heard
    # alike; see `consistency_loss`. A step then takes twice as long. 0: one view.
    consistency: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "bf16"):
            raise ConfigError(
                f"training.precision is {self.precision!r}; it must be auto, float32 or bf16."
            )
        for key, least in (
            ("epochs", 1),
            ("accumulate", 1),
            ("warmup_steps", 0),
            ("bad_steps_limit", 1),
            ("checkpoint_steps", 1),
            ("keep", 0),
        ):
            if getattr(self, key) < least:
                raise ConfigError(f"training.{key} is {getattr(self, key)}; at least {least}.")
        for key in ("batch_seconds", "learning_rate", "clip_norm"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"training.{key} is {getattr(self, key)}; it must be above 0.")
        if not 0 <= self.average_decay < 1:
            raise ConfigError(
                f"training.average_decay is {self.average_decay}; it must be at least 0 and below 1."
            )
        if not 0 <= self.consistency < math.inf:
            raise ConfigError(f"training.consistency is {self.consistency}; it must be 0 or more.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(
                f"training.weight_decay is {self.weight_decay}; it must be 0 or more."
            )
        if self.seed < 0:
            raise ConfigError(f"training.seed is {self.seed}; it must not be negative.")


class TrainingCallbacks:
    """Whoever watches a training run overrides what interests it; this one is silent."""

    def say(self, line: str) -> None:
        """A line for people."""

    def epoch_begins(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Epoch `epoch` (from 1) of `epochs` has `steps` steps, of which `done` were done before."""

    def steps_done(self, steps: int, loss: float) -> None:
        """So many more steps; `loss` is the last one's."""

    def epoch_ends(self) -> None:
        """The epoch's last step is done, or training stops within it."""


@dataclass(frozen=True)
class Outcome:
    """Where a call of `train` ended."""

    folder: Path
    epoch: int
    step: int
    best_wer: float  # a fraction; infinity before the first validation
    interrupted: bool
