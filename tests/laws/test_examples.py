"""The examples in docstrings are true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from project import ROOT

# The modules whose examples need no other file than docs/sample.flac.
MODULES = """
    audio.waveform data.augment data.manifest decoder.config decoder.hypothesis encoder endpoint
    errors evaluation experiment features lm.estimation lm.model model recognizer
    runtime.distributed scoring server.config server.engine server.errors server.live server.socket
    server.wyoming stream text training.config
""".split()


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(f"asr.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
