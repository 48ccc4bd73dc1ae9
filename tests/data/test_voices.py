"""The engines of synthetic speech: what their voices vary, and what is said where one is missing."""

import sys

import numpy as np
import pytest

from asr.data.voices import ENGINES, SAMPLE_RATE, Engine, Hibari, warp
from asr.errors import DataError

PACKAGES = {"espeak-ng": "espeakng_loader", "hibari": "hibari"}
TEXT = "the sea is gray today"


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    """Each engine whose package is installed."""
    pytest.importorskip(PACKAGES[request.param], reason=f"needs the package of {request.param}")
    return str(request.param)


def pitch_of(waveform: np.ndarray) -> float:
    """Hertz of a voice: the strongest delay between 50 and 450 Hz, median over frames of 64 ms."""
    found = []
    for start in range(0, len(waveform) - 1024, 512):
        frame = waveform[start : start + 1024]
        if np.square(frame).mean() > np.square(waveform).mean():
            spectrum = np.abs(np.fft.rfft(frame * np.hanning(1024), 4096)) ** 2
            delays = np.fft.irfft(spectrum)[: SAMPLE_RATE // 50]
            found.append(SAMPLE_RATE / (SAMPLE_RATE // 450 + delays[SAMPLE_RATE // 450 :].argmax()))
    return float(np.median(found))


def test_every_voice_speaks(name: str) -> None:
    engine: Engine = ENGINES[name]()
    voices = ENGINES[name].voices()
    assert len(set(voices)) == len(voices) >= 100
    for voice in (voices[0], voices[-1]):
        waveform, speaker = engine.speak(TEXT, voice, np.random.default_rng(1))
        assert voice in speaker
        assert 0.8 < len(waveform) / SAMPLE_RATE < 4
        assert 0.05 < np.abs(waveform).max() <= 1.5
        assert abs(waveform[0]) > 0 < abs(waveform[-1]), "no silence around the words"
    assert not len(engine.speak(" ", voices[0], np.random.default_rng(1)).waveform)
    with pytest.raises(DataError, match="has no voice 'nobody-at-all'"):
        engine.speak(TEXT, "nobody-at-all", np.random.default_rng(1))


def test_the_same_draws_give_the_same_speech(name: str) -> None:
    first, second, other = (
        ENGINES[name]().speak(TEXT, ENGINES[name].voices()[5], np.random.default_rng(seed)).waveform
        for seed in (1, 1, 2)
    )
    if name == "hibari":  # espeak-ng needs a new process for that
        np.testing.assert_array_equal(first, second)
    assert len(first) != len(other), "another rate is drawn"


@pytest.mark.parametrize("name", ENGINES)
def test_without_the_package_the_error_names_the_extra(name: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    for ask in (ENGINES[name], ENGINES[name].voices, ENGINES[name].version):
        with pytest.raises(DataError, match=r"not installed; pip install 'lstm-asr\[\w+\]'$"):
            ask()


def test_the_versions_name_the_package(name: str) -> None:
    assert ENGINES[name].version().split()[1][0].isdigit()


def test_speakers_of_hibari_differ_within_what_is_intelligible() -> None:
    speakers = np.array([Hibari.make_speaker(f"{number:04d}") for number in range(1000)])
    pitch, formants = speakers.T
    assert len(np.unique(pitch)) == 1000
    assert 0.6 <= pitch.min() < 0.61
    assert 1.13 < pitch.max() <= 1.15
    assert formants.min() == 0.88
    assert formants.max() == 1.08
    assert 0.8 < np.corrcoef(pitch, formants)[0, 1] < 0.99, "low voices have long vocal tracts"


def test_pitch_of_a_hibari_voice_is_the_speakers() -> None:
    pytest.importorskip("hibari", reason="needs hibari-tts")
    engine = Hibari()
    speakers = {name: Hibari.make_speaker(name)[0] for name in Hibari.voices()[:60]}
    low, high = min(speakers, key=speakers.__getitem__), max(speakers, key=speakers.__getitem__)
    heard = [
        pitch_of(engine.speak(TEXT, voice, np.random.default_rng(3)).waveform)
        for voice in (low, high)
    ]
    assert heard[1] / heard[0] == pytest.approx(speakers[high] / speakers[low], rel=0.1)


def test_a_spectrum_is_moved_to_other_frequencies() -> None:
    spectrum = np.zeros((101, 2), np.float32)
    spectrum[50] = 1
    assert warp(spectrum, 1.0).tolist() == spectrum.tolist()
    assert warp(spectrum, 1.2).argmax(axis=0).tolist() == [60, 60]
    assert warp(spectrum, 0.8).argmax(axis=0).tolist() == [40, 40]
