"""Writes what the tests of compatibility compare with: `python tests/compatibility/write_golden.py`.

The files under data/ are those of commit f431646, and the tests say whether the present code still
does what it did. Writing them anew gives that up: only a deliberate change of what users hold is a
reason, and then only the part that changes should be written (`--only PART`).
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from golden import (
    RECIPE,
    STORED,
    TRAINING,
    call,
    environment,
    load,
    read_lines,
    restore_training,
    start_recipe,
    write_corpus,
    write_workshop,
)
from observations import (
    OBSERVATIONS,
    final_weights,
    hear_sample,
    observe_index,
    observe_run,
    step_losses,
)
from wrong_calls import WRONG_CALLS, observe_wrong_call

STEPS_BEFORE = 6  # of the 16 that the training has, 4 an epoch


def write_json(name: str, document: Any) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (STORED / name).write_text(f"{text}\n", "utf-8")


def kill_training(folder: Path) -> bool:
    """Begin a training and kill it in its second epoch; whether that came out as it should."""
    command = [sys.executable, str(RECIPE), *TRAINING, "training.checkpoint_steps=1"]
    metrics = folder / "run" / "metrics.jsonl"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if metrics.read_bytes().count(b'"kind": "step"') >= STEPS_BEFORE:
                    break
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    counters = load(folder / "run" / "last.pt")["training"]["counters"]
    return counters["epoch"] == 1 and counters["step_in_epoch"] in (1, 2, 3)


def write_run() -> None:
    """The killed training, and what the code that began it makes of it."""
    while True:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_corpus(folder / "corpus")
            if kill_training(folder):
                shutil.rmtree(STORED / "run", ignore_errors=True)
                (STORED / "run").mkdir(parents=True)
                for file in ("last.pt", "best.pt", "metrics.jsonl"):
                    shutil.copy(folder / "run" / file, STORED / "run")
                shutil.copy(folder / "corpus" / "train.jsonl.index", STORED)
                break
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        restore_training(folder)
        done = start_recipe(*TRAINING, cwd=folder)
        assert done.code == 0, done
        run = folder / "run"
        np.savez_compressed(STORED / "final-weights.npz", **final_weights(run))
        rows = read_lines((run / "metrics.jsonl").read_text("utf-8"))
        found = {
            "done before": load(STORED / "run" / "last.pt")["training"]["counters"]["step"],
            "losses": step_losses(run),
            "epochs": [row for row in rows if row["kind"] == "epoch"],
            "left": observe_run(run),
        }
        with contextlib.chdir(folder):
            found["index"] = observe_index()
        write_json("run.json", found)


def write_language_models() -> None:
    for name, options in (("tiny.lm", []), ("tiny-quantised.lm", ["--quantize"])):
        text = STORED / "tiny.txt"
        done = call("lm", "train", text, "--order=3", "-o", STORED / name, *options)
        assert done.code == 0, done


def write_log_probs() -> None:
    np.savez_compressed(STORED / "log-probs.npz", log_probs=hear_sample())


def write_formats() -> None:
    found = {}
    for name, observe in OBSERVATIONS.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            write_workshop(Path(folder))
            began = time.monotonic()
            found[name] = observe()
            print(f"  {name}: {time.monotonic() - began:.1f} s")
    write_json("formats.json", found)


def write_wrong_calls() -> None:
    found = []
    for wrong in WRONG_CALLS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            write_workshop(Path(folder))
            done = observe_wrong_call(wrong)
        assert "Traceback" not in done.err, done
        assert done.code, done
        print(wrong, done.code, done.err.strip().splitlines()[-1], sep="\n    ")
        found.append({"argv": wrong, "code": done.code, "stdout": bool(done.out)})
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in found)
    (STORED / "wrong_calls.json").write_text(f"[\n{lines}\n]\n", "utf-8")


PARTS: dict[str, Callable[[], None]] = {  # in this order: some need those before them
    "run": write_run,
    "language-models": write_language_models,
    "log-probs": write_log_probs,
    "formats": write_formats,
    "wrong-calls": write_wrong_calls,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="write one part alone")
    only = parser.parse_args().only
    os.environ["OMP_NUM_THREADS"] = "1"
    for name, write in PARTS.items():
        if only in (None, name):
            began = time.monotonic()
            write()
            print(f"{name}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
