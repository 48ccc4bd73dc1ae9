"""The examples in docstrings are true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from project import ROOT

# The modules whose examples need no other file than docs/sample.flac.
MODULES = "audio.waveform encoder endpoint errors features model scoring text".split()


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(f"asr.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
