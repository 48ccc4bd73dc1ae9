"""What training costs and where it goes, against a bare loop and against SpeechBrain; on CPUs.

    python scripts/benchmark_training.py                            everything, on data/digits
    python scripts/benchmark_training.py --only step pipeline       some parts
    python scripts/benchmark_training.py --made-up                  sound as long as LibriSpeech's

- step: `Trainer.step` against a plain loop, written below, of torch's own modules (LSTM, layer norm,
  dropout, linear, CTC, clipping, AdamW) on the same batches in memory. For the latency-controlled
  encoder the loop sees the same chunks and its loss is checked to be the model's. For the
  bidirectional one it is a two-way nn.LSTM a layer, which reads padding too and so does a little less.
  "LSTMs alone" is the forward and backward pass of the same nn.LSTM layers on inputs of the same
  shapes and nothing else: the bound that no training of this model can beat.
- pipeline: the step, and all that reading, augmentation and features cost in this process and in
  two workers, against the same bare loop.
- data: the loader alone with one and two workers, without and with the standard augmentation.
- training: `asr.training.run.train` itself, with two workers, logging and metrics, against the LSTMs
  alone on the very batches and chunks of each epoch.
- processes: one process against two (gloo, DistributedDataParallel, one thread each) on the same
  global batches in memory.
- speechbrain: a two-way LSTM with CTC, the same sizes, weights, batches, optimizer, precision and
  threads, in memory for both, trained by `Trainer.step` and by SpeechBrain's `Brain.fit_batch`, in
  an environment of its own that is built on first use. Without lengths SpeechBrain's LSTM reads
  padding; with them it packs, which is the same mathematics as ours, and its loss is checked to be.

All have their turn in every round, so that a noisy machine is as noisy to each. Times are CPU time
unless it says "by the clock", and medians over the rounds; a ratio is the median of the rounds'
ratios. A second of audio is a second of the recordings, before any change of speed.
"""

import argparse
import contextlib
import copy
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from rivals import Worker, WorkerError, build_environment
from torch import Tensor, nn

import asr.training.run
from asr.audio.waveform import load_audio
from asr.data.augment import AugmentConfig, Augmenter
from asr.data.index import Index
from asr.data.loading import Batch, SpeechDataset, load_batches
from asr.data.manifest import Utterance, read_manifest, summarize_rejects
from asr.data.planning import Planner
from asr.data.selection import select_trainable
from asr.encoder import Context, Encoder, EncoderConfig
from asr.errors import EXIT_CODE, AsrError, ConfigError
from asr.features import FeaturesConfig
from asr.files import write_atomically
from asr.model import AcousticModel
from asr.progress import Bar, complain, say
from asr.runtime.distributed import Process, RuntimeConfig, gather, launch, process_group
from asr.text import Vocabulary
from asr.training.config import Task, TrainingCallbacks, TrainingConfig, TrainingData
from asr.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "data" / "digits" / "train.jsonl"
PARTS = ("step", "pipeline", "data", "training", "processes", "speechbrain")
TARGETS = {"step": 1.10, "pipeline": 1.25, "speechbrain": 1.5}
WORKERS = 2
RIVAL = "speechbrain"
PACKAGES = ("speechbrain>=1.1,<2",)
STATUS = Path("/proc/self/stat")
DATA_FACTOR = 10  # the loader alone gets through so many times as much audio in a round
MADE_UP = 120  # recordings
MEASURED = 50  # recordings of which the features' mean is taken
SAME = 1e-4  # relative difference of two losses that are the same but for rounding


@dataclass(frozen=True)
class Bench:
    """What all parts train on and with; picklable, so that it can go to other processes."""

    utterances: Index
    vocabulary: Vocabulary
    features: FeaturesConfig
    encoder: EncoderConfig
    training: TrainingConfig
    rounds: int
    seconds: float  # of audio in a round
    threads: int

    @property
    def batches(self) -> int:
        """In a round."""
        return max(1, round(self.seconds / self.training.batch_seconds))

    def model(self, **changes: Any) -> AcousticModel:
        """A new model, random in the same way each time; `changes` are of the encoder."""
        torch.manual_seed(0)
        encoder = replace(self.encoder, **changes)
        model = AcousticModel(self.features, encoder, len(self.vocabulary))
        stride = -(-len(self.utterances) // MEASURED)
        rate = self.features.sample_rate
        model.features.measure(load_audio(u.audio, rate) for u in self.utterances[::stride])
        return model.train()

    def load(
        self,
        model: AcousticModel,
        augment: AugmentConfig,
        workers: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> Generator[Batch]:
        """Batches without end."""
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
        """Seconds of these utterances' recordings, by id."""
        return sum(self._lengths[name] for name in names)

    @cached_property
    def _lengths(self) -> dict[str, float]:
        return {u.id: u.seconds for u in self.utterances}


def main() -> int:
    options = parse_options()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"command": sys.argv, "torch": torch.__version__}
    try:
        if not STATUS.is_file():
            raise ConfigError(
                f"Workers' CPU time is read from {STATUS}, which is not here: use Linux."
            )
        with tempfile.TemporaryDirectory() as folder:
            bench = make_bench(options, Path(folder))
            report_conditions(bench)
            for name in PARTS:
                if name not in options.only or name in results:
                    continue
                before = os.getloadavg()[0]
                results |= measure(name, bench, options)
                say(f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after\n")
        if options.json:
            text = json.dumps(results, indent=2) + "\n"
            write_atomically(options.json, lambda file: file.write(text.encode()))
    except AsrError as error:
        complain(f"benchmark_training.py: {error}")
        return EXIT_CODE
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = EncoderConfig()
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--manifest", type=Path, help="speech (default: data/digits/train.jsonl)")
    parser.add_argument("--made-up", action="store_true", help="made-up sound instead of speech")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=120, help="of audio in a round")
    parser.add_argument("--batch-seconds", type=float, default=TrainingConfig().batch_seconds)
    parser.add_argument("--layers", type=int, default=defaults.layers)
    parser.add_argument("--hidden", type=int, default=defaults.hidden)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--environments", type=Path, default=ROOT / ".benchmark")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.made_up and options.manifest:
        parser.error("--made-up takes the place of --manifest: give one of them")
    if min(options.rounds, options.threads, options.layers, options.hidden) < 1:
        parser.error("--rounds, --threads, --layers and --hidden must be at least 1")
    if not 0 < options.seconds < math.inf:
        parser.error("--seconds must be above 0")
    return options


def make_bench(options: argparse.Namespace, folder: Path) -> Bench:
    """The bench as it was asked for; made-up recordings are written into `folder`."""
    if options.made_up:
        utterances = write_corpus(folder)
    elif options.manifest or DIGITS.is_file():
        utterances = read_manifest(options.manifest or DIGITS)
    else:
        raise ConfigError(
            f"{DIGITS} is not there; make it by python recipes/digits/prepare.py, name another "
            "manifest by --manifest, or go without speech by --made-up."
        )
    vocabulary, features = Vocabulary.english(), FeaturesConfig()
    encoder = EncoderConfig(layers=options.layers, hidden=options.hidden)
    model = AcousticModel(features, encoder, len(vocabulary))
    augment = read_augment("standard")
    admitted, rejects = select_trainable(
        utterances,
        vocabulary,
        model.frames,
        fastest=augment.fastest,
        max_seconds=options.batch_seconds,
        sample_rate=features.sample_rate,
    )
    if not admitted:
        raise ConfigError(f"There is nothing to train on: {summarize_rejects(rejects)}.")
    return Bench(
        admitted,
        vocabulary,
        features,
        encoder,
        TrainingConfig(batch_seconds=options.batch_seconds, precision="float32"),
        options.rounds,
        options.seconds,
        options.threads,
    )


def read_augment(name: str) -> AugmentConfig:
    """conf/augment/<name>.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "augment" / f"{name}.yaml"))
    assert isinstance(values, dict)
    return AugmentConfig(**{str(key): value for key, value in values.items()})


def write_corpus(folder: Path) -> list[Utterance]:
    """Made-up recordings with LibriSpeech's lengths (2 to 16 s) and about 15 characters a second."""
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


def report_conditions(bench: Bench) -> None:
    hours = bench.utterances.seconds.sum() / 3600
    encoder, model = bench.encoder, AcousticModel(bench.features, bench.encoder, 29)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    say(
        f"{len(bench.utterances)} utterances, {hours:.2f} h; {encoder.layers} x {encoder.hidden} "
        f"cells a direction ({size:.1f} M parameters as {encoder.kind}), float32, "
        f"{bench.threads} thread(s) of {os.cpu_count()} cores; {bench.rounds} rounds of "
        f"{bench.batches} batches of {bench.training.batch_seconds:g} s; torch {torch.__version__}\n"
    )


def measure(name: str, bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a part, which it has printed, by name; step and pipeline are measured as one."""
    if name in ("step", "pipeline"):
        both = {kind: measure_steps(bench, kind, "pipeline" in options.only) for kind in KINDS}
        return {"step": both, "pipeline": both}
    if name == "data":
        return {name: measure_data(bench)}
    if name == "training":
        return {name: measure_training(bench)}
    if name == "processes":
        return {name: measure_processes(bench)}
    return {name: measure_rival(bench, options.environments)}


# ---- Clocks -------------------------------------------------------------------------------------


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
        time.sleep(0.5)


class Clock:
    """CPU and wall-clock seconds of this process within `with`, added up."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return median([a / b for a, b in zip(above, below, strict=True)])


def verdict(ratio: float, target: float) -> str:
    return f"(target: {target:.2f} at most{'' if ratio <= target else ', missed'})"


# ---- The step and the pipeline ------------------------------------------------------------------

KINDS = ("latency_controlled", "bidirectional")


class BareChunked(nn.Module):
    """The layers of a latency-controlled `AcousticModel`, called the plain way."""

    def __init__(self, config: EncoderConfig, inputs: int, symbols: int) -> None:
        super().__init__()
        hidden, rest = config.hidden, config.layers - 1
        self.ahead = nn.ModuleList(
            nn.LSTM(w, hidden, batch_first=True) for w in [inputs] + [hidden] * rest
        )
        self.back = nn.ModuleList(
            nn.LSTM(w, hidden, batch_first=True) for w in [inputs] + [2 * hidden] * rest
        )
        self.ahead_norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.ahead)
        self.back_norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.back)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * hidden, symbols)

    def forward(self, x: Tensor, lengths: Tensor, context: Context | None) -> Tensor:
        rows, frames, _ = x.shape
        chunk, right = (context.chunk, context.right) if context else (frames, 0)
        if chunk > frames:
            chunk, right = frames, 0
        reads = []
        for index, (lstm, norm) in enumerate(zip(self.ahead, self.ahead_norms, strict=True)):
            reads.append(self.dropout(x) if index else x)
            x = norm(lstm(reads[-1])[0])
        begins = torch.arange(0, frames, chunk)
        sizes = (lengths[:, None] - begins).clamp(0, chunk + right).reshape(-1, 1)
        t = torch.arange(chunk + right)
        mirror = torch.where(t < sizes, sizes - 1 - t, t)[:, :, None]
        y = None
        for lstm, norm, read in zip(self.back, self.back_norms, reads, strict=True):
            read = nn.functional.pad(read, (0, 0, 0, len(begins) * chunk + right - frames))
            blocks = read.unfold(1, chunk + right, chunk).flatten(0, 1).transpose(1, 2)
            if y is not None:
                blocks = torch.cat([blocks, self.dropout(y)], dim=-1)
            y = norm(lstm(blocks.gather(1, mirror.expand_as(blocks)))[0])
            y = y.gather(1, mirror.expand_as(y))
        y = y[:, :chunk].reshape(rows, len(begins) * chunk, -1)[:, :frames]
        return torch.log_softmax(self.head(torch.cat([x, y], dim=-1)), dim=-1)  # (B, T', V)

    def load_from(self, model: AcousticModel) -> None:
        """Take a model's weights."""
        for index, layer in enumerate(model.encoder.layers):
            for mine, strand in ((self.ahead, layer.ahead), (self.back, layer.back)):
                mine[index].load_state_dict(strand.cell.state_dict())
            self.ahead_norms[index].load_state_dict(layer.ahead.norm.state_dict())
            self.back_norms[index].load_state_dict(layer.back.norm.state_dict())
        self.head.load_state_dict(model.head.state_dict())


class BareBoth(nn.Module):
    """The layers of a bidirectional `AcousticModel`, called the plain way: padding is read too."""

    def __init__(self, config: EncoderConfig, inputs: int, symbols: int) -> None:
        super().__init__()
        both = 2 * config.hidden
        self.recurrent = nn.ModuleList(
            nn.LSTM(w, config.hidden, batch_first=True, bidirectional=True)
            for w in [inputs] + [both] * (config.layers - 1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(both) for _ in self.recurrent)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(both, symbols)

    def forward(self, x: Tensor, _lengths: Tensor, _context: Context | None) -> Tensor:
        for index, (recurrent, norm) in enumerate(zip(self.recurrent, self.norms, strict=True)):
            x = norm(recurrent(self.dropout(x) if index else x)[0])
        return torch.log_softmax(self.head(x), dim=-1)  # (B, T', V)


class BareLoop:
    """Forward, CTC, backward, clipping and AdamW, with nothing around them."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model = model
        self.clip_norm = config.clip_norm
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def loss(self, x: Tensor, lengths: Tensor, batch: Batch, context: Context | None) -> Tensor:
        log_probs = self.model(x, lengths, context).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs, batch.targets, lengths, batch.target_lengths, reduction="sum"
        )
        return loss / batch.symbols

    def step(self, x: Tensor, lengths: Tensor, batch: Batch, context: Context | None) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x, lengths, batch, context).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()


def stack_frames(batch: Batch, stack: int) -> tuple[Tensor, Tensor]:
    """Stacked frames (B, T', stack · F) and their lengths, as they lie in memory for others."""
    x = nn.functional.pad(batch.features, (0, 0, 0, -batch.features.shape[1] % stack))
    x = x.reshape(len(x), -1, stack * x.shape[2]).contiguous()
    return x, (batch.feature_lengths + stack - 1) // stack


class LstmsAlone:
    """The nn.LSTM layers of an encoder, each on an input of its own."""

    def __init__(self, encoder: Encoder) -> None:
        self.config = encoder.config
        layers = copy.deepcopy(encoder.layers)
        self.ahead = [layer.ahead.cell for layer in layers]
        self.back = [layer.back.cell for layer in layers]

    def prepare(
        self, rows: int, frames: int, context: Context | None
    ) -> list[tuple[nn.Module, Tensor, Tensor]]:
        """Each layer's module, input and output's gradient for (B, T') frames, before the clock."""
        context = context if context and context.chunk <= frames else Context(frames)
        chunks = -(-frames // context.chunk)
        whole = self.config.kind == "bidirectional"
        shape = (rows, frames) if whole else (rows * chunks, context.frames)
        work = []
        for cells, size in ((self.ahead, (rows, frames)), (self.back, shape)):
            for index, cell in enumerate(cells):
                x = torch.randn(*size, cell.input_size, requires_grad=index > 0)
                work.append((cell, x, torch.ones(*size, cell.hidden_size)))
        return work

    def run(self, work: list[tuple[nn.Module, Tensor, Tensor]]) -> None:
        for cell, x, gradient in work:
            cell.zero_grad(set_to_none=True)
            cell(x)[0].backward(gradient)


class Script:
    """What an encoder sees at each step is told it, and so can be told others."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._draw = encoder.draw_context
        self._number = 0
        self.context: Context | None = None
        # Ours still draws; what it drew is not what it gets. That takes microseconds.
        encoder.draw_context = self._answer

    def next(self) -> Context | None:
        """Draw what the next step sees."""
        self._number += 1
        self.context = self._draw(torch.Generator().manual_seed(self._number))
        return self.context

    def _answer(self, generator: torch.Generator) -> Context | None:
        self._draw(generator)
        return self.context


def measure_steps(bench: Bench, kind: str, pipeline: bool) -> dict[str, Any]:
    """The LSTMs alone, the bare loop and our step on the same batches, in turn."""
    model = bench.model(kind=kind)
    config, stack = model.encoder.config, bench.encoder.stack
    inputs = stack * bench.features.mels
    layers = BareChunked if kind == "latency_controlled" else BareBoth
    bare_model = layers(config, inputs, len(bench.vocabulary))
    bare = BareLoop(bare_model, bench.training)
    alone = LstmsAlone(model.encoder)
    trainer = Trainer(model, bench.training, Process(0, 1, torch.device("cpu")))
    script = Script(model.encoder)
    names = ("lstms", "bare", "step")
    cost: dict[str, list[float]] = {name: [] for name in (*names, "pipeline")}
    data: dict[str, list[float]] = {"workers": [], "loading": []}
    steps: list[dict[str, Any]] = []
    audio: list[float] = []
    batches = bench.load(model, read_augment("standard"), WORKERS)
    with contextlib.closing(batches), Bar(f"Steps, {kind}", bench.rounds + 1, "rounds") as bar:
        first = next(batches)
        if isinstance(bare_model, BareChunked):
            check_same(bare_model, bare, trainer, script, first)
        number = 0
        for turn in range(bench.rounds + 1):  # the first warms up
            settle()  # the workers run ahead by a fixed number of batches: as far here as at the end
            workers = cpu_of_descendants()
            clocks = {name: Clock() for name in (*names, "loading")}
            heard: list[str] = []
            for _ in range(bench.batches):
                with clocks["loading"]:
                    batch = next(batches)
                heard += batch.ids
                context = script.next()
                x, lengths = stack_frames(batch, stack)
                tensors = alone.prepare(len(x), x.shape[1], context)
                work: dict[str, Callable[[], Any]] = {
                    "lstms": lambda t=tensors: alone.run(t),
                    "bare": lambda a=(x, lengths, batch, context): bare.step(*a),
                    "step": lambda b=batch, n=number: trainer.step(b, n, 0.0),
                }
                spent: dict[str, Any] = {}
                for place in range(len(names)):
                    name = names[(place + number) % len(names)]
                    before = clocks[name].cpu
                    with clocks[name]:
                        work[name]()
                    spent[name] = clocks[name].cpu - before
                number += 1
                if turn:
                    steps.append({"context": context and asdict(context), **spent})
            if pipeline:
                settle()
            workers = cpu_of_descendants() - workers
            if turn:
                for name in names:
                    cost[name].append(clocks[name].cpu)
                cost["pipeline"].append(clocks["step"].cpu + clocks["loading"].cpu + workers)
                data["workers"].append(workers)
                data["loading"].append(clocks["loading"].cpu)
                audio.append(bench.audio(heard))
            bar.advance()
    if not pipeline:
        del cost["pipeline"]
    figures: dict[str, Any] = {
        name: {
            "ms_per_second": 1000 * median_ratio(values, audio),
            "to_bare": median_ratio(values, cost["bare"]),
            "to_lstms": median_ratio(values, cost["lstms"]),
            "of_rounds": [a / b for a, b in zip(values, cost["bare"], strict=True)],
        }
        for name, values in cost.items()
    }
    say(f"{kind}: CPU ms per second of audio, times the bare loop, times the LSTMs alone")
    labels = {"lstms": "LSTMs alone", "bare": "bare loop", "step": "step", "pipeline": "pipeline"}
    for name, figure in figures.items():
        told = verdict(figure["to_bare"], TARGETS[name]) if name in TARGETS else ""
        say(
            f"  {labels[name]:<12} {figure['ms_per_second']:8.2f} {figure['to_bare']:8.3f} "
            f"{figure['to_lstms']:8.3f} {told}"
        )
    if pipeline:
        for name, values in data.items():
            figures["pipeline"][name] = 1000 * median_ratio(values, audio)
        say(
            "  of the pipeline {workers:.2f} in the workers and {loading:.2f} in taking their "
            "batches".format(**figures["pipeline"])
        )
    for label, seen in (
        ("whole recordings", [s for s in steps if s["context"] is None]),
        ("chunks", [s for s in steps if s["context"] is not None]),
    ):
        if seen and len(seen) < len(steps):
            ratio = median([s["step"] / s["bare"] for s in seen])
            say(f"  {len(seen)} of the steps saw {label}: step {ratio:.3f} times the bare loop")
    return {**figures, "steps": steps}


def check_same(
    bare_model: BareChunked, bare: BareLoop, trainer: Trainer, script: Script, batch: Batch
) -> None:
    """Raise ConfigError where the bare loop does not compute the model's loss."""
    bare_model.load_from(trainer.model)
    x, lengths = stack_frames(batch, trainer.model.encoder.config.stack)
    contexts = [None, *(script.next() for _ in range(8))]
    trainer.model.eval()
    bare_model.eval()
    with torch.no_grad():
        for context in contexts:
            theirs = float(bare.loss(x, lengths, batch, context))
            ours = float(trainer.losses(batch, context).sum())
            if not math.isclose(ours, theirs, rel_tol=SAME):
                raise ConfigError(
                    f"The bare loop's loss is {theirs} and the model's {ours}, with {context}: "
                    "they do not compute the same, so their times say nothing."
                )
    trainer.model.train()
    bare_model.train()


# ---- The loader alone ---------------------------------------------------------------------------


def measure_data(bench: Bench) -> list[dict[str, Any]]:
    """Hours of audio per hour of the loader, for each number of workers and each augmentation."""
    model = bench.model()
    settings = [(name, workers) for name in ("none", "standard") for workers in (1, 2)]
    count = max(2 * WORKERS, DATA_FACTOR * bench.batches)
    cpu: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    wall: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    with contextlib.ExitStack() as stack:
        loaders = {}
        for name, workers in settings:
            loader = bench.load(model, read_augment(name), workers)
            loaders[name, workers] = stack.enter_context(contextlib.closing(loader))
            next(loader)  # the workers have started
        bar = stack.enter_context(Bar("Data", len(settings) * (bench.rounds + 1), "turns"))
        for turn in range(bench.rounds + 1):  # the first warms up
            for setting in settings[::-1] if turn % 2 else settings:
                loader = loaders[setting]
                settle()
                before, clock = cpu_of_descendants(), Clock()
                # What was made while others had their turn: two batches a worker, torch's default.
                heard = [name for _ in range(2 * setting[1]) for name in next(loader).ids]
                timed: list[str] = []
                with clock:
                    for _ in range(count):
                        timed += next(loader).ids
                settle()
                spent = clock.cpu + cpu_of_descendants() - before
                if turn:
                    seconds = bench.audio(timed)
                    wall[setting].append(seconds / clock.wall)
                    cpu[setting].append((seconds + bench.audio(heard)) / spent)
                bar.advance(note=f"{setting[0]}, {setting[1]} worker(s)")
    figures = []
    say(
        f"Data alone, {count} batches a turn: hours of audio per CPU hour, per hour by the clock, and "
        "times one worker's"
    )
    for name, workers in settings:
        figure = {
            "augment": name,
            "workers": workers,
            "hours_per_cpu_hour": median(cpu[name, workers]),
            "hours_per_hour": median(wall[name, workers]),
            "times_one_worker": median_ratio(wall[name, workers], wall[name, 1]),
        }
        figures.append(figure)
        say(
            f"  augment={name:<9} {workers} worker(s) {figure['hours_per_cpu_hour']:8.0f} "
            f"{figure['hours_per_hour']:8.0f} {figure['times_one_worker']:8.2f}"
        )
    return figures


# ---- Training as it runs ------------------------------------------------------------------------


class Enough(Exception):  # noqa: N818  # nothing is wrong
    """All epochs that were wanted are over."""


@dataclass
class Watch(TrainingCallbacks):
    """Measures each epoch of a training, and after it the LSTMs alone on its batches."""

    bench: Bench
    bar: Bar
    shapes: list[tuple[int, int, Context | None, list[str]]] = field(default_factory=list)
    alone: LstmsAlone | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)

    def epoch_begins(self, epoch: int, *_: int) -> None:
        if epoch > 1:
            self._close()
            self.bar.advance()
            if len(self.epochs) == self.bench.rounds + 1:
                raise Enough
        settle()
        self._workers = cpu_of_descendants()
        self._steps = Clock()
        self._steps.__enter__()

    def epoch_ends(self) -> None:
        self._steps.__exit__()
        self._end = Clock()
        self._end.__enter__()

    def _close(self) -> None:
        self._end.__exit__()
        settle()
        workers = cpu_of_descendants() - self._workers
        assert self.alone is not None
        clock = Clock()
        for rows, frames, context, _ in self.shapes:
            work = self.alone.prepare(rows, frames, context)
            with clock:
                self.alone.run(work)
        heard = [name for *_, names in self.shapes for name in names]
        self.epochs.append(
            {
                "audio": self.bench.audio(heard),
                "steps": len(self.shapes),
                "cpu": self._steps.cpu + workers,
                "wall": self._steps.wall,
                "lstms": clock.cpu,
                "end": self._end.cpu,
            }
        )
        self.shapes.clear()


def measure_training(bench: Bench) -> dict[str, Any]:
    """`train` itself on an epoch of about `bench.seconds`, one epoch a round."""
    chosen: list[Utterance] = []
    for utterance in bench.utterances:
        if chosen and sum(u.seconds for u in chosen) >= bench.seconds:
            break
        chosen.append(utterance)
    dev = chosen[: max(1, len(chosen) // 10)]
    with Bar("Training", bench.rounds + 1, "epochs") as bar, tempfile.TemporaryDirectory() as name:
        watch = Watch(bench, bar)

        class Watched(Trainer):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                watch.alone = LstmsAlone(self.model.encoder)
                self._draw = self.model.encoder.draw_context
                self.model.encoder.draw_context = self._note

            def _note(self, generator: torch.Generator) -> Context | None:
                self._context = self._draw(generator)
                return self._context

            def step(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Tensor]:
                found = super().step(batch, step, progress)
                frames = self.model.encoder.frames(batch.features.shape[1])
                watch.shapes.append((len(batch.ids), frames, self._context, batch.ids))
                return found

        task = Task(
            folder=Path(name),
            data=TrainingData(chosen, dev, bench.vocabulary),
            features=bench.features,
            encoder=bench.encoder,
            augment=read_augment("standard"),
            training=replace(bench.training, epochs=bench.rounds + 2),
            runtime=RuntimeConfig("cpu", 1, bench.threads, WORKERS),
            callbacks=watch,
        )
        asr.training.run.Trainer, before = Watched, asr.training.run.Trainer
        try:
            asr.training.run.train(task)
        except Enough:
            pass
        finally:
            asr.training.run.Trainer = before
    epochs = watch.epochs[1:]  # the first warms up
    columns = {key: [epoch[key] for epoch in epochs] for key in epochs[0]}
    heard = sum(u.seconds for u in dev)
    figures = {
        "hours_per_cpu_hour": median_ratio(columns["audio"], columns["cpu"]),
        "hours_per_hour": median_ratio(columns["audio"], columns["wall"]),
        "lstms_hours_per_cpu_hour": median_ratio(columns["audio"], columns["lstms"]),
        "to_lstms": median_ratio(columns["cpu"], columns["lstms"]),
        "end_cpu_seconds": median(columns["end"]),
        "end_dev_seconds": heard,
        "epochs": epochs,
    }
    say(
        f"Training ({bench.encoder.kind}, augment=standard, {WORKERS} workers): "
        f"{figures['hours_per_cpu_hour']:.1f} hours of audio per CPU hour, "
        f"{figures['hours_per_hour']:.1f} per hour by the clock; the LSTMs alone "
        f"{figures['lstms_hours_per_cpu_hour']:.1f} per CPU hour, so it costs "
        f"{figures['to_lstms']:.3f} times as much as they"
    )
    say(
        f"  and at an epoch's end {figures['end_cpu_seconds']:.1f} CPU seconds for the validation on "
        f"{heard:.0f} s of audio and the saves"
    )
    return figures


# ---- One process and two ------------------------------------------------------------------------


def measure_processes(bench: Bench) -> dict[str, Any]:
    """The same global batches by one process and by two, in turn."""
    rounds: list[dict[str, float]] = launch(run_both, bench, 2)[1:]  # the first warms up
    columns = {key: [turn[key] for turn in rounds] for key in rounds[0]}
    figures: dict[str, Any] = {
        "cpu_of_two_to_one": median_ratio(columns["two_cpu"], columns["one_cpu"]),
        "speedup": median_ratio(columns["one_wall"], columns["two_wall"]),
        "hours_per_hour_one": median_ratio(columns["audio"], columns["one_wall"]),
        "hours_per_hour_two": median_ratio(columns["audio"], columns["two_wall"]),
        "cores_of_one": median_ratio(columns["one_cpu"], columns["one_wall"]),
        "cores_of_two": median_ratio(columns["two_cpu"], columns["two_wall"]),
        "rounds": rounds,
    }
    say(
        f"Processes ({bench.encoder.kind}): two cost {figures['cpu_of_two_to_one']:.3f} times the CPU "
        f"time of one on the same batches, and were {figures['speedup']:.2f} times as fast by the "
        f"clock ({figures['hours_per_hour_one']:.1f} and {figures['hours_per_hour_two']:.1f} hours of "
        f"audio per hour). Where cores are free, one has 1 and two have 2; here they had "
        f"{figures['cores_of_one']:.2f} and {figures['cores_of_two']:.2f}"
    )
    return figures


def run_both(bench: Bench) -> list[dict[str, float]]:
    """One of two processes: times a round's batches by the first alone, then by both."""
    with process_group(RuntimeConfig("cpu", 2, bench.threads, 0)) as place:
        model = bench.model()
        augment = read_augment("standard")
        count = bench.batches
        with contextlib.closing(bench.load(model, augment)) as loader:
            whole = [next(loader) for _ in range(count)]
        with contextlib.closing(bench.load(model, augment, 0, place.rank, 2)) as loader:
            parts = [next(loader) for _ in range(count)]
        alone = Trainer(copy.deepcopy(model), bench.training, Process(0, 1, place.device))
        both = Trainer(model, bench.training, place)
        seconds = bench.audio(name for batch in whole for name in batch.ids)
        found = []
        bar = Bar("Processes", bench.rounds + 1, "rounds") if place.first else None
        for turn in range(bench.rounds + 1):
            one, two = Clock(), Clock()
            if place.first:
                with one:
                    for number, batch in enumerate(whole):
                        alone.step(batch, turn * count + number, 0.0)
            dist.barrier()
            with two:
                for number, batch in enumerate(parts):
                    both.step(batch, turn * count + number, 0.0)
            shares = gather((two.cpu, two.wall))
            found.append(
                {
                    "audio": seconds,
                    "one_cpu": one.cpu,
                    "one_wall": one.wall,
                    "two_cpu": sum(cpu for cpu, _ in shares),
                    "two_wall": max(wall for _, wall in shares),
                }
            )
            if bar:
                bar.advance()
        if bar:
            bar.close()
        return found


# ---- SpeechBrain --------------------------------------------------------------------------------

READINGS = {
    "packed": "with lengths, the same mathematics",
    "padded": "without lengths, padding is read",
}


def measure_rival(bench: Bench, environments: Path) -> dict[str, Any]:
    """Ours and SpeechBrain's steps on the same batches, in turn; the reason, if it cannot be had."""
    # nn.LSTM has no norm between its layers; the rest of the model is what it always is.
    model = bench.model(kind="bidirectional", layer_norm=False)
    with contextlib.closing(bench.load(model, read_augment("standard"))) as loader:
        batches = [next(loader) for _ in range(bench.batches)]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_inputs(folder, bench, model, batches)
        try:
            # Its own torch would not be ours: it borrows all packages of this environment.
            lent = Path(torch.__file__).resolve().parent.parent
            python = build_environment(environments / RIVAL, PACKAGES, lent)
            script = Path(__file__).with_name(f"{Path(__file__).stem}_rival.py")
            command = [str(python), str(script), str(folder)]
            rival = Worker(command, folder / f"{RIVAL}.log", bench.threads)
            stack.callback(rival.close)
            return compare(bench, model, batches, rival)
        except WorkerError as error:
            complain(f"{RIVAL} is left out: {error}")
            return {"left_out": str(error)}


def write_inputs(
    folder: Path, bench: Bench, model: AcousticModel, batches: Sequence[Batch]
) -> None:
    """Write what the rival trains on and with."""
    config, training = model.encoder.config, bench.training
    settings = {
        "hidden": config.hidden,
        "layers": config.layers,
        "dropout": config.dropout,
        "inputs": config.stack * bench.features.mels,
        "symbols": len(bench.vocabulary),
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "threads": bench.threads,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    weights = {f"head.{key}": value for key, value in model.head.state_dict().items()}
    for index, layer in enumerate(model.encoder.layers):
        for strand, ending in ((layer.ahead, ""), (layer.back, "_reverse")):
            for key, value in strand.cell.state_dict().items():
                weights[f"{key.removesuffix('_l0')}_l{index}{ending}"] = value
    torch.save(weights, folder / "weights.pt")
    saved = []
    for batch in batches:
        x, lengths = stack_frames(batch, config.stack)
        saved.append(
            {
                "x": x,
                "lengths": lengths,
                "targets": batch.targets,
                "target_lengths": batch.target_lengths,
                "symbols": batch.symbols,
            }
        )
    torch.save(saved, folder / "batches.pt")


def compare(
    bench: Bench, model: AcousticModel, batches: Sequence[Batch], rival: Worker
) -> dict[str, Any]:
    trainer = Trainer(model, bench.training, Process(0, 1, torch.device("cpu")))
    model.eval()
    with torch.no_grad():
        loss = float(trainer.losses(batches[0]).sum())
    model.train()
    theirs = rival.hello["losses"]["packed"]
    if not math.isclose(loss, theirs, rel_tol=SAME):
        raise WorkerError(
            f"its loss is {theirs} where ours is {loss}: they do not compute the same"
        )
    numbers = range(len(batches))
    cpu: dict[str, list[float]] = {name: [] for name in ("ours", *READINGS)}
    wall: dict[str, list[float]] = {name: [] for name in cpu}
    with Bar("SpeechBrain", bench.rounds + 1, "rounds") as bar:
        for turn in range(bench.rounds + 1):  # the first warms up
            for name in reversed(cpu) if turn % 2 else cpu:
                if name == "ours":
                    clock = Clock()
                    with clock:
                        for number in numbers:
                            trainer.step(batches[number], turn * len(batches) + number, 0.0)
                    spent = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
                else:
                    spent = rival.ask({"reading": name, "batches": list(numbers)})
                if turn:
                    cpu[name].append(spent["cpu_seconds"])
                    wall[name].append(spent["wall_seconds"])
            bar.advance()
    losses = {"ours": loss, **rival.hello["losses"]}
    figures: dict[str, Any] = {
        name: {
            "steps_per_cpu_second": len(batches) / median(cpu[name]),
            "steps_per_second": len(batches) / median(wall[name]),
            "times_ours": median_ratio(cpu[name], cpu["ours"]),
            "of_rounds": [a / b for a, b in zip(cpu[name], cpu["ours"], strict=True)],
            "first_loss": losses[name],
        }
        for name in cpu
    }
    versions = ", ".join(f"{key} {value}" for key, value in rival.hello["versions"].items())
    padding = 1 - sum(int(b.feature_lengths.sum()) for b in batches) / sum(
        b.features.shape[0] * b.features.shape[1] for b in batches
    )
    say(
        f"SpeechBrain ({versions}), bidirectional without layer norm, {100 * padding:.1f} % of the "
        "frames padding: steps per CPU second, per second by the clock, our steps for one of its, and "
        "the first batch's loss"
    )
    say_rival("asr, Trainer.step", figures["ours"])
    for name, meaning in READINGS.items():
        say_rival(f"Brain.fit_batch, {meaning}", figures[name])
    reached = {name: figures[name]["times_ours"] >= TARGETS["speechbrain"] for name in READINGS}
    for name, meaning in READINGS.items():
        say(
            f"  {meaning}: {figures[name]['times_ours']:.2f} times (target: "
            f"{TARGETS['speechbrain']:g} at least{'' if reached[name] else ', missed'})"
        )
    say(
        "  In a step, ours: stacks and masks frames, forward, CTC for each utterance, backward, clips, "
        "checks loss and gradient, AdamW; theirs gets stacked frames: forward, CTC, checks the loss, "
        "backward, clips, AdamW."
    )
    return {"versions": rival.hello["versions"], "padding": padding, **figures}


def say_rival(label: str, figure: dict[str, Any]) -> None:
    say(
        f"  {label:<52} {figure['steps_per_cpu_second']:7.3f} {figure['steps_per_second']:7.3f} "
        f"{figure['times_ours']:6.2f} {figure['first_loss']:9.5f}"
    )


if __name__ == "__main__":
    sys.exit(main())
