"""Checks of the texts: characters, scripts, and the limits of the training."""

from dataclasses import replace
from pathlib import Path

from voices import HEALTHY, Corpus, named

from asr.data.augment import AugmentConfig
from asr.data.manifest import Utterance
from asr.doctor.examination import examine
from asr.doctor.findings import ERROR, WARNING
from asr.doctor.requirements import Requirements
from asr.text import Vocabulary, normalize


def test_characters_of_the_vocabulary_are_not_errors(healthy: Corpus) -> None:
    first, second = healthy.utterances[:2]
    texts = [
        Utterance("one", first.audio, first.seconds, "at 10 o'clock in a café", "a"),
        Utterance("two", second.audio, second.seconds, "a <b> tag", "a"),
    ]
    vocabulary = Vocabulary.from_transcripts(u.text for u in texts)
    findings = examine({"train": texts}, Requirements(vocabulary)).findings
    assert [(f.kind, f.severity, f.ids) for f in findings] == [
        ("markup", WARNING, ("two",)),
        ("digits", WARNING, ("one",)),
    ]


def test_limits_are_those_of_the_training(healthy: Corpus) -> None:
    splits = {"train": healthy.utterances, "dev": healthy.utterances[:1]}
    longest = max(u.seconds for u in healthy.utterances)
    found = examine(splits, Requirements(batch_seconds=longest - 0.01)).findings
    assert [f.ids for f in found if f.kind == "long"] == [
        tuple(u.id for u in healthy.utterances if u.seconds > longest - 0.01)
    ]
    fast = examine(splits, Requirements(fastest=4.0)).findings
    assert {(f.kind, f.severity, f.split) for f in fast if f.kind == "ctc"} == {
        ("ctc", ERROR, "train"),
        ("ctc", WARNING, "dev"),
    }
    assert Requirements().fastest == AugmentConfig().fastest


def test_characters_of_rare_scripts_and_invisible_ones_are_found(
    tmp_path: Path,
) -> None:
    corpus = Corpus(tmp_path, "c", seed=11)
    for number in range(HEALTHY):
        corpus.add(f"u{number}")
    texts = {"u1": "\u0430", "u2": "a\u200bb", "u3": "\U0001f600", "u4": "é"}
    utterances = [
        replace(u, text=u.text[:-2] + texts[u.id] if u.id in texts else u.text)
        for u in corpus.utterances
    ]
    vocabulary = Vocabulary.from_transcripts(normalize(u.text) for u in utterances)
    [finding] = examine({"train": utterances}, Requirements(vocabulary)).findings
    assert (finding.kind, finding.severity, finding.ids) == ("odd", WARNING, ("u1", "u2", "u3"))
    assert finding.details[0] == "'\\u0430' (cyrillic small letter a)"
    half = [replace(u, text="да нет") for u in utterances[::2]] + utterances[1::2]
    vocabulary = Vocabulary.from_transcripts(normalize(u.text) for u in half)
    found = named(examine({"train": half}, Requirements(vocabulary)))
    assert found["odd", "train"] == {"u3"}  # Both scripts are common; u1 is Cyrillic.
