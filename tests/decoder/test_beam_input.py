"""Inputs and settings of the beam search, valid and invalid."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from beams import (
    LARGER,
    SECONDS,
    Setup,
    beam_config,
    close,
    emit,
    lingering,
    log_ctc,
    make_full_decoder,
    model_of,
    random_entries,
)
from ngrams import Entries

import asr.decoder.beam
import asr.decoder.search
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError, ConfigError, DecodeError


@pytest.fixture(scope="session")
def full() -> BeamDecoder:
    return make_full_decoder()


class TestArrays:
    log_probs = lingering(30, 5, np.random.default_rng(3), 3.0)

    def test_arrays_of_any_kind_are_accepted(self, full: BeamDecoder) -> None:
        expected = full.decode(self.log_probs)
        backwards = self.log_probs[::-1, ::-1].copy()[::-1, ::-1]
        fixed = self.log_probs.copy()
        fixed.flags.writeable = False
        wide = np.zeros((30, 10), np.float32)
        wide[:, ::2] = self.log_probs
        for same in (
            np.asfortranarray(self.log_probs), backwards, fixed, wide[:, ::2],
            self.log_probs.astype(np.float64), self.log_probs.astype(">f4"),
            self.log_probs.tolist(), torch.from_numpy(self.log_probs),
            torch.from_numpy(self.log_probs.copy()).requires_grad_(),
        ):  # fmt: skip
            assert full.decode(same) == expected

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_equals_its_float32_values(
        self, full: BeamDecoder, dtype: torch.dtype
    ) -> None:
        log_probs = torch.log_softmax(torch.from_numpy(self.log_probs).to(dtype), dim=1)
        assert full.decode(log_probs) == full.decode(log_probs.float())
        if dtype == torch.float16:
            assert full.decode(log_probs.numpy()) == full.decode(log_probs.float())

    def test_inputs_are_not_changed(self, full: BeamDecoder) -> None:
        log_probs = self.log_probs.copy()
        full.decode(log_probs)
        assert np.array_equal(log_probs, self.log_probs)

    @pytest.mark.parametrize("hotwords", [None, {"a": 1.0}])
    def test_no_frames_give_an_empty_hypothesis(self, hotwords: dict[str, float] | None) -> None:
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(nbest=3), hotwords=hotwords)
        hypothesis = decoder.decode(np.zeros((0, 5), np.float32))
        assert hypothesis == Hypothesis("", (), 1.0, 0.0)

    def test_kernels_are_compiled_for_one_signature(self, full: BeamDecoder) -> None:
        """Compiling takes longer than decoding, so all inputs must share one signature."""
        whole_numbers = beam_config(
            alpha=1, beta=0, unknown=-4, token_floor=-5, beam_range=12, strict=False
        )
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-1.5, 0.0),
            ("a",): (-0.7, 0.0),
        }  # fmt: skip
        fixed = self.log_probs.copy()
        fixed.flags.writeable = False
        unaligned = np.zeros(30 * 5 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(30, 5)
        unaligned[:] = self.log_probs
        for quantize in (False, True):
            model = model_of(entries, quantize)
            for config in (beam_config(), whole_numbers):
                for arguments in ((), (model,), (model, ["a"], {"a": 1}), (None, ["a"])):
                    decoder = BeamDecoder(LARGER, SECONDS, config, *arguments)
                    for same in (self.log_probs, fixed, unaligned, self.log_probs.astype(">f4")):
                        decoder.decode(same)
        kernels: list[Any] = [
            asr.decoder.search.read_frames,
            asr.decoder.search.finish,
            asr.decoder.search.trace_words,
        ]
        assert [len(kernel.signatures) for kernel in kernels] == [1, 1, 1]


class TestSettings:
    @pytest.mark.parametrize("name", "beam nbest alpha beta unknown".split())
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1001, 100_001])
    def test_impossible_numbers_are_rejected_by_name(self, name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=rf"decoder\.{name} is {value}; it must be "):
            beam_config(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("beam", 0), ("beam", -1), ("nbest", 0), ("alpha", -0.1), ("token_floor", 0.1),
            ("token_floor", math.nan), ("token_floor", math.inf), ("beam_range", -0.1),
            ("beam_range", math.nan), ("confidence_slope", -0.1), ("confidence_slope", math.nan),
            ("confidence_slope", math.inf), ("confidence_offset", math.nan),
            ("confidence_offset", math.inf), ("prior", -0.1), ("prior", math.nan),
        ],
    )  # fmt: skip
    def test_numbers_out_of_range_are_rejected_by_name(self, name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=rf"decoder\.{name} is "):
            beam_config(**{name: value})

    @pytest.mark.parametrize(
        ("numbers", "sentence"),
        [
            ({"prior": 0.3}, "decoder.prior is 0.3, but decoder.priors is empty"),
            (
                {"priors": [0.5, 0.0]},
                "decoder.priors must contain a probability above 0 and up to 1",
            ),
            (
                {"priors": [0.5, 1.1]},
                "decoder.priors must contain a probability above 0 and up to 1",
            ),
            (
                {"priors": [0.5, math.nan]},
                "decoder.priors must contain a probability above 0 and up to 1",
            ),
            (
                {"priors": [0.5, "0.5"]},
                "decoder.priors must contain a probability above 0 and up to 1",
            ),
            (
                {"priors": [True, 0.5]},
                "decoder.priors must contain a probability above 0 and up to 1",
            ),
        ],
    )
    def test_invalid_priors_are_rejected(self, numbers: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            beam_config(**numbers)

    def test_priors_of_another_vocabulary_are_rejected(self) -> None:
        config = beam_config(prior=0.3, priors=[0.5, 0.5])
        with pytest.raises(ConfigError, match="contains 2 values for a vocabulary of 5 symbols"):
            BeamDecoder(LARGER, SECONDS, config, None, ["a"])

    @pytest.mark.parametrize(
        "numbers",
        [
            {"token_floor": 0.0}, {"beam_range": 0.0}, {"beam": 1}, {"alpha": 0.0}, {"alpha": 100.0},
            {"beta": -100.0}, {"beta": 100.0}, {"unknown": -1000.0}, {"unknown": 100.0},
            {"beam": 1, "nbest": 100_000}, {"token_floor": -math.inf, "beam_range": math.inf},
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("order", [0, 1, 2])
    def test_extreme_valid_settings_work(self, numbers: dict[str, Any], order: int) -> None:
        model = None
        if order:
            entries = random_entries(random.Random(order), ["a", "ab", "cc"], order)
            model = model_of(entries)
        lexicon = ["a", "b"] if order == 2 else None
        for hotwords in (None, {"bb": 5.0, "c a": -5.0}):
            decoder = BeamDecoder(LARGER, SECONDS, beam_config(**numbers), model, lexicon, hotwords)
            for peak in (0.5, 4.0):
                log_probs = lingering(50, 5, np.random.default_rng(4), peak)
                hypothesis = decoder.decode(log_probs)
                assert -math.inf < hypothesis.score < math.inf
                if order == 1:
                    continue
                exact = log_ctc(log_probs, hypothesis.text, LARGER)
                setup = Setup(LARGER, decoder.config, hotwords=hotwords or {})
                if model is not None:
                    setup = replace(setup, entries=entries, model=model, lexicon=lexicon)
                exact += setup.beyond_acoustics(hypothesis.text)
                assert hypothesis.score <= exact + 1e-4 + 1e-6 * abs(exact)

    def test_a_greedy_configuration_is_rejected(self) -> None:
        with pytest.raises(ConfigError, match="'greedy'"):
            BeamDecoder(LARGER, SECONDS, DecoderConfig())

    @pytest.mark.parametrize("seconds", [0, -0.04, math.nan, math.inf])
    def test_frame_seconds_must_be_positive(self, seconds: float) -> None:
        with pytest.raises(ConfigError, match="a frame must last"):
            BeamDecoder(LARGER, seconds)

    def test_configured_equals_a_new_decoder(self) -> None:
        entries = random_entries(random.Random(5), ["a", "ab", "ba", "b", "ca"], 3)
        entries[("<unk>",)] = (-1.0, 0.0)
        model = model_of(entries)
        log_probs = lingering(60, 5, np.random.default_rng(6), 2.0)
        hotwords = {"ab": 1.0}
        first = BeamDecoder(LARGER, SECONDS, beam_config(), model, None, hotwords)
        before = first.decode(log_probs)
        for numbers in (
            {"alpha": 2.0}, {"beta": -1.0}, {"unknown": 12.0}, {"beam": 3, "nbest": 3},
            {"strict": True, "beta": 0.5}, {"prior": 1.0, "priors": [0.5, 0.2, 0.15, 0.1, 0.05]},
        ):  # fmt: skip
            config = beam_config(**numbers)
            other = first.configured(config)
            fresh = BeamDecoder(LARGER, SECONDS, config, model, None, hotwords)
            assert other.decode(log_probs) == fresh.decode(log_probs)
            assert other.decode(log_probs) != before
            assert first.decode(log_probs) == before
        with pytest.raises(ConfigError, match="'greedy'"):
            first.configured(DecoderConfig())


class TestBadInput:
    decoder = BeamDecoder(LARGER, SECONDS)

    @pytest.mark.parametrize("shape", [(3, 4), (3, 6), (5,), (1, 3, 5), (0,), ()])
    def test_wrong_shapes_are_rejected_with_the_expected_one(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DecodeError, match=r"\(T', 5\) is expected"):
            self.decoder.decode(np.zeros(shape, np.float32))

    def test_unnormalized_frames_are_rejected_and_leave_the_state_unchanged(self) -> None:
        log_probs = emit("ab ca", LARGER)
        holed = log_probs.copy()
        holed[3, 2] = math.nan
        state = self.decoder.start()
        self.decoder.advance(state, log_probs)
        before = self.decoder.best(state)
        for wrong in (
            holed, np.exp(log_probs), log_probs * 1000 + 2000, -log_probs, log_probs + 0.02,
            np.full((3, 5), -np.inf), np.full((3, 5), np.inf), np.full((3, 5), 1e300),
        ):  # fmt: skip
            with pytest.raises(DecodeError, match="as log_softmax"):
                self.decoder.advance(state, wrong)
        assert self.decoder.best(state) == before
        assert state.frames == len(log_probs)

    def test_the_number_of_threads_must_be_positive(self) -> None:
        for threads in (0, -1):
            with pytest.raises(AsrError):
                self.decoder.decode_many([emit("a", LARGER)], threads=threads)


class TestExtremes:
    @pytest.mark.parametrize("beam", [1, 3, 32])
    @pytest.mark.parametrize("beam_range", [0.0, 12.0, 800.0, math.inf])
    def test_certain_frames_spell_their_text(self, beam: int, beam_range: float) -> None:
        path = "ab-b  c--a" * 30
        log_probs = emit(path, LARGER, posterior=1.0)
        greedy = GreedyDecoder(LARGER, SECONDS).decode(log_probs)
        for floor in (-math.inf, -5.0):
            config = beam_config(beam=beam, beam_range=beam_range, token_floor=floor)
            for hotwords in (None, {"cab": 3.0, "ab": 0.0}):
                hypothesis = BeamDecoder(LARGER, SECONDS, config, hotwords=hotwords).decode(
                    log_probs
                )
                assert hypothesis.text == greedy.text
                assert [w[:3] for w in hypothesis.words] == [w[:3] for w in greedy.words]
                assert hypothesis.score == close(0.0)

    @pytest.mark.parametrize("beam_range", [12.0, math.inf])
    def test_flushed_denormals_change_nothing(self, beam_range: float) -> None:
        """Training flushes them, also while it decodes the dev set or compiles the search."""
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(beam=3, beam_range=beam_range))
        log_probs = emit("ab-b  c--a" * 30, LARGER, posterior=1.0)
        before = decoder.decode(log_probs)
        assert before.text
        torch.set_flush_denormal(True)
        try:
            flushed = decoder.decode(log_probs)
        finally:
            torch.set_flush_denormal(False)
        assert flushed == before
