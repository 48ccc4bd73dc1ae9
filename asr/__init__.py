"""Speech recognition with an LSTM acoustic model and CTC.

The names below are the public interface; each loads its module on first use (PEP 562), so that
`import asr` and `asr --help` stay free of torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.audio.waveform import load_audio
    from asr.decoder.hypothesis import Hypothesis
    from asr.errors import AsrError
    from asr.recognizer import Recognizer
    from asr.scoring import Report, score
    from asr.text import Vocabulary

# Waiting threads sleep instead of spinning; read when torch is loaded. Beside other work, two spinning
# threads on two cores were measured to take 15 times the CPU time of one, and 15 times as long.
__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "AsrError",
    "Hypothesis",
    "Recognizer",
    "Report",
    "Vocabulary",
    "load_audio",
    "score",
]

_HOME = {
    "AsrError": "asr.errors",
    "Hypothesis": "asr.decoder.hypothesis",
    "Recognizer": "asr.recognizer",
    "Report": "asr.scoring",
    "Vocabulary": "asr.text",
    "load_audio": "asr.audio.waveform",
    "score": "asr.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
