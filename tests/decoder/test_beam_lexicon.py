"""Lexicon, language model and strictness in the beam search."""

import itertools
import math
import random

import numpy as np
import pytest
from beams import (
    LARGER,
    PLAIN,
    QUIET,
    SECONDS,
    SMALL,
    SPACELESS,
    WORDS,
    Setup,
    all_of,
    beam_config,
    close,
    emit,
    lingering,
    log_ctc,
    model_of,
    random_entries,
    setups,
    vocabulary_of,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ngrams import Entries

from asr.decoder.beam import BeamDecoder
from asr.errors import AsrError, ConfigError
from asr.text import BLANK, Vocabulary


class TestStrict:
    @given(st.data(), st.integers(1, 6))
    @settings(QUIET, max_examples=100)
    def test_a_strict_decoder_finds_words_of_the_lexicon_only(
        self, data: st.DataObject, beam: int
    ) -> None:
        setup = data.draw(setups(beam=beam, beam_range=6.0, recombine=True))
        assume(setup.model or setup.lexicon)
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        log_probs = lingering(30, len(setup.vocabulary), generator, peak=3.0)
        for found in all_of(setup.decoder(strict=True).decode(log_probs)):
            assert set(found.text.split()) <= set(setup.known_words())
            assert found.text == " ".join(word.text for word in found.words)
            assert not math.isnan(found.score)

    def test_a_strict_decoder_does_not_fill_the_beam_with_other_words(self) -> None:
        log_probs = np.log(np.full((2, 5), 0.04, np.float32))
        log_probs[:, 4] = np.log(0.5)
        log_probs[[0, 1], [2, 3]] = np.log(0.38)
        config = beam_config(beam=1, strict=True, unknown=0.0)
        decoder = BeamDecoder(LARGER, SECONDS, config, lexicon=["ab"])
        assert decoder.decode(log_probs).text == "ab"

    def test_frames_outside_the_lexicon_cost_their_blanks(self) -> None:
        log_probs = emit("ab-", LARGER, posterior=1.0).repeat([1, 1, 4], axis=0)
        log_probs[2:, 4], log_probs[2:, 0] = 0.0, -500.0  # c, which the lexicon lacks
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(strict=True, beta=0.0), lexicon=["ab"])
        hypothesis = decoder.decode(log_probs)
        assert (hypothesis.text, hypothesis.score) == ("ab", close(4 * -500.0))

    def test_an_open_word_that_cannot_end_is_dropped(self) -> None:
        decoder = BeamDecoder(
            LARGER, SECONDS, beam_config(strict=True), lexicon=["abc", "cab"], hotwords={"ca": 0.0}
        )
        for path, text in (("abc ab", "abc"), ("ab", ""), ("cab c", "cab"), ("ca abc a", "ca abc")):
            hypothesis = decoder.decode(emit(path, LARGER, posterior=1.0))
            assert hypothesis.text == text
            assert text.split() == [word.text for word in hypothesis.words]
            assert hypothesis.score > -math.inf

    def test_strict_needs_a_lexicon_or_model(self) -> None:
        with pytest.raises(ConfigError, match="a strict decoder needs"):
            BeamDecoder(LARGER, SECONDS, beam_config(strict=True), hotwords={"a": 1.0})


class TestLanguageModel:
    def test_a_narrow_beam_finds_a_word_that_is_likely_in_context(self) -> None:
        """The look-ahead charges the open word as a rare one."""
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-3.0, 0.0),
            ("a",): (-0.3, 0.0), ("b",): (-4.0, 0.0), ("a", "b"): (-0.01, 0.0),
        }  # fmt: skip
        log_probs = emit("a b-a", SMALL, 0.99)
        log_probs[3] = np.log([0.6, 0.38, 0.01, 0.01])  # a space is less likely than none
        config = beam_config(beam=2, alpha=1.0, beta=0.0)
        decoder = BeamDecoder(SMALL, SECONDS, config, model_of(entries))
        assert decoder.decode(log_probs).text == "a b a"

    def test_no_frames_with_a_model_score_the_end_of_the_sentence(self) -> None:
        entries: Entries = {
            ("<s>",): (-99.0, -0.25), ("</s>",): (-0.5, 0.0), ("a",): (-0.7, 0.0),
            ("a", "a"): (-0.3, 0.0),
        }  # fmt: skip
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(alpha=0.5), model_of(entries))
        hypothesis = decoder.decode(np.zeros((0, 5), np.float32))
        assert (hypothesis.text, hypothesis.words) == ("", ())
        assert hypothesis.score == close(0.5 * -0.75 * math.log(10))

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_model_without_words_that_can_be_spelled(self, strict: bool) -> None:
        """Every word is unknown then."""
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-1.0, 0.0),
            ("да",): (-0.7, 0.0), ("нет",): (-0.7, 0.0),
        }  # fmt: skip
        model = model_of(entries)
        setup = Setup(LARGER, beam_config(strict=strict, nbest=9), entries, model)
        log_probs = emit("ab ca", LARGER, 0.9)
        try:
            decoder = setup.decoder()
        except AsrError:
            return
        hypothesis = decoder.decode(log_probs)
        if strict:
            assert hypothesis.text == ""
        else:
            assert hypothesis.text == "ab ca"
            exact = log_ctc(log_probs, "ab ca", LARGER) + setup.beyond_acoustics("ab ca")
            assert hypothesis.score == pytest.approx(exact, abs=0.5)

    @pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>"])
    def test_reserved_words_of_a_model_are_never_found(self, word: str) -> None:
        vocabulary = vocabulary_of(" </sunk>a")
        entries: Entries = {
            ("<s>",): (-0.5, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-0.5, 0.0),
            ("a",): (-0.7, 0.0),
        }  # fmt: skip
        config = beam_config(strict=True)
        decoder = BeamDecoder(vocabulary, SECONDS, config, model_of(entries))
        assert decoder.decode(emit(f"a {word}", vocabulary, posterior=1.0)).text == "a"

    @pytest.mark.parametrize("alpha", [0.5, 3.2, 100.0])
    @pytest.mark.parametrize("low", [-80.0, -720.0, -1e4, -math.inf])
    @pytest.mark.parametrize("unknown", [False, True])
    def test_impossible_words_have_finite_or_minus_infinite_scores(
        self, unknown: bool, low: float, alpha: float
    ) -> None:
        entries: Entries = {("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("b",): (-0.7, 0.0)}
        if unknown:
            entries |= {("<unk>",): (-1.0, 0.0), ("ab",): (-7.0, 0.0)}
        model = model_of(entries)
        log_probs = np.full((3000, 5), low, np.float32)
        log_probs[:, 4] = 0.0
        log_probs[1500:1510] = emit(" b b --b- ", LARGER, 0.9)
        for strict in (True, False):
            for lexicon in (None, ["ab"], ["c"], []):
                for hotwords in (None, {"c": 2.0}, {"ac ca": -3.0}):
                    config = beam_config(alpha=alpha, strict=strict, nbest=5, beam=8)
                    decoder = BeamDecoder(LARGER, SECONDS, config, model, lexicon, hotwords)
                    for found in all_of(decoder.decode(log_probs)):
                        assert found.score < math.inf  # and not NaN
                        for word in found.words:
                            assert 0 <= word.confidence <= 1


class TestLexicon:
    def test_words_of_a_lexicon_that_cannot_be_spelled_are_ignored(self) -> None:
        config = beam_config(strict=True)
        decoder = BeamDecoder(LARGER, SECONDS, config, lexicon=["", "?", "a b", "ab", "ca", "ab"])
        assert decoder.decode(emit("ab ca ab", LARGER)).text == "ab ca ab"
        assert decoder.decode(emit("ab c ab", LARGER, 0.9)).text in ("ab ca ab", "ab ab")

    def test_words_need_a_space_in_the_vocabulary(self) -> None:
        entries: Entries = {("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("a",): (-0.7, 0.0)}
        for arguments in ((model_of(entries),), (None, ["a"]), (None, [])):
            with pytest.raises(ConfigError, match="with a space"):
                BeamDecoder(SPACELESS, SECONDS, None, *arguments)
        with pytest.raises(ConfigError, match="with a space"):
            BeamDecoder(SPACELESS, SECONDS, hotwords={"a": 1.0})


FILLERS = [chr(code) for code in range(0x4E00, 0x4E00 + 5000)]


def embedded(symbols: int, seed: int) -> tuple[Vocabulary, list[int]]:
    """A vocabulary with the symbols of LARGER at random indices, one at the end; and the indices."""
    generator = np.random.default_rng(seed)
    places = [0, symbols - 1, *(1 + generator.permutation(symbols - 2)[:3]).tolist()]
    generator.shuffle(places[1:])
    characters: list[str] = [BLANK, *FILLERS[: symbols - 1]]
    for place, character in zip(places[1:], generator.permutation(list(" abc")), strict=True):
        characters[place] = str(character)
    return Vocabulary.from_list(characters), [
        characters.index(character) for character in LARGER.symbols
    ]


class TestVocabularySizes:
    @pytest.mark.parametrize("symbols", [5, 32, 63, 64, 65, 66, 5000])
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_results_are_independent_of_the_vocabulary_size(self, symbols: int, seed: int) -> None:
        generator = random.Random(seed)
        entries = random_entries(generator, generator.sample(WORDS, 5), 3)
        model = model_of(entries)
        # Words of other symbols are never said; their nodes are siblings of those in use.
        fillers = FILLERS[: symbols - 5]
        others = [f"{before}{filler}" for before in ("", "a", "ab", "c") for filler in fillers]
        # Without recombination, whose result depends on the order of symbols.
        config = beam_config(nbest=5, beam=16, recombine=False, **PLAIN)
        hotwords = {"ab": 1.0, "ca b": 2.0, "cc": 1.0}
        log_probs = np.concatenate(
            [lingering(60, 5, np.random.default_rng(seed), peak) for peak in (1.0, 2.0, 4.0)]
        )
        vocabulary, places = embedded(symbols, seed)
        wide = np.full((len(log_probs), symbols), -60.0, np.float32)
        wide[:, places] = log_probs
        for guide in (
            (None, None, None), (model, None, hotwords), (model, WORDS, None), (None, WORDS, hotwords),
        ):  # fmt: skip
            lm, words, hot = guide
            expected = BeamDecoder(LARGER, SECONDS, config, lm, words, hot).decode(log_probs)
            words = [*words, *others] if words else None
            found = BeamDecoder(vocabulary, SECONDS, config, lm, words, hot).decode(wide)
            assert len(expected.alternatives) == 4
            for one, two in zip(all_of(found), all_of(expected), strict=True):
                assert one.text == two.text
                assert one.score == close(two.score)
                assert [word[1:3] for word in one.words] == [word[1:3] for word in two.words]
                assert [w.confidence for w in one.words] == close([w.confidence for w in two.words])

    @pytest.mark.parametrize("symbols", [63, 64, 65])
    def test_every_symbol_of_a_lexicon_is_found(self, symbols: int) -> None:
        vocabulary = vocabulary_of(" " + "".join(FILLERS[: symbols - 2]))
        words = [symbol for symbol in vocabulary.symbols[2:] if ord(symbol) % 3]
        words += ["".join(pair) for pair in itertools.pairwise(vocabulary.symbols[2:])]
        decoder = BeamDecoder(vocabulary, SECONDS, beam_config(strict=True), lexicon=words)
        for word in words:
            log_probs = emit(word, vocabulary, 0.99)
            assert decoder.decode(log_probs).text == word
        for symbol in vocabulary.symbols[2:]:
            found = decoder.decode(emit(symbol, vocabulary, 1.0))
            assert found.text == (symbol if symbol in words else "")
