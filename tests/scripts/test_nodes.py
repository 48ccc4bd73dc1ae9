"""Training on several machines: torchrun's agents meet, lose workers, and go back into a queue."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from corpus import write_tones
from project import ROOT

from asr.data.manifest import write_manifest
from asr.recipe import run

sys.path.append(str(ROOT / "scripts"))
import node_test
from crash_test import compare

SECONDS = 120  # after which a program hangs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> node_test.Recipe:
    """The digits recipe on tones, one step an epoch."""
    folder = tmp_path_factory.mktemp("tones")
    tones = write_tones(folder / "audio")
    write_manifest(folder / "train.jsonl", tones)
    write_manifest(folder / "dev.jsonl", tones[:3])
    return node_test.Recipe(folder, epochs=7, hidden=8)


def train_here(arguments: list[str]) -> int:
    """The recipe in one of the two processes of a `Pair`; returns its exit code."""
    sys.argv = arguments
    return run("digits")


def start_alone(recipe: node_test.Recipe, folder: Path) -> "subprocess.Popen[str]":
    """The recipe as two processes that it starts itself."""
    return subprocess.Popen(
        [sys.executable, *recipe.arguments(folder), "--processes=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_when_a_worker_is_killed_the_group_resumes_from_the_last_checkpoint(
    recipe, tmp_path, pair
) -> None:
    early = random.Random(2)  # after the first epoch
    wrong = node_test.train_broken("worker", recipe, tmp_path / "nodes", 0, early)
    assert list(wrong) == []
    assert pair.run(train_here, recipe.arguments(tmp_path / "alone")) == 0
    assert compare(tmp_path / "alone", tmp_path / "nodes") == []


def test_processes_whose_parent_is_killed_end_and_the_same_command_resumes(
    recipe, tmp_path
) -> None:
    # Steps that are still at work when the last of the signals comes that a parent's threads send.
    recipe = replace(recipe, epochs=4, hidden=256)
    broken = start_alone(recipe, tmp_path / "run")
    end = time.monotonic() + SECONDS
    while not (tmp_path / "run" / "last.pt").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    broken.kill()
    again = start_alone(recipe, tmp_path / "run")
    broken.communicate(timeout=SECONDS)  # its pipe is closed by the last of its processes
    output, _ = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, output
    assert "Resuming in" in output
    assert "Trained." in output


PROGRAMS = {
    "srun": 'shift_to() { while [ "$1" != torchrun ]; do shift; done; exec "$@"; }; shift_to "$@"',
    "torchrun": 'exec "$PYTHON" -m torch.distributed.run "$@"',
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >>"$CALLS"',
}


class Slurm:
    """What scripts/slurm finds on a machine of a cluster, on this one."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "CALLS": str(self.calls),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_JOB_NUM_NODES": "1",
            "OMP_NUM_THREADS": "1",
        }
        for name, program in PROGRAMS.items():
            path = folder / name
            path.write_text(f"#!/bin/bash\n{program}\n")
            path.chmod(0o755)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts/slurm"), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def test_a_job_of_slurm_saves_is_requeued_and_resumes(recipe, tmp_path) -> None:
    slurm = Slurm(tmp_path)
    arguments = recipe.arguments(tmp_path / "run")
    job = slurm.start(*arguments)
    end = time.monotonic() + SECONDS
    while not (tmp_path / "run/last.pt").exists():
        assert time.monotonic() < end
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR2)  # which Slurm sends before the end of the job's time
    output, _ = job.communicate(timeout=SECONDS)
    assert job.returncode != 0
    assert "Interrupted; run the same command again to resume from the last checkpoint." in output
    assert slurm.calls.read_text() == f"requeue {os.getpid()}\n"
    job = slurm.start(*arguments)
    output, _ = job.communicate(timeout=SECONDS)
    assert job.returncode == 0, output
    assert "Resuming in" in output
    assert "Trained." in output
    assert slurm.calls.read_text().count("requeue") == 1
