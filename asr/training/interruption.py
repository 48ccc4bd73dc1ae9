"""Stopping training on Ctrl-C or SIGTERM, in agreement with all processes."""

import os
import signal
from types import FrameType

import torch

from asr.runtime.distributed import all_reduce_sum


class Interruption:
    """A request to stop, by Ctrl-C or SIGTERM, on which all processes agree after a step.

    In a single process a second Ctrl-C ends it at once, as it does without this class.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.requested = False
        self.agreed = False

    def agree(self) -> None:
        """Set `agreed` on every process if any of them was requested to stop."""
        requested = torch.tensor(float(self.requested), device=self._device)
        self.agreed = bool(all_reduce_sum(requested))

    def request(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal, as `handling_stops` does."""
        # torchrun passes the user's Ctrl-C on, so a single Ctrl-C arrives there twice.
        if self.requested and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.requested = True
