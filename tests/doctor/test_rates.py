"""Checks of speaking rate."""

from pathlib import Path

from voices import Corpus, named

from asr.doctor.examination import examine


def test_a_slow_speaker_does_not_have_wrong_texts(healthy: Corpus, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, "c", seed=7)
    for number in range(70):
        corpus.add(f"c{number}")
    for number in range(10):
        corpus.add(f"slow{number}", corpus.voices.record(5), characters=30, speaker="slow")
    found = named(examine({"train": healthy.utterances + corpus.utterances}))
    assert found == {}
    corpus.add("odd", corpus.voices.record(5), characters=30, speaker="c1")
    found = named(examine({"train": healthy.utterances + corpus.utterances}))
    assert found == {("mismatch", "train"): {"odd"}}
