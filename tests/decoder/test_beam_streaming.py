"""The beam search on streams: chunks, memory, and the stable part of the text."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from beams import (
    ENGLISH,
    LARGER,
    QUIET,
    SECONDS,
    Bench,
    beam_config,
    emit,
    lingering,
    load_bench,
    make_full_decoder,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import asr.decoder.beam
import asr.decoder.search
from asr.decoder.beam import BeamDecoder


def split(log_probs: np.ndarray, cuts: list[int]) -> Iterator[np.ndarray]:
    """Cut the frames into chunks, some of them empty."""
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(log_probs)]):
        yield log_probs[begin:end]


@pytest.fixture(scope="session")
def full() -> BeamDecoder:
    return make_full_decoder()


@pytest.fixture(scope="session")
def bench(shared: Path) -> Bench:
    return load_bench(shared)


class TestStreaming:
    @given(
        st.integers(0, 2**32),
        st.integers(0, 60),
        st.lists(st.integers(0, 60), max_size=20),
        st.sampled_from([0.5, 2.0, 6.0]),
    )
    @settings(QUIET, max_examples=150)
    def test_results_are_independent_of_chunking(
        self, full: BeamDecoder, seed: int, frames: int, cuts: list[int], peak: float
    ) -> None:
        log_probs = lingering(frames, 5, np.random.default_rng(seed), peak)
        whole = full.decode(log_probs)
        state, read = full.start(), 0
        for chunk in split(log_probs, [min(cut, frames) for cut in cuts]):
            full.advance(state, chunk)
            full.best(state)  # best must not change the state
            read += len(chunk)
            assert state.frames == read
        assert full.best(state) == whole
        state = full.start()
        for frame in log_probs:
            full.advance(state, frame[None])
            state.make_room()  # compacting must not change the result
        assert full.best(state) == whole

    def test_best_equals_decoding_the_frames_so_far(self, full: BeamDecoder) -> None:
        log_probs = lingering(40, 5, np.random.default_rng(1), 3.0)
        state = full.start()
        for end in range(1, 41):
            full.advance(state, log_probs[end - 1 : end])
            assert full.best(state) == full.decode(log_probs[:end])

    def test_silence_in_chunks_equals_silence_at_once(self, full: BeamDecoder) -> None:
        log_probs = emit("---ab---  ---ca----b ------a---", LARGER, 0.999)
        whole = full.decode(log_probs)
        assert whole.text.startswith("ab ")
        state = full.start()
        for frame in log_probs:
            full.advance(state, frame[None])
        assert full.best(state) == whole

    def test_streams_of_one_decoder_are_independent(self, full: BeamDecoder) -> None:
        streams = [lingering(50, 5, np.random.default_rng(seed), 3.0) for seed in range(4)]
        states = [full.start() for _ in streams]
        for begin in range(0, 50, 7):
            for state, log_probs in zip(states, streams, strict=True):
                full.advance(state, log_probs[begin : begin + 7])
        assert [full.best(state) for state in states] == [full.decode(one) for one in streams]

    def test_results_are_independent_of_the_history_size(
        self, full: BeamDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log_probs = lingering(3000, 5, np.random.default_rng(2), 3.0)
        whole = full.decode(log_probs)
        monkeypatch.setattr(asr.decoder.beam, "FIRST_HISTORY", 0)
        state = full.start()
        room = len(state.beam.history)
        full.advance(state, log_probs)
        assert len(state.beam.history) > room
        assert full.best(state) == whole
        assert len(whole.text) > 1000

    def test_memory_grows_with_the_text_and_not_with_time(self, bench: Bench) -> None:
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=8), bench.model)
        state = decoder.start()
        pause = np.tile(emit("-", ENGLISH, 0.9), (500, 1))
        for index in range(220):  # more than an hour
            decoder.advance(state, bench.log_probs[index % 4])
            decoder.advance(state, pause)
        hypothesis = decoder.best(state)
        assert state.frames > 200_000
        assert len(hypothesis.text) > 50_000
        assert len(state.beam.history) < 4 * len(hypothesis.text)
        assert len(state.beam.prefixes) < 100
        assert hypothesis.text.startswith(decoder.decode(bench.log_probs[0]).text[:200])
        starts = [word.start for word in hypothesis.words]
        assert starts == sorted(starts)

    def test_memory_does_not_grow_during_silence(self) -> None:
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(beam=6))
        state = decoder.start()
        size = len(state.beam.history)
        unsure = np.tile(emit("-", LARGER, 0.95), (50_000, 1))
        unsure[::7] = emit(" ", LARGER, 0.95)
        decoder.advance(state, unsure)
        assert state.frames == 50_000
        assert len(state.beam.history) == size
        assert len(decoder.best(state).text) < 5


class TestPartial:
    @pytest.mark.slow
    @given(
        st.integers(0, 2**32), st.sampled_from([1.0, 3.0, 6.0]), st.integers(1, 9), st.booleans()
    )
    @settings(QUIET, max_examples=80)
    def test_stable_words_never_change(
        self, full: BeamDecoder, seed: int, peak: float, size: int, forget: bool
    ) -> None:
        log_probs = lingering(80, 5, np.random.default_rng(seed), peak)
        whole = full.decode(log_probs)
        state = full.start()
        before: list[str] = []
        for begin in range(0, 80, size):
            full.advance(state, log_probs[begin : begin + size])
            stable, rest = full.partial(state)
            if forget:
                state.make_room()
            words = stable.split()
            assert words[: len(before)] == before
            assert " ".join([*words, *rest.split()]) == full.best(state).text
            assert words == whole.text.split()[: len(words)]
            assert full.partial(state) == (stable, rest)
            before = words
        assert full.best(state) == whole

    def test_stable_words_follow_a_long_stream_closely(self, bench: Bench) -> None:
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=8), bench.model)
        state = decoder.start()
        lags = []
        for begin in range(0, len(bench.log_probs[0]), 10):
            decoder.advance(state, bench.log_probs[0][begin : begin + 10])
            stable, rest = decoder.partial(state)
            lags.append(len(rest.split()))
        assert decoder.best(state).text == decoder.decode(bench.log_probs[0]).text
        assert np.mean(lags) < 10
        assert len(stable.split()) > 50
