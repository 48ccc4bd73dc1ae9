"""Messages of C libraries are discarded while recordings are read, and only then."""

import ctypes
import sys
from threading import Barrier, Thread

import pytest

from asr.audio.messages import discard_messages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="C's stderr is known on Linux")


def complain(words: str, stream: str = "stderr") -> None:
    """Print as C libraries do."""
    libc = ctypes.CDLL(None)
    libc.fputs(words.encode(), ctypes.c_void_p.in_dll(libc, stream))
    libc.fflush(None)


def test_messages_are_discarded_only_within(capfd: pytest.CaptureFixture[str]) -> None:
    complain("before ")
    complain("result ", "stdout")
    with discard_messages():
        complain("within ")
        complain("within ", "stdout")
        with discard_messages():
            complain("deep ")
        complain("within ")
        print("python", file=sys.stderr)
    complain("after")
    complain("result", "stdout")
    assert capfd.readouterr() == ("result result", "before python\nafter")


def test_an_error_ends_the_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), discard_messages():
        raise ValueError("x")
    complain("after")
    assert capfd.readouterr().err == "after"


def test_threads_share_the_silence(capfd: pytest.CaptureFixture[str]) -> None:
    barrier = Barrier(2)

    def work() -> None:
        for _ in range(200):
            with discard_messages():
                barrier.wait()
                complain("within ")

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    complain("after")
    assert capfd.readouterr().err == "after"
