"""CPU seconds of training against a bare loop of the same layers, on the same batches.

    python scripts/benchmark_training.py [--manifest FILE] [--rounds 9] [--steps 3]

Three things are measured on every batch, in turn, so that a noisy machine is as noisy to each:

- bare: a plain loop written below, of torch's own modules (LSTM, layer norm, dropout, linear, CTC,
  clipping, AdamW) on the batch's tensors in memory;
- step: `Trainer.step` of the same model;
- pipeline: the step, and all that reading, augmentation and features cost in this process and in
  two workers.

Printed are the medians over the rounds, and the ratios, which are what can be compared between
machines. Without a manifest, recordings as long as LibriSpeech's are made up and stored as FLAC.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

from asr.augment import AugmentConfig, Augmenter
from asr.data import Batch, Planner, SpeechDataset, Utterance, load_batches, read_manifest
from asr.distributed import Place
from asr.features import FeaturesConfig
from asr.lstm import EncoderConfig
from asr.model import AcousticModel
from asr.progress import Bar, say
from asr.text import Vocabulary
from asr.train import Trainer, TrainingConfig

WORKERS = 2


class Bare(nn.Module):
    """The same layers as an `AcousticModel`'s, called the plain way."""

    def __init__(self, config: EncoderConfig, features: int, symbols: int) -> None:
        super().__init__()
        self.config = config
        directions = 1 if config.kind == "forward" else 2
        both = config.hidden * directions
        widths = [features * config.stack] + [both] * (config.layers - 1)
        self.recurrent = nn.ModuleList(
            nn.LSTM(w, config.hidden, batch_first=True, bidirectional=directions == 2)
            for w in widths
        )
        self.norms = nn.ModuleList(nn.LayerNorm(both) for _ in widths)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(both, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, (recurrent, norm) in enumerate(zip(self.recurrent, self.norms, strict=True)):
            x = norm(recurrent(self.dropout(x) if index else x)[0])
        return torch.log_softmax(self.head(x), dim=-1)  # (B, T', V)


class BareLoop:
    """Forward, CTC, backward, clipping and AdamW, with nothing around them."""

    def __init__(self, encoder: EncoderConfig, mels: int, symbols: int) -> None:
        self.model = Bare(encoder, mels, symbols)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.stack = encoder.stack

    def prepare(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Stacked frames (B, T', stack · F) and their lengths, made before the clock starts."""
        x = nn.functional.pad(batch.features, (0, 0, 0, -batch.features.shape[1] % self.stack))
        x = x.reshape(len(x), -1, self.stack * x.shape[2]).contiguous()
        return x, (batch.feature_lengths + self.stack - 1) // self.stack

    def step(self, x: torch.Tensor, lengths: torch.Tensor, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        log_probs = self.model(x).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs, batch.targets, lengths, batch.target_lengths, reduction="sum"
        )
        (loss / batch.symbols).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def write_corpus(folder: Path, count: int) -> list[Utterance]:
    """Made-up recordings with LibriSpeech's lengths (2 to 16 s) and about 15 characters a second."""
    generator = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        seconds = float(np.clip(generator.normal(12.5, 4.0), 2.0, 16.5))
        samples = int(16_000 * seconds)
        loudness = np.repeat(generator.uniform(0, 0.2, samples // 1600 + 1), 1600)[:samples]
        waveform = loudness * np.sin(np.cumsum(generator.normal(0.1, 0.3, samples)))
        path = folder / f"{number}.flac"
        soundfile.write(path, waveform, 16_000)
        text = "".join(generator.choice(list("abcdefghij "), int(15 * seconds)))
        utterances.append(Utterance(str(number), str(path), samples / 16_000, text.strip() + "a"))
    return utterances


def cpu_of_descendants() -> float:
    """CPU seconds used so far by the processes below this one that are still alive."""
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
    """Wait until the processes below this one have stopped working."""
    before = -1.0
    while (now := cpu_of_descendants()) > before:
        before = now
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--manifest", type=Path, help="recordings to train on (default: made up)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="batches in a round")
    parser.add_argument("--batch-seconds", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as folder:
        if options.manifest:
            utterances = read_manifest(options.manifest)
        else:
            utterances = write_corpus(Path(folder), 120)
        figures = measure(utterances, options)
    say(
        f"{options.rounds} rounds of {options.steps} batches of {options.batch_seconds:g} s, "
        f"{options.threads} thread(s), {WORKERS} workers; medians of CPU milliseconds per second "
        "of audio"
    )
    say(f"bare loop  {figures['bare']:7.2f}")
    say(f"step       {figures['step']:7.2f}   ratio {figures['step_ratio']:.3f}")
    say(f"pipeline   {figures['pipeline']:7.2f}   ratio {figures['pipeline_ratio']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(utterances: list[Utterance], options: argparse.Namespace) -> dict[str, float]:
    features, encoder = FeaturesConfig(), EncoderConfig("bidirectional")
    vocabulary = Vocabulary.english()
    torch.manual_seed(0)
    model = AcousticModel(features, encoder, len(vocabulary)).train()
    trainer = Trainer(model, TrainingConfig(), Place(0, 1, torch.device("cpu")))
    bare = BareLoop(encoder, features.mels, len(vocabulary))
    augment = AugmentConfig(mel_shift=2.0)
    dataset = SpeechDataset(
        utterances,
        [vocabulary.encode(u.text, u.id) for u in utterances],
        model.features,
        Augmenter(augment, features.sample_rate),
    )
    planner = Planner(
        [u.seconds for u in utterances],
        [u.id for u in utterances],
        options.batch_seconds,
        augment.speeds,
    )
    batches = load_batches(dataset, planner, range(1_000_000), workers=WORKERS)
    rounds: list[dict[str, float]] = []
    loading = audio = 0.0
    next(batches)  # the workers have started
    settle()  # they run ahead by a fixed number of batches: as far here as at the end
    workers_before = cpu_of_descendants()
    count = options.rounds + 1  # the first warms up
    with contextlib.closing(batches), Bar("Rounds", count) as bar:
        for _ in range(count):
            sums = {"bare": 0.0, "step": 0.0, "seconds": 0.0}
            for index in range(options.steps):
                start = time.process_time()
                batch = next(batches)
                loading += time.process_time() - start
                seconds = float(batch.feature_lengths.sum()) * features.hop_ms / 1000
                x, lengths = bare.prepare(batch)
                work = {
                    "bare": lambda b=batch, x=x, n=lengths: bare.step(x, n, b),
                    "step": lambda b=batch, i=index: trainer.step(b, i, 0.0),
                }
                for name in sorted(work, reverse=bool(index % 2)):
                    start = time.process_time()
                    work[name]()
                    sums[name] += time.process_time() - start
                sums["seconds"] += seconds
                audio += seconds
            rounds.append(sums)
            bar.advance()
        settle()
        workers = cpu_of_descendants() - workers_before
    per_second = {
        name: statistics.median(1000 * r[name] / r["seconds"] for r in rounds[1:])
        for name in ("bare", "step")
    }
    data = 1000 * (loading + workers) / audio
    step_ratio = statistics.median(r["step"] / r["bare"] for r in rounds[1:])
    pipeline_ratio = statistics.median(
        (r["step"] + data * r["seconds"] / 1000) / r["bare"] for r in rounds[1:]
    )
    return {
        **per_second,
        "pipeline": per_second["step"] + data,
        "step_ratio": step_ratio,
        "pipeline_ratio": pipeline_ratio,
    }


if __name__ == "__main__":
    sys.exit(main())
