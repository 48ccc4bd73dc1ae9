"""Ctrl-C, SIGTERM and the death of a parent, in one process and in many."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def asking_to_stop() -> Iterator[Callable[[], None]]:
    """Lets SIGUSR2, which Slurm sends some time before it ends a job, stop a training like SIGTERM.

    The yielded function, called when the training has saved, answers the signal as if it arrived
    only now: submitit puts the job back into the queue. Where nobody else answers it, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked = False
    nobody = signal.getsignal(signal.SIGTERM)  # what answers SIGTERM while no training does

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if signal.getsignal(signal.SIGTERM) != nobody:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        answer()
        raise KeyboardInterrupt

    def answer() -> None:
        if asked and callable(before):
            signal.signal(signal.SIGUSR2, before)
            os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, ask)
    try:
        yield answer
    finally:
        signal.signal(signal.SIGUSR2, before)


STOPPING = [
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []),
]
"""What asks a training to stop; see `asking_to_stop`."""


def is_orphan() -> bool:
    """Whether the process that started this one has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


@contextlib.contextmanager
def sparing_children() -> Iterator[None]:
    """Within it, SIGUSR2 reaches this process alone, and none that it starts.

    A signal that this thread blocks is blocked in processes that it starts; another one takes it
    for this process, whose handler runs in the main thread as ever.
    """
    if not hasattr(signal, "SIGUSR2"):
        yield
        return
    done = threading.Event()

    def take() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        done.wait()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    try:
        yield
    finally:
        done.set()
        taker.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class PassingOnSignals:
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
        children = multiprocessing.active_children()
        if not children:  # they have not begun: nobody would hear it
            raise KeyboardInterrupt
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, number)
