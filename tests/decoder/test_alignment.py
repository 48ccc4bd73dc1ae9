"""Forced alignment, against a plain search over the same paths and against the greedy decoder."""

import math
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoder.alignment import align
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import Hypothesis
from asr.errors import DecodeError, TextError
from asr.text import BLANK, Vocabulary, min_ctc_frames

VOCABULARY = Vocabulary.from_list([BLANK, " ", "a", "b", "c"])
SPACELESS = Vocabulary.from_list([BLANK, "a", "b"])
SECONDS = 0.04


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def emit(path: str, posterior: float = 0.9) -> np.ndarray:
    """One frame per character, '-' for the blank; it has `posterior`, the rest share."""
    probabilities = np.full((len(path), len(VOCABULARY)), (1 - posterior) / 4)
    for frame, character in enumerate(path):
        probabilities[frame, 0 if character == "-" else VOCABULARY.encode(character)[0]] = posterior
    return np.log(probabilities).astype(np.float32)


def search_slowly(log_probs: np.ndarray, ids: list[int]) -> float:
    """The best path's log-probability: Viterbi over prefixes, frame by frame.

    A state is (symbols written, whether the last frame was blank).
    """
    states = {(0, True): 0.0}
    for frame in log_probs.astype(np.float64):
        following: dict[tuple[int, bool], float] = {}
        for (written, blank), score in states.items():
            moves = [((written, True), 0)]
            if not blank:
                moves.append(((written, False), ids[written - 1]))
            if written < len(ids) and (blank or ids[written] != ids[written - 1]):
                moves.append(((written + 1, False), ids[written]))
            for state, symbol in moves:
                reached = score + frame[symbol]
                following[state] = max(following.get(state, -math.inf), reached)
        states = following
    return max(states.get((len(ids), blank), -math.inf) for blank in (True, False))


def best_within(log_probs: np.ndarray, ids: list[int], hypothesis: Hypothesis) -> float:
    """The log-probability of the best path in which every word keeps its times."""
    kept = log_probs.copy()
    kept[:, 2:] = -math.inf
    for word in hypothesis.words:
        first, end = round(word.start / SECONDS), round(word.end / SECONDS)
        kept[first:end] = log_probs[first:end]
        kept[first:end, 1] = -math.inf
        for frame, character in ((first, word.text[0]), (end - 1, word.text[-1])):
            symbol = VOCABULARY.encode(character)[0]
            kept[frame] = -math.inf
            kept[frame, symbol] = log_probs[frame, symbol]
    return search_slowly(kept, ids)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """Random log-probs (T', 5), some symbols impossible, and a text that fits into T' frames."""
    words = draw(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
    text = " ".join(words)
    needed = min_ctc_frames(VOCABULARY.encode(text))
    frames = needed + draw(st.integers(0, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = generator.normal(size=(frames, 5)) * draw(st.sampled_from([0.1, 2, 8]))
    hidden = generator.random((frames, 5)) < draw(st.sampled_from([0, 0.05, 0.3]))
    hidden[hidden.all(axis=1)] = False
    logits[hidden] = -math.inf
    return log_softmax(logits), text


class TestAlign:
    @pytest.mark.slow
    @given(problems())
    @settings(deadline=None, max_examples=300)
    def test_finds_the_best_path(self, problem: tuple[np.ndarray, str]) -> None:
        log_probs, text = problem
        ids = VOCABULARY.encode(text)
        expected = search_slowly(log_probs, ids)
        if expected == -math.inf:
            with pytest.raises(DecodeError, match="probability 0"):
                align(log_probs, text, VOCABULARY, SECONDS)
            return
        hypothesis = align(log_probs, text, VOCABULARY, SECONDS)
        assert hypothesis.score == pytest.approx(expected, abs=1e-4)
        # The times belong to a best path too, and the words to the text.
        assert best_within(log_probs, ids, hypothesis) == pytest.approx(expected, abs=1e-4)
        assert hypothesis.text == text
        assert [word.text for word in hypothesis.words] == text.split()
        assert hypothesis.words[0].start >= 0
        assert hypothesis.words[-1].end <= len(log_probs) * SECONDS + 1e-9
        for word, following in pairwise(hypothesis.words):
            assert word.end < following.start

    @pytest.mark.slow
    @given(st.lists(st.text("abc-", min_size=1, max_size=8), min_size=1), st.integers(0, 2**32))
    @settings(deadline=None, max_examples=200)
    def test_the_greedy_text_has_the_greedy_times(self, parts: list[str], seed: int) -> None:
        """If the best symbols of all frames spell the text, they are the alignment."""
        path = " ".join(part for part in parts if part.strip("-"))
        if not path:
            return
        generator = np.random.default_rng(seed)
        path = "".join(symbol * generator.integers(1, 4) for symbol in path)
        posteriors = generator.uniform(0.7, 0.99, len(path))
        log_probs = np.concatenate(
            [emit(symbol, posterior) for symbol, posterior in zip(path, posteriors, strict=True)]
        )
        expected = GreedyDecoder(VOCABULARY, SECONDS).decode(log_probs)
        found = align(log_probs, expected.text, VOCABULARY, SECONDS)
        assert [(w.text, w.start, w.end) for w in found.words] == [
            (w.text, w.start, w.end) for w in expected.words
        ]
        assert [w.confidence for w in found.words] == pytest.approx(
            [w.confidence for w in expected.words]
        )
        assert found.confidence == pytest.approx(expected.confidence)
        assert found.score == pytest.approx(expected.score)

    def test_a_text_that_differs_from_the_greedy_one_by_hand(self) -> None:
        log_probs = emit("--a--b--")
        log_probs[5, [3, 4]] = np.log([0.3, 0.6])  # c wins, b was said
        log_probs[5, :3] = np.log(0.1 / 3)
        log_probs[4] = emit(" ")[0]
        hypothesis = align(log_probs, "a b", VOCABULARY, SECONDS)
        first, second = hypothesis.words
        assert (first.start, first.end) == (2 * SECONDS, 3 * SECONDS)
        assert (second.start, second.end) == (5 * SECONDS, 6 * SECONDS)
        assert (first.confidence, second.confidence) == pytest.approx((0.9, 0.3), abs=1e-6)
        assert hypothesis.confidence == pytest.approx((0.9 * 0.3) ** 0.5, abs=1e-6)
        assert hypothesis.score == pytest.approx(7 * math.log(0.9) + math.log(0.3), abs=1e-5)

    def test_the_posterior_of_a_symbol_is_its_highest(self) -> None:
        log_probs = np.concatenate([emit("aa", 0.5), emit("a", 0.8), emit("a", 0.6)])
        hypothesis = align(log_probs, "a", VOCABULARY, SECONDS)
        assert (hypothesis.words[0].start, hypothesis.words[0].end) == (0, 4 * SECONDS)
        assert hypothesis.words[0].confidence == pytest.approx(0.8, abs=1e-6)

    def test_a_repeated_symbol_has_a_blank_inside(self) -> None:
        log_probs = emit("aaaaa")
        log_probs[3] = np.log([0.05, 0.02, 0.9, 0.02, 0.01])
        hypothesis = align(log_probs, "aa", VOCABULARY, SECONDS)
        assert hypothesis.score == pytest.approx(4 * math.log(0.9) + math.log(0.05), abs=1e-5)

    def test_the_tightest_fit(self) -> None:
        hypothesis = align(np.log(np.full((7, 5), 0.2)), "aab bc", VOCABULARY, SECONDS)
        assert [(word.start, word.end) for word in hypothesis.words] == [
            (0, 4 * SECONDS),
            (5 * SECONDS, 7 * SECONDS),
        ]

    def test_white_space_counts_as_single_spaces(self) -> None:
        log_probs = emit("-a - b-")
        expected = align(log_probs, "a b", VOCABULARY, SECONDS)
        assert align(log_probs, " a\n  b\t", VOCABULARY, SECONDS) == expected

    def test_without_a_space_there_is_one_word(self) -> None:
        log_probs = np.log(np.full((4, 3), 1 / 3))
        (word,) = align(log_probs, "abab", SPACELESS, SECONDS).words
        assert (word.text, word.start, word.end) == ("abab", 0, 4 * SECONDS)
        with pytest.raises(TextError, match=r"contains ' ' \(U\+0020\)"):
            align(log_probs, "ab ab", SPACELESS, SECONDS)

    def test_long_audio_keeps_its_precision(self) -> None:
        """For sums of many millions, float32 is too coarse to compare two frames."""
        log_probs = np.full((20_000, 5), math.log(1 / 3), np.float32)
        generator = np.random.default_rng(0)
        log_probs[:, [0, 2]] = -2000 - generator.random((20_000, 2))
        hypothesis = align(log_probs, "a", VOCABULARY, SECONDS)
        assert hypothesis.score == pytest.approx(search_slowly(log_probs, [2]), abs=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_tensors_are_accepted(self, dtype: torch.dtype) -> None:
        tensor = torch.from_numpy(emit("-ab-")).to(dtype).requires_grad_()
        assert align(tensor, "ab", VOCABULARY, SECONDS).words[0].start == SECONDS


class TestBadInput:
    def test_too_few_frames_are_rejected_with_the_numbers(self) -> None:
        with pytest.raises(DecodeError) as error:
            align(emit("-----"), "aa bb", VOCABULARY, SECONDS, where="The transcript of x.wav")
        assert str(error.value).startswith(
            "The transcript of x.wav needs 7 frames (0.28 s) for its 5 characters and 2 repeats, "
            "but the recording gives only 5 (0.20 s); "
        )
        align(emit("-------"), "aa bb", VOCABULARY, SECONDS)

    def test_no_frame_is_rejected(self) -> None:
        with pytest.raises(DecodeError, match=r"gives only 0 \(0.00 s\)"):
            align(np.zeros((0, 5), np.float32), "a", VOCABULARY, SECONDS)

    @pytest.mark.parametrize("text", ["", "  ", "\n"])
    def test_empty_text_is_rejected(self, text: str) -> None:
        with pytest.raises(TextError, match="The text of x has empty text"):
            align(emit("--"), text, VOCABULARY, SECONDS, where="The text of x")

    def test_unknown_characters_are_named(self) -> None:
        with pytest.raises(TextError, match=r"the transcript contains 'x' \(U\+0078\), 'A'"):
            align(emit("-----"), "ax A", VOCABULARY, SECONDS)

    def test_invalid_log_probs_are_rejected(self) -> None:
        with pytest.raises(DecodeError, match=r"\(T', 5\) is expected"):
            align(emit("ab")[:, :4], "a", VOCABULARY, SECONDS)
        with pytest.raises(DecodeError, match="frame 0 of 2 sums to"):
            align(np.exp(emit("ab")), "a", VOCABULARY, SECONDS)

    @pytest.mark.parametrize(
        "error",
        [
            ModuleNotFoundError("No module named 'torchaudio'"),
            # As a torchaudio for CUDA beside a torch without it, and beside one for another CUDA.
            OSError("libc10_cuda.so: cannot open shared object file\nmore"),
            RuntimeError("compiled with different CUDA versions"),
        ],
    )
    def test_a_missing_torchaudio_is_reported_in_one_sentence(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Breaking(MetaPathFinder):
            def find_spec(self, name: str, path: Sequence[str] | None, target: object = None):
                if name == "torchaudio":
                    raise error

        monkeypatch.setattr(sys, "meta_path", [Breaking(), *sys.meta_path])
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(DecodeError) as caught:
            align(emit("-a-"), "a", VOCABULARY, SECONDS)
        message = str(caught.value)
        reason = str(error).partition("\n")[0]
        assert f"needs torchaudio, which cannot be imported here ({reason}); install" in message
        assert message.endswith(f"fits torch {torch.__version__}")
