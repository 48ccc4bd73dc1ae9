"""How the tests of compatibility ask the present code what `write_golden.py` asked an older one.

Only doors that a user has are used here: the command that pyproject.toml declares, the script of a
recipe, and the public names of the package. Modules may move, and these tests need not change.
"""

import contextlib
import io
import json
import os
import runpy
import shutil
import struct
import subprocess
import sys
import tomllib
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import asr  # noqa: F401  (before torch: it says how torch's threads wait)

import torch  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).parent / "data"
RECIPE = ROOT / "recipes" / "folder" / "train.py"
SAMPLE = ROOT / "docs" / "sample.flac"

RATE = 16_000
LETTER_SAMPLES = 2400
TRAINING = [  # of the recipe, in the folder that `write_corpus` filled
    "folder=run",
    "data.train=corpus/train.jsonl",
    "data.vocabulary=english",  # the default of former versions
    "data.dev=corpus/dev.jsonl",
    "features.mels=8",
    "encoder.layers=1",
    "encoder.hidden=16",
    "augment.mel_shift=1.0",
    "augment.mel_mask_bins=2",
    "training.epochs=4",
    "training.batch_seconds=7",
    "training.warmup_steps=4",
    "training.learning_rate=5e-3",
    "training.average_decay=0.9",
    "--device=cpu",
    "--processes=1",
    "--threads=1",
    "--workers=0",
]


@dataclass(frozen=True)
class Done:
    """How a call ended, and what it printed."""

    code: int
    out: str
    err: str


def entry_point() -> tuple[str, str]:
    """The module and the function of the command `asr`, as pyproject.toml declares them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    module, _, function = project["project"]["scripts"]["asr"].partition(":")
    return module, function


def call(*words: object, stdin: bytes = b"") -> Done:
    """Run the command `asr` in this process."""
    module, function = entry_point()
    main = getattr(import_module(module), function)
    return _capture(lambda: main([str(word) for word in words]), stdin)


def call_recipe(*words: str) -> Done:
    """Run recipes/folder/train.py in this process, as `python recipes/folder/train.py` does."""

    def run() -> int:
        before = sys.argv
        sys.argv = [str(RECIPE), *words]
        try:
            runpy.run_path(str(RECIPE), run_name="__main__")
        finally:
            sys.argv = before
        return 0

    return _capture(run, b"")


def _capture(run: Any, stdin: bytes) -> Done:
    """What `run` prints and returns, or the code of the SystemExit that it raises."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    before, threads = sys.stdin, torch.get_num_threads()
    # A pipe's reader, which can be peeked into as that of a real standard input.
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), "utf-8")  # type: ignore[arg-type]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = run()
            except SystemExit as stop:
                code = stop.code
    finally:
        sys.stdin = before
        torch.set_num_threads(threads)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
    return Done(int(code or 0), *texts)


def environment() -> dict[str, str]:
    """What the processes that a test starts find: this tree's package, one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(*words: object, cwd: Path) -> Done:
    """Run the command `asr` in a process of its own."""
    module, function = entry_point()
    code = f"import sys; from {module} import {function} as main; sys.exit(main())"
    return _start([sys.executable, "-c", code, *map(str, words)], cwd)


def start_recipe(*words: str, cwd: Path) -> Done:
    """Run recipes/folder/train.py in a process of its own."""
    return _start([sys.executable, str(RECIPE), *words], cwd)


def _start(command: Sequence[str], cwd: Path) -> Done:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)


# ---- Data ---------------------------------------------------------------------------------------


def write_tone(path: Path, text: str, seed: int) -> float:
    """Write a recording in which each letter of a text is a tone of its own; returns its seconds."""
    generator = np.random.default_rng(seed)
    t = np.arange(LETTER_SAMPLES) / RATE
    parts = []
    for letter in text:
        pitch = 0 if letter == " " else 300 * (1 + ord(letter) - ord("a"))
        parts.append(0.3 * np.sin(2 * np.pi * pitch * t) * np.hanning(LETTER_SAMPLES))
    waveform = np.concatenate(parts)
    waveform += 0.003 * generator.standard_normal(len(waveform))
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(waveform * 32767).astype("<i2").tobytes())
    return len(waveform) / RATE


def write_corpus(folder: Path) -> None:
    """Write `folder`/train.jsonl and dev.jsonl with the recordings that they name."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(16):
        words = ["".join(generator.choice(list("abcd"), 3)) for _ in range(1 + number % 3)]
        text, name = " ".join(words), f"u{number:02}"
        seconds = write_tone(folder / "audio" / f"{name}.wav", text, number)
        record = {"id": name, "audio_filepath": f"audio/{name}.wav", "duration": seconds}
        records.append(record | {"text": text, "speaker": f"s{number % 4}"})
    for name, part in (("train", records[:13]), ("dev", records[13:])):
        lines = "".join(f"{json.dumps(record)}\n" for record in part)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")


def restore_training(folder: Path) -> None:
    """Lay out, in `folder`, the training that was killed: corpus, manifest's index and run."""
    write_corpus(folder / "corpus")
    shutil.copytree(STORED / "run", folder / "run")
    shutil.copy(STORED / "train.jsonl.index", folder / "corpus")


def write_workshop(folder: Path) -> None:
    """Fill a folder with all that the wrong calls name: good files, and bad ones of every kind."""
    restore_training(folder)
    shutil.copy(SAMPLE, folder / "sample.flac")
    for name in ("tiny.lm", "tiny-quantised.lm", "tiny.txt"):
        shutil.copy(STORED / name, folder / name)
    checkpoint = (STORED / "run" / "last.pt").read_bytes()
    model = (STORED / "tiny.lm").read_bytes()
    files = {
        "empty.wav": b"",
        "empty.pt": b"",
        "empty.jsonl": b"",
        "empty.txt": b"",
        "empty.lm": b"",
        "noise.pt": np.random.default_rng(1).bytes(4096),
        "cut.pt": checkpoint[: len(checkpoint) // 2],
        "cut.lm": model[: len(model) // 2],
        "cut.flac": SAMPLE.read_bytes()[:30],
        "text.wav": b"This is no recording.\n",
        "latin.txt": "caf\u00e9".encode("latin-1"),
        "broken.jsonl": b'{"id": "a", "audio_filepath": \n',
        "list.jsonl": b"[1, 2]\n",
        "keyless.jsonl": b'{"id": "a"}\n',
        "twins.jsonl": 2 * b'{"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}\n',
        "gone.jsonl": b'{"audio_filepath": "gone.wav", "duration": 1.0, "text": "a"}\n',
        "texts.kaldi": b"u1 the cat\nu2 the dog\n",
        "others.kaldi": b"u1 the cat\nu3 the dog\n",
        "words.txt": b"the\ncat\n",
        "results.json": b'{"sets": {}}\n',
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()


# ---- Reading and comparing ------------------------------------------------------------------------


def read_lines(text: str) -> list[dict[str, Any]]:
    """The objects of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def load(path: Path) -> dict[str, Any]:
    """The payload of a checkpoint."""
    payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return payload


def read_index(path: Path) -> dict[str, Any]:
    """The facts at the end of a manifest's index: what it says of its own format."""
    content = path.read_bytes()
    tail = struct.Struct("<QII")
    size, _, mark = tail.unpack(content[-tail.size :])
    facts = json.loads(content[-tail.size - size : -tail.size])
    return {"mark": mark, "facts": facts}


def read_header(path: Path) -> dict[str, Any]:
    """What the first bytes of a binary language model say."""
    magic, version, order, *sizes = struct.unpack("<8s2I5q", path.read_bytes()[:56])
    return {"magic": magic.decode(), "version": version, "order": order, "sizes": sizes}


def describe(value: Any) -> Any:
    """The structure of nested data: keys and the types of values; of tensors type and shape."""
    if isinstance(value, dict):
        return {
            str(key): describe(part)
            for key, part in sorted(value.items(), key=lambda item: str(item[0]))
        }
    if isinstance(value, list | tuple):
        kinds = {json.dumps(part): part for part in map(describe, value)}
        return [kinds[key] for key in sorted(kinds)]
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def kinds_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The structure of the lines of metrics.jsonl or of `asr stream`, by kind."""
    found: dict[str, Any] = {}
    for record in records:
        kind = record.get("kind") or next(
            (k for k in ("segment", "final") if k in record), "partial"
        )
        found.setdefault(kind, []).append(record)
    return {kind: describe(group) for kind, group in sorted(found.items())}


def differences(value: Any, stored: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Where nested data differ, numbers by more than `tolerance` relative and absolute."""
    if isinstance(value, dict) and isinstance(stored, dict):
        if list(value) != list(stored):
            yield f"{where}: the keys are {list(value)}, they were {list(stored)}"
        for key in value.keys() & stored.keys():
            yield from differences(value[key], stored[key], tolerance, f"{where}/{key}")
    elif isinstance(value, list) and isinstance(stored, list):
        if len(value) != len(stored):
            yield f"{where}: {len(value)} entries, there were {len(stored)}"
        for number, (one, other) in enumerate(zip(value, stored, strict=False)):
            yield from differences(one, other, tolerance, f"{where}/{number}")
    elif type(value) is not type(stored):
        yield f"{where}: {value!r}, it was {stored!r}"
    elif isinstance(value, float):
        if abs(value - stored) > tolerance * (1 + abs(stored)):
            yield f"{where}: {value!r}, it was {stored!r}"
    elif value != stored:
        yield f"{where}: {value!r}, it was {stored!r}"
