"""The whole examination: planted defects are found by name, and healthy speech raises no alarm."""

import re
from pathlib import Path

from voices import HEALTHY, Planted, named

from asr.audio.waveform import inspect_audio
from asr.data.manifest import Utterance
from asr.doctor.examination import examine
from asr.doctor.findings import ERROR, FIXES, INFORMATION, WARNING, Diagnosis
from asr.doctor.manifests import select_clean
from asr.text import normalize


def test_all_planted_defects_and_only_these_are_found(
    planted: Planted, diagnosis: Diagnosis
) -> None:
    assert named(diagnosis) == planted.expected
    assert len({kind for kind, _ in planted.expected}) >= 24


def test_findings_have_severities_details_and_fixes(diagnosis: Diagnosis) -> None:
    severity = {f.kind: f.severity for f in diagnosis.findings}
    refused = {"audio", "duration", "empty", "markup", "digits", "characters", "ctc", "long"}
    assert {kind for kind, how in severity.items() if how == ERROR} == refused
    assert {kind for kind, how in severity.items() if how == INFORMATION} == set()
    for finding in diagnosis.findings:
        assert finding.fix == FIXES[finding.kind]
        assert len(finding.details) == len(finding.ids) > 0
    details = {
        (f.kind, name): detail
        for f in diagnosis.findings
        for name, detail in zip(f.ids, f.details, strict=True)
    }
    assert "the manifest says 9.00 s" in details["duration", "stated"]
    assert "cut short" in details["audio", "cut"]
    assert details["markup", "entity"] == "&amp;"
    assert details["characters", "accented"] == "'é'"
    assert details["duplicate", "copy"] == "the same recording as healthy3"
    assert details["duplicate", "coded"] == "sounds the same as healthy4"
    assert details["leak", "healthy6"] == "the same recording as leaked in dev"
    assert details["speakers", "known"] == "speaker both is also in dev"
    assert details["air", "late"].startswith("begins with 4.5 s")
    assert details["air", "paused"].startswith("is interrupted by 4.9 s")
    assert details["narrow", "linear"].startswith(
        "only a mirror image of the lower band above 4,000"
    )
    telephone = details["narrow", "telephone"]
    assert re.match(r"nothing above (3,[5-9]|4,0)\d\d Hz \(sample rate 16,000", telephone)


def test_cleaned_splits_are_healthy(planted: Planted, diagnosis: Diagnosis) -> None:
    splits = planted.splits
    without_errors = select_clean(splits["train"], diagnosis, "train")
    again = examine({"train": without_errors, "dev": splits["dev"]})
    assert again.count(ERROR) == 0
    assert again.count(WARNING) > 10
    strict = select_clean(splits["train"], diagnosis, "train", strict=True)
    again = examine({"train": strict, "dev": splits["dev"]})
    assert {(f.kind, f.split) for f in again.findings} == {("silence", "dev")}
    assert {f"healthy{n}" for n in range(HEALTHY)} - {u.id for u in strict} == {
        "healthy5",  # The recording has two texts.
        "healthy6",  # The recording is also in dev.
        "healthy7",  # The sentence is also in dev.
    }


def test_threads_do_not_change_the_findings(planted: Planted, diagnosis: Diagnosis) -> None:
    splits = planted.splits
    counts: list[int] = []
    parallel = examine(splits, threads=3, on_progress=counts.append)
    assert parallel.findings == diagnosis.findings
    assert sum(counts) == sum(map(len, splits.values()))


def test_cost_is_estimated_with_its_assumptions(planted: Planted, diagnosis: Diagnosis) -> None:
    splits = planted.splits
    assert set(diagnosis.cost) == {"model", "steps in an epoch", "computing", "reading", "memory"}
    assert "operations" in diagnosis.cost["computing"]
    facts = diagnosis.summaries[0].facts
    assert facts["utterances"] == f"{len(splits['train']):,}"
    duration = diagnosis.summaries[0].histograms[0]
    assert sum(duration.counts) == len(splits["train"])
    assert len(duration.edges) == len(duration.counts) + 1


def read_every(shared: Path, step: int) -> dict[str, list[Utterance]]:
    """Every `step`-th utterance of each corpus, in the order of its own lists: train and dev."""
    splits: dict[str, list[Utterance]] = {}
    for split, mini in (("train", "train-mini"), ("dev", "dev-mini")):
        rows: list[list[tuple[str, str, str, str]]] = []  # id, path, text, speaker
        books = []
        for path in sorted((shared / "LibriSpeech" / mini).rglob("*.trans.txt")):
            for line in path.read_text().splitlines():
                name, text = line.split(" ", 1)
                books.append((name, str(path.parent / f"{name}.mp3"), text, name.split("-")[0]))
        rows.append(books)
        table = (shared / "CommonVoice" / "en" / f"{split}.tsv").read_text().splitlines()
        keys = table[0].split("\t")
        clips = [dict(zip(keys, line.split("\t"), strict=False)) for line in table[1:]]
        folder = shared / "CommonVoice" / "en" / "clips"
        rows.append(
            [(c["path"], str(folder / c["path"]), c["sentence"], c["client_id"]) for c in clips]
        )
        kaldi = shared / "speechocean762" / split
        tables = [
            dict(line.split(None, 1) for line in (kaldi / file).read_text().splitlines())
            for file in ("wav.scp", "text", "utt2spk")
        ]
        rows.append(
            [(n, str(kaldi / path), tables[1][n], tables[2][n]) for n, path in tables[0].items()]
        )
        splits[split] = [
            Utterance(name, path, inspect_audio(path).seconds, normalize(text, "english"), speaker)
            for corpus in rows
            for name, path, text, speaker in corpus[::step]
        ]
    return splits


def test_real_speech_raises_no_false_alarm(shared: Path) -> None:
    """Every 15th utterance is examined. Spectrograms show that the two alarms are right: one reader
    finishes after half of the recording, the other repeats the sentence after 7 s.
    """
    splits = read_every(shared, 15)
    assert sum(map(len, splits.values())) >= 500
    diagnosis = examine(splits, threads=2)
    assert named(diagnosis) == {
        ("air", "train"): {"common_voice_en_37281615.mp3", "096160001"},
        ("band", ""): set(),
    }
