"""Processes find each other, whoever started them, and miss each other when one is gone."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.distributed as dist
from corpus import tiny_task
from project import ROOT

from asr import checkpoint
from asr.errors import ConfigError, TrainingError
from asr.runtime.distributed import (
    RuntimeConfig,
    all_reduce_sum,
    cannot_replace_machines,
    launch,
    process_group,
)
from asr.runtime.slurm import adopt_slurm, expand_counts, first_host
from asr.training.config import Task, TrainingCallbacks
from asr.training.metrics import read_metrics
from asr.training.run import train

TWO = RuntimeConfig(device="cpu", processes=2, threads=1, workers=0, timeout_minutes=2)
STEP = {
    "STEP_NUM_TASKS": "3",
    "STEP_TASKS_PER_NODE": "2,1",
    "STEP_NODELIST": "node[07-08]",
    "JOB_ID": "123456",
    "PROCID": "2",
    "LOCALID": "0",
    "NODEID": "1",
}


def test_training_flushes_denormal_numbers_also_in_workers() -> None:
    def halved() -> float:
        return float(torch.full((8,), 2e-39).mul(0.5)[0])

    assert halved() > 0
    with process_group(RuntimeConfig(device="cpu", processes=1, threads=1)):
        assert halved() == 0
    assert halved() > 0
    code = """
        import torch
        from asr.data.loading import _start_worker
        _start_worker(0)
        print(float(torch.full((8,), 2e-39).mul(0.5)[0]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.check_output(command, text=True).strip() == "0.0"


@pytest.fixture
def slurm(monkeypatch) -> None:
    """The environment of a task of Slurm, taken away again."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ |= {f"SLURM_{name}": value for name, value in STEP.items()}


def test_a_step_of_slurm_gets_the_variables_of_torchrun(slurm) -> None:
    adopt_slurm()
    said = {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert said.items() <= os.environ.items()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node07", "23456")


def test_a_step_of_one_task_and_torchrun_within_slurm_are_left_alone(slurm) -> None:
    os.environ["SLURM_STEP_NUM_TASKS"] = "1"
    adopt_slurm()
    assert "RANK" not in os.environ
    os.environ |= {"SLURM_STEP_NUM_TASKS": "3", "RANK": "5"}
    adopt_slurm()
    assert os.environ["RANK"] == "5"
    assert "WORLD_SIZE" not in os.environ


def test_machines_that_torchrun_could_not_replace_are_recognized(monkeypatch) -> None:
    torchrun = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
    }
    safe = [{}]
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "LOCAL_WORLD_SIZE": "4",
    }.items():
        safe.append(torchrun | {name: value})
    for environment in safe:
        monkeypatch.setattr(os, "environ", environment)
        assert not cannot_replace_machines()
    monkeypatch.setattr(os, "environ", torchrun)
    assert cannot_replace_machines()


def test_a_step_of_slurm_that_lacks_a_variable_is_refused(slurm) -> None:
    del os.environ["SLURM_PROCID"]
    with pytest.raises(ConfigError, match="SLURM_PROCID is not set"):
        adopt_slurm()


def test_the_node_lists_of_slurm_are_read() -> None:
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    assert expand_counts("4") == [4]
    for nodes, first in {
        "gpu[003-005,9],big1": "gpu003",
        "a1,b[2-3]": "a1",
        "localhost": "localhost",
        "rack[2,7]-x": "rack2-x",
    }.items():
        assert first_host(nodes) == first


def test_tasks_of_slurm_meet_again_and_again() -> None:
    code = """
        from asr.runtime.distributed import RuntimeConfig, gather, process_group
        from asr.runtime.slurm import adopt_slurm
        adopt_slurm()
        for _ in range(2):  # the jobs of a sweep
            with process_group(RuntimeConfig(device="cpu", threads=1)) as process:
                print(process.rank, gather(process.rank), flush=True)
    """
    step = STEP | {
        "STEP_NUM_TASKS": "2",
        "STEP_TASKS_PER_NODE": "1(x2)",
        "STEP_NODELIST": "localhost",
        "JOB_ID": str(os.getpid()),
    }
    tasks = []
    for rank in "01":
        step |= {"PROCID": rank, "NODEID": rank}
        environment = os.environ | {f"SLURM_{name}": value for name, value in step.items()}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        tasks.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        )
    outputs = [task.communicate(timeout=120)[0] for task in tasks]
    assert outputs == ["0 [0, 1]\n" * 2, "1 [0, 1]\n" * 2]


def lose_second(runtime: RuntimeConfig) -> str:
    with process_group(runtime) as process:
        if process.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(RuntimeError) as caught:  # what torch says of it
            all_reduce_sum(torch.zeros(1))
        raise caught.value


def test_a_lost_process_is_reported_in_one_sentence() -> None:
    with pytest.raises(
        TrainingError, match=r"^process \d of 2 (ended|lost the connection)"
    ) as caught:
        launch(lose_second, TWO, 2)
    assert "run the same command again to resume from the last checkpoint" in str(caught.value)


def test_a_process_that_lost_another_one_reports_it(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"RANK": "0", "WORLD_SIZE": "2"})
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr("asr.runtime.distributed.CAUSE_SECONDS", 0)
    gloo = (
        "[third_party/gloo/gloo/transport/tcp/pair.cc:5] Connection closed by peer. Look there.\n"
    )
    sentence = (
        r"^process 0 of 2 lost the connection to another process "
        r"\(\[.*\] Connection closed by peer\); unless"
    )
    with pytest.raises(TrainingError, match=sentence), process_group(TWO):
        raise RuntimeError(gloo)
    with pytest.raises(RuntimeError, match=r"^another matter$"), process_group(TWO):
        raise RuntimeError("another matter")


def is_second() -> bool:
    return os.environ.get("RANK") == "1"


def train_on_other_data(task: Task) -> None:
    if is_second():
        task.data.training_set = task.data.training_set[1:]
    train(task)


def test_processes_that_would_train_on_other_data_are_refused(tones, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"^process 1 has a different training set"):
        launch(train_on_other_data, tiny_task(tmp_path, tones, runtime=TWO), 2)
    assert not (tmp_path / "last.pt").exists()


class Stopper(TrainingCallbacks):
    """Asks this process to stop at its fourth step."""

    def __init__(self) -> None:
        self.steps = 0

    def steps_done(self, steps: int, loss: float) -> None:
        self.steps += steps
        if self.steps == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def train_elsewhere(task: Task) -> None:
    if is_second():
        task.folder = task.folder / "elsewhere"
    train(task)


def test_all_processes_resume_from_the_checkpoint_of_rank_0(tones, tmp_path, pair) -> None:
    """Whatever the others find in the folder: they neither read nor write there."""
    for callbacks in (Stopper(), TrainingCallbacks()):
        pair.run(train_elsewhere, tiny_task(tmp_path, tones, runtime=TWO, callbacks=callbacks))
    assert not (tmp_path / "elsewhere").exists()
    assert checkpoint.Checkpoint.read(tmp_path / "last.pt").payload["facts"]["epoch"] == 3
    steps = [row["step"] for row in read_metrics(tmp_path) if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
