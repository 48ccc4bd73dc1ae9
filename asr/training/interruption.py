"""Stopping a training on Ctrl-C or SIGTERM, agreed on by all processes."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch

from asr.runtime.distributed import sum_over_processes


class Interruption:
    """Turns Ctrl-C and SIGTERM into a wish to stop, on which all processes agree at a step's end.

    A second Ctrl-C in a single process ends it at once, as it would have without this.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.asked = False
        self.agreed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> None:
        """Set `agreed` on every process if any was asked to stop."""
        self.agreed = bool(sum_over_processes(torch.tensor(float(self.asked), device=self._device)))

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        # An elastic launcher passes the user's Ctrl-C on: what arrives twice there was typed once.
        if self.asked and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.asked = True
