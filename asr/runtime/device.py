"""Devices, cores and threads."""

import contextlib
import os
from collections.abc import Iterator

import torch

from asr.defaults import LARGEST_COUNT
from asr.errors import ConfigError


def check_count(name: str, count: int, least: int) -> None:
    """Raise ConfigError if a number of threads or processes is out of range."""
    if not least <= count <= LARGEST_COUNT:
        raise ConfigError(f"{name} is {count}; it must be from {least} to {LARGEST_COUNT:,}")


def count_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def flushing_denormals() -> Iterator[None]:
    """A context in which this thread and those it starts treat numbers below 1e-38 as zero.

    Early in training many gradients of an LSTM are that small, and a CPU computes with them many
    times slower. Zeros in their place give the same weights.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def choose_device(name: str) -> str:
    """A device that torch can use: `name`, or for "auto" the first GPU, otherwise the CPU.

    Raises ConfigError if there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (number and not number.isdecimal())):
        raise ConfigError(f"there is no device {name!r}; use auto, cpu, cuda or cuda:0")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} does not exist (torch finds {torch.cuda.device_count()} GPUs); "
            "use auto or cpu"
        )
    return name
