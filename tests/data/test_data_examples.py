"""The examples in the docstrings of asr.data give the results that they show."""

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.index import index_utterances
from asr.data.manifest import Utterance, write_manifest
from asr.features import FeaturesConfig, LogMel
from asr.text import Vocabulary

NAMES = {
    "FeaturesConfig": FeaturesConfig,
    "LogMel": LogMel,
    "Utterance": Utterance,
    "Vocabulary": Vocabulary,
    "index_utterances": index_utterances,
    "np": np,
    "soundfile": soundfile,
    "write_manifest": write_manifest,
}


@pytest.mark.parametrize(
    "name", ["augment", "index", "loading", "manifest", "planning", "selection"]
)
def test_examples_are_correct(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(import_module(f"asr.data.{name}"), extraglobs=NAMES)
    assert results.attempted > 0
    assert results.failed == 0
