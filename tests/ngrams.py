"""N-gram models for tests: one written by hand, random ones, and a slow reference score."""

import random
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from asr.lm.model import LanguageModel
from asr.lm.ngrams import LN10, NGrams, NGramTable

# p(b|a) is listed; p(a|b) = backoff(b) * p(a); <s> a b is a trigram; b </s> is no bigram.
HAND = """\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.5
-1.0\t</s>
-0.7\ta\t-0.25
-0.9\tb\t-0.125

\\2-grams:
-0.4\t<s> a\t-0.0625
-0.3\ta b\t-0.03125
-0.6\tb b

\\3-grams:
-0.1\t<s> a b

\\end\\
"""

Entries = dict[tuple[str, ...], tuple[float, float]]  # n-gram -> (log_prob, backoff), log10


def saved(folder: Path, text: str | bytes, name: str = "model.arpa") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, text: str | bytes) -> LanguageModel:
    return LanguageModel.read(saved(folder, text))


def assert_same(one: LanguageModel, other: LanguageModel) -> None:
    assert one.order == other.order
    assert tuple(one.words) == tuple(other.words)
    for name, first, second in zip(NGrams._fields, one.ngrams, other.ngrams, strict=True):
        assert np.array_equal(first, second), name


def log10_slowly(entries: Entries, history: tuple[str, ...], word: str) -> float:
    """The log10 probability by the definition of Katz back-off."""
    if (*history, word) in entries:
        return entries[(*history, word)][0]
    if not history:
        return entries.get(("<unk>",), (-100.0, 0.0))[0]
    return entries.get(history, (0.0, 0.0))[1] + log10_slowly(entries, history[1:], word)


def arpa_text(entries: Entries, order: int, generator: random.Random) -> str:
    """`entries` as an ARPA file with its lines in random order."""
    lines = ["\\data\\"]
    by_order = [[gram for gram in entries if len(gram) == k] for k in range(1, order + 1)]
    lines += [f"ngram {k}={len(grams)}" for k, grams in enumerate(by_order, start=1)]
    for k, grams in enumerate(by_order, start=1):
        lines.append(f"\\{k}-grams:")
        generator.shuffle(grams)
        for gram in grams:
            log_prob, backoff = entries[gram]
            ending = f"\t{backoff!r}" if k < order and (backoff or generator.random() < 0.5) else ""
            lines.append(f"{log_prob!r}\t{' '.join(gram)}{ending}")
    return "\n".join([*lines, "\\end\\", ""])


def tables(entries: Entries, order: int, words: list[str]) -> list[NGramTable]:
    result = []
    for k in range(1, order + 1):
        grams = [gram for gram in entries if len(gram) == k]
        ids = np.array([[words.index(w) for w in gram] for gram in grams], np.int32).reshape(-1, k)
        log_prob = np.array([entries[gram][0] * LN10 for gram in grams], np.float32)
        backoff = np.array([entries[gram][1] * LN10 for gram in grams], np.float32)
        result.append(NGramTable(ids, log_prob, None if k == order else backoff))
    return result


@st.composite
def models(draw: st.DrawFn) -> tuple[Entries, int, random.Random]:
    """Random n-grams over a few words; contexts and suffixes may be missing."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    order = draw(st.integers(1, 4))
    words = ["<s>", "</s>", *"abcde"[: draw(st.integers(1, 5))]]
    if draw(st.booleans()):
        words.append("<unk>")
    density = draw(st.sampled_from([0.02, 0.2, 0.7]))
    entries: Entries = {}
    grams: list[tuple[str, ...]] = [()]
    for k in range(1, order + 1):
        grams = [(*gram, word) for gram in grams for word in words]
        for gram in grams:
            if k == 1 or generator.random() < density ** (k - 1):
                backoff = generator.choice([0.0, round(generator.uniform(-1, 0.3), 3)])
                log_prob = round(generator.uniform(-4, -1), 4)  # what backs off stays below 0 too
                entries[gram] = (log_prob, backoff if k < order else 0.0)
    return entries, order, generator
