"""Fixtures that many tests need."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "LibriSpeech").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return folder
