"""Kills a training again and again, and compares the result with an unbroken run, bit for bit.

    python scripts/crash_test.py [--kills 50] [--processes 1] [--data data/digits] [--seed 0]

The digits recipe trains a small model on a few hundred utterances of data/digits: once without
interruption, and once killed with SIGKILL at random moments and restarted, alternately without data
loaders and with two. Of ten kills one hits the start, two wait for a save and two for a validation;
the others are random.
After each kill last.pt must be intact and no process may be left. If several processes train, the
one that started the others is killed, and the others have to end by themselves. At the end all
checkpoints (weights, their average, optimizer, counters; best.pt and the epochs that training.keep
leaves) and metrics.jsonl must equal those of the unbroken run. The exit code is 1 if anything
differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr import checkpoint
from asr.data.manifest import read_manifest, write_manifest
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.progress import complain, say

ROOT = Path(__file__).resolve().parents[1]
WORKERS = (0, 2)
AIMS = ("", "save", "", "validation", "", "", "save", "", "validation", "start")
AIM_SECONDS = 20.0  # longest wait for the phase that a kill aims at
ORPHAN_SECONDS = 30.0  # within which the loaders of a killed training must end
PHASES = ("start", "steps", "validation", "save", "epoch's end")


@dataclass(frozen=True)
class Recipe:
    """The settings that both runs share."""

    data: Path
    epochs: int
    hidden: int
    processes: int

    def command(self, folder: Path, workers: int) -> list[str]:
        """The command line that starts or resumes the training in `folder`."""
        return [
            sys.executable,
            str(ROOT / "recipes/digits/train.py"),
            f"folder={folder}",
            f"data.train={self.data / 'train.jsonl'}",
            f"data.dev={self.data / 'dev.jsonl'}",
            f"encoder.hidden={self.hidden}",
            "encoder.layers=2",
            f"training.epochs={self.epochs}",
            "training.average_decay=0.99",
            "training.checkpoint_steps=5",
            "training.keep=2",
            "--device=cpu",
            f"--processes={self.processes}",
            "--threads=1",
            f"--workers={workers}",
        ]


class Life:
    """A training process from start to end, with its output."""

    def __init__(self, recipe: Recipe, folder: Path, workers: int) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.ready = threading.Event()  # the model is made, the first step follows
        self.began = time.monotonic()
        self.start_seconds = 0.0
        self.process = subprocess.Popen(
            recipe.command(folder, workers),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder.parent,
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("Model:"):
                self.start_seconds = time.monotonic() - self.began
                self.ready.set()
        self.ready.set()  # it ended

    def live(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most `seconds`; returns whether the process has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def live_until(self, phase: str, seconds: float) -> None:
        """Wait for a phase, at most `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None and self.phase() != phase:
            time.sleep(0.001)

    def kill(self) -> None:
        """Kill the process, and wait until those that it started have closed its output."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.listener.join(ORPHAN_SECONDS)
        if self.listener.is_alive():
            raise AsrError("a data loader outlived the training that was killed")

    def phase(self) -> str:
        """What the process was doing when it was killed, judged by its files and its output."""
        if any(self.folder.glob(".*.pt.*")):
            return "save"
        epochs = [line for line in self.lines if line.startswith("Epoch ")]
        if not epochs:
            return "start"
        if ": loss" in epochs[-1]:
            return "epoch's end"
        return "validation" if " steps (100 %) in " in epochs[-1] else "steps"


def differences(one: Any, other: Any, where: str) -> Iterator[str]:
    """Describe where two payloads differ in any bit."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, dict):
        for key in one | other:
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{where}, {key}")
            else:
                yield f"{where}: {key} is in only one of them"
    elif isinstance(one, list):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} entries"
        for index, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, f"{where}, {index}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif one != other:
        yield f"{where}: {one} and {other}"


def compare(unbroken: Path, broken: Path) -> list[str]:
    """Describe what differs between the folders of two runs."""
    names = [sorted(path.name for path in folder.glob("*.pt")) for folder in (unbroken, broken)]
    found = [] if names[0] == names[1] else [f"checkpoints: {names[0]} and {names[1]}"]
    for name in names[0]:
        if name in names[1]:
            payloads = (
                checkpoint.Checkpoint.read(folder / name).payload for folder in (unbroken, broken)
            )
            found += differences(*payloads, name)
    metrics = [(folder / "metrics.jsonl").read_bytes() for folder in (unbroken, broken)]
    if metrics[0] != metrics[1]:
        found.append("metrics.jsonl")
    found += [f"{path.name} is left" for path in broken.glob(".*.pt.*")]
    return found


def choose_data(data: Path, utterances: int, folder: Path) -> None:
    """Write manifests of the first utterances of the digits corpus into a folder."""
    for name, count in (("train", utterances), ("dev", max(1, utterances // 5))):
        path = data / f"{name}.jsonl"
        if not path.is_file():
            raise DataError(f"{path} is missing; run python recipes/digits/prepare.py first")
        write_manifest(folder / f"{name}.jsonl", read_manifest(path)[:count])


def run_whole(recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Train without interruption: the seconds before the first step, and from there to the end."""
    life = Life(recipe, folder, WORKERS[0])
    life.live()
    life.listener.join()
    if life.process.returncode:
        raise AsrError(f"the unbroken run failed: {' '.join(life.lines[-3:])}")
    return life.start_seconds, time.monotonic() - life.began - life.start_seconds


def run_broken(
    recipe: Recipe, root: Path, kills: int, seconds: tuple[float, float], draw: random.Random
) -> tuple[Counter[tuple[str, int]], list[Path]]:
    """Train with `kills` kills: their number by phase and data loaders, and the finished folders.

    A run that ends before all kills are done is followed by another one.
    """
    start, work = seconds
    phases: Counter[tuple[str, int]] = Counter()
    folders: list[Path] = []
    lives = 0
    while phases.total() < kills or not folders:
        folder = root / f"broken-{len(folders) + 1}"
        while True:
            workers = WORKERS[lives % len(WORKERS)]
            life = Life(recipe, folder, workers)
            lives += 1
            if phases.total() == kills:
                life.live()
            elif (aim := AIMS[phases.total() % len(AIMS)]) == "start":
                life.live(draw.uniform(0, start))
            else:
                life.ready.wait()
                if not life.live(draw.uniform(0, 2 * work / kills)) and aim:
                    life.live_until(aim, AIM_SECONDS)
                    life.live(draw.uniform(0, 0.1) if aim == "validation" else 0)
            if life.process.poll() is not None:
                life.listener.join()
                if life.process.returncode:
                    raise AsrError(f"a run failed by itself: {' '.join(life.lines[-3:])}")
                folders.append(folder)
                break
            lived = time.monotonic() - life.began
            life.kill()
            phase = life.phase()
            phases[phase, workers] += 1
            last = folder / "last.pt"
            facts = (
                checkpoint.Checkpoint.read(last).facts if last.exists() else {"epoch": 0, "step": 0}
            )
            say(
                f"kill {phases.total():3d}: {workers} loaders, {lived:5.1f} s old, in {phase}; "
                f"resumes from step {facts['step']} in epoch {facts['epoch'] + 1}"
            )
    return phases, folders


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--data", type=Path, default=ROOT / "data/digits")
    parser.add_argument(
        "--utterances", type=int, default=240, help="size of the training set (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--hidden", type=int, default=16, help="memory cells per layer (%(default)s)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that train together (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the moments of the kills (%(default)s)"
    )
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        choose_data(arguments.data, arguments.utterances, root)
        recipe = Recipe(root, arguments.epochs, arguments.hidden, arguments.processes)
        seconds = run_whole(recipe, root / "unbroken")
        say(f"unbroken: {seconds[0]:.1f} s to start, {seconds[1]:.1f} s of training")
        draw = random.Random(arguments.seed)
        phases, folders = run_broken(recipe, root, arguments.kills, seconds, draw)
        found = [
            f"{folder.name}: {line}"
            for folder in folders
            for line in compare(root / "unbroken", folder)
        ]
    say(f"\n{'killed in':<12}" + "".join(f"{workers:>4} loaders" for workers in WORKERS))
    for phase in PHASES:
        say(f"{phase:<12}" + "".join(f"{phases[phase, workers]:>12}" for workers in WORKERS))
    for line in found:
        say(f"different: {line}")
    say(
        f"\n{phases.total()} kills, {len(folders)} run(s), {len(found)} difference(s), "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except AsrError as error:
        complain(f"crash_test.py: {error}.")
        sys.exit(EXIT_CODE)
