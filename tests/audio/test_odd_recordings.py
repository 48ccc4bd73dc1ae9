"""Odd but valid recordings are heard whole, word by word at the right time."""

from collections.abc import Callable
from difflib import SequenceMatcher
from functools import cache

import numpy as np
import pytest
from odd_recordings import RATE, RECIPES, WAVE, Odd, locate
from sounds import no_output  # noqa: F401

from asr.audio.waveform import inspect_audio, load_audio
from asr.decoder.hypothesis import Hypothesis, Word
from asr.recognizer import Recognizer

SECONDS = len(WAVE) / RATE
TOLERANCE = 0.05  # seconds
# One of each kind; all the others are as slow, and their waveforms are compared.
SPOKEN = [
    "wav 7,350 Hz",
    "wav of 5.1 with speech in the center",
    "wav with several odd chunks without pad bytes",
    "caf of unknown size",
    "flac behind two ID3 tags",
    "mp3 of free format",
    "opus of a radio, joined late",
    "mp4 with a picture track before a late voice",
    "webm with a pause",
    "ts with MP2 and pictures",
]


@cache
def recognizer() -> Recognizer:
    return Recognizer.default(threads=1)


@cache
def truth(plays: tuple[float, ...]) -> Hypothesis:
    """What is heard in a waveform with the sample at these times, as exact as samples can be."""
    waveform = np.zeros(round((plays[-1] + SECONDS) * RATE), np.float32)
    for play in plays:
        waveform[round(play * RATE) :][: len(WAVE)] = WAVE
    return recognizer().transcribe(waveform)


def test_there_are_more_than_sixty_recipes() -> None:
    assert len(RECIPES) > 140
    assert set(SPOKEN) <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_waveform_is_heard_whole_at_its_time(name: str) -> None:
    odd = RECIPES[name]()
    waveform = load_audio(odd.content)
    for play in odd.plays:
        begin, correlation = locate(waveform, odd.shift + play)
        assert abs(begin - odd.shift - play) < TOLERANCE
        assert correlation > (0.999 if odd.is_exact else 0.85)
    expected = odd.shift + odd.plays[-1] + SECONDS
    assert expected - TOLERANCE < len(waveform) / RATE < expected + 0.1
    assert inspect_audio(odd.content).seconds == pytest.approx(len(waveform) / RATE, abs=TOLERANCE)


@cache
def heard(rounded: bytes) -> Hypothesis:
    """The words of a waveform in 16 bits, in which most lossless recordings are the same."""
    return recognizer().transcribe(np.frombuffer(rounded, np.int16).astype(np.float32) / 32768)


def check_words(odd: Odd, found: Hypothesis) -> None:
    """Check the words and their times against those in the waveform itself."""
    expected = [
        Word(word.text, word.start + odd.shift, word.end + odd.shift, word.confidence)
        for word in truth(tuple(odd.plays)).words
    ]
    if odd.is_exact:
        assert found.text == " ".join(word.text for word in expected)
    texts = [word.text for word in found.words], [word.text for word in expected]
    pairs = [
        (found.words[block.a + place], expected[block.b + place])
        for block in SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
        for place in range(block.size)
    ]
    assert len(pairs) >= 0.8 * len(expected)
    for word, true in pairs:
        assert abs(word.start - true.start) <= TOLERANCE
        assert abs(word.end - true.end) <= TOLERANCE


@pytest.mark.parametrize("name", SPOKEN)
def test_words_are_heard_at_their_time(name: str) -> None:
    odd = RECIPES[name]()
    found = recognizer().transcribe(odd.content)
    assert found.gaps == ()
    check_words(odd, found)


@pytest.mark.slow
@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_all_words_of_all_recordings(make: Callable[[], Odd]) -> None:
    odd = make()
    waveform = load_audio(odd.content)
    check_words(
        odd, heard((32768 * waveform).round().clip(-32768, 32767).astype(np.int16).tobytes())
    )
