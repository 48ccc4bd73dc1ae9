"""Corpora that several tests of the doctor examine."""

import pytest
from voices import Corpus, Planted

from asr.doctor.examination import examine
from asr.doctor.findings import Diagnosis


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Utterances with every kind of defect."""
    return Planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def diagnosis(planted: Planted) -> Diagnosis:
    """The diagnosis of the planted utterances."""
    return examine(planted.splits)


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Forty utterances without any defect."""
    corpus = Corpus(tmp_path_factory.mktemp("healthy"), "h", seed=3)
    for number in range(40):
        corpus.add(f"h{number}")
    return corpus
