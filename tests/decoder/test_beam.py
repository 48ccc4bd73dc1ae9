"""Beam decoding: the sum over all CTC paths, a rescoring of its own texts, and real posteriors."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ngrams import Entries, arpa_text, log10_slowly

import asr.decoder.beam
import asr.decoder.search
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError, ConfigError, DecodeError, TextError
from asr.lm.model import LanguageModel
from asr.text import BLANK, Vocabulary

SECONDS = 0.04
# The first examples may have to compile what they call.
QUIET = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
PLAIN = {"confidence_slope": 1.0, "confidence_offset": 0.0}  # confidences are posteriors
# No text is left out. Of four symbols there are 900 beginnings of texts in 5 frames.
EXHAUSTIVE: dict[str, Any] = {
    "beam": 1000,
    "nbest": 1000,
    "token_floor": -math.inf,
    "beam_range": math.inf,
    "recombine": False,
}


def vocabulary_of(characters: str) -> Vocabulary:
    return Vocabulary.from_list([BLANK, *characters])


SMALL = vocabulary_of(" ab")
LARGER = vocabulary_of(" abc")
SPACELESS = vocabulary_of("abc")
ENGLISH = Vocabulary.english()


def beam_config(**numbers: Any) -> DecoderConfig:
    return DecoderConfig("beam", **numbers)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    total: np.ndarray = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return (logits - total).astype(np.float32)


def emit(path: str, vocabulary: Vocabulary, posterior: float = 0.99) -> np.ndarray:
    """One frame a character, '-' for the blank; the winner has `posterior`, the rest share."""
    others = (1 - posterior) / (len(vocabulary) - 1)
    probabilities = np.full((len(path), len(vocabulary)), others)
    for frame, character in enumerate(path):
        symbol = 0 if character == "-" else vocabulary.encode(character)[0]
        probabilities[frame, symbol] = posterior
    with np.errstate(divide="ignore"):
        return np.log(probabilities).astype(np.float32)


def lingering(frames: int, symbols: int, generator: np.random.Generator, peak: float) -> np.ndarray:
    """Random (T', V) log-probs whose best path lingers, as that of a real model does."""
    path = generator.integers(0, symbols, size=frames)
    for frame in range(1, frames):
        if generator.random() < 0.5:
            path[frame] = path[frame - 1]
    logits = generator.normal(size=(frames, symbols))
    logits[np.arange(frames), path] += peak
    return log_softmax(logits)


# The definition of what is looked for


@dataclass
class Setup:
    """What a decoder is made of, with the score of a text as the documentation defines it."""

    vocabulary: Vocabulary
    config: DecoderConfig = field(default_factory=lambda: beam_config(**EXHAUSTIVE))
    entries: Entries | None = None
    model: LanguageModel | None = None
    lexicon: list[str] | None = None
    hotwords: dict[str, float] = field(default_factory=dict)

    def decoder(self, **numbers: Any) -> BeamDecoder:
        config = replace(self.config, **numbers)
        return BeamDecoder(
            self.vocabulary, SECONDS, config, self.model, self.lexicon, self.hotwords or None
        )

    def spelling(self, word: str) -> str | None:
        letters = set(self.vocabulary.symbols[1:]) - {" "}
        return next((w for w in (word, word.lower(), word.upper()) if set(w) <= letters), None)

    def known_words(self) -> dict[str, str]:
        """The language model's word for every word that may be spelled for free."""
        listed = self.lexicon
        if listed is None:
            model_words = self.model.words if self.model else ()
            listed = [w for w in model_words if w not in ("<unk>", "<s>", "</s>")]
        model_has = {gram[0] for gram in self.entries or () if len(gram) == 1}
        known: dict[str, str] = {}
        for as_it_is in (True, False):
            for word in listed:
                spelling = self.spelling(word)
                if spelling is not None and (spelling == word) == as_it_is:
                    cases = [w for w in (word, word.lower(), word.upper()) if w in model_has]
                    known.setdefault(spelling, [*cases, "<unk>"][0])
        for phrase in self.hotwords:
            for word in phrase.split():
                known.setdefault(word, "<unk>")
        return known

    def without_priors(self, log_probs: np.ndarray) -> np.ndarray:
        """Log-probs (T', V) divided by the priors to their power, silence as likely as before."""
        if self.model is None and self.lexicon is None:
            return log_probs
        priors = np.array(self.config.priors or [1.0] * len(self.vocabulary))
        return log_probs - self.config.prior * np.log(priors / priors[0])

    def beyond_acoustics(self, text: str) -> float:
        """All of a text's score but log p_ctc."""
        words = text.split()
        score = 0.0
        for phrase, weight in self.hotwords.items():
            wanted = phrase.split()
            starts = range(len(words) - len(wanted) + 1)
            found = sum(words[i : i + len(wanted)] == wanted for i in starts)
            score += found * weight * len(wanted)
        if self.model is None and self.lexicon is None:
            return score
        known = self.known_words()
        unknown = sum(word not in known for word in words)
        if self.config.strict and unknown:
            return -math.inf
        score += self.config.beta * len(words) + self.config.unknown * unknown
        if self.entries is not None:
            sentence = [known.get(word, "<unk>") for word in words] + ["</s>"]
            history: tuple[str, ...] = ("<s>",)
            for word in sentence:
                log10 = log10_slowly(self.entries, history, word)
                score += self.config.alpha * log10 * math.log(10)
                history = (*history, word)
        return score


@lru_cache
def outputs(characters: tuple[str, ...], frames: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts; all paths (V^T', T'); and which text each of them writes."""
    paths = list(itertools.product(range(len(characters)), repeat=frames))
    texts: dict[str, int] = {}
    writes = []
    for path in paths:
        folded = [symbol for symbol, _ in itertools.groupby(path) if symbol]
        text = " ".join("".join(characters[symbol] for symbol in folded).split())
        writes.append(texts.setdefault(text, len(texts)))
    return list(texts), np.array(paths, int).reshape(len(paths), frames), np.array(writes)


def log_ctc_of_all(log_probs: np.ndarray, vocabulary: Vocabulary) -> dict[str, float]:
    """log p_ctc of every text, as the sum over all paths."""
    frames = len(log_probs)
    texts, paths, writes = outputs(vocabulary.symbols, frames)
    totals = np.full(len(texts), -np.inf)
    of_paths = log_probs.astype(np.float64)[np.arange(frames), paths].sum(axis=1)
    np.logaddexp.at(totals, writes, of_paths)
    return dict(zip(texts, totals.tolist(), strict=True))


def scores_of_all(setup: Setup, log_probs: np.ndarray) -> dict[str, float]:
    """The exact score of every text that has one."""
    log_probs = setup.without_priors(log_probs)
    tried = np.where(log_probs > setup.config.token_floor, log_probs, -np.inf)
    tried[:, 0] = log_probs[:, 0]
    totals = log_ctc_of_all(tried, setup.vocabulary)
    scores = {
        text: total + setup.beyond_acoustics(text)
        for text, total in totals.items()
        if total > -math.inf
    }
    return {text: score for text, score in scores.items() if score > -math.inf}


def log_ctc(log_probs: np.ndarray, text: str, vocabulary: Vocabulary) -> float:
    """log p_ctc of one text by the forward algorithm; spaces at its ends and extra ones are free.

    Column i of the two rows is the first i symbols of the text, which is taken to follow a space.
    """
    space = vocabulary.space
    symbols = np.array([space or 0, *(vocabulary.encode(text) if text else [])])
    if space is not None and text:
        symbols = np.append(symbols, space)
    in_blank, in_symbol = np.full((2, len(symbols)), -np.inf)
    in_blank[0] = 0.0
    repeats = symbols[1:] == symbols[:-1]
    for frame in log_probs.astype(np.float64):
        total = np.logaddexp(in_blank, in_symbol)
        stays = np.where(symbols == space, total, in_symbol)
        arrives = np.append(-np.inf, np.where(repeats, in_blank[:-1], total[:-1]))
        in_symbol = np.logaddexp(stays, arrives) + frame[symbols]
        if space is None:
            in_symbol[0] = -np.inf
        in_blank = total + frame[0]
    ends = slice(-2, None) if space is not None and text else slice(-1, None)
    return float(np.logaddexp.reduce(np.concatenate([in_blank[ends], in_symbol[ends]])))


def random_entries(generator: random.Random, words: list[str], order: int) -> Entries:
    """N-grams with gaps; the unknown word is among them or not."""
    listed = ["<s>", "</s>", *words]
    if generator.random() < 0.6:
        listed.append("<unk>")
    entries: Entries = {}
    for k in range(1, order + 1):
        for gram in itertools.product(listed, repeat=k):
            if "</s>" in gram[:-1] or "<s>" in gram[1:] or (k > 1 and generator.random() < 0.6):
                continue
            backoff = generator.choice([0.0, round(generator.uniform(-1, 0.2), 3)])
            log_prob = round(generator.uniform(-2.5, -0.3), 4)
            entries[gram] = (log_prob, backoff)
    order = max(map(len, entries))
    return {gram: (log, back * (len(gram) < order)) for gram, (log, back) in entries.items()}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def model_of(entries: Entries, folder: Path, quantize: bool = False) -> LanguageModel:
    order = max(map(len, entries))
    path = folder / "model.arpa"
    path.write_text(arpa_text(dict(entries), order, random.Random(0)), encoding="utf-8")
    model = LanguageModel.read(path)
    if quantize:  # so few numbers keep their values
        binary = folder / "model.lm"
        model.write(binary, quantize=True)
        model = LanguageModel.read(binary)
    return model


WORDS = ["a", "b", "ab", "ba", "aa", "bb", "aab", "c", "ca"]
PHRASES = ["a", "b", "ab", "bb", "a b", "b a", "a a", "ab a", "a b a", "a a a", "b b"]
ANY_WEIGHT = st.sampled_from([-6.0, -1.5, 0.0, 0.7, 3.0, 9.0])


@st.composite
def setups(draw: st.DrawFn, /, folder: Path, **numbers: Any) -> Setup:
    """Every mode, exhaustive unless `numbers` say otherwise."""
    kind = draw(st.sampled_from("neither model lexicon both spaceless".split()))
    if kind == "spaceless":
        return Setup(SPACELESS, beam_config(**{**EXHAUSTIVE, **numbers}))
    vocabulary = draw(st.sampled_from([SMALL, LARGER]))
    generator = random.Random(draw(st.integers(0, 2**32)))
    entries, model, lexicon = None, None, None
    if kind in ("model", "both"):
        words = generator.sample(WORDS, generator.randint(1, 6))
        words = [word.upper() if generator.random() < 0.2 else word for word in words]
        entries = random_entries(generator, words, draw(st.integers(1, 3)))
        model = model_of(entries, folder, quantize=draw(st.booleans()))
    if kind in ("lexicon", "both"):
        lexicon = generator.choices([*WORDS, "B", "AB", "x", "a b"], k=generator.randint(1, 6))
    hotwords = draw(st.dictionaries(st.sampled_from(PHRASES), ANY_WEIGHT, max_size=3))
    guided: dict[str, Any] = {
        "alpha": draw(st.sampled_from([0.0, 0.3, 0.8])),
        "beta": draw(st.sampled_from([-2.0, 0.0, 1.5])),
        "unknown": draw(st.sampled_from([-4.0, 0.0, 2.0])),
        "token_floor": draw(st.sampled_from([-math.inf, -math.inf, -5.0, -1.2])),
        "strict": kind != "neither" and draw(st.booleans()),
        "prior": draw(st.sampled_from([0.0, 0.0, 0.4, 1.5])),
        "priors": [round(generator.uniform(0.01, 1), 3) for _ in vocabulary.symbols],
    }
    config = beam_config(**{**EXHAUSTIVE, **guided, **numbers})
    return Setup(vocabulary, config, entries, model, lexicon, hotwords)


@st.composite
def tiny_log_probs(draw: st.DrawFn, symbols: int, most_frames: int) -> np.ndarray:
    """At most `most_frames` frames: blunt, sharp, or with symbols that are impossible."""
    frames = draw(st.integers(0, most_frames))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = generator.normal(size=(frames, symbols)) * draw(st.sampled_from([0.3, 1.5, 5.0]))
    if draw(st.integers(0, 3)) == 0:
        impossible = generator.random(size=logits.shape) < 0.5
        impossible[np.arange(frames), generator.integers(0, symbols, size=frames)] = False
        logits[impossible] = -np.inf
    return log_softmax(logits)


def most_frames(vocabulary: Vocabulary) -> int:
    return 6 if len(vocabulary) < 5 else 5


def all_of(hypothesis: Hypothesis) -> list[Hypothesis]:
    return [replace(hypothesis, alternatives=()), *hypothesis.alternatives]


def scores(hypothesis: Hypothesis) -> dict[str, float]:
    """The scores by text, after a look at their order; a score of -inf is that of no text."""
    found = [one for one in all_of(hypothesis) if one.score > -math.inf]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    by_text = {one.text: one.score for one in found}
    assert len(by_text) == len(found), "a text is there twice"
    return by_text


def close(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-5, rel=1e-6)


class TestExhaustive:
    @given(st.data())
    @settings(QUIET, max_examples=250)
    def test_equals_the_sum_over_all_paths(self, folder: Path, data: st.DataObject) -> None:
        setup = data.draw(setups(folder))
        vocabulary = setup.vocabulary
        log_probs = data.draw(tiny_log_probs(len(vocabulary), most_frames(vocabulary)))
        expected = scores_of_all(setup, log_probs)
        hypothesis = setup.decoder().decode(log_probs)
        if expected:
            assert scores(hypothesis) == close(expected)
            assert hypothesis.score == close(max(expected.values()))
        else:  # strict, and the open word cannot end here
            assert set(hypothesis.text.split()) <= set(setup.known_words())

    @pytest.mark.parametrize("characters", ["a", " "])
    @given(st.data())
    @settings(QUIET, max_examples=30)
    def test_of_a_vocabulary_of_two(self, characters: str, data: st.DataObject) -> None:
        setup = Setup(vocabulary_of(characters))
        log_probs = data.draw(tiny_log_probs(2, 7))
        assert scores(setup.decoder().decode(log_probs)) == close(scores_of_all(setup, log_probs))

    @given(st.data())
    @settings(QUIET, max_examples=100)
    def test_the_list_is_cut_to_its_length_not_changed(
        self, folder: Path, data: st.DataObject
    ) -> None:
        setup = data.draw(setups(folder))
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        everything = all_of(setup.decoder().decode(log_probs))
        for nbest in (1, 3):
            found = all_of(setup.decoder(nbest=nbest).decode(log_probs))
            assert found == everything[:nbest]

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

    def test_a_hotword_is_whole_words_only(self) -> None:
        setup = Setup(LARGER, beam_config(nbest=1), hotwords={"ab": 50.0})
        for path in ("cab", "abc", "abab", "a b", "ab", "c ab", "ab c"):
            expected = 50.0 if "ab" in path.split() else 0.0
            hypothesis = setup.decoder().decode(emit(path, LARGER, posterior=1.0))
            assert (hypothesis.text, hypothesis.score) == (path, close(expected))

    def test_words_of_hotwords_are_known_but_only_as_unknown_words(self, folder: Path) -> None:
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-1.5, 0.0),
            ("a",): (-0.7, 0.0), ("b",): (-0.1, 0.0),
        }  # fmt: skip
        model = model_of(entries, folder)
        config = beam_config(strict=True, alpha=1.0, beta=0.0, unknown=-9.0)
        hot = {"ab b": 0.0}
        log_probs = emit("ab b", SMALL, 0.9999999)
        found = BeamDecoder(SMALL, SECONDS, config, model, None, hot).decode(log_probs)
        assert found.text == "ab b"  # b is the model's, ab is not
        assert found.score == pytest.approx((-1.5 - 0.1 - 0.5) * math.log(10), abs=1e-4)
        found = BeamDecoder(SMALL, SECONDS, config, model, ["a"], hot).decode(log_probs)
        assert found.text == "ab b"  # here the lexicon lacks both
        assert found.score == pytest.approx((-1.5 - 1.5 - 0.5) * math.log(10), abs=1e-4)


class TestNeverAbove:
    """What is not exhaustive may miss mass of a text, but never invents any."""

    @given(st.data())
    @settings(QUIET, max_examples=200)
    def test_with_recombination(self, folder: Path, data: st.DataObject) -> None:
        setup = data.draw(setups(folder, recombine=True))
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        exact = scores_of_all(setup, log_probs)
        assume(exact)  # or else an open word is dropped
        for text, score in scores(setup.decoder().decode(log_probs)).items():
            assert score <= exact[text] + 1e-5 + 1e-6 * abs(score)

    @given(st.data(), st.integers(1, 12), st.sampled_from([0.0, 1.0, 4.0, 12.0, math.inf]))
    @settings(QUIET, max_examples=200)
    def test_with_a_narrow_beam(
        self, folder: Path, data: st.DataObject, beam: int, beam_range: float
    ) -> None:
        numbers = {"beam": beam, "beam_range": beam_range, "strict": False}
        setup = data.draw(setups(folder, **numbers, recombine=data.draw(st.booleans())))
        log_probs = data.draw(tiny_log_probs(len(setup.vocabulary), 5))
        exact = scores_of_all(setup, log_probs)
        found = scores(setup.decoder().decode(log_probs))
        assert len(found) <= beam
        for text, score in found.items():
            assert score <= exact[text] + 1e-5 + 1e-6 * abs(score)

    @given(st.data(), st.integers(1, 6))
    @settings(QUIET, max_examples=100)
    def test_a_strict_decoder_writes_words_of_the_lexicon_only(
        self, folder: Path, data: st.DataObject, beam: int
    ) -> None:
        setup = data.draw(setups(folder, beam=beam, beam_range=6.0, recombine=True))
        assume(setup.model or setup.lexicon)
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        log_probs = lingering(30, len(setup.vocabulary), generator, peak=3.0)
        for found in all_of(setup.decoder(strict=True).decode(log_probs)):
            assert set(found.text.split()) <= set(setup.known_words())
            assert found.text == " ".join(word.text for word in found.words)
            assert not math.isnan(found.score)

    def test_recombination_seldom_changes_the_best_text(self, folder: Path) -> None:
        changed, losses = recombination_losses(folder, rounds=300)
        assert changed <= 8
        assert np.mean(losses) < 0.005

    def test_recombination_drops_all_but_one_of_the_same_future(self, folder: Path) -> None:
        """In a model of single words the past of a word does not matter."""
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("a",): (-0.7, 0.0), ("b",): (-0.7, 0.0),
        }  # fmt: skip
        config = beam_config(beam=200, nbest=200)
        setup = Setup(SMALL, config, entries, model_of(entries, folder))
        for seed in range(6):
            log_probs = lingering(60, 4, np.random.default_rng(seed), peak=2.0)
            few, many = [
                scores(setup.decoder(recombine=recombine).decode(log_probs))
                for recombine in (True, False)
            ]
            assert len(few) <= 10 < 100 <= len(many)
            assert max(few.values()) > max(many.values()) - 5.0

    def test_a_strict_decoder_wastes_no_room_on_what_it_cannot_spell(self) -> None:
        log_probs = np.log(np.full((2, 5), 0.04, np.float32))
        log_probs[:, 4] = np.log(0.5)
        log_probs[[0, 1], [2, 3]] = np.log(0.38)
        config = beam_config(beam=1, strict=True, unknown=0.0)
        decoder = BeamDecoder(LARGER, SECONDS, config, lexicon=["ab"])
        assert decoder.decode(log_probs).text == "ab"

    def test_a_word_that_the_model_expects_is_found_by_a_narrow_beam(self, folder: Path) -> None:
        """Ahead, the open word is charged as the rare one that it is elsewhere."""
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-3.0, 0.0),
            ("a",): (-0.3, 0.0), ("b",): (-4.0, 0.0), ("a", "b"): (-0.01, 0.0),
        }  # fmt: skip
        log_probs = emit("a b-a", SMALL, 0.99)
        log_probs[3] = np.log([0.6, 0.38, 0.01, 0.01])  # rather no space than one
        config = beam_config(beam=2, alpha=1.0, beta=0.0)
        decoder = BeamDecoder(SMALL, SECONDS, config, model_of(entries, folder))
        assert decoder.decode(log_probs).text == "a b a"


def recombination_losses(folder: Path, rounds: int) -> tuple[int, list[float]]:
    """How often recombination changes the best text of tiny inputs, and the nats that it costs."""
    changed, losses = 0, []
    for seed in range(rounds):
        generator = random.Random(seed)
        words = generator.sample(WORDS[:7], 4)
        entries = random_entries(generator, words, 1 + seed % 3)
        setup = Setup(SMALL, entries=entries, model=model_of(entries, folder))
        setup.config = replace(setup.config, nbest=1, recombine=True)
        if seed % 2:
            setup.hotwords = {"a b": 2.0}
        scale = (0.5, 1.5, 4.0)[seed % 5 % 3]
        logits = np.random.default_rng(seed).normal(size=(6, 4)) * scale
        log_probs = log_softmax(logits)
        exact = scores_of_all(setup, log_probs)
        found = setup.decoder().decode(log_probs)
        best = max(exact, key=exact.__getitem__)
        changed += found.text != best
        losses.append(exact[best] - exact[found.text])
    return changed, losses


class TestRescoring:
    """The forward algorithm is an oracle of its own, for texts too long for all paths."""

    @given(st.data(), st.sampled_from([SMALL, LARGER, SPACELESS]))
    @settings(QUIET, max_examples=30)
    def test_the_oracle_equals_the_sum_over_all_paths(
        self, data: st.DataObject, vocabulary: Vocabulary
    ) -> None:
        log_probs = data.draw(tiny_log_probs(len(vocabulary), 5))
        expected = log_ctc_of_all(log_probs, vocabulary)
        for text in list(expected)[::7]:
            assert log_ctc(log_probs, text, vocabulary) == close(expected[text])

    @given(st.integers(0, 2**32), st.sampled_from([1, 4, 32]), st.sampled_from([1.0, 3.0, 6.0]))
    @settings(QUIET, max_examples=40)
    def test_scores_of_long_random_input_are_never_above(
        self, folder: Path, seed: int, beam: int, peak: float
    ) -> None:
        log_probs = lingering(80, 5, np.random.default_rng(seed), peak)
        generator = random.Random(seed)
        entries = random_entries(generator, generator.sample(WORDS, 5), 2)
        priors = [0.5, 0.2, 0.15, 0.1, 0.05]
        config = beam_config(beam=beam, nbest=4, token_floor=-math.inf, prior=0.6, priors=priors)
        model = model_of(entries, folder)
        setup = Setup(LARGER, config, entries, model, hotwords={"ab": 2.0, "b a": 3.0, "c": -1.0})
        for found in all_of(setup.decoder().decode(log_probs)):
            acoustic = log_ctc(setup.without_priors(log_probs), found.text, LARGER)
            exact = acoustic + setup.beyond_acoustics(found.text)
            assert found.score <= exact + 1e-4


# Real posteriors


@dataclass
class Bench:
    log_probs: list[np.ndarray]
    references: list[str]
    model: LanguageModel

    def rescore(self, index: int, text: str, config: DecoderConfig) -> float:
        """The score of a text of known words."""
        acoustic = log_ctc(self.log_probs[index], text, ENGLISH)
        words = text.split()
        unknown = sum(self.model.word_id(word) == 0 for word in words)
        guide = config.alpha * self.model.score(text) + config.beta * len(words)
        return acoustic + guide + config.unknown * unknown


@pytest.fixture(scope="session")
def bench(shared: Path) -> Bench:
    with np.load(shared / "decoder_bench/emissions.npz", allow_pickle=False) as arrays:
        frames, lengths, references = arrays["logp"], arrays["lens"], arrays["refs"]
    ends = np.cumsum(lengths)
    log_probs = [log_softmax(frames[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
    model = LanguageModel.read(shared / "decoder_bench/lm3.arpa.gz")
    return Bench(log_probs, list(map(str, references)), model)


def matches(reference: list[str], words: list[str]) -> set[int]:
    """Which of `words` an alignment pairs with their like."""
    matcher = SequenceMatcher(None, reference, words, autojunk=False)
    return {block.b + k for block in matcher.get_matching_blocks() for k in range(block.size)}


class TestRealPosteriors:
    @pytest.mark.parametrize("beam", [16, 64])
    def test_scores_are_almost_those_of_a_rescoring_and_never_above(
        self, bench: Bench, beam: int
    ) -> None:
        config = beam_config(beam=beam, nbest=2)
        decoder = BeamDecoder(ENGLISH, SECONDS, config, bench.model)
        gaps = []
        for index in range(6):
            for found in all_of(decoder.decode(bench.log_probs[index])):
                exact = bench.rescore(index, found.text, config)
                assert found.score <= exact + 1e-4
                gaps.append(exact - found.score)
        assert np.median(gaps) < 0.3  # that of the symbols below `token_floor`, mostly

    def test_a_wider_beam_finds_no_worse_texts(self, bench: Bench) -> None:
        few = range(0, 48, 2)
        means = []
        for beam in (8, 16, 32, 64, 128):
            decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=beam), bench.model)
            means.append(np.mean([decoder.decode(bench.log_probs[index]).score for index in few]))
        assert all(wide > narrow - 1e-3 for narrow, wide in itertools.pairwise(means)), means
        assert means[-1] > means[0]

    def test_the_error_rate_is_the_known_one(self, bench: Bench) -> None:
        jiwer = pytest.importorskip("jiwer")
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=16), bench.model)
        found = decoder.decode_many(bench.log_probs[:50])
        rate = jiwer.wer(bench.references[:50], [hypothesis.text for hypothesis in found])
        assert rate < 0.04
        greedy = GreedyDecoder(ENGLISH, SECONDS)
        plain = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=16))
        rates = [
            jiwer.wer(bench.references[:20], [d.decode(x).text for x in bench.log_probs[:20]])
            for d in (greedy, plain)
        ]
        assert rates[1] < rates[0] + 0.005

    def test_chunks_make_no_difference(self, bench: Bench) -> None:
        hotwords = dict.fromkeys(bench.references[0].split()[5:12], 3.0)
        config = beam_config(nbest=5)
        decoder = BeamDecoder(ENGLISH, SECONDS, config, bench.model, None, hotwords)
        log_probs = bench.log_probs[0]
        whole = decoder.decode(log_probs)
        for size in (1, 7, 100):
            state = decoder.start()
            for begin in range(0, len(log_probs), size):
                decoder.advance(state, log_probs[begin : begin + size])
            assert decoder.best(state) == whole

    def test_threads_make_no_difference(self, bench: Bench) -> None:
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=8, nbest=2), bench.model)
        log_probs = bench.log_probs[:10]
        one_by_one = [decoder.decode(matrix) for matrix in log_probs]
        assert decoder.decode_many(log_probs) == one_by_one
        assert decoder.decode_many(log_probs, threads=3) == one_by_one
        assert decoder.decode_many([], threads=2) == []

    def test_words_are_said_where_they_are_heard(self, bench: Bench) -> None:
        """Greedy and beam place a word that both find in about the same frames."""
        greedy = GreedyDecoder(ENGLISH, SECONDS)
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(), bench.model)
        differences = []
        for log_probs in bench.log_probs[:10]:
            one, other = greedy.decode(log_probs).words, decoder.decode(log_probs).words
            matcher = SequenceMatcher(
                None, [word.text for word in one], [word.text for word in other], autojunk=False
            )
            for block in matcher.get_matching_blocks():
                for k in range(block.size):
                    first, second = one[block.a + k], other[block.b + k]
                    differences.append(abs(first.start - second.start))
                    differences.append(abs(first.end - second.end))
        assert len(differences) > 1000
        assert np.mean(np.array(differences) < 1e-9) > 0.98
        assert max(differences) < 0.5

    def test_the_word_after_a_hotword_is_not_shattered(self, bench: Bench) -> None:
        """Unknown and long words that were said are planted, from lightly to strongly weighted."""
        jiwer = pytest.importorskip("jiwer")
        few = range(0, 100, 2)
        log_probs = [bench.log_probs[index] for index in few]
        references = [bench.references[index] for index in few]
        known = set(bench.model.words)
        planted = set()
        for reference in references:
            spoken = dict.fromkeys(reference.split())
            planted.update([word for word in spoken if word not in known])
            planted.update([word for word in spoken if len(word) > 8][:2])
        plain = BeamDecoder(ENGLISH, SECONDS, beam_config(), bench.model)
        before = [hypothesis.text for hypothesis in plain.decode_many(log_probs)]
        for weight in (1.0, 4.0, 10.0, 20.0):
            hot = dict.fromkeys(planted, weight)
            decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(), bench.model, None, hot)
            after = [hypothesis.text for hypothesis in decoder.decode_many(log_probs)]
            elsewhere = 0
            for index, reference in enumerate(references):
                old, new = before[index].split(), after[index].split()
                kept = matches(old, new)
                right = matches(reference.split(), new)
                for j in range(1, len(new)):
                    if new[j - 1] in planted and j - 1 in right and j not in kept | right:
                        assert new[j] in known | planted, new[j - 1 : j + 1]
                matcher = SequenceMatcher(None, old, new, autojunk=False)
                for tag, begin, end, new_begin, new_end in matcher.get_opcodes():
                    changed = {*old[begin:end], *new[new_begin:new_end]}
                    elsewhere += tag != "equal" and not changed & planted
            if weight < 5:  # much heavier hotwords leave less of the beam for what else there is
                assert elsewhere <= 3, f"weight {weight} changes words that are no hotwords"
                assert jiwer.wer(references, after) < jiwer.wer(references, before)


def split(log_probs: np.ndarray, cuts: list[int]) -> Iterator[np.ndarray]:
    """The frames in chunks, some of them empty."""
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(log_probs)]):
        yield log_probs[begin:end]


@pytest.fixture(scope="session")
def full(folder: Path) -> BeamDecoder:
    """A decoder with a model and hotwords, not exhaustive."""
    entries = random_entries(random.Random(5), ["a", "ab", "ba", "b", "ca"], 3)
    hotwords = {"ab": 1.0, "b ca": 2.0, "cc": -1.0}
    priors = [0.5, 0.2, 0.15, 0.1, 0.05]
    config = beam_config(beam=6, nbest=4, prior=0.3, priors=priors, **PLAIN)
    return BeamDecoder(LARGER, SECONDS, config, model_of(entries, folder), None, hotwords)


class TestStreaming:
    @given(
        st.integers(0, 2**32),
        st.integers(0, 60),
        st.lists(st.integers(0, 60), max_size=20),
        st.sampled_from([0.5, 2.0, 6.0]),
    )
    @settings(QUIET, max_examples=150)
    def test_chunks_make_no_difference(
        self, full: BeamDecoder, seed: int, frames: int, cuts: list[int], peak: float
    ) -> None:
        log_probs = lingering(frames, 5, np.random.default_rng(seed), peak)
        whole = full.decode(log_probs)
        state, read = full.start(), 0
        for chunk in split(log_probs, [min(cut, frames) for cut in cuts]):
            full.advance(state, chunk)
            full.best(state)  # asking changes nothing
            read += len(chunk)
            assert state.frames == read
        assert full.best(state) == whole
        state = full.start()
        for frame in log_probs:
            full.advance(state, frame[None])
            state.make_room()  # nor does forgetting what is not needed
        assert full.best(state) == whole

    def test_a_prefix_is_decoded_as_if_it_were_all(self, full: BeamDecoder) -> None:
        log_probs = lingering(40, 5, np.random.default_rng(1), 3.0)
        state = full.start()
        for end in range(1, 41):
            full.advance(state, log_probs[end - 1 : end])
            assert full.best(state) == full.decode(log_probs[:end])

    def test_silence_in_chunks_is_silence(self, full: BeamDecoder) -> None:
        log_probs = emit("---ab---  ---ca----b ------a---", LARGER, 0.999)
        whole = full.decode(log_probs)
        assert whole.text.startswith("ab ")
        state = full.start()
        for frame in log_probs:
            full.advance(state, frame[None])
        assert full.best(state) == whole

    def test_streams_on_one_decoder_do_not_meet(self, full: BeamDecoder) -> None:
        streams = [lingering(50, 5, np.random.default_rng(seed), 3.0) for seed in range(4)]
        states = [full.start() for _ in streams]
        for begin in range(0, 50, 7):
            for state, log_probs in zip(states, streams, strict=True):
                full.advance(state, log_probs[begin : begin + 7])
        assert [full.best(state) for state in states] == [full.decode(one) for one in streams]

    def test_a_small_history_makes_no_difference(
        self, full: BeamDecoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log_probs = lingering(3000, 5, np.random.default_rng(2), 3.0)
        whole = full.decode(log_probs)
        monkeypatch.setattr(asr.decoder.beam, "FIRST_HISTORY", 0)
        state = full.start()
        room = len(state.history)
        full.advance(state, log_probs)
        assert len(state.history) > room
        assert full.best(state) == whole
        assert len(whole.text) > 1000

    def test_memory_follows_the_text_not_the_time(self, bench: Bench) -> None:
        decoder = BeamDecoder(ENGLISH, SECONDS, beam_config(beam=8), bench.model)
        state = decoder.start()
        pause = np.tile(emit("-", ENGLISH, 0.9), (500, 1))
        for index in range(220):  # more than an hour
            decoder.advance(state, bench.log_probs[index % 4])
            decoder.advance(state, pause)
        hypothesis = decoder.best(state)
        assert state.frames > 200_000
        assert len(hypothesis.text) > 50_000
        assert len(state.history) < 4 * len(hypothesis.text)
        assert len(state.texts) < 100
        assert hypothesis.text.startswith(decoder.decode(bench.log_probs[0]).text[:200])
        starts = [word.start for word in hypothesis.words]
        assert starts == sorted(starts)

    def test_memory_does_not_grow_where_nothing_is_said(self) -> None:
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(beam=6))
        state = decoder.start()
        size = len(state.history)
        unsure = np.tile(emit("-", LARGER, 0.95), (50_000, 1))
        unsure[::7] = emit(" ", LARGER, 0.95)
        decoder.advance(state, unsure)
        assert state.frames == 50_000
        assert len(state.history) == size
        assert len(decoder.best(state).text) < 5


class TestPartial:
    @given(
        st.integers(0, 2**32), st.sampled_from([1.0, 3.0, 6.0]), st.integers(1, 9), st.booleans()
    )
    @settings(QUIET, max_examples=80)
    def test_what_is_stable_is_so_for_good(
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

    def test_it_follows_the_speech_of_a_long_stream(self, bench: Bench) -> None:
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


class TestArrays:
    log_probs = lingering(30, 5, np.random.default_rng(3), 3.0)

    def test_of_any_kind_are_read(self, full: BeamDecoder) -> None:
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
    def test_half_precision_is_read_as_it_is(self, full: BeamDecoder, dtype: torch.dtype) -> None:
        log_probs = torch.log_softmax(torch.from_numpy(self.log_probs).to(dtype), dim=1)
        assert full.decode(log_probs) == full.decode(log_probs.float())
        if dtype == torch.float16:
            assert full.decode(log_probs.numpy()) == full.decode(log_probs.float())

    def test_are_not_changed(self, full: BeamDecoder) -> None:
        log_probs = self.log_probs.copy()
        full.decode(log_probs)
        assert np.array_equal(log_probs, self.log_probs)

    @pytest.mark.parametrize("hotwords", [None, {"a": 1.0}])
    def test_no_frames_are_no_text(self, hotwords: dict[str, float] | None) -> None:
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(nbest=3), hotwords=hotwords)
        hypothesis = decoder.decode(np.zeros((0, 5), np.float32))
        assert hypothesis == Hypothesis("", (), 1.0, 0.0)

    def test_no_frames_of_a_model_score_the_end_of_the_sentence(self, folder: Path) -> None:
        entries: Entries = {
            ("<s>",): (-99.0, -0.25), ("</s>",): (-0.5, 0.0), ("a",): (-0.7, 0.0),
            ("a", "a"): (-0.3, 0.0),
        }  # fmt: skip
        decoder = BeamDecoder(LARGER, SECONDS, beam_config(alpha=0.5), model_of(entries, folder))
        hypothesis = decoder.decode(np.zeros((0, 5), np.float32))
        assert (hypothesis.text, hypothesis.words) == ("", ())
        assert hypothesis.score == close(0.5 * -0.75 * math.log(10))

    def test_nothing_is_compiled_twice(self, full: BeamDecoder, folder: Path) -> None:
        """Compiling takes longer than decoding; it is kept on disk for one set of types only."""
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
            model = model_of(entries, folder, quantize)
            for config in (beam_config(), whole_numbers):
                for arguments in ((), (model,), (model, ["a"], {"a": 1}), (None, ["a"])):
                    decoder = BeamDecoder(LARGER, SECONDS, config, *arguments)
                    for same in (self.log_probs, fixed, unaligned, self.log_probs.astype(">f4")):
                        decoder.decode(same)
        kernels: list[Any] = [
            asr.decoder.search.advance,
            asr.decoder.search.conclude,
            asr.decoder.search.trace,
        ]
        assert [len(kernel.signatures) for kernel in kernels] == [1, 1, 1]


class TestWords:
    @given(st.text(" abc-", max_size=40), st.sampled_from([1, 8, 32]))
    @settings(QUIET, max_examples=200)
    def test_times_are_the_greedy_ones_where_nothing_is_in_doubt(
        self, path: str, beam: int
    ) -> None:
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
    def test_a_word_starts_where_most_of_it_is_first_said(self, word: str) -> None:
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
    def test_are_in_order_inside_the_recording_and_as_sure_as_can_be(
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

    @given(st.data())
    @settings(QUIET, max_examples=60)
    def test_the_last_word_is_as_sure_as_its_share_of_all_texts(
        self, folder: Path, data: st.DataObject
    ) -> None:
        """Texts agree on a word that is one of the last two of each."""
        setup = data.draw(setups(folder, **PLAIN))
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
    def test_only_the_word_in_doubt_is_unsure(self, text: str) -> None:
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


FILLERS = [chr(code) for code in range(0x4E00, 0x4E00 + 5000)]


def embedded(symbols: int, seed: int) -> tuple[Vocabulary, list[int]]:
    """A vocabulary with the five symbols of LARGER at random places, one at the end; and those."""
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
    def test_give_the_same_results(self, folder: Path, symbols: int, seed: int) -> None:
        generator = random.Random(seed)
        entries = random_entries(generator, generator.sample(WORDS, 5), 3)
        model = model_of(entries, folder)
        # Words of other symbols, which nobody says, are brothers and sisters of those in use.
        fillers = FILLERS[: symbols - 5]
        others = [f"{before}{filler}" for before in ("", "a", "ab", "c") for filler in fillers]
        # Which texts meet first, which depends on their order, decides what recombination drops.
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


class TestBadInput:
    decoder = BeamDecoder(LARGER, SECONDS)

    @pytest.mark.parametrize("name", "beam nbest alpha beta unknown".split())
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1001, 100_001])
    def test_impossible_numbers_are_refused_by_name(self, name: str, value: float) -> None:
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
    def test_numbers_out_of_range_are_refused_by_name(self, name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=rf"decoder\.{name} is "):
            beam_config(**{name: value})

    @pytest.mark.parametrize(
        ("numbers", "sentence"),
        [
            ({"prior": 0.3}, "decoder.prior is 0.3, but decoder.priors is empty"),
            ({"priors": [0.5, 0.0]}, "decoder.priors must be shares above 0 and up to 1"),
            ({"priors": [0.5, 1.1]}, "decoder.priors must be shares above 0 and up to 1"),
            ({"priors": [0.5, math.nan]}, "decoder.priors must be shares above 0 and up to 1"),
            ({"priors": [0.5, "0.5"]}, "decoder.priors must be shares above 0 and up to 1"),
            ({"priors": [True, 0.5]}, "decoder.priors must be shares above 0 and up to 1"),
        ],
    )
    def test_priors_that_are_none_are_refused(self, numbers: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            beam_config(**numbers)

    def test_priors_of_another_vocabulary_are_refused(self) -> None:
        config = beam_config(prior=0.3, priors=[0.5, 0.5])
        with pytest.raises(ConfigError, match="holds 2 shares for a vocabulary of 5 symbols"):
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
    def test_numbers_at_the_edge_work(
        self, folder: Path, numbers: dict[str, Any], order: int
    ) -> None:
        model = None
        if order:
            entries = random_entries(random.Random(order), ["a", "ab", "cc"], order)
            model = model_of(entries, folder)
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

    def test_a_greedy_configuration_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="'greedy'"):
            BeamDecoder(LARGER, SECONDS, DecoderConfig())

    @pytest.mark.parametrize("seconds", [0, -0.04, math.nan, math.inf])
    def test_frames_must_last(self, seconds: float) -> None:
        with pytest.raises(ConfigError, match="a frame must last"):
            BeamDecoder(LARGER, seconds)

    def test_strict_needs_words(self) -> None:
        with pytest.raises(ConfigError, match="a strict decoder needs"):
            BeamDecoder(LARGER, SECONDS, beam_config(strict=True), hotwords={"a": 1.0})

    def test_words_need_a_space(self, folder: Path) -> None:
        entries: Entries = {("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("a",): (-0.7, 0.0)}
        for arguments in ((model_of(entries, folder),), (None, ["a"]), (None, [])):
            with pytest.raises(ConfigError, match="with a space"):
                BeamDecoder(SPACELESS, SECONDS, None, *arguments)
        with pytest.raises(ConfigError, match="with a space"):
            BeamDecoder(SPACELESS, SECONDS, hotwords={"a": 1.0})

    @pytest.mark.parametrize(
        ("hotwords", "error", "message"),
        [
            ({"a": 1.0, "a?": 1.0}, TextError, r"hotword 'a\?' holds '\?'"),
            ({"A": 1.0}, TextError, "hotword 'A' holds 'A'"),
            ({"a\tb": 1.0}, TextError, "hotword"),
            ({"": 1.0}, TextError, "hotword '' has empty text"),
            ({" ": 1.0}, AsrError, "hotword ' '"),
            ({"a": math.nan}, ConfigError, "hotword 'a' is nan"),
            ({"a": math.inf}, ConfigError, "hotword 'a' is inf"),
            ({"a": -math.inf}, ConfigError, "hotword 'a' is -inf"),
        ],
    )
    def test_hotwords_that_cannot_be_are_refused(
        self, hotwords: dict[str, float], error: type[AsrError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            BeamDecoder(LARGER, SECONDS, hotwords=hotwords)

    @pytest.mark.parametrize("phrase", [" a", "a ", "a  b", "  a b "])
    def test_spaces_around_hotwords_are_refused_or_do_not_matter(self, phrase: str) -> None:
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
    def test_huge_weights_are_refused_or_count(self, weight: float) -> None:
        try:
            decoder = BeamDecoder(LARGER, SECONDS, hotwords={"a b": weight})
        except ConfigError:
            assert abs(weight) > 100
            return
        for path, count in (("a b a b", 2), ("b b b", 0), ("a a a", 0), ("a ba", 0), ("a b c", 1)):
            hypothesis = decoder.decode(emit(path, LARGER, posterior=1.0))
            assert hypothesis.text == path
            assert hypothesis.score == close(2 * weight * count)

    @pytest.mark.parametrize("shape", [(3, 4), (3, 6), (5,), (1, 3, 5), (0,), ()])
    def test_wrong_shapes_are_refused_with_the_right_one(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DecodeError, match=r"\(T', 5\) is expected"):
            self.decoder.decode(np.zeros(shape, np.float32))

    def test_what_is_not_normalized_is_refused_and_the_state_stays(self) -> None:
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

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_model_without_a_word_that_can_be_spelled(self, folder: Path, strict: bool) -> None:
        """Refused, or else every word is an unknown one."""
        entries: Entries = {
            ("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-1.0, 0.0),
            ("да",): (-0.7, 0.0), ("нет",): (-0.7, 0.0),
        }  # fmt: skip
        model = model_of(entries, folder)
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
    def test_the_marks_of_a_model_are_no_words(self, folder: Path, word: str) -> None:
        vocabulary = vocabulary_of(" </sunk>a")
        entries: Entries = {
            ("<s>",): (-0.5, 0.0), ("</s>",): (-0.5, 0.0), ("<unk>",): (-0.5, 0.0),
            ("a",): (-0.7, 0.0),
        }  # fmt: skip
        config = beam_config(strict=True)
        decoder = BeamDecoder(vocabulary, SECONDS, config, model_of(entries, folder))
        assert decoder.decode(emit(f"a {word}", vocabulary, posterior=1.0)).text == "a"

    def test_a_lexicon_with_words_that_cannot_be_spelled_has_the_others(self) -> None:
        config = beam_config(strict=True)
        decoder = BeamDecoder(LARGER, SECONDS, config, lexicon=["", "?", "a b", "ab", "ca", "ab"])
        assert decoder.decode(emit("ab ca ab", LARGER)).text == "ab ca ab"
        assert decoder.decode(emit("ab c ab", LARGER, 0.9)).text in ("ab ca ab", "ab ab")

    def test_threads_are_one_or_more(self) -> None:
        for threads in (0, -1):
            with pytest.raises(AsrError):
                self.decoder.decode_many([emit("a", LARGER)], threads=threads)


class TestExtremes:
    """Probabilities of 0 and 1, and words that are as good as impossible."""

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

    @pytest.mark.parametrize("alpha", [0.5, 3.2, 100.0])
    @pytest.mark.parametrize("low", [-80.0, -720.0, -1e4, -math.inf])
    @pytest.mark.parametrize("unknown", [False, True])
    def test_what_cannot_be_spelled_scores_badly_but_is_a_number(
        self, folder: Path, unknown: bool, low: float, alpha: float
    ) -> None:
        entries: Entries = {("<s>",): (-99.0, 0.0), ("</s>",): (-0.5, 0.0), ("b",): (-0.7, 0.0)}
        if unknown:
            entries |= {("<unk>",): (-1.0, 0.0), ("ab",): (-7.0, 0.0)}
        model = model_of(entries, folder)
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

    def test_frames_that_cannot_be_spelled_cost_their_blanks(self) -> None:
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

    @given(st.data())
    @settings(QUIET, max_examples=100)
    def test_random_extremes_are_scored_as_they_are(
        self, folder: Path, data: st.DataObject
    ) -> None:
        """-1e4, where doubles still hold the sum, is as good as impossible."""
        setup = data.draw(
            setups(folder, beam=4, beam_range=data.draw(st.sampled_from([12.0, 1e9])))
        )
        symbols = len(setup.vocabulary)
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        logits = generator.choice(
            [0.0, 0.0, -1.0, -90.0, -300.0, -1e4, -np.inf], size=(40, symbols)
        )
        logits[np.arange(40), generator.integers(0, symbols, size=40)] = 0.0
        log_probs = log_softmax(logits)
        for found in all_of(setup.decoder().decode(log_probs)):
            assert found.score < math.inf  # and not NaN
            if setup.config.strict:
                assert set(found.text.split()) <= set(setup.known_words())
            if setup.config.strict or found.score == -math.inf:
                continue
            exact = log_ctc(setup.without_priors(log_probs), found.text, setup.vocabulary)
            exact += setup.beyond_acoustics(found.text)
            assert found.score <= exact + 1e-4 + 1e-6 * abs(exact)


def test_another_configuration_is_as_if_made_anew(folder: Path) -> None:
    entries = random_entries(random.Random(5), ["a", "ab", "ba", "b", "ca"], 3)
    entries[("<unk>",)] = (-1.0, 0.0)
    model = model_of(entries, folder)
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
