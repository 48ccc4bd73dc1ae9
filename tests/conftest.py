"""Fixtures that many tests need."""

import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from commands import RunAsr
from pair import Pair
from project import ROOT
from recordings import RATE, TALK_SECONDS, make_noise

from asr.cli.main import main

if TYPE_CHECKING:
    from asr.data.manifest import Utterance


# Folders, modules, classes and functions whose tests take seconds; `scripts/check --quick` leaves
# them out.
SLOW = (
    "audio/test_damage.py",
    "audio/test_mp3.py",
    "audio/test_odd_recordings.py",
    "cli/test_decoder_options.py",
    "cli/test_evaluate.py",
    "cli/test_main.py::TestProgram",
    "cli/test_main.py::TestStreams",
    "cli/test_outputs.py",
    "cli/test_stream_command.py",
    "cli/test_train.py",
    "cli/test_transcribe.py",
    "compatibility",
    "data/test_index.py",
    "data/test_loading.py",
    "data/test_planning.py::test_librispeech_has_little_padding",
    "data/test_selection.py",
    "data/test_synthesis.py",
    "decoder/test_beam_exhaustive.py::TestPruning",
    "decoder/test_beam_posteriors.py::TestRealPosteriors",
    "decoder/test_partials.py",
    "doctor",
    "fuzz",
    "laws/test_architecture.py::test_library_needs_no_torchaudio",
    "laws/test_readme.py",
    "lm/test_language_model.py",
    "lm/test_mixture.py",
    "recipes",
    "runtime",
    "scripts",
    "server",
    "test_experiment.py",
    "test_long_recordings.py",
    "test_recognizer.py::test_a_recognizer_that_has_computed_works_in_a_forked_child",
    "test_stream.py",
    "test_text.py::TestNormalize::test_normalization_is_idempotent",
    "training",
)

# Files that take longest come first, so that the two workers of `scripts/check` end together
# (which is why it tells pytest-xdist not to reorder them).
LONGEST = (
    "tests/scripts/test_nodes.py",
    "tests/recipes/test_sweep.py",
    "tests/laws/test_readme.py",
    "tests/training/test_run.py",
    "tests/training/test_resume.py",
    "tests/test_long_recordings.py",
    "tests/scripts/test_training_benchmark.py",
    "tests/runtime",
    "tests/server/test_page.py",
    "tests/server/test_agreement.py",
)

# A shell that starts the tests in the background lets them ignore Ctrl-C, and Python leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `SLOW` as slow, and move the longest files to the front."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))  # keeps the order otherwise
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture
def run_asr(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[RunAsr]:
    """Run `asr` in this process: run_asr("score", reference, hypothesis, stdin=b"").

    Returns the exit code, stdout and stderr. Without `stdin` the standard input is left alone.
    """
    import torch

    # More threads gain nothing on seconds of audio.
    monkeypatch.setattr("asr.runtime.device.count_cores", lambda: 1)
    monkeypatch.setattr("asr.runtime.distributed.count_cores", lambda: 1)

    def run(*words: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            if stdin is not None:
                stream = SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(stdin)))
                patch.setattr(sys, "stdin", stream)
            try:
                code = main([str(word) for word in words])
            except SystemExit as stop:
                code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two processes that train together; see `pair.Pair`."""
    both = Pair()
    yield both
    both.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that transcribes noise as many letters and silence as none."""
    from models import write_random_model

    return write_random_model(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A short recording."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, make_noise(1.5), RATE)
    return path


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A long recording with pauses, in a folder of its own."""
    path = tmp_path / "talk" / "talk.wav"
    path.parent.mkdir()
    samples = make_noise(TALK_SECONDS)[:, 0]
    samples[np.arange(len(samples)) / RATE % 7 > 5.5] = 0
    soundfile.write(path, samples, RATE)
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with recordings at two depths and another file."""
    root = tmp_path / "folder"
    (root / "deep").mkdir(parents=True)
    soundfile.write(root / "b.wav", make_noise(1.0), RATE)
    soundfile.write(root / "deep" / "a.flac", make_noise(1.2), RATE)
    (root / "notes.md").write_text("not a recording")
    return root
