"""Several processes training one model. Every function is a no-op where there is one process.

`launch` starts the processes from one parent (`torch.distributed.launcher`), unless an outer launcher
has started them already: torchrun sets RANK, and what Slurm's srun sets becomes that in
`adopt_slurm`; then each process simply joins.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from asr import errors
from asr.errors import AsrError, ConfigError, TrainingError
from asr.runtime.device import check_count, count_cores, flushing_denormals
from asr.runtime.signals import PassingOnSignals, is_orphan, sparing_children


def is_first() -> bool:
    """Whether this process, before it has joined the others, is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


CAUSE_SECONDS = 1.0  # from the end of a process that fails until the others tell that it is lost
MOST_MINUTES = 10_000
SET_PARENT_DEATH_SIGNAL = 1  # Linux's PR_SET_PDEATHSIG


@dataclass
class RuntimeConfig:
    """Which machinery runs the work. None of it changes a result on the CPU but by rounding."""

    device: str = "auto"  # "auto" (GPUs if there are any), "cpu", "cuda"
    processes: int = 0  # 0: one per GPU, or one on the CPU
    threads: int = 0  # CPU threads of each process; 0: the cores shared out among the processes
    workers: int = -1  # data loaders of each process; -1: one on the CPU, one a core beside a GPU
    # How long one process waits for another that says nothing, as on a machine that lost its power. A
    # process that merely ends is missed at once.
    timeout_minutes: int = 30

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"runtime.device is {self.device!r}; it must be 'auto', 'cpu' or 'cuda'."
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("runtime.device is 'cuda', but torch finds no GPU here; use 'cpu'.")
        for key, least in (("processes", 0), ("threads", 0), ("workers", -1)):
            check_count(f"runtime.{key}", getattr(self, key), least)
        if not 1 <= self.timeout_minutes <= MOST_MINUTES:
            raise ConfigError(
                f"runtime.timeout_minutes is {self.timeout_minutes}; from 1 to {MOST_MINUTES}."
            )

    def resolve(self) -> "RuntimeConfig":
        """The same with every automatic value replaced by what this machine has."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        gpus = torch.cuda.device_count() if device == "cuda" else 0
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or self.processes or max(1, gpus)
        if gpus and processes > gpus:
            raise ConfigError(
                f"runtime.processes is {processes}, but there are {gpus} GPUs; use at most {gpus}."
            )
        cores = max(1, count_cores() // processes)
        # On a GPU the loaders do the CPU's work; on a CPU the model does most of it, and a loader
        # beside it needs a fraction of a core.
        workers = self.workers if self.workers >= 0 else min(8, cores - 1) if gpus else 1
        return RuntimeConfig(
            device, processes, self.threads or cores, workers, self.timeout_minutes
        )


@dataclass(frozen=True)
class Process:
    """Where this process stands among all of them."""

    rank: int
    processes: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0


@contextlib.contextmanager
def join(runtime: RuntimeConfig) -> Iterator[Process]:
    """Take this process's place: its device, its threads, and the group if there are several."""
    with flushing_denormals():
        yield from _join(runtime)


def _join(runtime: RuntimeConfig) -> Iterator[Process]:
    runtime = runtime.resolve()
    torch.set_num_threads(runtime.threads)
    rank = int(os.environ.get("RANK", 0))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if runtime.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if processes == 1:
        yield Process(rank, processes, device)
        return
    _end_with_the_agent()
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(minutes=runtime.timeout_minutes),
        )
        yield Process(rank, processes, device)
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        time.sleep(CAUSE_SECONDS)  # whoever started the processes shall see the lost one first
        reason = str(error).splitlines()[0].split(". ")[0]
        raise TrainingError(
            f"Process {rank} of {processes} lost another one ({reason}); if nothing starts them "
            "anew, run the same command again to go on from the last checkpoint."
        ) from error
    # Not after an error: the others would see a closed connection before the error that caused it.
    dist.destroy_process_group()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        # Whoever is quick to join again, in a sweep, shall not find the meeting point that is closing.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an error says that another process has gone, or has been silent for too long."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _end_with_the_agent() -> None:
    """Let torchrun's death ask this process to stop: it would train on, and nobody could stop it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if is_orphan():  # it died before that
            os._exit(1)


def cannot_replace_machines() -> bool:
    """Whether torchrun has several machines, and one that is replaced could never meet the others.

    Workers then meet at a place that bears the number of their own agent's restarts, which a new
    agent begins anew: all of them would wait for ever (github.com/pytorch/pytorch/issues/135712).
    """
    environment = os.environ.get
    return (
        environment("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environment("WORLD_SIZE") != environment("LOCAL_WORLD_SIZE")
        and environment("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    )


def launch(function: Callable[[Any], Any], argument: Any, processes: int) -> Any:
    """Run `function(argument)` in `processes` processes and return the first one's result.

    In this process where one is enough or where an outer launcher has set RANK. `function` must be
    importable and `argument` picklable. An AsrError of a child is raised here as that error.
    """
    if processes == 1 or "RANK" in os.environ:
        return function(argument)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="spawn",
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # the others are passed on to the children below
    )
    # They log a child's traceback before they raise; what is worth telling is raised below.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signals = PassingOnSignals()
    try:
        with signals, sparing_children():
            return elastic_launch(config, _work)(function, argument)[0]
    except ChildFailedError as error:
        if signals.interrupted:  # and the children had nothing to save
            raise KeyboardInterrupt from None
        rank, failure = error.get_first_failure()
        told = failure.error_file_data.get("message", "")
        if not isinstance(told, dict):  # it was killed before it could leave a message
            raise TrainingError(
                f"Process {rank} of {processes} ended ({failure.message}); "
                "run the same command again to go on from the last checkpoint."
            ) from None
        kind, _, sentence = str(told["message"]).partition(": ")
        family = getattr(errors, kind, None)
        if isinstance(family, type) and issubclass(family, AsrError):
            raise family(sentence) from None
        raise RuntimeError(told["extraInfo"]["py_callstack"]) from None


def _work(function: Callable[[Any], Any], argument: Any) -> Any:
    """What a child does. Where its parent has died meanwhile, nobody takes the result: it ends."""
    result = function(argument)
    if is_orphan():
        os._exit(1)
    return result


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, the same on each."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def from_first(value: Any) -> Any:
    """The first process's value, on every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every process's value in the order of ranks, on each process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
