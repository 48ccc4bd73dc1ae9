"""Slurm: what srun sets, translated into the variables that torchrun would set."""

import os
import re

from asr.errors import ConfigError


def adopt_slurm() -> None:
    """Translate the variables of an srun step with several tasks into those of torchrun.

    Does nothing if RANK is already set, or if the step has one task (or there is no step, as in a
    batch script): such a task starts its own processes. Raises ConfigError if a variable of srun is
    missing.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if "RANK" in os.environ or tasks == 1:
        return
    names = "PROCID LOCALID NODEID STEP_TASKS_PER_NODE STEP_NODELIST JOB_ID".split()
    step = {name: os.environ.get(f"SLURM_{name}", "") for name in names}
    if missing := [f"SLURM_{name}" for name, value in step.items() if not value]:
        raise ConfigError(
            f"SLURM_STEP_NUM_TASKS is {tasks}, but {missing[0]} is not set; start the tasks with srun"
        )
    local = expand_counts(step["STEP_TASKS_PER_NODE"])[int(step["NODEID"])]
    os.environ |= {
        "RANK": step["PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": step["LOCALID"],
        "LOCAL_WORLD_SIZE": str(local),
    }
    os.environ.setdefault("MASTER_ADDR", first_host(step["STEP_NODELIST"]))
    # All tasks of a step derive the same port, and other jobs on the machine another one.
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(step["JOB_ID"]) % 10_000))


def expand_counts(counts: str) -> list[int]:
    """Expand the number of tasks on each node: "2(x3),1" -> [2, 2, 2, 1]."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, repeats in pairs for _ in range(int(repeats or 1))]


def first_host(nodes: str) -> str:
    """The first node of a list: "gpu[003-005,9],big1" -> "gpu003"."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
