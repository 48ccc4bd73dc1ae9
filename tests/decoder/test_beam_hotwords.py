"""Hotwords in the beam search."""

import math
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from beams import (
    ENGLISH,
    LARGER,
    SECONDS,
    SMALL,
    Bench,
    Setup,
    beam_config,
    close,
    emit,
    load_bench,
    model_of,
)
from ngrams import Entries

from asr.decoder.beam import BeamDecoder
from asr.decoder.hotwords import build_hotwords
from asr.errors import AsrError, ConfigError, TextError
from asr.text import Vocabulary


@pytest.fixture(scope="session")
def bench(shared: Path) -> Bench:
    return load_bench(shared)


class TestHotwords:
    def test_overlapping_hotwords_all_count(self) -> None:
        hotwords = {"a": 0.5, "a b": 1.0, "b": -0.25, "a b a": 2.0, "b a": 0.125, "a a": 4.0}
        setup = Setup(SMALL, hotwords=hotwords)
        bonus = setup.beyond_acoustics("a b a b a")
        assert bonus == 3 * 0.5 + 2 * 2 * 1.0 - 2 * 0.25 + 2 * 3 * 2.0 + 2 * 2 * 0.125
        log_probs = emit("a b a b a", SMALL, posterior=1.0)
        decoders = [replace(setup, hotwords=h).decoder(nbest=1) for h in ({}, hotwords)]
        plain, hot = [decoder.decode(log_probs) for decoder in decoders]
        assert plain.text == hot.text == "a b a b a"
        assert hot.score - plain.score == close(bonus)

    def test_hotwords_match_whole_words_only(self) -> None:
        setup = Setup(LARGER, beam_config(nbest=1), hotwords={"ab": 50.0})
        for path in ("cab", "abc", "abab", "a b", "ab", "c ab", "ab c"):
            expected = 50.0 if "ab" in path.split() else 0.0
            hypothesis = setup.decoder().decode(emit(path, LARGER, posterior=1.0))
            assert (hypothesis.text, hypothesis.score) == (path, close(expected))

    def test_hotwords_outside_the_model_score_as_its_unknown_word(self) -> None:
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-1.5, 0.0),
            ("a",): (-0.7, 0.0), ("b",): (-0.1, 0.0),
        }  # fmt: skip
        model = model_of(entries)
        config = beam_config(strict=True, alpha=1.0, beta=0.0, unknown=-9.0)
        hot = {"ab b": 0.0}
        log_probs = emit("ab b", SMALL, 0.9999999)
        found = BeamDecoder(SMALL, SECONDS, config, model, None, hot).decode(log_probs)
        assert found.text == "ab b"  # the model knows b, but not ab
        assert found.score == pytest.approx((-1.5 - 0.1 - 0.5) * math.log(10), abs=1e-4)
        found = BeamDecoder(SMALL, SECONDS, config, model, ["a"], hot).decode(log_probs)
        assert found.text == "ab b"  # the lexicon lacks both words
        assert found.score == pytest.approx((-1.5 - 1.5 - 0.5) * math.log(10), abs=1e-4)

    @pytest.mark.slow
    def test_hotwords_leave_other_words_intact(self, bench: Bench) -> None:
        """Hotwords are unknown and long words of the references, with small to large weights."""
        jiwer = pytest.importorskip("jiwer")
        few = range(0, 100, 2)
        log_probs = [bench.log_probs[index] for index in few]
        references = [bench.references[index] for index in few]
        known = set(bench.model.words)
        boosted = set()
        for reference in references:
            spoken = dict.fromkeys(reference.split())
            boosted.update([word for word in spoken if word not in known])
            boosted.update([word for word in spoken if len(word) > 8][:2])
        plain = BeamDecoder(ENGLISH, SECONDS, beam_config(), bench.model)
        before = [hypothesis.text for hypothesis in plain.decode_many(log_probs)]
        for weight in (1.0, 4.0, 10.0, 20.0):
            hot = dict.fromkeys(boosted, weight)
            decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(), bench.model, None, hot)
            after = [hypothesis.text for hypothesis in decoder.decode_many(log_probs)]
            elsewhere = 0
            for index, reference in enumerate(references):
                old, new = before[index].split(), after[index].split()
                kept = matches(old, new)
                right = matches(reference.split(), new)
                for j in range(1, len(new)):
                    if new[j - 1] in boosted and j - 1 in right and j not in kept | right:
                        assert new[j] in known | boosted, new[j - 1 : j + 1]
                matcher = SequenceMatcher(None, old, new, autojunk=False)
                for tag, begin, end, new_begin, new_end in matcher.get_opcodes():
                    changed = {*old[begin:end], *new[new_begin:new_end]}
                    elsewhere += tag != "equal" and not changed & boosted
            if weight < 5:  # larger weights leave less of the beam for other prefixes
                assert elsewhere <= 3, f"weight {weight} changes other words"
                assert jiwer.wer(references, after) < jiwer.wer(references, before)


def matches(reference: list[str], words: list[str]) -> set[int]:
    """Indices of `words` that an alignment matches with the reference."""
    matcher = SequenceMatcher(None, reference, words, autojunk=False)
    return {block.b + k for block in matcher.get_matching_blocks() for k in range(block.size)}


class TestInvalidHotwords:
    @pytest.mark.parametrize(
        ("hotwords", "error", "message"),
        [
            ({"a": 1.0, "a?": 1.0}, TextError, r"hotword 'a\?' contains '\?'"),
            ({"A": 1.0}, TextError, "hotword 'A' contains 'A'"),
            ({"a\tb": 1.0}, TextError, "hotword"),
            ({"": 1.0}, TextError, "hotword '' has empty text"),
            ({" ": 1.0}, AsrError, "hotword ' '"),
            ({"a": math.nan}, ConfigError, "hotword 'a' is nan"),
            ({"a": math.inf}, ConfigError, "hotword 'a' is inf"),
            ({"a": -math.inf}, ConfigError, "hotword 'a' is -inf"),
        ],
    )
    def test_invalid_hotwords_are_rejected(
        self, hotwords: dict[str, float], error: type[AsrError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            BeamDecoder(LARGER, SECONDS, hotwords=hotwords)

    @pytest.mark.parametrize("weight", [1.0, math.nan])
    def test_long_hotwords_are_cut_in_the_message(self, weight: float) -> None:
        with pytest.raises(AsrError, match=r"hotword 'aaa.*\.\.\.'") as caught:
            BeamDecoder(LARGER, SECONDS, hotwords={"a" * 50_000 + "?": weight})
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("phrase", [" a", "a ", "a  b", "  a b "])
    def test_spaces_around_hotwords_are_rejected_or_ignored(self, phrase: str) -> None:
        log_probs = emit("a b", LARGER, posterior=1.0)
        plain = BeamDecoder(LARGER, SECONDS, hotwords={" ".join(phrase.split()): 1.0})
        try:
            spaced = BeamDecoder(LARGER, SECONDS, hotwords={phrase: 1.0})
        except AsrError:
            return
        assert spaced.decode(log_probs) == plain.decode(log_probs)

    @pytest.mark.parametrize(
        "weight", [30.0, 100.0, -100.0, 400.0, -400.0, 1e3, -1e3, 1e300, -1e300]
    )
    def test_huge_weights_are_rejected_or_applied(self, weight: float) -> None:
        try:
            decoder = BeamDecoder(LARGER, SECONDS, hotwords={"a b": weight})
        except ConfigError:
            assert abs(weight) > 100
            return
        for path, count in (("a b a b", 2), ("b b b", 0), ("a a a", 0), ("a ba", 0), ("a b c", 1)):
            hypothesis = decoder.decode(emit(path, LARGER, posterior=1.0))
            assert hypothesis.text == path
            assert hypothesis.score == close(2 * weight * count)


@pytest.mark.parametrize("weight", [9.0, -9.0])
def test_nested_hotwords_stay_within_the_numbers(weight: float) -> None:
    """Phrases that end together are paid together: a, a a, a a a and so on."""
    nested = {" ".join("a" * count): weight for count in range(1, 30)}
    with pytest.raises(ConfigError, match=r"contain each other earn .* nats together"):
        build_hotwords(nested, Vocabulary.english())
