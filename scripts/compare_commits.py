"""Shows that the present tree computes what an older commit computes, bit for bit, on this machine.

    python scripts/compare_commits.py [--commit f431646] [--audio FILE ...]
                                      [--train MANIFEST --dev MANIFEST] [--set KEY=VALUE ...]

The old commit is checked out into a temporary folder, and both trees run side by side with the same
interpreter, on the CPU, with one thread. Compared are

- a small training by recipes/folder/train.py: the loss and the gradient norm of each step, what is
  measured after each epoch, and at the end weights, their average, optimizer and counters;
- the same training begun by the old commit, killed in the middle of an epoch, ended by the present
  tree;
- the log-probs and the text of the English model on docs/sample.flac and on other recordings.

Each comparison is a line. The exit code is 1 where anything differs, 2 where nothing could be
compared. Nothing of asr is imported here: each tree answers in processes of its own.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
OLD = "f431646"
SAMPLE = ROOT / "docs" / "sample.flac"
RATE = 16_000
LETTER_SAMPLES = 2400
UTTERANCES = 24
DEV_UTTERANCES = 4
KILL_AT = 0.5  # of the steps of the unbroken training
KILLS_TRIED = 5
SECONDS = 1800  # that a process may take
TRAINING = (
    "data.vocabulary=english",  # the default of former commits
    "encoder.hidden=48",
    "encoder.layers=2",
    "training.epochs=4",
    "training.batch_seconds=8",
    "training.warmup_steps=8",
    "training.average_decay=0.9",
)
DEVICE = ("--device=cpu", "--processes=1", "--threads=1", "--workers=0")
WHERE = "import asr; print(asr.__file__)"
# Names that users have and those in every checkpoint: other modules may move between the trees.
LISTEN = """
import sys
import numpy, torch
torch.set_num_threads(1)
import asr
recognizer = asr.Recognizer.default(threads=1)
found = {}
for number, path in enumerate(sys.argv[2:]):
    waveform = asr.load_audio(path, recognizer.sample_rate)
    with torch.inference_mode():
        features = recognizer.model.features(torch.from_numpy(waveform))
        emissions = recognizer.model(features[None], torch.tensor([len(features)]))
    found[f"log-probs {number}"] = emissions.log_probs[0].numpy()
    found[f"text {number}"] = numpy.array(recognizer.transcribe(path).text)
numpy.savez(sys.argv[1], **found)
"""


class ComparisonError(Exception):
    """Nothing can be compared, and why."""


@dataclass(frozen=True)
class Tree:
    """A checkout, and what it is called here."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """In it Python finds this tree's package, and every library has one thread."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        return {**os.environ, **threads, "PYTHONPATH": str(self.folder)}

    def run(self, words: Sequence[str], cwd: Path) -> str:
        """What a Python of this tree prints. Raises ComparisonError where it fails."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if done.returncode:
            raise ComparisonError(
                f"{self.name} ended with exit code {done.returncode}:\n{done.stderr.strip()}"
            )
        return done.stdout

    def check(self, cwd: Path) -> None:
        """Raise ComparisonError where Python finds another package than this tree's."""
        found = Path(self.run(["-c", WHERE], cwd).strip()).resolve()
        if not found.is_relative_to(self.folder.resolve()):
            raise ComparisonError(f"{self.name}: Python imports {found} instead.")

    @property
    def recipe(self) -> str:
        """The script that trains."""
        return str(self.folder / "recipes" / "folder" / "train.py")


class Comparisons:
    """Prints a line for each comparison, and remembers whether all were equal."""

    def __init__(self) -> None:
        self.equal = True

    def add(self, what: str, differences: Sequence[str], size: str) -> None:
        """Tell the first of the differences, or how much is equal where there is none."""
        if not differences:
            print(f"equal      {what}: {size}", flush=True)
            return
        self.equal = False
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        print(f"DIFFERENT  {what}: {differences[0]}{more}", flush=True)


# ---- Recordings -----------------------------------------------------------------------------------


def write_corpus(folder: Path) -> tuple[Path, Path]:
    """Write recordings in which each letter is a tone; returns the training and the dev manifest."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(UTTERANCES):
        words = ["".join(generator.choice(list("abcd"), 3)) for _ in range(1 + number % 3)]
        text = " ".join(words)
        t = np.arange(LETTER_SAMPLES) / RATE
        pitches = [0 if letter == " " else 300 * (ord(letter) - ord("a") + 1) for letter in text]
        tones = [0.3 * np.sin(2 * np.pi * p * t) * np.hanning(LETTER_SAMPLES) for p in pitches]
        waveform = np.concatenate(tones)
        waveform += 0.003 * generator.standard_normal(len(waveform))
        path = folder / f"u{number:02}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(np.rint(waveform * 32767).astype("<i2").tobytes())
        record = {"audio_filepath": path.name, "duration": len(waveform) / RATE, "text": text}
        lines.append(f"{json.dumps(record)}\n")
    train, dev = folder / "train.jsonl", folder / "dev.jsonl"
    train.write_text("".join(lines[:-DEV_UTTERANCES]), "utf-8")
    dev.write_text("".join(lines[-DEV_UTTERANCES:]), "utf-8")
    return train, dev


# ---- Training -------------------------------------------------------------------------------------


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's metrics.jsonl."""
    with contextlib.suppress(FileNotFoundError):
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [row for row in rows if row["kind"] == kind]
    return []


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested data, each with its path; tensors as bytes, with type and shape."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(part, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from flatten(part, f"{name}/{number}")
    elif isinstance(value, torch.Tensor):
        yield name, (value.dtype, value.shape, value.contiguous().numpy().tobytes())
    else:
        yield name, value


def find_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """In what two tables of leaves differ."""
    found = [f"{name} is only in the old one" for name in old.keys() - new.keys()]
    found += [f"{name} is only in the new one" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            values = (old[name], new[name])
            known = any(isinstance(value, tuple) for value in values)
            found.append(name if known else f"{name} was {values[0]!r} and is {values[1]!r}")
    return sorted(found)


def read_state(run: Path) -> dict[str, Any]:
    """All that a training has computed, from its last.pt, as leaves."""
    payload = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    training = payload["training"]
    parts = {name: training[name] for name in ("weights", "optimizer", "counters")}
    return dict(flatten({"average": payload["weights"], "training": parts}))


def compare_trainings(old: Path, new: Path, what: str, comparisons: Comparisons) -> None:
    """Compare two runs step by step, epoch by epoch, and where they ended."""
    for kind in ("step", "epoch"):
        rows = [read_metrics(run, kind) for run in (old, new)]
        tables = [dict(flatten({row["step"]: row for row in part})) for part in rows]
        comparisons.add(f"{what}, {kind}s", find_differences(*tables), f"{len(rows[0])} {kind}s")
    states = [read_state(run) for run in (old, new)]
    size = f"{len(states[0])} tensors and numbers of last.pt"
    comparisons.add(f"{what}, the end", find_differences(*states), size)


def kill_training(
    tree: Tree, words: Sequence[str], run: Path, cwd: Path, steps: int
) -> dict[str, Any]:
    """Begin a training and kill it after `steps` steps; the counters in its last checkpoint."""
    with (cwd / "killed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, tree.recipe, f"folder={run}", *words, "training.checkpoint_steps=1"],
            cwd=cwd,
            env=tree.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None and len(read_metrics(run, "step")) < steps:
                time.sleep(0.001)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if not (run / "last.pt").exists():
        raise ComparisonError(
            f"{tree.name} left no checkpoint:\n{(cwd / 'killed.log').read_text()}"
        )
    payload = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    counters: dict[str, Any] = payload["training"]["counters"]
    return counters


def mark(run: Path, old: bytes, new: bytes) -> bool:
    """Put one mark for another into the first line of metrics.jsonl; whether that was there.

    Who goes on in a run leaves the line as it is; who begins anew writes it again, without the mark.
    """
    path = run / "metrics.jsonl"
    first, end, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(first.replace(old, new) + end + rest)
    return old in first


def compare_training(
    trees: tuple[Tree, Tree], words: Sequence[str], folder: Path, comparisons: Comparisons
) -> None:
    """Train with each tree, and with both in turn."""
    old, new = trees
    runs = [folder / f"run-{tree.name}" for tree in trees]
    for tree, run in zip(trees, runs, strict=True):
        tree.run([tree.recipe, f"folder={run}", *words], folder)
    compare_trainings(*runs, "a training", comparisons)
    steps = max(1, round(KILL_AT * len(read_metrics(runs[0], "step"))))
    for attempt in range(KILLS_TRIED):
        both = folder / f"run-both-{attempt}"
        counters = kill_training(old, words, both, folder, steps + attempt)
        if counters["step_in_epoch"]:
            break
    else:
        raise ComparisonError("No kill met the middle of an epoch; train with more steps an epoch.")
    what = (
        f"a training begun by {old.name}, killed after step {counters['step']}, ended by {new.name}"
    )
    marks = b'"step": 1,', b'"step": 0,'
    mark(both, *marks)
    new.run([new.recipe, f"folder={both}", *words], folder)
    if not mark(both, *reversed(marks)):
        comparisons.add(what, ["it was begun anew"], "")
    compare_trainings(runs[0], both, what, comparisons)


# ---- Listening ------------------------------------------------------------------------------------


def compare_listening(
    trees: tuple[Tree, Tree], recordings: Sequence[Path], folder: Path, comparisons: Comparisons
) -> None:
    """Let the English model of each tree hear the recordings."""
    found = []
    for tree in trees:
        path = folder / f"heard-{tree.name}.npz"
        tree.run(["-c", LISTEN, str(path), *map(str, recordings)], folder)
        with np.load(path) as heard:
            found.append(dict(heard))
    old, new = found
    for number, recording in enumerate(recordings):
        name = f"log-probs {number}"
        before, after = old[name], new[name]
        differences = []
        if (before.dtype, before.shape) != (after.dtype, after.shape):
            differences.append(f"{before.dtype} {before.shape}, then {after.dtype} {after.shape}")
        elif before.tobytes() != after.tobytes():
            differences.append(f"up to {np.abs(before - after).max():.3g} nats")
        size = " x ".join(map(str, before.shape))
        comparisons.add(f"log-probs of {recording.name}", differences, f"{size} numbers")
        texts = [str(part[f"text {number}"]) for part in found]
        differences = [] if texts[0] == texts[1] else [f"{texts[0]!r}, then {texts[1]!r}"]
        comparisons.add(f"text of {recording.name}", differences, repr(texts[0][:60]))


# ---- The program ----------------------------------------------------------------------------------


@contextlib.contextmanager
def check_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of an old commit, which is removed at the end."""
    git = ["git", "-C", str(ROOT), "worktree"]
    add = [*git, "add", "--quiet", "--detach", str(folder), commit]
    done = subprocess.run(add, capture_output=True, text=True)
    if done.returncode:
        raise ComparisonError(f"git cannot check out {commit}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default=OLD, help="the old one (%(default)s)")
    parser.add_argument(
        "--audio", nargs="+", type=Path, default=[], metavar="FILE", help="recordings to hear, too"
    )
    parser.add_argument(
        "--train", type=Path, metavar="MANIFEST", help="train on this instead of generated tones"
    )
    parser.add_argument(
        "--dev", type=Path, metavar="MANIFEST", help="the dev set that goes with it"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="of the training's configuration, instead of what is usual here",
    )
    options = parser.parse_args()
    if bool(options.train) != bool(options.dev):
        parser.error("--train and --dev go together")
    for path in [*options.audio, options.train, options.dev]:
        if path and not path.is_file():
            parser.error(f"{path} is no file")
    return options


def main() -> int:
    options = parse()
    comparisons = Comparisons()
    try:
        with tempfile.TemporaryDirectory(prefix="compare-") as name:
            folder = Path(name).resolve()
            with check_out(options.commit, folder / "checkout") as checkout:
                trees = (Tree("old", checkout), Tree("new", ROOT))
                for tree in trees:
                    tree.check(folder)
                recordings = [SAMPLE, *(path.resolve() for path in options.audio)]
                compare_listening(trees, recordings, folder, comparisons)
                if options.train:
                    train, dev = options.train.resolve(), options.dev.resolve()
                else:
                    (folder / "corpus").mkdir()
                    train, dev = write_corpus(folder / "corpus")
                own = {word.partition("=")[0] for word in options.set}
                usual = [word for word in TRAINING if word.partition("=")[0] not in own]
                words = [f"data.train={train}", f"data.dev={dev}", *usual, *options.set, *DEVICE]
                compare_training(trees, words, folder, comparisons)
    except (ComparisonError, subprocess.TimeoutExpired) as error:
        print(f"compare_commits.py: {error}", file=sys.stderr)
        return 2
    return 0 if comparisons.equal else 1


if __name__ == "__main__":
    sys.exit(main())
