"""Stopping training on Ctrl-C or SIGTERM, in agreement with all processes."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch

from asr.runtime.distributed import all_reduce_sum


class Interruption:
    """Turns Ctrl-C and SIGTERM into a request to stop, on which all processes agree after a step.

    In a single process a second Ctrl-C ends it at once, as it does without this class.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.requested = False
        self.agreed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> None:
        """Set `agreed` on every process if any of them was requested to stop."""
        requested = torch.tensor(float(self.requested), device=self._device)
        self.agreed = bool(all_reduce_sum(requested))

    def _request(self, number: int, _frame: FrameType | None) -> None:
        # torchrun passes the user's Ctrl-C on, so a single Ctrl-C arrives there twice.
        if self.requested and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.requested = True
