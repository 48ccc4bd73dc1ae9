"""Checks of the sound: bands, clipping, and recordings that cannot be measured."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from voices import RATE, Corpus, measure_seconds, named

from asr.data.manifest import Utterance
from asr.doctor import recordings
from asr.doctor.examination import examine
from asr.doctor.findings import INFORMATION
from asr.doctor.sound import measure_sound


def test_a_band_limit_of_the_whole_corpus_is_reported_once(healthy: Corpus, tmp_path: Path) -> None:
    """A limit that most recordings have is a property of the corpus, not a defect of each."""
    assert examine({"train": healthy.utterances}).findings == []
    for rate, limits in ((11_000, (4900, 5500)), (8_000, (3500, 4000))):
        corpus = Corpus(tmp_path / str(rate), "c", seed=4)
        for utterance in healthy.utterances:
            samples = soundfile.read(utterance.audio)[0]
            low = soxr.resample(soxr.resample(samples, RATE, rate), rate, RATE)
            corpus.add(utterance.id, low, utterance.text)
        [finding] = examine({"train": corpus.utterances}).findings
        assert (finding.kind, finding.severity, finding.ids) == ("band", INFORMATION, ())
        found = [
            int(hz.replace(",", "")) for hz in re.findall(r"% near ([\d,]+) Hz", finding.detail)
        ]
        assert all(limits[0] <= hz <= limits[1] for hz in found)


def test_a_file_with_a_telephones_sample_rate_is_narrow(healthy: Corpus, tmp_path: Path) -> None:
    samples = soxr.resample(soundfile.read(healthy.utterances[0].audio)[0], RATE, 8000)
    soundfile.write(tmp_path / "low.wav", samples, 8000)
    seconds = measure_seconds(tmp_path / "low.wav")
    low = Utterance("low", str(tmp_path / "low.wav"), seconds, "some other words", "x")
    found = named(examine({"train": [*healthy.utterances, low]}))
    assert found == {("narrow", "train"): {"low"}}


def test_lossy_clipping_is_found_at_full_scale(healthy: Corpus, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, "c", seed=5)
    corpus.add("bent", np.clip(8 * corpus.voices.record(3), -1, 1), characters=39, ending="mp3")
    assert measure_sound(tmp_path / "bent.mp3").clipped_share < 1e-3
    found = named(examine({"train": healthy.utterances + corpus.utterances}))
    assert found == {("clipping", "train"): {"bent"}}


def test_pipes_and_unexpected_errors_are_findings(
    healthy: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    utterances = [replace(healthy.utterances[0], audio=str(tmp_path / "pipe.wav"))]
    [finding] = examine({"train": utterances}).findings
    assert (finding.kind, "is a pipe or a device" in finding.details[0]) == ("audio", True)

    def fail(path: str) -> None:
        raise IndexError("out of bounds")

    monkeypatch.setattr(recordings, "measure_sound", fail)
    [finding] = examine({"train": healthy.utterances[:1]}).findings
    assert finding.kind == "audio"
    assert "cannot be measured (IndexError: out of bounds)" in finding.details[0]
