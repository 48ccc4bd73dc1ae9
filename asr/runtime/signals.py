"""Ctrl-C, SIGTERM, SIGUSR2 and the death of a parent process, in one process and in many."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# The signals that request training to stop; for SIGUSR2 see `stopping_on_sigusr2`.
STOPPING = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGUSR2"):
    STOPPING.append(signal.SIGUSR2)
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


@contextlib.contextmanager
def stopping_on_sigusr2() -> Iterator[Callable[[], None]]:
    """A context in which SIGUSR2, which Slurm sends before it ends a job, stops training.

    Training reacts as to SIGTERM. The yielded function, to be called when it has saved, repeats
    the signal for the handler that was installed before: submitit puts the job back into the queue.
    Without such a handler it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received = False
    idle_handler = signal.getsignal(signal.SIGTERM)  # training installs its own

    def receive(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received = True
        if signal.getsignal(signal.SIGTERM) != idle_handler:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        repeat()
        raise KeyboardInterrupt

    def repeat() -> None:
        if received and callable(before):
            signal.signal(signal.SIGUSR2, before)
            os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, receive)
    try:
        yield repeat
    finally:
        signal.signal(signal.SIGUSR2, before)


def is_orphan() -> bool:
    """Returns whether the process that started this one has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def end_with_torchrun() -> None:
    """Stop this process when the agent of torchrun that started it dies, if there is one."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if is_orphan():  # the agent died before the call
            os._exit(1)


@contextlib.contextmanager
def shield_children_from_sigusr2() -> Iterator[None]:
    """A context in which SIGUSR2 reaches this process, but none that it starts.

    Processes inherit the signals that this thread blocks. Another thread receives SIGUSR2 for this
    process, whose handler still runs in the main thread.
    """
    if not hasattr(signal, "SIGUSR2"):
        yield
        return
    done = threading.Event()

    def receive() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        done.wait()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    try:
        yield
    finally:
        done.set()
        receiver.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def handling_stops(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """A context in which `handler` receives Ctrl-C and SIGTERM, if this is the main thread."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class SignalForwarder:
    """Passes Ctrl-C and SIGTERM on to the children; a second Ctrl-C ends them and this process."""

    def __init__(self) -> None:
        self.interrupted = False

    def pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Send the signal to each child process."""
        if self.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.interrupted = True
        children = multiprocessing.active_children()
        if not children:  # none has started yet
            raise KeyboardInterrupt
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, number)
