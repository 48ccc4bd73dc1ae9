"""Measurements of single recordings."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from voices import RATE, Voices

from asr.doctor.sound import measure_sound


@pytest.mark.parametrize("rate", [1000, 8000, 22_050, 96_000])
@pytest.mark.parametrize("samples", [1, 100, 70_000])
def test_recordings_of_any_length_and_rate_are_measured(
    rate: int, samples: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(8)
    soundfile.write(tmp_path / "a.wav", random.normal(0, 0.1, samples), rate)
    sound = measure_sound(tmp_path / "a.wav")
    assert sound.seconds == samples / rate
    if samples > 1000:
        assert sound.level == pytest.approx(-20, abs=1.5)
    assert sound.band_limit_drop < 20


def test_levels_of_floats_on_another_scale(tmp_path: Path) -> None:
    samples = np.random.default_rng(8).normal(0, 10_000, RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert measure_sound(tmp_path / "a.wav").level == pytest.approx(80, abs=1)


def test_levels_silences_and_content_are_as_recorded(tmp_path: Path) -> None:
    voices = Voices(9)
    parts = [voices.record(1.0, before=0.5, after=0.0), voices.record(1.0, before=0.8, after=0.3)]
    path = tmp_path / "a.flac"
    soundfile.write(path, np.concatenate(parts), RATE)
    sound = measure_sound(path)
    times = sound.leading_silence, sound.longest_pause, sound.trailing_silence, sound.span
    assert times == pytest.approx((0.5, 0.8, 0.3, 2.8), abs=0.06)
    soundfile.write(tmp_path / "b.wav", np.concatenate(parts) / 10, RATE)
    assert measure_sound(tmp_path / "b.wav").level == pytest.approx(sound.level - 20, abs=0.5)
    soundfile.write(tmp_path / "c.wav", soundfile.read(path)[0], RATE)
    assert measure_sound(tmp_path / "c.wav").content == sound.content
