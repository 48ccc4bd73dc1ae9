"""Endpointing: examples by hand, and a comparison with a direct reading of the rules."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.endpoint import Cut, EndpointConfig, Endpointer
from asr.errors import ConfigError
from asr.text import BLANK, Vocabulary

VOCABULARY = Vocabulary.from_list([BLANK, " ", "a", "b"])
SPACELESS = Vocabulary.from_list([BLANK, "a", "b", "c"])
SECONDS = 0.1  # length of a frame
CONFIG = EndpointConfig(silence=0.3, margin=0.2, longest=1.0, confidence=0.8)


def emit(marks: str, posterior: float = 0.9) -> np.ndarray:
    """A frame of log-probs (T', V) for each mark: '-' blank, ' ' space, 'a' the third symbol."""
    others = (1 - posterior) / 3
    probabilities = np.full((len(marks), 4), others)
    for frame, mark in enumerate(marks):
        probabilities[frame, "- a".index(mark)] = posterior
    return np.log(probabilities).astype(np.float32)


def cut(
    marks: str,
    config: EndpointConfig = CONFIG,
    vocabulary: Vocabulary = VOCABULARY,
    posterior: float = 0.9,
) -> Cut:
    return Endpointer(config, vocabulary, SECONDS).cut(emit(marks, posterior))


@pytest.mark.parametrize(
    ("marks", "kept", "begin"),
    [
        ("", 0, None),
        ("a", 1, None),
        ("aa--", 4, None),
        ("aa---", 5, None),
        ("aa------", 5, None),  # after enough silence, before all of it has passed
        ("aa - ", 5, None),  # space and blank are both silent
        ("aa--a--a", 8, None),
        ("aa---a", 5, 5),  # a frame belongs to at most one segment
        ("aa----a", 5, 5),
        ("aa-----a", 5, 5),
        ("aa------a", 5, 6),  # two frames of silence before the sound
        ("aa------aa---aa", 5, 6),  # the rest is left to the next endpointer
        ("------", 3, None),  # silence alone ends a segment too
        ("------a", 3, 4),
    ],
)
def test_a_segment_ends_in_silence_and_the_next_begins_before_sound(
    marks: str, kept: int, begin: int | None
) -> None:
    found = cut(marks)
    assert found == (kept, kept >= 3 and set(marks[kept - 3 : kept]) <= set("- "), begin)


@pytest.mark.parametrize(
    ("spoken", "silence", "kept", "ends"),
    [
        (7, 3, 10, True),  # up to `longest`, 3 frames of silence are needed
        (8, 2, 10, False),
        (11, 2, 13, False),  # after 13 frames, 2.1 are needed
        (12, 2, 14, True),  # 1.8
        (15, 1, 16, False),  # 1.2
        (16, 1, 17, True),  # 0.9
        (19, 0, 19, False),
        (20, 0, 20, True),  # at twice `longest`, none is needed
    ],
)
def test_a_long_segment_needs_less_silence(
    spoken: int, silence: int, kept: int, ends: bool
) -> None:
    assert cut("a" * spoken + "-" * silence) == (kept, ends, None)


def test_a_segment_cut_in_speech_is_followed_by_the_next_at_once() -> None:
    assert cut("a" * 30) == (20, True, 20)


def test_probabilities_of_blank_and_space_are_added() -> None:
    log_probs = emit("a" + "-" * 4)
    log_probs[1:] = np.log([0.45, 0.4, 0.1, 0.05])
    assert Endpointer(CONFIG, VOCABULARY, SECONDS).cut(log_probs) == (4, True, None)
    assert Endpointer(CONFIG, SPACELESS, SECONDS).cut(log_probs) == (5, False, None)


def test_without_a_space_only_the_blank_is_silent() -> None:
    assert cut("a a a----", vocabulary=SPACELESS) == (8, True, None)
    assert cut("a" + " " * 9, vocabulary=SPACELESS) == (10, False, None)


def test_confidence_is_the_threshold_of_silence() -> None:
    sure = EndpointConfig(silence=0.3, confidence=0.99)
    assert not cut("aa----", sure, posterior=0.95).ends
    assert cut("aa----", sure, posterior=0.995).kept == 5
    unsure = EndpointConfig(silence=0.3, confidence=0.6)
    assert not cut("aa----", unsure, posterior=0.35).ends
    assert cut("aa----", unsure, posterior=0.7).kept == 5
    certain = np.full((5, 4), -np.inf, np.float32)
    certain[0, 2] = certain[1:, 0] = 0
    whole = EndpointConfig(silence=0.3, confidence=1)
    assert Endpointer(whole, VOCABULARY, SECONDS).cut(certain).kept == 4


def test_durations_are_in_seconds() -> None:
    log_probs = emit("a" + "-" * 50 + "a")
    for seconds, kept, begin in ((0.1, 4, 49), (0.03, 11, 44), (0.01, 31, 31)):
        assert Endpointer(CONFIG, VOCABULARY, seconds).cut(log_probs) == (kept, True, begin)


MARKS = st.text("--- aa", max_size=60)
CONFIGS = st.builds(
    EndpointConfig,
    silence=st.sampled_from([0.05, 0.25, 0.45]),
    margin=st.sampled_from([0.0, 0.1, 0.3]),
    longest=st.sampled_from([0.35, 1.15, 20.0]),
)


def cut_by_the_rules(marks: str, config: EndpointConfig) -> tuple[int | None, int | None]:
    """The end of the first segment and the start of the second, computed from the marks."""
    for end in range(1, len(marks) + 1):
        run = (end - len(marks[:end].rstrip("- "))) * SECONDS
        if run >= config.silence * (1 - max(0.0, end * SECONDS / config.longest - 1)):
            sound = marks.find("a", end)
            back = round(config.margin / SECONDS)
            return end, max(end, sound - back) if sound >= 0 else None
    return None, None


@given(marks=MARKS, config=CONFIGS, cuts=st.lists(st.integers(0, 60), max_size=8))
@settings(deadline=None, max_examples=400)
def test_any_chunks_follow_the_rules(marks: str, config: EndpointConfig, cuts: list[int]) -> None:
    end, begin = cut_by_the_rules(marks, config)
    endpointer = Endpointer(config, VOCABULARY, SECONDS)
    edges = [0, *sorted(min(edge, len(marks)) for edge in cuts), len(marks)]
    kept, found_begin = 0, None
    for first, stop in pairwise(edges):
        found = endpointer.cut(emit(marks[first:stop]))
        kept += found.kept
        assert found.ends == (end is not None and first < end <= stop)
        if found.begin is not None:
            found_begin = first + found.begin
            break
    assert kept == (len(marks) if end is None else end)
    assert found_begin == begin


@pytest.mark.parametrize("key", ["silence", "longest", "confidence"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_impossible_values_raise_an_error_that_names_them(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^endpoint\.{key} is {value}; it must be above 0"):
        EndpointConfig(**{key: value})


@pytest.mark.parametrize("values", [{"confidence": 1.1}, {"margin": -0.1}, {"margin": 1.1}])
def test_values_out_of_range_raise_an_error_that_names_them(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"endpoint\.{next(iter(values))}"):
        EndpointConfig(**values)
