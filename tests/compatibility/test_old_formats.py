"""What users hold in files and pipes has the keys, the types and, where small, the values it had."""

import json
from pathlib import Path
from typing import Any

import pytest
from golden import STORED, differences, start, write_workshop
from observations import OBSERVATIONS, ONE_THREAD, SPOKEN

TOLERANCE = 1e-3  # of confidences and scores, which are written with four decimals
FORMATS: dict[str, Any] = json.loads((STORED / "formats.json").read_text("utf-8"))


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that is observed, as the current one."""
    write_workshop(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_stored_format_is_observed() -> None:
    assert list(FORMATS) == list(OBSERVATIONS)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_format_is_as_it_was(name: str, workshop: Path) -> None:
    assert list(differences(OBSERVATIONS[name](), FORMATS[name], TOLERANCE)) == []


def test_the_command_prints_the_text_of_the_sample(workshop: Path) -> None:
    done = start("transcribe", "sample.flac", ONE_THREAD, cwd=workshop)
    assert (done.code, done.out) == (0, f"{SPOKEN}\n")
    assert FORMATS["transcripts"]["json"]["text"] == SPOKEN
