"""Times and confidence of the words that the beam search finds."""

import math

import numpy as np
import pytest
from beams import (
    LARGER,
    PLAIN,
    QUIET,
    SECONDS,
    all_of,
    beam_config,
    emit,
    lingering,
    make_full_decoder,
    scores_of_all,
    setups,
    tiny_log_probs,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asr.decoder.beam import BeamDecoder
from asr.decoder.greedy import GreedyDecoder


@pytest.fixture(scope="session")
def full() -> BeamDecoder:
    return make_full_decoder()


class TestTimes:
    @given(st.text(" abc-", max_size=40), st.sampled_from([1, 8, 32]))
    @settings(QUIET, max_examples=200)
    def test_times_of_certain_frames_equal_greedy_decoding(self, path: str, beam: int) -> None:
        log_probs = emit(path, LARGER, 0.999)
        expected = GreedyDecoder(LARGER, SECONDS).decode(log_probs)
        found = BeamDecoder(LARGER, SECONDS, beam_config(beam=beam)).decode(log_probs)
        assert found.text == expected.text
        for one, other in zip(found.words, expected.words, strict=True):
            assert (one.text, one.start, one.end) == (other.text, other.start, other.end)

    def test_times_by_hand(self) -> None:
        log_probs = emit("--aab-b--  cc-", LARGER, 0.99)
        words = BeamDecoder(LARGER, 0.5).decode(log_probs).words
        assert [(word.text, word.start, word.end) for word in words] == [
            ("abb", 1.0, 3.5), ("c", 5.5, 6.5),
        ]  # fmt: skip

    @pytest.mark.parametrize("word", ["a", "ab", "aba"])
    def test_a_word_starts_where_most_of_its_probability_arrives(self, word: str) -> None:
        faint = np.log(np.full((len(word), 5), 0.01, np.float32))
        faint[np.arange(len(word)), LARGER.encode(word)] = np.log(0.1)
        faint[:, 0] = np.log(0.87)
        clear = emit("--" + "-".join(word) + "--", LARGER, 0.95)
        log_probs = np.concatenate([faint, clear])
        decoder = BeamDecoder(LARGER, 1.0, beam_config(token_floor=-10.0))
        start = float(len(word) + 2)
        assert [found[:3] for found in decoder.decode(log_probs).words] == [
            (word, start, start + 2 * len(word) - 1)
        ]

    @given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from([0.3, 1.5, 4.0]))
    @settings(QUIET, max_examples=150)
    def test_words_are_in_order_with_valid_times_and_confidence(
        self, full: BeamDecoder, seed: int, frames: int, peak: float
    ) -> None:
        log_probs = lingering(frames, 5, np.random.default_rng(seed), peak)
        for found in all_of(full.decode(log_probs)):
            assert found.text == " ".join(word.text for word in found.words)
            end = 0.0
            for word in found.words:
                assert end - 1e-9 <= word.start < word.end <= frames * SECONDS + 1e-9
                assert word.end - word.start >= SECONDS * len(word.text) - 1e-9
                assert 0 <= word.confidence <= 1
                end = word.end
            mean = np.mean(np.log([word.confidence for word in found.words] or [1.0]))
            assert found.confidence == pytest.approx(math.exp(mean))


class TestConfidence:
    @given(st.data())
    @settings(QUIET, max_examples=60)
    def test_the_posterior_of_the_last_word_is_its_share_of_all_texts(
        self, data: st.DataObject
    ) -> None:
        """A text agrees with the word if it is one of its last two."""
        setup = data.draw(setups(**PLAIN))
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        exact = scores_of_all(setup, log_probs)
        assume(exact)
        total = np.logaddexp.reduce(list(exact.values()))
        for found in all_of(setup.decoder().decode(log_probs))[:5]:
            if not found.words or found.score == -math.inf:
                continue
            last = found.words[-1]
            agree = [score for text, score in exact.items() if last.text in text.split()[-2:]]
            share = math.exp(np.logaddexp.reduce(agree) - total)
            assert last.confidence == pytest.approx(share, abs=2e-5)

    @pytest.mark.parametrize("text", ["b a ab", "a b ab", "ab a b", "ab a b a ba"])
    def test_only_an_ambiguous_word_has_low_confidence(self, text: str) -> None:
        log_probs = emit(text + "-", LARGER, 0.9999)
        frame = f" {text} ".index(" b ")
        log_probs[frame] = np.log([1e-5, 1e-5, 1e-5, 0.7, 0.29997])
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(**PLAIN))
        words = decoder.decode(log_probs).words
        assert [word.text for word in words] == text.split()
        for word in words:
            assert word.confidence == pytest.approx(0.7 if word.text == "b" else 1.0, abs=0.01)

    def test_confidence_is_calibrated_by_slope_and_offset(self) -> None:
        log_probs = lingering(40, 5, np.random.default_rng(8), 2.0)
        plain = BeamDecoder(LARGER, SECONDS, beam_config(**PLAIN)).decode(log_probs)
        numbers = {"confidence_slope": 0.4, "confidence_offset": -0.7}
        other = BeamDecoder(LARGER, SECONDS, beam_config(**numbers)).decode(log_probs)
        assert len(plain.words) > 3
        for one, two in zip(plain.words, other.words, strict=True):
            log_odds = math.log(one.confidence / (1 - one.confidence))
            expected = 1 / (1 + math.exp(-(0.4 * log_odds - 0.7)))
            assert two.confidence == pytest.approx(expected)

    @pytest.mark.parametrize("slope", [0.0, 1.0, 1000.0])
    @pytest.mark.parametrize("offset", [-1000.0, 0.0, 1000.0])
    def test_confidence_stays_a_number_between_0_and_1(self, slope: float, offset: float) -> None:
        config = beam_config(confidence_slope=slope, confidence_offset=offset)
        log_probs = lingering(40, 5, np.random.default_rng(8), 2.0)
        hypothesis = BeamDecoder(LARGER, SECONDS, config).decode(log_probs)
        assert len(hypothesis.words) > 3
        for confidence in [hypothesis.confidence, *[w.confidence for w in hypothesis.words]]:
            assert 0 <= confidence <= 1
