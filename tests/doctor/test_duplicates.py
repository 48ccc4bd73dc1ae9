"""Checks between utterances: duplicates, and what splits share."""

from dataclasses import replace
from pathlib import Path

import soundfile
from voices import Corpus, named

from asr.data.manifest import Utterance
from asr.doctor.examination import examine
from asr.doctor.findings import INFORMATION
from asr.doctor.manifests import select_clean


def test_few_shared_sentences_are_information(healthy: Corpus, tmp_path: Path) -> None:
    dev = Corpus(tmp_path, "d", seed=6)
    for number in range(20):
        dev.add(f"d{number}")
    dev.add("same", text=healthy.utterances[0].text, characters=len(healthy.utterances[0].text))
    [finding] = examine({"train": healthy.utterances, "dev": dev.utterances}).findings
    assert (finding.kind, finding.severity) == ("sentences", INFORMATION)
    assert finding.ids == (healthy.utterances[0].id,)
    nameless = [Utterance(u.id, u.audio, u.seconds, u.text) for u in dev.utterances]
    findings = examine({"train": healthy.utterances, "dev": nameless}).findings
    assert [f.kind for f in findings] == ["sentences", "anonymous"]
    assert findings[1].detail.endswith("of 21 of 21 utterances of dev")
    some = [*nameless[:1], *dev.utterances[1:]]
    findings = examine({"train": healthy.utterances, "dev": some}).findings
    assert findings[1].detail.endswith("of 1 of 21 utterances of dev")


def test_an_utterance_is_named_once_per_kind(healthy: Corpus, tmp_path: Path) -> None:
    first = healthy.utterances[0]
    dev = Corpus(tmp_path, "d", seed=10)
    copies = [
        dev.add(name, soundfile.read(first.audio)[0], first.text, speaker="d", ending=ending)
        for name, ending in (("a", "wav"), ("b", "flac"), ("c", "ogg"))
    ]
    found = examine({"train": healthy.utterances, "one": copies}).findings
    ids = {(f.kind, f.split): f.ids for f in found}
    assert ids == {
        ("duplicate", "one"): ("b", "c"),
        ("leak", "train"): (first.id,),
        ("sentences", "train"): (first.id,),
    }
    [leak] = [f for f in found if f.kind == "leak"]
    assert leak.details[0].startswith("the same recording as a in one; sounds the same as")
    assert leak.detail == "1 of 40 utterances"


def test_splits_after_the_first_are_compared_with_each_other(
    healthy: Corpus, tmp_path: Path
) -> None:
    dev = Corpus(tmp_path, "d", seed=10)
    for number in range(10):
        dev.add(f"d{number}")
    test = [replace(u, id=f"t{u.id}") for u in dev.utterances[:2]]
    found = named(examine({"train": healthy.utterances, "dev": dev.utterances, "test": test}))
    speakers = {u.speaker for u in test}
    assert found == {
        ("leak", "dev"): {"d0", "d1"},
        ("sentences", "dev"): {"d0", "d1"},
        ("speakers", "dev"): {u.id for u in dev.utterances if u.speaker in speakers},
    }


def test_the_copy_without_errors_is_kept(healthy: Corpus) -> None:
    first = healthy.utterances[0]
    wrong, good = replace(first, seconds=99.0), replace(first, id="good")
    utterances = [wrong, good, *healthy.utterances[1:]]
    diagnosis = examine({"train": utterances})
    assert named(diagnosis)["duplicate", "train"] == {first.id}
    assert select_clean(utterances, diagnosis, "train", strict=True) == utterances[1:]
