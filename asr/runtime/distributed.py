"""Several processes that train one model. With a single process every function is a no-op.

`launch` starts the processes from one parent (`torch.distributed.launcher`), unless an outer launcher
has already started them: torchrun sets RANK, and `adopt_slurm` derives it from the variables of srun.
Each process then enters the `process_group`.
"""

import contextlib
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from asr import errors
from asr.errors import AsrError, ConfigError, TrainingError, quote
from asr.runtime import signals
from asr.runtime.device import check_count, choose_device, count_cores

# How long a process waits after another one is lost, so that the error of that one is seen first.
CAUSE_SECONDS = 1.0
MOST_MINUTES = 10_000

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass
class RuntimeConfig:
    """Devices and processes. On a CPU they change results by no more than rounding.

    Args:
        device: "auto" (GPUs if there are any), "cpu" or "cuda".
        processes: Number of processes; 0: one per GPU, or one on the CPU.
        threads: CPU threads of each process; 0: the cores divided among the processes.
        workers: Data loaders of each process; -1: one on the CPU, one per core for a GPU.
        timeout_minutes: How long a process waits for one that does not answer, such as after a power
            failure. The end of a process is noticed at once.

    Raises:
        ConfigError: If a value is out of range, or there is no GPU for "cuda".

    Example:
        >>> RuntimeConfig(device="cpu", processes=2, threads=1).resolve().workers
        1
    """

    device: str = "auto"
    processes: int = 0
    threads: int = 0
    workers: int = -1
    timeout_minutes: int = 30

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"runtime.device is {quote(self.device)}; it must be 'auto', 'cpu' or 'cuda'"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("runtime.device is 'cuda', but torch finds no GPU; use 'cpu'")
        for key, least in (("processes", 0), ("threads", 0), ("workers", -1)):
            check_count(f"runtime.{key}", getattr(self, key), least)
        if not 1 <= self.timeout_minutes <= MOST_MINUTES:
            raise ConfigError(
                f"runtime.timeout_minutes is {self.timeout_minutes}; it must be from 1 to "
                f"{MOST_MINUTES}"
            )

    def resolve(self) -> "RuntimeConfig":
        """A copy in which every automatic value is replaced by the value for this machine."""
        device = choose_device(self.device)
        gpus = torch.cuda.device_count() if device == "cuda" else 0
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or self.processes or max(1, gpus)
        if gpus and processes > gpus:
            raise ConfigError(
                f"runtime.processes is {processes}, but there are {gpus} GPUs; use at most {gpus}"
            )
        cores = max(1, count_cores() // processes)
        # With a GPU the loaders do most of the work of the CPU. On a CPU the model does, and one
        # loader needs only a fraction of a core.
        workers = self.workers if self.workers >= 0 else min(8, cores - 1) if gpus else 1
        return RuntimeConfig(
            device, processes, self.threads or cores, workers, self.timeout_minutes
        )


@dataclass(frozen=True)
class Process:
    """The place of this process among all of them."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True for rank 0, the process that writes files and talks to the user."""
        return self.rank == 0


def is_rank_zero() -> bool:
    """Returns whether this is rank 0; also before the `process_group` is entered."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def process_group(runtime: RuntimeConfig) -> Iterator[Process]:
    """Set up the device and the threads of this process, and connect it to the others.

    Raises TrainingError if another process is lost meanwhile.
    """
    # Early in training many gradients of an LSTM are below 1e-38, and a CPU computes with them many
    # times slower. Zeros in their place, in this thread and those it starts, give the same weights.
    torch.set_flush_denormal(True)
    try:
        yield from _connect(runtime)
    finally:
        torch.set_flush_denormal(False)


def _connect(runtime: RuntimeConfig) -> Iterator[Process]:
    runtime = runtime.resolve()
    torch.set_num_threads(runtime.threads)
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if runtime.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Process(rank, world_size, device)
        return
    signals.end_with_torchrun()
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(minutes=runtime.timeout_minutes),
        )
        yield Process(rank, world_size, device)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise  # this is no sign of another process that has ended or does not answer
        time.sleep(CAUSE_SECONDS)  # so that the parent sees the end of the lost process first
        reason = str(error).splitlines()[0].split(". ")[0]
        raise TrainingError(
            f"process {rank} of {world_size} lost the connection to another process "
            f"({reason}); unless the launcher restarts them, run the same command again to resume from "
            "the last checkpoint"
        ) from error
    # Only without an error: otherwise the others would see a closed connection before its cause.
    dist.destroy_process_group()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        # The next job of a sweep meets at another port, because this one may still be closing.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def cannot_replace_machines() -> bool:
    """Returns whether torchrun runs on several machines of which none could be replaced.

    Workers then meet under a key that contains the number of restarts of their agent. A new agent
    counts from zero, so all would wait forever (github.com/pytorch/pytorch/issues/135712).
    """
    environment = os.environ.get
    return (
        environment("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environment("WORLD_SIZE") != environment("LOCAL_WORLD_SIZE")
        and environment("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    )


def launch(function: Callable[[Argument], Result], argument: Argument, processes: int) -> Result:
    """Run `function(argument)` in `processes` processes and return the result of rank 0.

    It runs in this process if one is enough, or if an outer launcher has set RANK. `function` must be
    importable and `argument` picklable. An AsrError of a child is raised here as the same error.
    """
    if processes == 1 or "RANK" in os.environ:
        return function(argument)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Without a folder of its own, torch makes one for each launch and leaves it behind.
    scratch = tempfile.TemporaryDirectory(prefix="asr-", ignore_cleanup_errors=True)
    config = LaunchConfig(
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="spawn",
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # `SignalForwarder` handles the others
        logs_specs=DefaultLogsSpecs(log_dir=scratch.name),
    )
    # They would log a child's traceback; its error is raised below.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    forwarder = signals.SignalForwarder()
    try:
        with (
            scratch,
            signals.handling_stops(forwarder.pass_on),
            signals.shield_children_from_sigusr2(),
        ):
            return cast(Result, elastic_launch(config, _work)(function, argument)[0])
    except ChildFailedError as error:
        if forwarder.interrupted:  # before the children had anything to save
            raise KeyboardInterrupt from None
        rank, failure = error.get_first_failure()
        message = failure.error_file_data.get("message", "")
        if not isinstance(message, dict):  # it was killed before it could leave a message
            raise TrainingError(
                f"process {rank} of {processes} ended ({failure.message}); "
                "run the same command again to resume from the last checkpoint"
            ) from None
        kind, _, sentence = str(message["message"]).partition(": ")
        family = getattr(errors, kind, None)
        if isinstance(family, type) and issubclass(family, AsrError):
            raise family(sentence) from None
        raise RuntimeError(message["extraInfo"]["py_callstack"]) from None


def _work(function: Callable[[Any], Any], argument: Any) -> Any:
    """Run `function` in a child process, which exits if its parent has died."""
    result = function(argument)
    if signals.is_orphan():
        os._exit(1)
    return result


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place; every process gets the sum."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


@torch.no_grad()
def broadcast_weights(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace the parameters of every process by those of rank 0, in one transfer."""
    weights: list[torch.Tensor] = list(parameters)
    values = torch.cat([weight.flatten() for weight in weights])
    dist.broadcast(values, src=0)
    _unflatten(values, weights)


@torch.no_grad()
def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of all processes in one transfer; a missing gradient counts as zero.

    `DistributedDataParallel` would overlap this with the backward pass, of which a stack of LSTMs
    needs little, but it imports PyTorch's compiler: 3 s of CPU time in every process that starts.
    """
    gradients: list[torch.Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    values = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(values)
    _unflatten(values, gradients)


def _unflatten(values: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    """Copy the values (N,) into tensors of N elements in all."""
    parts = torch.split(values, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


def broadcast_from_rank_zero(value: Any) -> Any:
    """Send the value of rank 0 to every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Collect the values of all processes, in the order of ranks, on each of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
