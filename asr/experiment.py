"""A training run described by dataclasses: manifests and configurations in, a trained model out."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from asr.checkpoint import Checkpoint
from asr.data.augment import AugmentConfig
from asr.data.index import Index, open_index
from asr.data.manifest import Utterance, read_manifest
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.errors import ConfigError, quote
from asr.features import FeaturesConfig
from asr.release import RELEASED
from asr.runtime.distributed import RuntimeConfig, cannot_replace_machines, is_rank_zero, launch
from asr.text import Vocabulary, describe_characters, normalize
from asr.training.config import Outcome, Task, TrainingCallbacks, TrainingConfig, TrainingData
from asr.training.run import train


@dataclass
class DataConfig:
    """The manifests of a training run, and the characters of its texts.

    Args:
        train: JSONL manifest of the training set.
        dev: JSONL manifest of the dev set.
        vocabulary: "english"; "transcripts" for the characters of both sets, which extend the
            vocabulary of the checkpoint that training starts from; or the path of a text file
            (.txt) with all characters.

    Example:
        >>> DataConfig("train.jsonl", "dev.jsonl").vocabulary
        'english'
    """

    train: str
    dev: str
    vocabulary: str = "english"

    def __post_init__(self) -> None:
        if self.vocabulary in ("english", "transcripts"):
            return
        if not self.vocabulary.lower().endswith(".txt"):
            raise ConfigError(
                f"data.vocabulary is {quote(self.vocabulary)}; it must be english, transcripts, or a "
                "text file (.txt) with the characters"
            )


@dataclass(kw_only=True)
class Experiment:
    """The complete configuration of a training run, which `train` starts.

    Args:
        folder: Where checkpoints, metrics and curves are written, and from which training resumes.
        data: The manifests and the vocabulary.
        features: How waveforms become log-mel features.
        encoder: The layers of the LSTM encoder.
        augment: Data augmentation.
        training: The optimization.
        decoder: How the dev set is transcribed.
        runtime: Devices, processes and threads.

    Example:
        >>> data = DataConfig("train.jsonl", "dev.jsonl")
        >>> Experiment(data=data, training=TrainingConfig(epochs=10)).folder
        'runs/experiment'
    """

    folder: str = "runs/experiment"
    data: DataConfig
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def train(self, callbacks: TrainingCallbacks | None = None) -> Outcome:
        """Train, or resume training in `folder`, in as many processes as configured.

        Ctrl-C or SIGTERM saves a checkpoint and returns an interrupted `Outcome`. Several processes
        are spawned, so the calling script then needs `if __name__ == "__main__":`.

        Args:
            callbacks: Receives messages and progress. None: training is silent.

        Returns:
            The epochs and steps done, and the best word error rate on the dev set.

        Raises:
            AsrError: If the data, the configuration or the loss does not allow training.
        """
        if callbacks is None or not is_rank_zero():
            callbacks = TrainingCallbacks()
        training_set = _open_training_set(self.data.train, callbacks)
        dev_set = read_manifest(self.data.dev)
        vocabulary = self._choose_vocabulary(training_set, dev_set, callbacks)
        task = Task(
            folder=Path(self.folder),
            data=TrainingData(training_set, dev_set, vocabulary),
            features=self.features,
            encoder=self.encoder,
            augment=self.augment,
            training=self.training,
            decoder=self.decoder,
            runtime=self.runtime,
            callbacks=callbacks,
            record=self.to_yaml(),
        )
        if cannot_replace_machines():
            callbacks.say(
                "A restarted machine cannot rejoin the others; set "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun."
            )
        return launch(train, task, self.runtime.resolve().processes)

    def _choose_vocabulary(
        self, training_set: Index, dev_set: Sequence[Utterance], callbacks: TrainingCallbacks
    ) -> Vocabulary:
        """The symbols to train: those of the data, of a file, or of English."""
        if self.data.vocabulary == "english":
            return Vocabulary.english()
        if self.data.vocabulary != "transcripts":
            return Vocabulary.read(self.data.vocabulary)
        trained = set(training_set.characters)
        # A resumed run keeps its vocabulary, even if the checkpoint that it started from is gone.
        last = Path(self.folder) / "last.pt"
        start = RELEASED if self.training.start_from == "released" else self.training.start_from
        vocabulary = (
            Checkpoint.read(last if last.exists() else start).vocabulary.extend(trained)
            if start
            else Vocabulary.from_transcripts(trained)
        )
        counts = Counter("".join(normalize(utterance.text) for utterance in dev_set))
        unheard = {name: n for name, n in counts.items() if name not in vocabulary.symbols}
        if unheard:
            callbacks.say(
                "Characters that only the dev set has, which cannot be learned and count as errors: "
                f"{describe_characters(Counter(unheard))}."
            )
        return (
            vocabulary.extend(unheard)
            if start
            else Vocabulary.from_transcripts([*trained, *unheard])
        )

    def to_yaml(self) -> str:
        """All values as YAML, as `train` writes them to config.yaml in the folder."""
        values = asdict(self) | {"folder": str(self.folder)}
        return str(yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False))


def _open_training_set(manifest: str, callbacks: TrainingCallbacks) -> Index:
    """The index of a manifest, with progress if it has to be made. Raises DataError."""
    try:
        return open_index(manifest, lambda count: callbacks.index_grows(manifest, count))
    finally:
        callbacks.index_ends()


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes all strings that Hydra would read as numbers, such as 1e3, or as booleans, such as y."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if text in ("y", "Y", "n", "N") else None
    with contextlib.suppress(ValueError):
        float(text)
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
