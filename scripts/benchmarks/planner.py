"""Time and memory from a manifest of a million utterances to the batches of an epoch.

    python scripts/benchmarks/planner.py [--utterances 1000000] [--batch-seconds 400] [--json FILE]

The manifest is synthetic: lengths distributed like LibriSpeech's (most from 12 to 16 s) and texts of
common words. Four new processes do the work of a training before its first step: `index` builds the
index; `plan` opens it, selects utterances, computes their digest and plans the first epoch; `resume`
does the same for the third epoch and reads the utterances of a batch in its middle; `read` reads the
manifest without an index. Seconds exclude the import of Python modules, memory includes it.
"""

import argparse
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from harness import finish, make_parser, write_json

from asr.data.augment import AugmentConfig
from asr.data.index import open_index
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.planning import Planner
from asr.data.selection import select_trainable
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.progress import Bar, say, track
from asr.text import Vocabulary

EPOCHS = 3
# The part of conf/augment/standard.yaml that changes lengths.
AUGMENT = AugmentConfig(silence_seconds=1.0)
WORDS_PER_SECOND = 2.3
WORDS = (
    "the of and a to in he was that it his her with as had you for she not at but be on they have him "
    "which said from so all by this were one an me or there no when them my been would if what will "
    "little down people before house children morning nothing himself whether something"
).split()


def make_up(count: int) -> Iterator[Utterance]:
    """Synthetic utterances, whose recordings do not exist."""
    generator, chooser = np.random.default_rng(0), random.Random(0)
    long = generator.normal(14.5, 1.2, count)
    short = generator.uniform(1.5, 14.0, count)
    seconds = np.where(generator.random(count) < 0.65, long, short).clip(1.3, 35.0)
    for number, length in enumerate(seconds.round(3).tolist()):
        reader, chapter = number // 100, number // 30
        name = f"{reader}-{chapter}-{number:07d}"
        text = " ".join(chooser.choices(WORDS, k=round(WORDS_PER_SECOND * length)))
        yield Utterance(name, f"/data/train/{reader}/{chapter}/{name}.flac", length, text)


def index(manifest: Path, _: float) -> None:
    """Build the manifest's index with a progress bar."""
    with Bar("Indexing", manifest.stat().st_size, "bytes") as bar:
        open_index(manifest, bar.advance)


def plan(manifest: Path, batch_seconds: float, epoch: int = 0) -> None:
    """Plan an epoch from the index; for a later epoch, also read a batch of its middle."""
    model = AcousticModel(FeaturesConfig(), EncoderConfig(), len(Vocabulary.english()))
    trainable, _ = select_trainable(
        open_index(manifest),
        Vocabulary.english(),
        model.frames,
        AUGMENT.fastest,
        max_seconds=batch_seconds,
    )
    trainable.digest()
    plan = Planner(trainable.seconds, trainable.hashes, batch_seconds, AUGMENT, seed=1).epoch(epoch)
    if epoch:
        for number in plan.batches[len(plan) // 2]:
            _ = trainable[number]


def resume(manifest: Path, batch_seconds: float) -> None:
    """Resume in the middle of the third epoch."""
    plan(manifest, batch_seconds, epoch=2)


def read(manifest: Path, _: float) -> None:
    """Read the manifest without an index."""
    read_manifest(manifest)


def measure(name: str, manifest: Path, batch_seconds: float) -> dict[str, float]:
    """Wall-clock and CPU seconds and the peak memory in MB of a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_here, (name, manifest, batch_seconds))


def _measure_here(name: str, manifest: Path, batch_seconds: float) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    {"index": index, "plan": plan, "resume": resume, "read": read}[name](manifest, batch_seconds)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    unit = 1e6 if sys.platform == "darwin" else 1e3
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"seconds": wall, "cpu_seconds": cpu, "memory_mb": memory}


def judge_plans(manifest: Path, batch_seconds: float) -> dict[str, float]:
    """Padding efficiency, the share of batches that repeat, and the seconds of planning alone."""
    indexed = open_index(manifest)
    seconds = indexed.seconds
    planner = Planner(seconds, indexed.hashes, batch_seconds, AUGMENT, seed=1)
    times, kept, padded, repeated, batches = [], 0.0, 0.0, 0, 0
    seen: set[frozenset[int]] = set()
    for epoch in range(EPOCHS):
        start = time.perf_counter()
        plan = planner.epoch(epoch)
        times.append(time.perf_counter() - start)
        for batch in plan.batches:
            lengths = plan.seconds[batch]
            kept += float(lengths.sum())
            padded += len(batch) * float(lengths.max())
        names = {frozenset(batch.tolist()) for batch in plan.batches}
        repeated += len(names & seen)
        batches += len(names)
        seen |= names
    return {
        "seconds": median(times),
        "efficiency": kept / padded,
        "repeated": repeated / batches,
    }


def main() -> int:
    parser = make_parser(__doc__, rounds=5, with_json=True)
    parser.add_argument("--utterances", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--batch-seconds", type=float, default=400.0, help="(%(default)s)")
    return finish(run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Write the manifest, measure all functions and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "train.jsonl"
        utterances = make_up(options.utterances)
        write_manifest(manifest, track(utterances, "Manifest", options.utterances, "utterances"))
        figures = {"index": measure("index", manifest, options.batch_seconds)}
        rounds: dict[str, list[dict[str, float]]] = {"plan": [], "resume": []}
        for _ in range(options.rounds):
            for name, results in rounds.items():
                results.append(measure(name, manifest, options.batch_seconds))
        for name, results in rounds.items():
            figures[name] = {key: median(result[key] for result in results) for key in results[0]}
        figures["read"] = measure("read", manifest, options.batch_seconds)
        sizes = [path.stat().st_size / 1e6 for path in (manifest, Path(f"{manifest}.index"))]
        figures["epoch"] = judge_plans(manifest, options.batch_seconds)

    say(
        f"{options.utterances:,} utterances in batches of {options.batch_seconds:g} s; manifest "
        f"{sizes[0]:.0f} MB, index {sizes[1]:.0f} MB; plan and resume: medians of {options.rounds}"
    )
    for name in ("index", "plan", "resume", "read"):
        found = figures[name]
        say(
            f"{name:7} {found['seconds']:7.2f} s, {found['cpu_seconds']:7.2f} s of CPU, at most "
            f"{found['memory_mb']:5.0f} MB"
        )
    epoch = figures["epoch"]
    say(
        f"Planning alone: {epoch['seconds']:.3f} s (median of {EPOCHS}), padding efficiency "
        f"{epoch['efficiency']:.4f}, {100 * epoch['repeated']:.2f} % of batches repeated"
    )
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    sys.exit(main())
