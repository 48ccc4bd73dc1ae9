"""What the parts of `training.py` share: the bench, clocks, and synthetic recordings."""

import contextlib
import os
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from harness import ROOT
from omegaconf import OmegaConf
from torch import Tensor, nn

from asr.audio.waveform import load_audio
from asr.data.augment import AugmentConfig, Augmenter
from asr.data.index import Index
from asr.data.loading import Batch, SpeechDataset, load_batches
from asr.data.manifest import Utterance
from asr.data.planning import Planner
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.text import Vocabulary
from asr.training.config import TrainingConfig

WORKERS = 2
# The relative difference of two losses that are equal except for rounding.
SAME = 1e-4
# Number of synthetic recordings.
MADE_UP = 120
# Number of recordings from which the mean of the features is computed.
MEASURED = 50


@dataclass(frozen=True)
class Bench:
    """The data and settings of all parts; picklable, so that it can be sent to other processes."""

    utterances: Index
    vocabulary: Vocabulary
    features: FeaturesConfig
    encoder: EncoderConfig
    training: TrainingConfig
    rounds: int
    seconds: float  # seconds of audio in a round
    threads: int

    @property
    def batches(self) -> int:
        """Number of batches in a round."""
        return max(1, round(self.seconds / self.training.batch_seconds))

    def model(self, **changes: Any) -> AcousticModel:
        """A new model with the same random weights each time; `changes` apply to the encoder."""
        torch.manual_seed(0)
        encoder = replace(self.encoder, **changes)
        model = AcousticModel(self.features, encoder, len(self.vocabulary))
        stride = -(-len(self.utterances) // MEASURED)
        rate = self.features.sample_rate
        model.features.fit_normalization(
            load_audio(u.audio, rate) for u in self.utterances[::stride]
        )
        return model.train()

    def load(
        self,
        model: AcousticModel,
        augment: AugmentConfig,
        workers: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> Generator[Batch]:
        """An endless iterator over batches."""
        dataset = SpeechDataset(
            self.utterances,
            self.utterances.symbols,
            self.vocabulary,
            model.features,
            Augmenter(augment, self.features.sample_rate),
        )
        planner = Planner(
            self.utterances.seconds,
            self.utterances.hashes,
            self.training.batch_seconds,
            augment,
        )
        return load_batches(
            dataset, planner, range(1_000_000), rank=rank, processes=processes, workers=workers
        )

    def audio(self, names: Iterable[str]) -> float:
        """Seconds of the recordings with these ids."""
        return sum(self._lengths[name] for name in names)

    @cached_property
    def _lengths(self) -> dict[str, float]:
        return {u.id: u.seconds for u in self.utterances}


def read_augment(name: str) -> AugmentConfig:
    """conf/augment/<name>.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "augment" / f"{name}.yaml"))
    assert isinstance(values, dict)
    return AugmentConfig(**{str(key): value for key, value in values.items()})


def write_corpus(folder: Path) -> list[Utterance]:
    """Write synthetic recordings of 2 to 16 s, like LibriSpeech's, with about 15 characters/s."""
    generator = np.random.default_rng(0)
    utterances = []
    for number in range(MADE_UP):
        seconds = float(np.clip(generator.normal(12.5, 4.0), 2.0, 16.5))
        samples = int(16_000 * seconds)
        loudness = np.repeat(generator.uniform(0, 0.2, samples // 1600 + 1), 1600)[:samples]
        waveform = loudness * np.sin(np.cumsum(generator.normal(0.1, 0.3, samples)))
        path = folder / f"{number}.flac"
        soundfile.write(path, waveform, 16_000)
        text = "".join(generator.choice(list("abcdefghij "), int(15 * seconds)))
        utterances.append(Utterance(str(number), str(path), samples / 16_000, text.strip() + "a"))
    return utterances


def stack_frames(batch: Batch, stack: int) -> tuple[Tensor, Tensor]:
    """Stacked frames (B, T', stack · F) and their lengths (B,), the input of the rivals."""
    x = nn.functional.pad(batch.features, (0, 0, 0, -batch.features.shape[1] % stack))
    x = x.reshape(len(x), -1, stack * x.shape[2]).contiguous()
    return x, (batch.feature_lengths + stack - 1) // stack


def cpu_of_descendants() -> float:
    """CPU seconds that the living descendants of this process have used so far."""
    parents, used = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total = 0.0
    for process in used:
        ancestor = parents.get(process)
        while ancestor and ancestor != os.getpid():
            ancestor = parents.get(ancestor)
        total += used[process] if ancestor else 0.0
    return total


def settle() -> None:
    """Wait until the descendants of this process are idle."""
    before = -1.0
    while (now := cpu_of_descendants()) > before:
        before = now
        time.sleep(0.5)


class Clock:
    """Total CPU and wall-clock seconds of this process within `with` blocks."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall
