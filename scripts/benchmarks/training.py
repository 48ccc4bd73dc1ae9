"""The cost of training on CPUs, compared with a bare loop and with SpeechBrain.

    python scripts/benchmarks/training.py                            everything, on data/digits
    python scripts/benchmarks/training.py --only step pipeline       some parts
    python scripts/benchmarks/training.py --made-up                  synthetic sound

- step: `Trainer.step` compared with a bare loop of torch's modules (LSTM, layer norm, dropout, linear,
  CTC, clipping, AdamW; see training_bare.py) on the same batches in memory. For the latency-controlled
  encoder the loop uses the same chunks, and its loss is checked to equal the model's. For the
  bidirectional encoder it uses a bidirectional nn.LSTM per layer, which reads padding and does
  slightly less work. "LSTMs alone" is only the forward and backward pass of the same nn.LSTM layers on
  inputs of the same shapes: a lower bound for any training of this model.
- pipeline: the step plus reading, augmentation and features, in this process and in two workers,
  compared with the same bare loop.
- data: the loader alone with one and two workers, without and with the standard augmentation.
- training: `asr.training.run.train` with two workers, logging and metrics, compared with the LSTMs
  alone on the same batches and chunks.
- processes: one process compared with two (gloo, one thread each) on the same global batches in
  memory.
- speechbrain: a bidirectional LSTM with CTC, trained by `Trainer.step` and by SpeechBrain's
  `Brain.fit_batch` with equal sizes, weights, batches, optimizer, precision and threads, from memory.
  SpeechBrain has its own environment, built on first use. Without lengths its LSTM reads padding; with
  lengths it packs, which is the same mathematics as ours, and its loss is checked to be equal.

All contestants take turns in each round, so that noise of the machine affects all alike. Times are
CPU times unless marked as wall-clock, and medians over the rounds; ratios are medians of the rounds'
ratios. A second of audio is a second of the recordings, before any change of speed.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, finish, make_parser, write_json
from training_bare import KINDS, measure_steps
from training_bench import Bench, read_augment, write_corpus
from training_parts import measure_data, measure_processes, measure_training
from training_report import (
    say_conditions,
    say_data,
    say_processes,
    say_speechbrain,
    say_steps,
    say_training,
)
from training_speechbrain import measure_speechbrain

from asr.data.manifest import read_manifest, summarize_rejects
from asr.data.selection import select_trainable
from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.progress import say
from asr.text import Vocabulary
from asr.training.config import TrainingConfig

DIGITS = ROOT / "data" / "digits" / "train.jsonl"
PARTS = ("step", "pipeline", "data", "training", "processes", "speechbrain")
# Where Linux reports the CPU time of a process.
STATUS = Path("/proc/self/stat")


def main() -> int:
    return finish(run, parse_options())


def run(options: argparse.Namespace) -> None:
    """Measure the parts and print their figures; write them if a file is named."""
    torch.set_num_threads(options.threads)
    if not STATUS.is_file():
        raise ConfigError(
            f"{STATUS}, from which the CPU time of workers is read, does not exist; use Linux"
        )
    results: dict[str, Any] = {"command": sys.argv, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(options, Path(folder))
        say_conditions(bench)
        for name in PARTS:
            if name not in options.only or name in results:
                continue
            before = os.getloadavg()[0]
            results |= measure(name, bench, options)
            say(f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    if options.json:
        write_json(options.json, results)


def parse_options() -> argparse.Namespace:
    parser = make_parser(__doc__, rounds=9, with_rivals=True, with_json=True)
    defaults = EncoderConfig()
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--manifest", type=Path, help="speech (default: data/digits/train.jsonl)")
    parser.add_argument("--made-up", action="store_true", help="synthetic sound instead of speech")
    parser.add_argument("--seconds", type=float, default=120, help="seconds of audio in a round")
    parser.add_argument("--batch-seconds", type=float, default=TrainingConfig().batch_seconds)
    parser.add_argument("--layers", type=int, default=defaults.layers)
    parser.add_argument("--hidden", type=int, default=defaults.hidden)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    options = parser.parse_args()
    if options.made_up and options.manifest:
        parser.error("--made-up replaces --manifest; give one of them")
    if min(options.rounds, options.threads, options.layers, options.hidden) < 1:
        parser.error("--rounds, --threads, --layers and --hidden must be at least 1")
    if not 0 < options.seconds < math.inf:
        parser.error("--seconds must be above 0")
    return options


def make_bench(options: argparse.Namespace, folder: Path) -> Bench:
    """The bench of the given options; synthetic recordings are written into `folder`."""
    if options.made_up:
        utterances = write_corpus(folder)
    elif options.manifest or DIGITS.is_file():
        utterances = read_manifest(options.manifest or DIGITS)
    else:
        raise ConfigError(
            f"{DIGITS} does not exist; create it with python recipes/digits/prepare.py, name another "
            "manifest with --manifest, or use synthetic sound with --made-up"
        )
    vocabulary, features = Vocabulary.english(), FeaturesConfig()
    encoder = EncoderConfig(layers=options.layers, hidden=options.hidden)
    model = AcousticModel(features, encoder, len(vocabulary))
    augment = read_augment("standard")
    trainable, rejects = select_trainable(
        utterances,
        vocabulary,
        model.frames,
        fastest=augment.fastest,
        max_seconds=options.batch_seconds,
        sample_rate=features.sample_rate,
    )
    if not trainable:
        raise ConfigError(f"no utterance is left to train on; {summarize_rejects(rejects)}")
    return Bench(
        trainable,
        vocabulary,
        features,
        encoder,
        TrainingConfig(batch_seconds=options.batch_seconds, precision="float32"),
        options.rounds,
        options.seconds,
        options.threads,
    )


def measure(name: str, bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Measure and report a part; step and pipeline are measured together."""
    if name in ("step", "pipeline"):
        both = {}
        for kind in KINDS:
            both[kind] = measure_steps(bench, kind, "pipeline" in options.only)
            say_steps(kind, both[kind])
        return {"step": both, "pipeline": both}
    figures: Any
    if name == "data":
        figures = measure_data(bench)
        say_data(figures)
    elif name == "training":
        figures = measure_training(bench)
        say_training(bench, figures)
    elif name == "processes":
        figures = measure_processes(bench)
        say_processes(bench, figures)
    else:
        figures = measure_speechbrain(bench, options.environments)
        say_speechbrain(figures)
    return {name: figures}


if __name__ == "__main__":
    sys.exit(main())
