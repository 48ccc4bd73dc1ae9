"""Fixtures that many tests need."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asr.data.manifest import Utterance

ROOT = Path(__file__).resolve().parents[1]

# A shell that starts the tests in the background lets them ignore Ctrl-C, and Python leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "LibriSpeech").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return folder


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> "list[Utterance]":
    """Twelve recordings in which each letter is a tone of its own pitch; see `write_tones`."""
    from corpus import write_tones

    return write_tones(tmp_path_factory.mktemp("tones"))
