"""What tests of the English recipe share: noise, an untrained model and small dev sets."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from asr.checkpoint import save_model
from asr.cli.main import main as asr
from asr.data.manifest import Utterance, write_manifest
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.text import Vocabulary

RATE = 16_000
RANDOM = np.random.default_rng(3)


def write_noise(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, RANDOM.normal(0, 0.1, round(seconds * RATE)), RATE)


def one_line(err: str) -> str:
    """The error message at the end of stderr, after the progress."""
    lines = err.strip().splitlines()
    assert "Traceback" not in err
    names = (
        "prepare.py: ",
        "evaluate.py: ",
        "label.py: ",
        "causes.py: ",
        "latency.py: ",
        "long_audio.py: ",
    )
    assert lines[-1].startswith(names)
    return lines[-1]


def write_model(path: Path, kind: str = "latency_controlled") -> Path:
    """Save an untrained model, whose texts are nonsense but always the same."""
    torch.manual_seed(1)
    vocabulary = Vocabulary.english()
    encoder = EncoderConfig(kind, layers=1, hidden=16, stack=4)
    model = AcousticModel(FeaturesConfig(mels=20), encoder, len(vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # more than one symbol wins
    decoder = DecoderConfig(kind="beam", beam=4, alpha=0.7)
    save_model(path, model, vocabulary, {}, decoder=decoder)
    return path


def write_data(tmp_path: Path) -> Path:
    """Write two dev sets and a language model."""
    for name, count in (("near", 4), ("far", 3)):
        utterances = []
        for number in range(count):
            path = tmp_path / "data" / f"{name}{number}.wav"
            write_noise(path, 0.5 + 0.2 * number)
            text = "the sea is wide" if number else "we see"
            utterances.append(Utterance(f"{name}{number}", str(path), 0.5 + 0.2 * number, text))
        write_manifest(tmp_path / "data" / f"dev-{name}.jsonl", utterances)
    (tmp_path / "text.txt").write_text("the sea is wide\nwe see the sea\n")
    small = tmp_path / "data" / "language-model-small.lm"
    assert asr(["lm", "train", str(tmp_path / "text.txt"), "-o", str(small)]) == 0
    return tmp_path / "data"
