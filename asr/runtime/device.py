"""Devices, cores and threads."""

import os

import torch

from asr.defaults import LARGEST_COUNT
from asr.errors import ConfigError, quote


def check_count(name: str, count: int, least: int) -> None:
    """Raise ConfigError if a number of threads or processes is out of range."""
    if not least <= count <= LARGEST_COUNT:
        raise ConfigError(f"{name} is {count}; it must be from {least} to {LARGEST_COUNT:,}")


def count_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(name: str) -> str:
    """A device that torch can use: `name`, or for "auto" the first GPU, otherwise the CPU.

    Raises ConfigError if there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (number and not number.isdecimal())):
        raise ConfigError(f"there is no device {quote(name)}; use auto, cpu, cuda or cuda:0")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {quote(name)} does not exist (torch finds {torch.cuda.device_count()} GPUs); "
            "use auto or cpu"
        )
    return name
