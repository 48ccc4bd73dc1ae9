"""Estimating n-grams from text: interpolated modified Kneser-Ney smoothing.

`LanguageModel.estimate` is the public interface; this module counts and smooths the n-grams.

The method and its equations are those of Heafield et al. 2013, "Scalable Modified Kneser-Ney
Language Model Estimation", after Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques
for Language Modeling". N-grams and values equal those of KenLM's `lmplz --discount_fallback` for
the same text and options, except for three bugs of lmplz: it treats a last line without a line feed
as a sentence without </s>; it uses the plain count of the last n-gram of every lower order when
it estimates discounts; and it accepts a discount of 0, which can leave unseen words a probability
of 0.

The text becomes one array of word ids. All k-grams are found by sorting the pairs (id of the first
k - 1 words, last word); the rank of a pair is the id of the k-gram. N-grams are never Python
objects.
"""

import os
import sys
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from asr.errors import ConfigError, TextError, quote
from asr.files import DAMAGED, MOST_LINE_BYTES, decompress
from asr.lm.ngrams import BEGIN_WORD, END_WORD, UNKNOWN_WORD, NGramTable
from asr.text import Vocabulary, normalize

OnProgress = Callable[[str], object]
Integers = NDArray[np.int32]
Keys = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

HIGHEST_ORDER = 5
STANDARD_INPUT = "-"

# Ids of the reserved words; every model begins with them.
UNKNOWN_ID, BEGIN_ID, END_ID = range(3)
RESERVED = (UNKNOWN_WORD, BEGIN_WORD, END_WORD)

FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)
"""Discounts of n-grams seen 0, 1, 2 and 3 or more times, used if the text is too small to
estimate them, as in lmplz."""


class EstimationWarning(UserWarning):
    """The model was estimated, but not exactly as requested."""


@dataclass
class EstimationConfig:
    """Settings of an estimation; `LanguageModel.estimate` takes the same ones.

    Args:
        order: Number of words in the longest n-grams, 1 to 5.
        prune: For each order from 1 up, the count up to which n-grams are dropped. The first is 0,
            they never decrease, and the last one also applies to all higher orders. Counts are
            plain occurrences, and discounts are those of the whole text, as in `lmplz --prune`.
        vocabulary_limit: Number of words to keep, most frequent first (of equally frequent ones the
            earlier); None for all. N-grams with other words are dropped after counting, as in
            `lmplz --limit_vocab_file`, so these words are unknown to the model.

    Raises:
        ConfigError: If a setting is out of range.
    """

    order: int = 3
    prune: list[int] = field(default_factory=lambda: [0])
    vocabulary_limit: int | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.order) or not 1 <= self.order <= HIGHEST_ORDER:
            raise ConfigError(
                f"order is {quote(self.order)}; it must be a number of words from 1 to {HIGHEST_ORDER}"
            )
        prune = list(self.prune)
        if not prune or not all(map(_is_count, prune)) or prune[0] != 0 or prune != sorted(prune):
            raise ConfigError(
                f"prune is {quote(prune)}; it must contain counts that begin with 0 and never "
                "decrease, such as 0 0 1"
            )
        if len(prune) > self.order:
            raise ConfigError(
                f"prune is {quote(prune)}, longer than the order; use at most {self.order} counts"
            )
        limit = self.vocabulary_limit
        if limit is not None and not (_is_count(limit) and limit >= 1):
            raise ConfigError(f"vocabulary_limit is {quote(limit)}; it must be at least 1, or None")

    def thresholds(self) -> list[int]:
        """The count up to which n-grams are dropped, for each order."""
        return [*self.prune, *[self.prune[-1]] * (self.order - len(self.prune))]


def estimate_ngrams(
    sentences: Iterable[str], config: EstimationConfig, on_progress: OnProgress | None = None
) -> tuple[list[str], list[NGramTable]]:
    """Estimate the n-grams of `sentences`; `LanguageModel.estimate` describes the parameters.

    Returns:
        The words by id, and a table for each order: the arguments of `LanguageModel.from_ngrams`.
    """
    report = on_progress or (lambda _: None)
    report("reading the text")
    words, tokens = _tokenize(sentences)
    known = _select_words(tokens, len(words), config.vocabulary_limit)

    counted = _count_ngrams(tokens, len(words), config.order)
    levels = []
    for length in range(1, config.order + 1):
        report(f"counting {length}-grams")
        levels.append(next(counted))
    del tokens, counted

    report("computing probabilities")
    tables = _make_tables(levels, known, config.thresholds())
    return [words[i] for i in np.flatnonzero(known)], tables


def read_sentences(paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Read the lines of text files lazily, one sentence per line.

    Args:
        paths: UTF-8 files, plain or in gzip, bzip2 or xz (detected from the first bytes); "-" is
            standard input.

    Returns:
        An iterator over the lines of all files.

    Raises:
        TextError: If a file does not exist (immediately) or, while iterating, cannot be read,
            is not UTF-8 text, contains <s>, </s> or <unk>, or has no words.

    Example:
        >>> from asr.files import write_text
        >>> write_text("books.txt", "the cat sat\\nthe dog ran\\n")
        >>> list(read_sentences(["books.txt"]))
        ['the cat sat\\n', 'the dog ran\\n']
    """
    names = [os.fspath(path) for path in paths]
    for name in names:
        if name != STANDARD_INPUT and (os.path.isdir(name) or not os.path.exists(name)):
            problem = "is a folder" if os.path.isdir(name) else "does not exist"
            raise TextError(f"the text {name} {problem}; use a file with one sentence per line")
    return _read_lines(names)


@dataclass
class Normalizer:
    """Normalizes sentences with a text profile, and counts the words that this changes or drops.

    Args:
        profile: A profile of `asr.text.normalize`; "none" changes nothing.
        vocabulary: The symbols of a model; words that it cannot spell are counted.
    """

    profile: str
    vocabulary: Vocabulary | None = None
    changed: int = field(default=0, init=False)  # words
    dropped: int = field(default=0, init=False)  # words of which nothing is left
    unspelled: Counter[str] = field(default_factory=Counter, init=False)

    def normalize(self, sentences: Iterable[str]) -> Iterator[str]:
        """Yield the normalized sentences."""
        known = frozenset(self.vocabulary.symbols) if self.vocabulary else None
        for sentence in sentences:
            text = sentence if self.profile == "none" else normalize(sentence, self.profile)
            words, ours = sentence.split(), text.split()
            if words != ours:
                lost = (Counter(words) - Counter(ours)).elements()
                kept = [bool(normalize(word, self.profile)) for word in lost]
                self.changed += sum(kept)
                self.dropped += len(kept) - sum(kept)
            if known:
                self.unspelled.update(word for word in ours if not known.issuperset(word))
            yield text


class _WordIds(dict[str, int]):
    """The id of each word, assigned in order of appearance; reserved words raise KeyError."""

    def __missing__(self, word: str) -> int:
        if word in RESERVED:
            raise KeyError(word)
        self[word] = number = len(self) + len(RESERVED)
        return number


def _tokenize(sentences: Iterable[str]) -> tuple[list[str], Integers]:
    """The words by id, and the text as ids (T,): BEGIN_ID, words and END_ID of each sentence."""
    ids = _WordIds()
    tokens = array("i")
    for number, sentence in enumerate(sentences, start=1):
        tokens.append(BEGIN_ID)
        try:
            tokens.extend(map(ids.__getitem__, sentence.split()))
        except KeyError as error:
            raise _reserved_word_error(f"sentence {number} of the text", error.args[0]) from None
        tokens.append(END_ID)
    if not ids:
        raise TextError(
            "a language model cannot be estimated from a text without words; use more text"
        )
    return [*RESERVED, *ids], np.frombuffer(tokens, dtype=np.int32)


def _reserved_word_error(where: str, word: str) -> TextError:
    return TextError(
        f"{where} contains {word}, which is reserved in language models; remove it from the text"
    )


def _read_lines(names: list[str]) -> Iterator[str]:
    for name in names:
        where = "the standard input" if name == STANDARD_INPUT else f"the text {name}"
        try:
            with _open(name) as file:
                lines = decompress(file)
                yield from _decode(iter(partial(lines.readline, MOST_LINE_BYTES), b""), where)
        except (OSError, *DAMAGED) as error:
            raise TextError(
                f"{where} cannot be read ({error}); check it, or create it again"
            ) from error


def _open(name: str) -> AbstractContextManager[BufferedReader]:
    if name == STANDARD_INPUT:
        # nullcontext, because others may still read it
        return nullcontext(cast(BufferedReader, sys.stdin.buffer))
    return Path(name).open("rb")


def _decode(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode and check lines; `name` is the name of the file in error messages."""
    has_words = False
    for number, line in enumerate(lines, start=1):
        if len(line) == MOST_LINE_BYTES:
            raise TextError(
                f"line {number} of {name} is longer than {MOST_LINE_BYTES} bytes; write one sentence "
                "per line"
            )
        if b"\0" in line:
            raise TextError(f"line {number} of {name} contains a zero byte; use UTF-8 text")
        try:
            sentence = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"line {number} of {name} is not UTF-8 ({error.reason} at byte {error.start}); "
                "convert the text"
            ) from None
        if "<" in sentence:
            for word in sentence.split():
                if word in RESERVED:
                    raise _reserved_word_error(f"line {number} of {name}", word)
        has_words = has_words or bool(sentence.strip())
        yield sentence
    if not has_words:
        raise TextError(f"{name} contains no words; write one sentence per line")


class _Level(NamedTuple):
    """The distinct n-grams of one length in the text, sorted by (context, word).

    The id of an n-gram is its index. N-grams do not cross sentences, so only the first word can be
    <s>.
    """

    context: Integers  # (n,) id, one level below, of the n-gram without its last word
    word: Integers  # (n,) last word
    suffix: Integers  # (n,) id, one level below, of the n-gram without its first word
    occurrences: Integers  # (n,) number of occurrences in the text
    begins: Flags  # (n,) whether the first word is <s>


def _count_ngrams(tokens: Integers, words: int, order: int) -> Iterator[_Level]:
    """Count the n-grams of `tokens` (T,), from the 1-grams up; `words` is the number of word ids.

    The level below the 1-grams contains only the empty n-gram, with id 0.
    """
    occurrences = np.bincount(tokens, minlength=words)
    occurrences[BEGIN_ID] = 0  # <s> is a context and is never predicted
    empty = np.zeros(words, np.int32)
    every_word = np.arange(words, dtype=np.int32)
    level = _Level(empty, every_word, empty, occurrences.astype(np.int32), every_word == BEGIN_ID)
    yield level

    ids = tokens  # (T,) id of the n-gram of the last level that ends at each position, or -1
    ends = np.flatnonzero(tokens != BEGIN_ID)  # positions at which n-grams of the next level end
    for length in range(2, order + 1):
        keys = ids[ends - 1].astype(np.int64) * words + tokens[ends]
        keys, by_key = _sort_keys(keys, limit=len(level.word) * words)
        positions = ends[by_key]
        del by_key
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        occurrences = np.diff(starts, append=len(keys))
        context, word = (part.astype(np.int32) for part in np.divmod(keys[starts], words))
        del keys
        suffix, begins = ids[positions[starts]], level.begins[context]
        level = _Level(context, word, suffix, occurrences.astype(np.int32), begins)
        yield level

        if length < order:
            ids = np.full(len(tokens), -1, np.int32)
            ids[positions] = np.repeat(np.arange(len(starts), dtype=np.int32), occurrences)
            ends = ends[ids[ends - 1] >= 0]


def _sort_keys(keys: Keys, limit: int) -> tuple[Keys, Keys]:
    """Sort `keys` (n,), all below `limit`; returns them, and the index each of them had."""
    bits = len(keys).bit_length()
    if limit << bits > 1 << 64:
        by_key = np.argsort(keys)
        return keys[by_key], by_key
    # The index goes into the low bits, because NumPy's sort is several times faster than argsort.
    packed = keys.astype(np.uint64) << bits
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    by_key = packed & ((1 << bits) - 1)
    packed >>= bits
    return packed.astype(np.int64), by_key.astype(np.int64)


def _select_words(tokens: Integers, words: int, limit: int | None) -> Flags:
    """Whether each word is kept (words,): the reserved ones and the `limit` most frequent."""
    known = np.ones(words, np.bool_)
    if limit is not None:
        occurrences = np.bincount(tokens, minlength=words)[len(RESERVED) :]
        by_frequency = np.argsort(-occurrences, kind="stable")
        known[len(RESERVED) + by_frequency[limit:]] = False
    return known


def _make_tables(levels: list[_Level], known: Flags, thresholds: list[int]) -> list[NGramTable]:
    """The n-grams to keep of each level, with their probabilities and back-offs."""
    tables: list[NGramTable] = []
    fallen_back: list[int] = []
    kept_below = np.ones(1, np.bool_)
    # <s> is never predicted, so it has no share of the uniform distribution.
    prob_below = np.array([1 / (np.count_nonzero(known) - 1)])
    words_below = np.zeros((1, 0), np.int32)
    new_ids = np.cumsum(known, dtype=np.int32) - 1

    for length, (level, threshold) in enumerate(zip(levels, thresholds, strict=True), start=1):
        adjusted = _adjust_counts(level, levels[length] if length < len(levels) else None)
        discounts = _estimate_discounts(adjusted)
        if discounts is None:
            discounts = FALLBACK_DISCOUNTS
            fallen_back.append(length)
        kept = kept_below[level.context] & known[level.word]
        if length > 1:  # <unk> has no occurrences, but stays
            kept &= level.occurrences > threshold
        prob, backoff = _interpolate(level, adjusted, kept, np.array(discounts), prob_below)
        if length == 1:
            prob[BEGIN_ID] = 1  # so that scoring <s> adds 0

        if tables:
            tables[-1] = tables[-1]._replace(backoff=_log(backoff[kept_below]))
        context = (np.cumsum(kept_below) - 1)[level.context[kept]]  # row in the table below
        words = np.column_stack([words_below[context], new_ids[level.word[kept]]])
        tables.append(NGramTable(words, _log(prob[kept]), None))
        kept_below, prob_below, words_below = kept, prob, words

    if fallen_back:
        names = ", ".join(f"{length}-grams" for length in fallen_back)
        values = ", ".join(map(str, FALLBACK_DISCOUNTS[1:]))
        warnings.warn(
            f"the text is too small or too repetitive to estimate the discounts of the {names}, so "
            f"{values} are used; use more text, without repeated sentences",
            EstimationWarning,
            stacklevel=4,  # the caller of `LanguageModel.estimate`
        )
    return tables


def _adjust_counts(level: _Level, above: _Level | None) -> Integers:
    """The number of distinct words before each n-gram (n,): Heafield et al. 2013, section 3.2.

    The longest n-grams and those that begin with <s> keep their plain counts.
    """
    if above is None:
        return level.occurrences
    contexts = np.bincount(above.suffix, minlength=len(level.occurrences))
    contexts[level.begins] = level.occurrences[level.begins]
    return contexts.astype(np.int32)


def _estimate_discounts(adjusted: Integers) -> tuple[float, ...] | None:
    """Discounts of n-grams seen 0, 1, 2 and 3 or more times; None if the text is too small.

    Chen & Goodman 1998, equation 26, from the numbers of n-grams seen 1 to 4 times.
    """
    seen = np.bincount(np.minimum(adjusted, 5), minlength=6)  # number of n-grams seen i times
    if not seen[1:4].all():
        return None
    times = np.arange(1, 4)
    once = seen[1] / (seen[1] + 2 * seen[2])
    discounts = times - (times + 1) * once * seen[2:5] / seen[1:4]
    if np.any(discounts <= 0):
        return None
    return (0.0, *discounts.tolist())


def _interpolate(
    level: _Level, adjusted: Integers, kept: Flags, discounts: Floats, prob_below: Floats
) -> tuple[Floats, Floats]:
    """The probability of each n-gram, and the back-off of each context one level below.

    The back-off of a context is the probability that discounts take from its n-grams, and that
    pruned n-grams leave behind; it weights the distribution below (Heafield et al. 2013, sections
    3.3 and 3.4).
    """
    contexts = len(prob_below)
    discount = discounts[np.minimum(adjusted, 3)]
    freed = np.where(kept, discount, adjusted)
    total = np.bincount(level.context, weights=adjusted, minlength=contexts)
    freed_total = np.bincount(level.context, weights=freed, minlength=contexts)
    # No word follows </s> and <unk>; their back-off is 1.
    backoff = np.ones(contexts)
    np.divide(freed_total, total, out=backoff, where=total > 0)

    prob = (adjusted - discount) / total[level.context]
    prob += backoff[level.context] * prob_below[level.suffix]
    return prob, backoff


def _log(values: Floats) -> NDArray[np.float32]:
    return np.minimum(np.log(values), 0).astype(np.float32)  # rounding can leave a sum above 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
