"""Helpers for tests of the beam search: random models and inputs, and exact scores to compare with."""

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from ngrams import Entries, arpa_text, log10_slowly

from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.lm.model import LanguageModel
from asr.text import BLANK, Vocabulary

SECONDS = 0.04  # duration of a frame
# No deadline, because the first examples may compile what they call.
QUIET = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
PLAIN = {"confidence_slope": 1.0, "confidence_offset": 0.0}  # confidences are posteriors
# Nothing is pruned: 4 symbols form 900 prefixes in 5 frames.
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
    """Log-probs with one frame per character, '-' for the blank; it has `posterior`, the rest share."""
    others = (1 - posterior) / (len(vocabulary) - 1)
    probabilities = np.full((len(path), len(vocabulary)), others)
    for frame, character in enumerate(path):
        symbol = 0 if character == "-" else vocabulary.encode(character)[0]
        probabilities[frame, symbol] = posterior
    with np.errstate(divide="ignore"):
        return np.log(probabilities).astype(np.float32)


def lingering(frames: int, symbols: int, generator: np.random.Generator, peak: float) -> np.ndarray:
    """Random (T', V) log-probs whose best path repeats symbols, as that of a real model does."""
    path = generator.integers(0, symbols, size=frames)
    for frame in range(1, frames):
        if generator.random() < 0.5:
            path[frame] = path[frame - 1]
    logits = generator.normal(size=(frames, symbols))
    logits[np.arange(frames), path] += peak
    return log_softmax(logits)


@dataclass
class Setup:
    """The parts of a decoder, and the score of a text as the documentation defines it."""

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
        """The language model's word for every word of the lexicon."""
        listed = self.lexicon
        if listed is None:
            model_words = self.model.words if self.model else ()
            listed = [w for w in model_words if w not in ("<unk>", "<s>", "</s>")]
        model_has = {gram[0] for gram in self.entries or () if len(gram) == 1}
        known: dict[str, str] = {}
        for as_given in (True, False):
            for word in listed:
                spelling = self.spelling(word)
                if spelling is not None and (spelling == word) == as_given:
                    cases = [w for w in (word, word.lower(), word.upper()) if w in model_has]
                    known.setdefault(spelling, [*cases, "<unk>"][0])
        for phrase in self.hotwords:
            for word in phrase.split():
                known.setdefault(word, "<unk>")
        return known

    def without_priors(self, log_probs: np.ndarray) -> np.ndarray:
        """Log-probs (T', V) minus the weighted log priors, relative to the blank."""
        if self.model is None and self.lexicon is None:
            return log_probs
        priors = np.array(self.config.priors or [1.0] * len(self.vocabulary))
        return log_probs - self.config.prior * np.log(priors / priors[0])

    def beyond_acoustics(self, text: str) -> float:
        """The score of a text without log p_ctc."""
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
    """All texts; all paths (V^T', T'); and the index of the text that each path spells."""
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
    """The exact score of every text that is possible."""
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
    """log p_ctc of one text by the forward algorithm; extra spaces, also at its ends, are free.

    Column i of the two rows stands for the first i symbols of the text, which follows a space.
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
    """Random n-grams, some without context; the unknown word may be missing."""
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


def model_of(entries: Entries, quantize: bool = False) -> LanguageModel:
    """The language model of `entries`; quantizing so few numbers keeps their values."""
    order = max(map(len, entries))
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.arpa")
        path.write_text(arpa_text(dict(entries), order, random.Random(0)), encoding="utf-8")
        model = LanguageModel.read(path)
        if quantize:
            model.write(Path(folder, "model.lm"), quantize=True)
            model = LanguageModel.read(Path(folder, "model.lm"))
    return model


WORDS = ["a", "b", "ab", "ba", "aa", "bb", "aab", "c", "ca"]
PHRASES = ["a", "b", "ab", "bb", "a b", "b a", "a a", "ab a", "a b a", "a a a", "b b"]
ANY_WEIGHT = st.sampled_from([-6.0, -1.5, 0.0, 0.7, 3.0, 9.0])


@st.composite
def setups(draw: st.DrawFn, /, **numbers: Any) -> Setup:
    """Decoders of every kind, exhaustive unless `numbers` say otherwise."""
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
        model = model_of(entries, quantize=draw(st.booleans()))
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
    """At most `most_frames` frames: flat, sharp, or with impossible symbols."""
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
    """The scores by text, checked to be in order; -inf stands for no text."""
    found = [one for one in all_of(hypothesis) if one.score > -math.inf]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    by_text = {one.text: one.score for one in found}
    assert len(by_text) == len(found), "a text occurs twice"
    return by_text


def close(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-5, rel=1e-6)


@dataclass
class Bench:
    log_probs: list[np.ndarray]
    references: list[str]
    model: LanguageModel

    def rescore(self, index: int, text: str, config: DecoderConfig) -> float:
        """The exact score of a text."""
        acoustic = log_ctc(self.log_probs[index], text, ENGLISH)
        words = text.split()
        unknown = sum(self.model.word_id(word) == 0 for word in words)
        guide = config.alpha * self.model.score(text) + config.beta * len(words)
        return acoustic + guide + config.unknown * unknown


def load_bench(shared: Path) -> Bench:
    with np.load(shared / "decoder_bench/emissions.npz", allow_pickle=False) as arrays:
        frames, lengths, references = arrays["logp"], arrays["lens"], arrays["refs"]
    ends = np.cumsum(lengths)
    log_probs = [log_softmax(frames[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
    model = LanguageModel.read(shared / "decoder_bench/lm3.arpa.gz")
    return Bench(log_probs, list(map(str, references)), model)


def make_full_decoder() -> BeamDecoder:
    """A decoder with a narrow beam, a model, priors and hotwords."""
    entries = random_entries(random.Random(5), ["a", "ab", "ba", "b", "ca"], 3)
    hotwords = {"ab": 1.0, "b ca": 2.0, "cc": -1.0}
    priors = [0.5, 0.2, 0.15, 0.1, 0.05]
    config = beam_config(beam=6, nbest=4, prior=0.3, priors=priors, **PLAIN)
    return BeamDecoder(LARGER, SECONDS, config, model_of(entries), None, hotwords)
