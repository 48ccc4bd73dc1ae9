"""From text to an n-gram language model: interpolated modified Kneser-Ney smoothing.

    sentences = read_sentences(["books.txt.gz"])
    model = estimate(sentences, EstimationConfig(order=4, prune=[0, 0, 1]))

The method and its equations are those of Heafield et al. 2013, "Scalable Modified Kneser-Ney
Language Model Estimation", after Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques
for Language Modeling". The model holds the n-grams and the values that KenLM's `lmplz` writes for
the same text and options (`--discount_fallback` always on). Where lmplz slips, this does not follow:
it counts a last line without its line feed as a sentence that never ends; it takes the last n-gram of
every lower order at its plain count when it looks for the discounts; and it accepts a discount of 0,
which may leave unseen words a probability of 0.

The text becomes one array of word ids. All k-grams of one k are found by sorting the pairs
(id of the first k - 1 words, last word), whose rank is the id of the k-gram; no n-gram is ever a
Python object.
"""

import gzip
import os
import sys
import warnings
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from asr.errors import ConfigError, TextError
from asr.lm.model import LanguageModel
from asr.lm.ngrams import NGramTable

StrPath = str | os.PathLike[str]
Progress = Callable[[str], None]
Integers = NDArray[np.int32]
Keys = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

HIGHEST_ORDER = 5
STANDARD_INPUT = "-"
GZIP_MAGIC = b"\x1f\x8b"

# The ids of the words that are not the text's own; every model begins with them.
UNKNOWN, BEGIN, END = range(3)
RESERVED = ("<unk>", "<s>", "</s>")

# What an n-gram loses that was seen never, once, twice, three times or more often: lmplz's values
# for texts that cannot tell.
FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)


class EstimationWarning(UserWarning):
    """The text allowed a model, but not the one that was asked for in every detail."""


@dataclass
class EstimationConfig:
    """How a language model is estimated; an impossible value is a `ConfigError` that names it.

    - `order`: words in the longest n-grams, 1 to 5.
    - `prune`: for each order the count up to which its n-grams are dropped, from the 1-grams on.
      The first is 0 and they never fall; the last one also holds for the orders after it. The
      counts are the plain ones, and the discounts those of the whole text: as `lmplz --prune`.
    - `vocabulary_limit`: how many of the text's words the model knows, the most frequent ones (the
      earlier one of equals); None for all. Every n-gram with another word is dropped after
      counting, so those words are `<unk>` to the model, which gets no count of its own: as
      `lmplz --limit_vocab_file` with the list of the words that stay.
    """

    order: int = 3
    prune: list[int] = field(default_factory=lambda: [0])
    vocabulary_limit: int | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.order) or not 1 <= self.order <= HIGHEST_ORDER:
            raise ConfigError(
                f"order is {self.order!r}; it must be a number of words from 1 to {HIGHEST_ORDER}."
            )
        prune = list(self.prune)
        if not prune or not all(map(_is_count, prune)) or prune[0] != 0 or prune != sorted(prune):
            raise ConfigError(
                f"prune is {prune!r}; it must hold counts that begin with 0 and never fall, "
                "such as 0 0 1."
            )
        if len(prune) > self.order:
            raise ConfigError(
                f"prune is {prune!r}, longer than the order: give at most {self.order} counts."
            )
        if self.vocabulary_limit is not None and not (
            _is_count(self.vocabulary_limit) and self.vocabulary_limit >= 1
        ):
            raise ConfigError(
                f"vocabulary_limit is {self.vocabulary_limit!r}; it must be at least 1, or None."
            )

    def thresholds(self) -> list[int]:
        """The count up to which n-grams are dropped, one for each order."""
        return [*self.prune, *[self.prune[-1]] * (self.order - len(self.prune))]


def estimate(
    sentences: Iterable[str],
    config: EstimationConfig | None = None,
    progress: Progress | None = None,
) -> LanguageModel:
    """The modified Kneser-Ney model of `sentences`, whose words are parted by white space.

    A sentence without a word counts as one that ends where it begins, as in lmplz. `progress` is
    called with a short label as each stage begins. Where a text is too small or too repetitive to
    tell the discounts of an order, fixed ones are used and an `EstimationWarning` names the order.
    Raises `TextError` for a text without a word, and for `<s>`, `</s>` or `<unk>` as a word.
    """
    config = config or EstimationConfig()
    report = progress or _ignore

    report("reading the text")
    words, tokens = _tokenize(sentences)
    known = _known_words(tokens, len(words), config.vocabulary_limit)

    counted = _count(tokens, len(words), config.order)
    levels = []
    for length in range(1, config.order + 1):
        report(f"counting {length}-grams")
        levels.append(next(counted))
    del tokens, counted

    report("computing probabilities")
    tables = _tables(levels, known, config.thresholds())
    del levels

    report("arranging the model")
    return LanguageModel.from_ngrams([words[i] for i in np.flatnonzero(known)], tables)


def read_sentences(paths: Iterable[StrPath]) -> Iterator[str]:
    """The lines of text files, one sentence each, read as they are asked for.

    Files may be gzip-compressed, which their first bytes tell; "-" is the standard input. Raises
    `TextError` at once for files that do not exist, and on the way for what cannot be read or is
    not UTF-8 text, for reserved words, and for files without a word.
    """
    names = [os.fspath(path) for path in paths]
    for name in names:
        if name != STANDARD_INPUT and (os.path.isdir(name) or not os.path.exists(name)):
            problem = "is a folder" if os.path.isdir(name) else "does not exist"
            raise TextError(f"the text {name} {problem}: give a file with one sentence a line")
    return _read_lines(names)


class _WordIds(dict[str, int]):
    """The id of each word, given out as words turn up; reserved words never get in."""

    def __missing__(self, word: str) -> int:
        if word in RESERVED:
            raise KeyError(word)
        self[word] = number = len(self) + len(RESERVED)
        return number


def _tokenize(sentences: Iterable[str]) -> tuple[list[str], Integers]:
    """The words by their ids, and the text as ids: BEGIN, the sentence's words, END, and so on."""
    ids = _WordIds()
    tokens = array("i")
    for number, sentence in enumerate(sentences, start=1):
        tokens.append(BEGIN)
        try:
            tokens.extend(map(ids.__getitem__, sentence.split()))
        except KeyError as error:
            raise _reserved(f"sentence {number} of the text", error.args[0]) from None
        tokens.append(END)
    if not ids:
        raise TextError("a language model cannot be estimated from a text without a word")
    return [*RESERVED, *ids], np.frombuffer(tokens, dtype=np.int32)


def _reserved(where: str, word: str) -> TextError:
    return TextError(
        f"{where} holds {word}, a name that language models keep for themselves: "
        "take it out of the text"
    )


def _read_lines(names: list[str]) -> Iterator[str]:
    for name in names:
        where = "the standard input" if name == STANDARD_INPUT else f"the text {name}"
        try:
            with _open(name) as file:
                compressed = file.peek(2)[:2] == GZIP_MAGIC
                lines = gzip.GzipFile(fileobj=file) if compressed else file
                yield from _decode(lines, where)
        except (OSError, EOFError, zlib.error) as error:
            raise TextError(
                f"{where} cannot be read ({error}): check it, or make it anew"
            ) from error


def _open(name: str) -> AbstractContextManager[BufferedReader]:
    if name == STANDARD_INPUT:
        return nullcontext(cast(BufferedReader, sys.stdin.buffer))  # others may still read it
    return Path(name).open("rb")


def _decode(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines as text, checked; errors call the file `name`."""
    has_words = False
    for number, line in enumerate(lines, start=1):
        if b"\0" in line:
            raise TextError(f"line {number} of {name} holds a zero byte: give UTF-8 text")
        try:
            sentence = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"line {number} of {name} is not UTF-8 ({error.reason} at byte {error.start}): "
                "convert the text"
            ) from None
        if "<" in sentence:
            for word in sentence.split():
                if word in RESERVED:
                    raise _reserved(f"line {number} of {name}", word)
        has_words = has_words or bool(sentence.strip())
        yield sentence
    if not has_words:
        raise TextError(f"{name} holds no word: give it sentences, one a line")


class _Level(NamedTuple):
    """All different n-grams of one length in the text, sorted by (context, word).

    An n-gram's id is its place here. It belongs to a sentence: <s> stands in its first place only.
    """

    context: Integers  # (n,) the id, a level below, of the n-gram without its last word
    word: Integers  # (n,) its last word
    suffix: Integers  # (n,) the id, a level below, of the n-gram without its first word
    occurrences: Integers  # (n,) how often it is in the text
    begins: Flags  # (n,) whether its first word is <s>


def _count(tokens: Integers, words: int, order: int) -> Iterator[_Level]:
    """The n-grams of `tokens` (T,), whose ids are below `words`, from the 1-grams to the longest.

    The level below the 1-grams holds one n-gram, the empty one, with the id 0.
    """
    occurrences = np.bincount(tokens, minlength=words)
    occurrences[BEGIN] = 0  # it is only ever a context: nothing predicts it
    empty = np.zeros(words, np.int32)
    every_word = np.arange(words, dtype=np.int32)
    level = _Level(empty, every_word, empty, occurrences.astype(np.int32), every_word == BEGIN)
    yield level

    ids = tokens  # (T,) the n-gram of the last level that ends at each place, if one does
    ends = np.flatnonzero(tokens != BEGIN)  # where the n-grams of the next level end
    for length in range(2, order + 1):
        keys = ids[ends - 1].astype(np.int64) * words + tokens[ends]
        keys, by_key = _sorted(keys, limit=len(level.word) * words)
        places = ends[by_key]
        del by_key
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        occurrences = np.diff(starts, append=len(keys))
        context, word = (part.astype(np.int32) for part in np.divmod(keys[starts], words))
        del keys
        level = _Level(
            context, word, ids[places[starts]], occurrences.astype(np.int32), level.begins[context]
        )
        yield level

        if length < order:
            ids = np.full(len(tokens), -1, np.int32)
            ids[places] = np.repeat(np.arange(len(starts), dtype=np.int32), occurrences)
            ends = ends[ids[ends - 1] >= 0]


def _sorted(keys: Keys, limit: int) -> tuple[Keys, Keys]:
    """`keys` (n,), all below `limit`, in rising order, and where each of them stood."""
    bits = len(keys).bit_length()
    if limit << bits > 1 << 64:
        by_key = np.argsort(keys)
        return keys[by_key], by_key
    # NumPy sorts numbers several times as fast as indices, so the index rides in the low bits.
    packed = keys.astype(np.uint64) << bits
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    by_key = packed & ((1 << bits) - 1)
    packed >>= bits
    return packed.astype(np.int64), by_key.astype(np.int64)


def _known_words(tokens: Integers, words: int, limit: int | None) -> Flags:
    """(words,) whether the model knows each word: the reserved ones and the `limit` most frequent."""
    known = np.ones(words, np.bool_)
    if limit is not None:
        occurrences = np.bincount(tokens, minlength=words)[len(RESERVED) :]
        by_frequency = np.argsort(-occurrences, kind="stable")
        known[len(RESERVED) + by_frequency[limit:]] = False
    return known


def _tables(levels: list[_Level], known: Flags, thresholds: list[int]) -> list[NGramTable]:
    """The n-grams that stay, with their probabilities and back-offs, for each level."""
    tables: list[NGramTable] = []
    fallen_back: list[int] = []
    kept_below = np.ones(1, np.bool_)
    # Nothing predicts <s>, so it has no share of the uniform distribution.
    prob_below = np.array([1 / (np.count_nonzero(known) - 1)])
    words_below = np.zeros((1, 0), np.int32)
    new_ids = np.cumsum(known, dtype=np.int32) - 1

    for length, (level, threshold) in enumerate(zip(levels, thresholds, strict=True), start=1):
        adjusted = _adjusted_counts(level, levels[length] if length < len(levels) else None)
        discounts = _discounts(adjusted)
        if discounts is None:
            discounts = FALLBACK_DISCOUNTS
            fallen_back.append(length)
        kept = kept_below[level.context] & known[level.word]
        if length > 1:  # <unk> is not in the text
            kept &= level.occurrences > threshold
        prob, backoff = _interpolate(level, adjusted, kept, np.array(discounts), prob_below)
        if length == 1:
            prob[BEGIN] = 1  # so that scoring it as a part of the sentence costs nothing

        if tables:
            tables[-1] = tables[-1]._replace(backoff=_log(backoff[kept_below]))
        context = (np.cumsum(kept_below) - 1)[level.context[kept]]  # its row in the table below
        words = np.column_stack([words_below[context], new_ids[level.word[kept]]])
        tables.append(NGramTable(words, _log(prob[kept]), None))
        kept_below, prob_below, words_below = kept, prob, words

    if fallen_back:
        _warn(fallen_back)
    return tables


def _adjusted_counts(level: _Level, above: _Level | None) -> Integers:
    """(n,) in how many different contexts each n-gram was seen: Heafield et al. 2013, section 3.2.

    The longest n-grams and those that begin with <s> have no other context: their plain counts.
    """
    if above is None:
        return level.occurrences
    contexts = np.bincount(above.suffix, minlength=len(level.occurrences))
    contexts[level.begins] = level.occurrences[level.begins]
    return contexts.astype(np.int32)


def _discounts(adjusted: Integers) -> tuple[float, ...] | None:
    """What n-grams lose that were seen 0, 1, 2 and 3 or more times; None if the text cannot tell.

    Chen & Goodman 1998, equation 26, from the numbers of n-grams that were seen 1 to 4 times.
    """
    seen = np.bincount(np.minimum(adjusted, 5), minlength=6)  # seen[i]: n-grams seen i times
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
    """The probability of each n-gram, and the back-off of each context a level below.

    What discounts take from a context's n-grams is its back-off, the share of the distribution
    below: Heafield et al. 2013, sections 3.3 and 3.4. Pruned n-grams leave all they had to it.
    """
    contexts = len(prob_below)
    discount = discounts[np.minimum(adjusted, 3)]
    freed = np.where(kept, discount, adjusted)
    total = np.bincount(level.context, weights=adjusted, minlength=contexts)
    freed_total = np.bincount(level.context, weights=freed, minlength=contexts)
    # Nothing follows </s> and <unk>: there all mass is that of the distribution below.
    backoff = np.ones(contexts)
    np.divide(freed_total, total, out=backoff, where=total > 0)

    prob = (adjusted - discount) / total[level.context]
    prob += backoff[level.context] * prob_below[level.suffix]
    return prob, backoff


def _log(values: Floats) -> NDArray[np.float32]:
    return np.minimum(np.log(values), 0).astype(np.float32)  # rounding may leave a sum above 1


def _warn(orders: list[int]) -> None:
    names = ", ".join(f"{order}-grams" for order in orders)
    values = ", ".join(map(str, FALLBACK_DISCOUNTS[1:]))
    warnings.warn(
        f"the text is too small or too repetitive to tell the discounts of the {names}, so "
        f"{values} are used: give more text, without repeated sentences",
        EstimationWarning,
        stacklevel=4,
    )


def _ignore(stage: str) -> None:
    pass


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
