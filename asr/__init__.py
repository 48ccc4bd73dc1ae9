"""Speech recognition with an LSTM acoustic model and CTC.

    asr.transcribe("recording.wav").text                      # the bundled English model
    recognizer = asr.Recognizer.load("best.pt")               # a model of your own
    asr.evaluate(recognizer, asr.read_manifest("dev.jsonl"))  # its word error rate

The names in `__all__` are the public interface. Each loads its module on first use (PEP 562), so that
`import asr` and `asr --help` load no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.audio.containers import Track
    from asr.audio.waveform import load_audio
    from asr.data.augment import AugmentConfig
    from asr.data.manifest import Utterance, read_manifest, write_manifest
    from asr.decoder.config import DecoderConfig
    from asr.decoder.hypothesis import Hypothesis, Word
    from asr.encoder import Context, EncoderConfig
    from asr.endpoint import EndpointConfig
    from asr.errors import AsrError
    from asr.evaluation import Evaluation, evaluate
    from asr.experiment import DataConfig, Experiment
    from asr.features import FeaturesConfig
    from asr.lm.estimation import read_sentences
    from asr.lm.model import LanguageModel
    from asr.model import AcousticModel
    from asr.recognizer import OperatingPoint, Recognizer, transcribe
    from asr.runtime.distributed import RuntimeConfig
    from asr.scoring import Report, score
    from asr.stream import Stream
    from asr.text import Vocabulary, normalize
    from asr.training.config import TrainingConfig

__version__ = "0.1.0"

# Idle OpenMP threads sleep instead of spinning; torch reads this variable on import. On a busy
# two-core machine, two spinning threads took 15 times as long as one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "AcousticModel",
    "AsrError",
    "AugmentConfig",
    "Context",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EndpointConfig",
    "Evaluation",
    "Experiment",
    "FeaturesConfig",
    "Hypothesis",
    "LanguageModel",
    "OperatingPoint",
    "Recognizer",
    "Report",
    "RuntimeConfig",
    "Stream",
    "Track",
    "TrainingConfig",
    "Utterance",
    "Vocabulary",
    "Word",
    "__version__",
    "evaluate",
    "load_audio",
    "normalize",
    "read_manifest",
    "read_sentences",
    "score",
    "transcribe",
    "write_manifest",
]

_NAMES = {
    "asr.audio.containers": "Track",
    "asr.audio.waveform": "load_audio",
    "asr.data.augment": "AugmentConfig",
    "asr.data.manifest": "Utterance read_manifest write_manifest",
    "asr.decoder.config": "DecoderConfig",
    "asr.decoder.hypothesis": "Hypothesis Word",
    "asr.encoder": "Context EncoderConfig",
    "asr.endpoint": "EndpointConfig",
    "asr.errors": "AsrError",
    "asr.evaluation": "Evaluation evaluate",
    "asr.experiment": "DataConfig Experiment",
    "asr.features": "FeaturesConfig",
    "asr.lm.estimation": "read_sentences",
    "asr.lm.model": "LanguageModel",
    "asr.model": "AcousticModel",
    "asr.recognizer": "OperatingPoint Recognizer transcribe",
    "asr.runtime.distributed": "RuntimeConfig",
    "asr.scoring": "Report score",
    "asr.stream": "Stream",
    "asr.text": "Vocabulary normalize",
    "asr.training.config": "TrainingConfig",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
