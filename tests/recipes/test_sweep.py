"""Sweeps (`-m`): each job in its own folder and processes, here or as jobs that submitit starts."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import write_tones
from project import ROOT

from asr.data.manifest import write_manifest
from asr.recipe import arrange
from asr.runtime.signals import stopping_on_sigusr2

NO_FILES = "hydra.output_subdir=null"
SECONDS = 180  # after which a program hangs
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None,
    reason="the extra lstm-asr[slurm] is not installed",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    tones = write_tones(folder / "audio")
    write_manifest(folder / "train.jsonl", tones)
    write_manifest(folder / "dev.jsonl", tones[:3])
    return folder


def start(data: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A sweep of the digits recipe over tones, in `folder`-sweep."""
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "recipes/digits/train.py"),
            "-m",
            f"folder={folder}",
            f"data.train={data / 'train.jsonl'}",
            f"data.dev={data / 'dev.jsonl'}",
            "encoder.hidden=8",
            "encoder.layers=1",
            "--device=cpu",
            "--threads=1",
            "--workers=0",
            *arguments,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def jobs(folder: Path, having: str = "best.pt") -> list[str]:
    return sorted(path.parent.name for path in Path(f"{folder}-sweep").glob(f"*/{having}"))


def wait_for(path: Path, sweep: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end
        assert sweep.poll() is None
        time.sleep(0.02)


def test_a_sweeps_jobs_are_named_by_what_differs_among_them() -> None:
    fixed = ["encoder.hidden=8", "+a.b=1", "hydra/launcher=slurm"]
    swept = ["training.seed=1,2", "encoder=forward,bidirectional"]
    short = "hydra.job.config.override_dirname.exclude_keys="
    ours = [NO_FILES, f"{short}['encoder.hidden','a.b','hydra/launcher']"]
    for typed in (["-m", *swept, *fixed], [*swept, *fixed, "-m"], [*swept, "--multirun", *fixed]):
        flag = next(word for word in typed if word in ("-m", "--multirun"))
        assert arrange(typed) == [flag, *swept, *fixed, *ours]
    assert arrange(["training.seed=1,2"]) == ["training.seed=1,2", NO_FILES]
    assert arrange(["-m", "training.seed=1,,2"]) == ["-m", "training.seed=1,,2", NO_FILES]
    assert arrange(["a=1", "--cfg", "job"]) == ["a=1", NO_FILES, "--cfg", "job"]
    assert arrange(["--cfg", "job"]) == ["--cfg", "job", NO_FILES]


def test_every_job_trains_in_its_own_folder_and_one_that_fails_is_named(data, tmp_path) -> None:
    folder = tmp_path / "run"
    rates = "training.learning_rate=1e30,0.003"
    sweep = start(data, folder, rates, "training.epochs=2", "--processes=1")
    out, err = sweep.communicate(timeout=SECONDS)
    assert sweep.returncode == 2, err
    assert out.count(" 1 process(es) on cpu") == 2
    assert f"== job 2 (training.learning_rate=0.003) in {folder}-sweep/" in out
    assert out.count("Trained.") == 1  # what comes after a job that fails is still done
    assert jobs(folder) == ["training.learning_rate=0.003"]
    messages = [line for line in err.splitlines() if line.startswith("train.py")]
    assert len(messages) == 1
    assert messages[0].startswith("train.py: job 1 (training.learning_rate=1e+30): ")
    assert "Traceback" not in err


def test_ctrl_c_saves_the_running_job_and_starts_no_other(data, tmp_path) -> None:
    folder = tmp_path / "run"
    arguments = ("training.seed=1,2", "training.epochs=500", "--processes=1")
    sweep = start(data, folder, *arguments)
    wait_for(Path(f"{folder}-sweep/training.seed=1/last.pt"), sweep)
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=SECONDS)
    assert sweep.returncode == 130, err
    assert "Interrupted; run the same command again to resume from the last checkpoint." in err
    assert "Traceback" not in err
    assert "job 2" not in out
    assert jobs(folder, "last.pt") == ["training.seed=1"]


@pytest.fixture
def answers() -> Iterator[list[str]]:
    """Records the signals that reach the handlers of submitit; restores the handlers afterwards."""
    received: list[str] = []
    numbers = (signal.SIGUSR2, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: received.append("submitit")) for number in numbers]
    yield received
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_sigusr2_is_repeated_when_the_training_has_saved(answers) -> None:
    with stopping_on_sigusr2() as answer:
        of_submitit = signal.signal(signal.SIGTERM, lambda *_: answers.append("training"))
        os.kill(os.getpid(), signal.SIGUSR2)
        signal.signal(signal.SIGTERM, of_submitit)
        assert answers == ["training"]
    answer()
    assert answers == ["training", "submitit"]


def test_before_the_training_sigusr2_is_repeated_at_once(answers) -> None:
    with pytest.raises(KeyboardInterrupt), stopping_on_sigusr2():
        os.kill(os.getpid(), signal.SIGUSR2)
    assert answers == ["submitit"]


def test_without_sigusr2_no_handler_is_called(answers) -> None:
    with stopping_on_sigusr2() as answer:
        pass
    answer()
    assert answers == []


@needs_submitit
def test_a_job_of_submitit_that_fails_is_named_here(data, tmp_path) -> None:
    folder = tmp_path / "run"
    rates = "training.learning_rate=1e30,0.003"
    arguments = (rates, "training.epochs=2", "--processes=1", "hydra/launcher=submitit_local")
    sweep = start(data, folder, *arguments)
    _, err = sweep.communicate(timeout=SECONDS)
    assert sweep.returncode == 2, err
    assert err.splitlines()[-1].startswith("train.py: job 1 (training.learning_rate=1e+30): ")
    assert "Traceback" not in err
    assert jobs(folder) == ["training.learning_rate=0.003"]


@needs_submitit
def test_a_preempted_job_of_submitit_saves_and_resumes(data, tmp_path) -> None:
    folder = tmp_path / "run"
    arguments = ("training.epochs=8", "--processes=2", "hydra/launcher=submitit_local")
    sweep = start(data, folder, *arguments)
    wait_for(Path(f"{folder}-sweep/last.pt"), sweep)
    task = find_task(Path(f"{folder}-sweep/.submitit"))
    for process in [task, *find_descendants(task)]:  # as Slurm does
        os.kill(process, signal.SIGUSR2)
    _, err = sweep.communicate(timeout=SECONDS)
    assert sweep.returncode == 0, err
    said = "".join(path.read_text() for path in folder.parent.glob("run-sweep/.submitit/*/*.out"))
    assert said.count(" 2 process(es) on cpu") == 2
    assert said.count("Resuming in") == 1
    assert said.count("Trained.") == 1


def find_descendants(process: int) -> list[int]:
    """All processes that it has started, and those that they have."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == process:
                children.append(int(path.parent.name))
    return [*children, *(below for child in children for below in find_descendants(child))]


def find_task(folder: Path) -> int:
    """The process of the one job that submitit has started."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if b"submitit.core._submit" in words and any(
            str(folder).encode() in word for word in words
        ):
            return int(path.parent.name)
    raise AssertionError("submitit runs no job")
