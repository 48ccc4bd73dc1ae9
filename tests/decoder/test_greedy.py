"""Greedy decoding, against a brute-force reading of its definition."""

import json
import math
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import Hypothesis, Word, join_hypotheses
from asr.errors import ConfigError, DecodeError
from asr.text import BLANK, Vocabulary

VOCABULARY = Vocabulary.from_list([BLANK, " ", "a", "b", "c"])
SPACELESS = Vocabulary.from_list([BLANK, "a", "b", "c", "d"])
SECONDS = 0.04


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def emit(text: str, vocabulary: Vocabulary = VOCABULARY, posterior: float = 0.9) -> np.ndarray:
    """One frame per character, '-' for the blank; it has `posterior`, the rest share."""
    others = (1 - posterior) / (len(vocabulary) - 1)
    probabilities = np.full((len(text), len(vocabulary)), others)
    for frame, character in enumerate(text):
        symbol = 0 if character == "-" else vocabulary.encode(character)[0]
        probabilities[frame, symbol] = posterior
    return np.log(probabilities).astype(np.float32)


def decode_slowly(vocabulary: Vocabulary, seconds: float, log_probs: np.ndarray) -> dict[str, Any]:
    """The definition, frame by frame in plain Python."""
    path = [max(range(len(frame)), key=lambda v: (frame[v], -v)) for frame in log_probs]
    best = [float(frame[symbol]) for frame, symbol in zip(log_probs, path, strict=True)]
    symbols = []  # (character, first frame, last frame, best log-probability)
    for symbol, group in groupby(range(len(path)), key=lambda t: path[t]):
        frames = list(group)
        if symbol:
            highest = max(best[t] for t in frames)
            symbols.append((vocabulary.symbols[symbol], frames[0], frames[-1], highest))
    words = []
    for is_space, group in groupby(symbols, key=lambda s: s[0] == " "):
        letters = list(group)
        if not is_space:
            words.append(letters)
    everything = [letter[3] for word in words for letter in word] or best or [0.0]
    return {
        "words": [
            (
                "".join(letter[0] for letter in word),
                word[0][1] * seconds,
                (word[-1][2] + 1) * seconds,
                math.exp(sum(letter[3] for letter in word) / len(word)),
            )
            for word in words
        ],
        "confidence": math.exp(sum(everything) / len(everything)),
        "score": sum(best),
    }


@st.composite
def emissions(draw: st.DrawFn) -> np.ndarray:
    """Random (T', 5) log-probs whose best path repeats symbols, as that of a real model does."""
    frames = draw(st.integers(0, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    path = generator.integers(0, 5, size=frames)
    for frame in range(1, frames):
        if generator.random() < 0.5:
            path[frame] = path[frame - 1]
    logits = generator.normal(size=(frames, 5))
    logits[np.arange(frames), path] += draw(st.sampled_from([0, 2, 8]))
    return log_softmax(logits)


class TestGreedy:
    def test_words_times_and_confidence_by_hand(self) -> None:
        log_probs = emit("-aa-a  b-c--")
        log_probs[1] = emit("a", posterior=0.6)[0]  # the best frame of the run counts
        hypothesis = GreedyDecoder(VOCABULARY, SECONDS).decode(log_probs)
        assert hypothesis.text == "aa bc"
        first, second = hypothesis.words
        assert (first.text, first.start, first.end) == ("aa", 1 * SECONDS, 5 * SECONDS)
        assert (second.text, second.start, second.end) == ("bc", 7 * SECONDS, 10 * SECONDS)
        assert first.confidence == pytest.approx(0.9, abs=1e-6)
        assert hypothesis.confidence == pytest.approx(0.9, abs=1e-6)
        assert hypothesis.score == pytest.approx(11 * math.log(0.9) + math.log(0.6), abs=1e-5)

    def test_an_uncertain_letter_lowers_only_its_word(self) -> None:
        log_probs = emit("ab cc")
        log_probs[1] = emit("b", posterior=0.4)[0]
        hypothesis = GreedyDecoder(VOCABULARY, SECONDS).decode(log_probs)
        assert [word.confidence for word in hypothesis.words] == pytest.approx([0.6, 0.9], abs=1e-6)
        assert hypothesis.confidence == pytest.approx((0.9 * 0.4 * 0.9) ** (1 / 3), abs=1e-6)

    @pytest.mark.parametrize("path", ["", "---", "   ", "- - "])
    def test_no_letters_give_empty_text(self, path: str) -> None:
        hypothesis = GreedyDecoder(VOCABULARY, SECONDS).decode(emit(path))
        assert (hypothesis.text, hypothesis.words) == ("", ())
        assert hypothesis.confidence == pytest.approx(0.9 if path else 1.0)

    def test_spaces_around_and_between_words_are_single(self) -> None:
        assert GreedyDecoder(VOCABULARY, SECONDS).decode(emit("  - a - b ")).text == "a b"

    def test_without_a_space_all_is_one_word(self) -> None:
        hypothesis = GreedyDecoder(SPACELESS, 0.5).decode(emit("-ab--d", SPACELESS))
        assert [(w.text, w.start, w.end) for w in hypothesis.words] == [("abd", 0.5, 3.0)]

    @pytest.mark.slow
    @given(emissions(), st.sampled_from([VOCABULARY, SPACELESS]))
    @settings(deadline=None, max_examples=300)
    def test_equals_the_definition(self, log_probs: np.ndarray, vocabulary: Vocabulary) -> None:
        hypothesis = GreedyDecoder(vocabulary, SECONDS).decode(log_probs)
        expected = decode_slowly(vocabulary, SECONDS, log_probs)
        assert hypothesis.text == " ".join(word[0] for word in expected["words"])
        assert [(w.text, w.start, w.end) for w in hypothesis.words] == [
            word[:3] for word in expected["words"]
        ]
        assert [w.confidence for w in hypothesis.words] == pytest.approx(
            [word[3] for word in expected["words"]]
        )
        assert hypothesis.confidence == pytest.approx(expected["confidence"])
        assert hypothesis.score == pytest.approx(expected["score"])

    @pytest.mark.slow
    @given(emissions(), st.lists(st.integers(0, 40)), st.sampled_from([VOCABULARY, SPACELESS]))
    @settings(deadline=None, max_examples=300)
    def test_results_are_independent_of_chunking(
        self, log_probs: np.ndarray, cuts: list[int], vocabulary: Vocabulary
    ) -> None:
        decoder = GreedyDecoder(vocabulary, SECONDS)
        state = decoder.start()
        for chunk in np.split(log_probs, sorted(min(cut, len(log_probs)) for cut in cuts)):
            decoder.advance(state, chunk)
            decoder.best(state)  # best must not change the state
        assert decoder.best(state) == decoder.decode(log_probs)

    def test_long_audio_in_single_frames_equals_the_whole_exactly(self) -> None:
        # Sharp frames (-1e-9) beside flat ones (-1): their sum in float64 rounds, so order shows.
        log_probs = log_softmax(np.random.default_rng(3).normal(size=(5000, 5)) * 10)
        decoder = GreedyDecoder(VOCABULARY, SECONDS)
        state = decoder.start()
        for frame in log_probs:
            decoder.advance(state, frame[None])
        assert decoder.best(state) == decoder.decode(log_probs)

    def test_best_equals_decoding_the_frames_so_far(self) -> None:
        decoder = GreedyDecoder(VOCABULARY, SECONDS)
        log_probs = emit("aa-b c-aab")
        state = decoder.start()
        for frame in range(len(log_probs)):
            decoder.advance(state, log_probs[frame : frame + 1])
            assert decoder.best(state) == decoder.decode(log_probs[: frame + 1])

    def test_streams_of_one_decoder_are_independent(self) -> None:
        decoder = GreedyDecoder(VOCABULARY, SECONDS)
        one, two = decoder.start(), decoder.start()
        for first, second in zip("aa b", "c-cc", strict=True):
            decoder.advance(one, emit(first))
            decoder.advance(two, emit(second))
        assert (decoder.best(one).text, decoder.best(two).text) == ("a b", "cc")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_tensors_are_accepted(self, dtype: torch.dtype) -> None:
        tensor = torch.from_numpy(emit("ab c")).to(dtype).requires_grad_()
        assert GreedyDecoder(VOCABULARY, SECONDS).decode(tensor).text == "ab c"

    def test_real_emissions_give_the_known_error_rate(self, shared: Path) -> None:
        jiwer = pytest.importorskip("jiwer")
        with np.load(shared / "decoder_bench/emissions.npz", allow_pickle=False) as arrays:
            bench = dict(arrays)
        ends = np.cumsum(bench["lens"])
        decoder = GreedyDecoder(Vocabulary.english(), SECONDS)
        texts = [
            decoder.decode(bench["logp"][end - length : end]).text
            for end, length in zip(ends, bench["lens"], strict=True)
        ]
        assert 0.16 < jiwer.wer(list(map(str, bench["refs"])), texts) < 0.18


class TestBadInput:
    decoder = GreedyDecoder(VOCABULARY, SECONDS)

    @pytest.mark.parametrize("shape", [(3, 4), (3, 6), (5,), (1, 3, 5), (0,), ()])
    def test_wrong_shapes_are_rejected_with_the_expected_one(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DecodeError, match=r"\(T', 5\) is expected"):
            self.decoder.decode(np.zeros(shape, np.float32))

    def test_nan_is_rejected_with_its_frame(self) -> None:
        log_probs = emit("abc")
        log_probs[1, 4] = math.nan
        with pytest.raises(DecodeError, match="frame 1 of 3 contains NaN"):
            self.decoder.decode(log_probs)

    @pytest.mark.parametrize(
        "wrong",
        [
            np.exp(emit("abc")),
            emit("abc") + 0.02,
            emit("abc") - 0.02,
            -emit("abc"),
            emit("abc") * 1000 + 2000,
            np.full((3, 5), -np.inf),
            np.full((3, 5), np.inf),
            np.full((3, 5), 1e300),
            emit("abc") / math.log(10),
        ],
        ids=[
            "probabilities",
            "above",
            "below",
            "negated",
            "logits",
            "-inf",
            "inf",
            "huge",
            "log10",
        ],
    )
    def test_unnormalized_frames_are_rejected(self, wrong: np.ndarray) -> None:
        with pytest.raises(DecodeError, match=r"frame 0 of 3 sums to .* as log_softmax"):
            self.decoder.decode(wrong)

    def test_rejected_frames_leave_the_state_unchanged(self) -> None:
        state = self.decoder.start()
        self.decoder.advance(state, emit("ab"))
        before = self.decoder.best(state)
        with pytest.raises(DecodeError):
            self.decoder.advance(state, np.concatenate([emit("c"), np.zeros((1, 5), np.float32)]))
        assert self.decoder.best(state) == before

    def test_impossible_and_certain_symbols_are_valid(self) -> None:
        log_probs = np.full((2, 5), -np.inf, np.float32)
        log_probs[:, 2] = 1e-6  # rounding of a log-softmax
        hypothesis = self.decoder.decode(log_probs)
        assert (hypothesis.text, hypothesis.confidence) == ("a", 1.0)

    @pytest.mark.parametrize("seconds", [0, -0.04, math.nan, math.inf])
    def test_frame_seconds_must_be_positive(self, seconds: float) -> None:
        with pytest.raises(DecodeError, match="a frame must last"):
            GreedyDecoder(VOCABULARY, seconds)

    def test_unknown_decoder_kind_is_rejected(self) -> None:
        assert DecoderConfig().kind == "greedy"
        with pytest.raises(ConfigError, match="'bean'"):
            DecoderConfig(kind="bean")


def test_to_dict_is_json_with_rounded_times() -> None:
    word = Word("hi", start=0.12345, end=1.99999, confidence=0.987654)
    hypothesis = Hypothesis("hi", (word,), confidence=0.5, score=-3.14159265)
    assert json.loads(json.dumps(hypothesis.to_dict())) == {
        "text": "hi",
        "confidence": 0.5,
        "score": -3.1416,
        "words": [{"text": "hi", "start": 0.123, "end": 2.0, "confidence": 0.9877}],
    }
    json.dumps(GreedyDecoder(VOCABULARY, SECONDS).decode(emit("ab c")).to_dict(), allow_nan=False)


def segment(
    text: str, score: float, confidence: float = 0.5, others: dict[str, float] | None = None
) -> Hypothesis:
    """A hypothesis with words of one second each, and with `others` as alternatives."""
    words = [Word(word, i, i + 1.0, confidence) for i, word in enumerate(text.split())]
    alternatives = [segment(other, value) for other, value in (others or {}).items()]
    return Hypothesis(text, tuple(words), confidence, score, tuple(alternatives))


SEGMENTS = st.lists(
    st.builds(
        segment,
        st.sampled_from(["", "a", "b c", "d e f"]),
        st.floats(-50, 0),
        st.floats(0.01, 1),
        st.dictionaries(st.sampled_from(["", "x", "y z"]), st.floats(-90, -50)),
    ),
    min_size=2,
    max_size=6,
)


class TestJoin:
    def test_a_single_part_is_itself(self) -> None:
        part = segment("a b", -3.0, 0.4, {"a": -4.0})
        assert join_hypotheses([part]) is part

    def test_no_parts_give_an_empty_hypothesis(self) -> None:
        assert join_hypotheses([]) == Hypothesis("", (), 1.0, 0.0)

    def test_empty_segments_contribute_only_their_score(self) -> None:
        part = segment("a b", -3.0, 0.4)
        joined = join_hypotheses([segment("", -1.0, 0.9), part, segment("", -2.0, 0.1)])
        assert (joined.text, joined.words, joined.score) == ("a b", part.words, -6.0)
        assert joined.confidence == pytest.approx(0.4)
        assert join_hypotheses([segment("", -1.0, 0.3)] * 2) == Hypothesis("", (), 1.0, -2.0)

    def test_confidence_weighs_segments_by_their_words(self) -> None:
        joined = join_hypotheses([segment("a b c", -1.0, 0.8), segment("d", -1.0, 0.2)])
        assert joined.confidence == pytest.approx((0.8**3 * 0.2) ** (1 / 4))
        assert join_hypotheses([segment("a", -1.0, 0.0), segment("b", -1.0, 0.0)]).confidence == (
            pytest.approx(0, abs=1e-9)
        )

    def test_alternatives_by_hand(self) -> None:
        first = segment("a", -1.0, others={"b": -4.0, "c": -9.0})
        second = segment("d", -2.0, others={"e": -3.0, "": -4.0, "f": -20.0})
        joined = join_hypotheses([first, second])
        assert joined.text == "a d"
        found = [(other.text, other.score) for other in joined.alternatives]
        assert found == [("a e", -4.0), ("a", -5.0), ("b d", -6.0)]
        assert all(other.alternatives == () for other in joined.alternatives)

    @given(SEGMENTS)
    @settings(deadline=None)
    def test_random_parts_are_joined_as_defined(self, parts: list[Hypothesis]) -> None:
        joined = join_hypotheses(parts)
        assert joined.text.split() == [word.text for part in parts for word in part.words]
        assert joined.words == tuple(word for part in parts for word in part.words)
        assert joined.score == pytest.approx(sum(part.score for part in parts))
        assert min(part.confidence for part in parts) <= joined.confidence + 1e-9
        assert joined.confidence <= max(1.0, *(part.confidence for part in parts))
        swaps = []
        for i, part in enumerate(parts):
            for other in part.alternatives:
                texts = [p.text for p in parts]
                texts[i] = other.text
                swaps.append((part.score - other.score, " ".join(filter(None, texts))))
        room = max(len(part.alternatives) for part in parts)
        expected = sorted(swaps, key=lambda swap: swap[0])[:room]
        assert [other.text for other in joined.alternatives] == [text for _, text in expected]
        assert [joined.score - other.score for other in joined.alternatives] == pytest.approx(
            [loss for loss, _ in expected]
        )


def test_shifted_moves_only_the_times_of_words_and_alternatives() -> None:
    hypothesis = segment("a b", -1.0, 0.7, {"c": -2.0})
    moved = hypothesis.shifted(2.5)
    assert [word[1:3] for word in moved.words] == [(2.5, 3.5), (3.5, 4.5)]
    assert [word[1:3] for word in moved.alternatives[0].words] == [(2.5, 3.5)]
    assert moved.shifted(-2.5) == hypothesis
    bare = replace(moved, words=(), alternatives=())
    assert bare == replace(hypothesis, words=(), alternatives=())
    assert hypothesis.shifted(0.0) == hypothesis
