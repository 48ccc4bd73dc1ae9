"""Partial results on random log-probs: which words are final."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import ARPA, cut, words_of

from asr.decoder.beam import BeamDecoder, BeamState
from asr.decoder.config import DecoderConfig
from asr.decoder.greedy import GreedyDecoder
from asr.lm.model import LanguageModel
from asr.text import BLANK, Vocabulary


def log_probs_of(frames: int, symbols: int, seed: int, peak: float) -> np.ndarray:
    """Random (T', V) log-probs with a likely symbol in each frame."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(frames, symbols))
    logits[np.arange(frames), generator.integers(0, symbols, frames)] += peak
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def spell_all(state: BeamState, decoder: BeamDecoder) -> list[str]:
    """Every text of the beam, each read symbol by symbol: an independent look at the history."""
    texts = []
    prefixes, active, _, history, progress = state.beam
    for slot in active[: progress["prefixes"][0]]:
        symbols = [int(prefixes["last_symbol"][slot])]
        node = int(prefixes["parent_node"][slot])
        while node:
            symbols.append(int(history["symbol"][node]))
            node = int(history["parent"][node])
        letters = [decoder.vocabulary.symbols[symbol] for symbol in reversed(symbols) if symbol]
        texts.append("".join(letters))
    return texts


def ended_in_all(state: BeamState, decoder: BeamDecoder) -> list[str]:
    texts = spell_all(state, decoder)
    first, last = min(texts), max(texts)  # what these two share, all share
    pairs = enumerate(zip(first, last, strict=False))
    shared = next((place for place, (a, b) in pairs if a != b), len(first))
    # A text may begin with a space or without: while the beam holds both kinds, nothing is shared.
    return first[:shared].lstrip(" ").split(" ")[:-1]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path = tmp_path_factory.mktemp("models") / "ab.arpa"
    path.write_text(ARPA.replace("jz", "ba").replace("lf", "a").replace("z", "b"))
    return LanguageModel.read(path)


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000),
    peak=st.sampled_from([0.0, 2.0, 4.0, 8.0]),
    beam=st.sampled_from([1, 2, 5, 30]),
    guided=st.booleans(),
    hot=st.booleans(),
    letters=st.sampled_from([" ab", " ", "ab"]),
    longest=st.sampled_from([1, 3, 40]),
)
@settings(deadline=None, max_examples=120)
def test_words_that_all_texts_share_are_stable(
    language_model: LanguageModel,
    seed: int,
    peak: float,
    beam: int,
    guided: bool,
    hot: bool,
    letters: str,
    longest: int,
) -> None:
    guided, hot = guided and letters == " ab", hot and letters == " ab"
    decoder = BeamDecoder(
        Vocabulary.from_list([BLANK, *letters]),
        0.04,
        DecoderConfig("beam", beam=beam),
        language_model if guided else None,
        None,
        {"ab": 2.0, "a b": 1.0} if hot else None,
    )
    state, untouched = decoder.start(), decoder.start()
    few = state.beam.history[: 6 * beam + 20]
    state.beam = state.beam._replace(history=few)  # compacted often
    log_probs = log_probs_of(80, len(letters) + 1, seed, peak)
    before: list[str] = []
    for piece in cut(log_probs, longest, seed):
        decoder.advance(state, piece)
        decoder.advance(untouched, piece)
        stable, tail = decoder.partial(state)
        words = words_of(stable)
        assert words == ended_in_all(state, decoder)
        assert words[: len(before)] == before
        best = decoder.best(state)
        assert words + words_of(tail) == words_of(best.text)
        assert best == decoder.best(untouched)
        before = words
    assert decoder.partial(untouched) == decoder.partial(state)
    if letters == "ab":
        assert not before


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_stable_words_do_not_wait_for_the_end(kind: str) -> None:
    """A beam that knows words soon compares texts that differ only in what is long ago."""
    text = "one two " * 40
    vocabulary = Vocabulary.english()
    log_probs = np.full((len(text), len(vocabulary)), np.log(0.01 / 28), np.float32)
    log_probs[np.arange(len(text)), vocabulary.encode(text)] = np.log(0.99)
    reader: Any = GreedyDecoder(vocabulary, 0.04)
    if kind == "beam":
        reader = BeamDecoder(vocabulary, 0.04, lexicon=["one", "two"])
    state = reader.start()
    for frame in range(len(text)):
        reader.advance(state, log_probs[frame : frame + 1])
        stable, tail = reader.partial(state)
        assert words_of(stable) + words_of(tail) == words_of(text[: frame + 1].strip())
        if frame < 3:
            assert not stable
        late = 0 if kind == "greedy" else 2
        assert len(words_of(stable)) >= text[: frame + 1].count(" ") - late
