"""A tiny corpus made of tones, and a model small enough to train on it within a test."""

from pathlib import Path

import numpy as np
import soundfile

from asr.data.manifest import Utterance
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.runtime.distributed import RuntimeConfig
from asr.text import Vocabulary
from asr.training.config import Task, TrainingConfig, TrainingData


def write_tones(folder: Path, count: int = 12) -> list[Utterance]:
    """Recordings in which each letter of a word is a tone of its own pitch."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        text = " ".join("".join(generator.choice(list("abcd"), 3)) for _ in range(1 + number % 3))
        tones = []
        for letter in text:
            t = np.arange(2400) / 16_000
            pitch = 0 if letter == " " else 300 * (1 + ord(letter) - ord("a"))
            tones.append(0.3 * np.sin(2 * np.pi * pitch * t) * np.hanning(2400))
        waveform = np.concatenate(tones) + generator.normal(0, 0.003, 2400 * len(text))
        path = folder / f"u{number}.wav"
        soundfile.write(path, waveform, 16_000)
        utterances.append(Utterance(f"u{number}", str(path), len(waveform) / 16_000, text))
    return utterances


def tiny_task(folder: Path, utterances: list[Utterance], **values) -> Task:
    """A run in `folder` with a few steps per epoch.

    `values` are fields of TrainingConfig, Task or TrainingData.
    """
    data = {key: values.pop(key) for key in ("dev_set", "vocabulary") if key in values}
    task = {key: values.pop(key) for key in list(values) if key in Task.__dataclass_fields__}
    training = {
        "epochs": 3,
        "batch_seconds": 6.0,
        "warmup_steps": 4,
        "learning_rate": 3e-3,
        "checkpoint_steps": 3,
        **values,
    }
    return Task(
        folder=folder,
        data=TrainingData(
            **{
                "training_set": utterances,
                "dev_set": utterances[:3],
                "vocabulary": Vocabulary.english(),
                **data,
            }
        ),
        **{
            "features": FeaturesConfig(mels=20),
            "encoder": EncoderConfig(layers=2, hidden=16, stack=4, dropout=0.2),
            "training": TrainingConfig(**training),
            "runtime": RuntimeConfig(device="cpu", processes=1, threads=1, workers=0),
            **task,
        },
    )
