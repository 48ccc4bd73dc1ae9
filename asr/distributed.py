"""Several processes training one model. Every function is a no-op where there is one process.

`launch` starts the processes from one parent (`torch.distributed.launcher`), unless an outer launcher
(torchrun, Slurm's srun with the same variables) has started them already: then RANK is set and each
process simply joins.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from asr import errors
from asr.errors import AsrError, ConfigError, TrainingError


@dataclass
class RuntimeConfig:
    """Which machinery runs the work. None of it changes a result on the CPU but by rounding."""

    device: str = "auto"  # "auto" (GPUs if there are any), "cpu", "cuda"
    processes: int = 0  # 0: one per GPU, or one on the CPU
    threads: int = 0  # CPU threads of each process; 0: the cores shared out among the processes
    workers: int = -1  # data loaders of each process; -1: one on the CPU, one a core beside a GPU

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"runtime.device is {self.device!r}; it must be 'auto', 'cpu' or 'cuda'."
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("runtime.device is 'cuda', but torch finds no GPU here; use 'cpu'.")
        for key, least in (("processes", 0), ("threads", 0), ("workers", -1)):
            if getattr(self, key) < least:
                raise ConfigError(f"runtime.{key} is {getattr(self, key)}; at least {least}.")

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
        return RuntimeConfig(device, processes, self.threads or cores, workers)


def count_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Place:
    """Where this process stands among all of them."""

    rank: int
    processes: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0


@contextlib.contextmanager
def join(runtime: RuntimeConfig) -> Iterator[Place]:
    """Take this process's place: its device, its threads, and the group if there are several."""
    runtime = runtime.resolve()
    torch.set_num_threads(runtime.threads)
    rank = int(os.environ.get("RANK", 0))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if runtime.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if processes == 1:
        yield Place(rank, processes, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Place(rank, processes, device)
    # Not after an error: the others would see a closed connection before the error that caused it.
    dist.destroy_process_group()


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
    signals = _PassingOnSignals()
    try:
        with signals:
            return elastic_launch(config, function)(argument)[0]
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


class _PassingOnSignals:
    """Lets the children answer Ctrl-C and SIGTERM; a second Ctrl-C ends them and this process."""

    def __init__(self) -> None:
        self.interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._pass_on)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.interrupted = True
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)


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
