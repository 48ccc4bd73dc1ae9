"""The requirements of a model and its training on an utterance."""

from dataclasses import dataclass, field

from asr.checkpoint import Checkpoint
from asr.data.augment import AugmentConfig
from asr.defaults import BATCH_SECONDS
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.files import FilePath
from asr.model import AcousticModel
from asr.text import Vocabulary


@dataclass(frozen=True)
class Requirements:
    """The requirements of a model and its training on an utterance; the defaults are the recipes'.

    Attributes:
        vocabulary: The characters that texts may contain.
        features: The configuration of the features, which sets the band of audio that matters.
        encoder: The configuration of the encoder, which sets the number of frames per second.
        fastest: The highest factor by which augmentation speeds recordings up.
        batch_seconds: Audio in a batch, which is also the length of the longest utterance.
    """

    vocabulary: Vocabulary = field(default_factory=Vocabulary.english)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    fastest: float = field(default_factory=lambda: AugmentConfig().fastest)
    batch_seconds: float = BATCH_SECONDS

    @classmethod
    def of_checkpoint(cls, path: FilePath, fastest: float, batch_seconds: float) -> "Requirements":
        """The requirements of a trained model. Raises CheckpointError."""
        checkpoint = Checkpoint.read(path)
        configs = checkpoint.features, checkpoint.encoder
        return cls(checkpoint.vocabulary, *configs, fastest, batch_seconds)

    @property
    def known(self) -> frozenset[str]:
        """The characters of the vocabulary, without the blank."""
        return frozenset(self.vocabulary.symbols[1:])

    def build_model(self) -> AcousticModel:
        """A model with random weights, with the sizes and frame rate of the configuration."""
        return AcousticModel(self.features, self.encoder, len(self.vocabulary))
