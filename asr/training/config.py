"""The configuration, callbacks and outcome of a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr.data.augment import AugmentConfig
from asr.data.manifest import Utterance
from asr.decoder.config import DecoderConfig
from asr.defaults import BATCH_SECONDS
from asr.encoder import EncoderConfig
from asr.errors import ConfigError, quote
from asr.features import FeaturesConfig
from asr.runtime.distributed import RuntimeConfig
from asr.text import Vocabulary


@dataclass
class TrainingConfig:
    """The optimization. A step is one batch, summed over all processes.

    Args:
        epochs: Number of passes over the training set.
        batch_seconds: Seconds of audio in a batch over all processes, with added silence and
            padding; also the longest utterance that is trained on.
        accumulate: Number of micro-batches into which each process cuts its part of a batch, for
            batches that do not fit into memory. The step is the same but for rounding and dropout.
        learning_rate: Peak, reached after the warm-up; a half cosine to 0 follows.
        warmup_steps: Steps in which the learning rate rises linearly from 0.
        weight_decay: Decay of AdamW, applied to weight matrices only.
        clip_norm: Largest gradient norm; the loss is per character.
        average_decay: Decay per step of the moving average of the weights, which is validated and
            saved; it starts lower, see `loss.average_decay`. 0: no average.
        bad_steps_limit: Steps whose loss or gradient is not finite are skipped. Training fails after
            this many skipped steps in a row, or after a full epoch of them if an epoch is shorter.
        unreadable_limit: Recordings that cannot be read are named and skipped. Training fails if more
            recordings than this, or more than a tenth of the training set, cannot be read.
        seed: Seed of all random numbers.
        checkpoint_steps: Steps between resumable checkpoints, besides the end of each epoch.
        keep: Number of the last epochs whose models are kept as epoch-0001.pt and so on.
        start_from: Checkpoint with the weights to start from, for example to fine-tune on other
            data. Its features and layers must be the same; its vocabulary may differ, see
            `resume.start_from`. "released": the model that comes with asr; "": random weights.
        precision: "auto" (bf16 on a GPU), "float32" or "bf16".
        consistency: Weight of the consistency loss between two views of each utterance with
            different masks and dropout, see `loss.consistency_loss`; 0: one view. Two views double
            the time of a step.

    Raises:
        ConfigError: If a value is out of range; the message names it.

    Example:
        >>> TrainingConfig(epochs=10, consistency=0.2).learning_rate
        0.002
    """

    epochs: int = 40
    batch_seconds: float = BATCH_SECONDS
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    average_decay: float = 0.0
    bad_steps_limit: int = 20
    unreadable_limit: int = 20
    seed: int = 1
    checkpoint_steps: int = 200
    keep: int = 0
    start_from: str = ""
    precision: str = "auto"
    consistency: float = 0.0

    def __post_init__(self) -> None:
        for keys, is_valid, wanted in (
            ("precision", lambda v: v in ("auto", "float32", "bf16"), "auto, float32 or bf16"),
            ("epochs accumulate bad_steps_limit checkpoint_steps", lambda v: v >= 1, "at least 1"),
            ("warmup_steps keep unreadable_limit", lambda v: v >= 0, "at least 0"),
            ("batch_seconds learning_rate clip_norm", lambda v: 0 < v < math.inf, "above 0"),
            ("average_decay", lambda v: 0 <= v < 1, "at least 0 and below 1"),
            ("consistency weight_decay seed", lambda v: 0 <= v < math.inf, "0 or more"),
        ):
            for key in keys.split():
                value = getattr(self, key)
                if not is_valid(value):
                    raise ConfigError(f"training.{key} is {quote(value)}; it must be {wanted}")


class TrainingCallbacks:
    """Receives the progress of training. This base class is silent; override what you need."""

    def say(self, line: str) -> None:
        """Show one line to the user."""

    def index_grows(self, manifest: str, count: int) -> None:
        """Called after `count` more bytes of a large manifest have been indexed."""

    def index_ends(self) -> None:
        """Called when the manifest is indexed, or could not be."""

    def epoch_begins(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Called before epoch `epoch` (from 1) of `epochs`, with `done` of its `steps` done before."""

    def steps_done(self, steps: int, loss: float) -> None:
        """Called after `steps` more steps; `loss` is the loss of the last one."""

    def epoch_ends(self) -> None:
        """Called after the last step of an epoch, or when training stops within it."""


@dataclass
class TrainingData:
    """The utterances of a training run and the symbols of its texts."""

    training_set: Sequence[Utterance]  # an `Index` if it is large
    dev_set: Sequence[Utterance]
    vocabulary: Vocabulary


@dataclass(kw_only=True)
class Task:
    """Everything that `train` needs, in one picklable object that other processes can receive."""

    folder: Path
    data: TrainingData
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    callbacks: TrainingCallbacks = field(default_factory=TrainingCallbacks)
    record: str = ""  # the configuration as YAML, written to config.yaml in the folder


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    folder: Path
    epoch: int
    step: int
    best_wer: float  # a fraction; infinity before the first validation
    interrupted: bool
