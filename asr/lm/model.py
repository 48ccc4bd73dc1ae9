"""N-gram language models: how likely a word is after the words before it.

    model = LanguageModel.read("3-gram.arpa.gz")   # ARPA, gzipped ARPA, or the binary of `write`
    model.score("the cat sat")                     # natural log-probability, including </s>
    model.write("3-gram.lm")                       # opens in milliseconds, shared between processes

A model is a tree of words, stored in a few flat arrays (`asr.lm.ngrams`) that can be mapped from
disk and are searched by compiled code. Scores agree with KenLM (Heafield 2011).
"""

import gzip
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO

import numpy as np
from numpy.typing import NDArray

from asr.compiled import compiled
from asr.errors import LanguageError
from asr.files import DAMAGED, decompress, write_atomically
from asr.lm.arpa import format_arpa, read_arpa
from asr.lm.binary import MAGIC, quantize_ngrams, read_binary, write_binary
from asr.lm.estimation import EstimationConfig, OnProgress, estimate_ngrams
from asr.lm.ngrams import (
    BEGIN_WORD,
    END_WORD,
    UNKNOWN_WORD,
    Bytes,
    Int32,
    NGrams,
    NGramTable,
    build,
    level_starts,
    query,
)

FilePath = str | os.PathLike[str]

_BATCH_SENTENCES = 10_000  # number of sentences scored at a time


@compiled
def _score_words(
    ngrams: NGrams, begin_state: int, words: Int32, ends: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The log-probability of each of `words`; `ends` holds the end index of each sentence."""
    log_probs = np.empty(len(words), np.float64)
    index = 0
    for end in ends:
        state = begin_state
        while index < end:
            log_probs[index], state = query(ngrams, state, np.int64(words[index]))
            index += 1
    return log_probs


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The perplexity of a model on a text.

    Attributes:
        perplexity: Perplexity over all words, with unknown words scored as <unk>.
        perplexity_known: Perplexity without unknown words, which still count as context.
        words: Number of words. </s> counts as a word of each sentence, <s> does not.
        unknown: Number of unknown words.
        sentences: Number of sentences.
    """

    perplexity: float
    perplexity_known: float
    words: int
    unknown: int
    sentences: int


class LanguageModel:
    """A back-off n-gram model. Make one with `read`, `estimate` or `from_ngrams`.

    Args:
        order: Number of words in the longest n-grams.
        ngrams: The n-grams, in the form that compiled code takes.
        spelled: The words in id order as UTF-8, joined by line feeds.

    Example:
        >>> from asr.release import RELEASED
        >>> model = LanguageModel.read(RELEASED / "language-model.lm")
        >>> model.perplexity(["the door opened"]).unknown
        0
    """

    unknown_word = 0
    """The id of <unk>."""

    def __init__(self, order: int, ngrams: NGrams, spelled: Bytes) -> None:
        self.order = order
        self.ngrams = ngrams
        self._spelled = spelled

    @property
    def quantized(self) -> bool:
        """Whether the numbers are stored as codes into codebooks."""
        return len(self.ngrams.log_prob_code) > 0

    @property
    def memory_bytes(self) -> int:
        """Size of the arrays and the words in bytes, whether mapped from a file or not."""
        return len(self._spelled) + sum(array.nbytes for array in self.ngrams)

    @cached_property
    def begin_state(self) -> int:
        """The state after <s>."""
        return query(self.ngrams, 0, self.word_id(BEGIN_WORD))[1]

    @cached_property
    def end_word(self) -> int:
        """The id of </s>."""
        return self.word_id(END_WORD)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of n-grams of each order."""
        return tuple(np.diff(level_starts(self.ngrams, self.order)).tolist())

    @cached_property
    def words(self) -> Sequence[str]:
        """The words; the index of each is its id."""
        return tuple(self._spelled.tobytes().decode().split("\n"))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def word_id(self, text: str) -> int:
        """The id of a word; 0 if the model does not know it."""
        return self._ids.get(text, self.unknown_word)

    @classmethod
    def from_ngrams(cls, words: Sequence[str], tables: Iterable[NGramTable]) -> "LanguageModel":
        """Make a model of tables of n-grams.

        Args:
            words: The words by id. The first is <unk>; <s> and </s> are among them.
            tables: A table for each order from 1 up. Every word except <unk> needs a unigram. If
                the context of an n-gram is missing, it is added with its backed-off probability.

        Raises:
            LanguageError: If words or tables are not valid.
        """
        _check_words(words)
        order, ngrams = build(tables, len(words))
        return cls(order, ngrams, np.frombuffer(bytearray("\n".join(words).encode()), np.uint8))

    @classmethod
    def read(cls, path: FilePath) -> "LanguageModel":
        """Read a model from a file.

        Args:
            path: ARPA, also in gzip, bzip2 or xz, or a binary of `write`; the format is detected from
                the content.

        Raises:
            LanguageError: If the file is missing, damaged, or in another format.

        Example:
            model = LanguageModel.read("3-gram.arpa.gz")
        """
        name = os.fspath(path)
        try:
            with open(path, "rb") as file:
                start = file.peek(len(MAGIC))
                if start.startswith(MAGIC):
                    return cls(*read_binary(name))
                return cls(*read_arpa(decompress(file), name))
        except (OSError, *DAMAGED) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise LanguageError(
                    f"{name} cannot be read ({error.strerror}); check the path"
                ) from error
            kind = find_kind(path).removeprefix("ARPA in ")
            raise LanguageError(
                f"{name} is a truncated or damaged {kind} file; download it again"
            ) from None
        except MemoryError:
            raise LanguageError(
                f"{name} counts more n-grams than fit into memory; check the file"
            ) from None

    @classmethod
    def estimate(
        cls,
        sentences: Iterable[str],
        order: int = 3,
        prune: Sequence[int] = (0,),
        vocabulary_limit: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> "LanguageModel":
        """Estimate a model from text by interpolated modified Kneser-Ney smoothing.

        If the text is too small or too repetitive to estimate the discounts of an order, fixed
        discounts are used and an `EstimationWarning` names the order.

        Args:
            sentences: Sentences whose words are separated by white space. A sentence without words
                counts as an empty one, as in lmplz.
            order: Number of words in the longest n-grams, 1 to 5.
            prune: For each order from 1 up, the count up to which n-grams are dropped. The first is
                0, they never decrease, and the last one also applies to all higher orders.
            vocabulary_limit: Keep only this many of the most frequent words; None for all.
            on_progress: Called with a short label when each stage begins.

        Raises:
            ConfigError: If a setting is out of range.
            TextError: If the text has no words, or contains <s>, </s> or <unk> as a word.

        Example:
            model = LanguageModel.estimate(read_sentences(["books.txt.gz"]), order=3)
            model.write("books.lm")
        """
        config = EstimationConfig(order, list(prune), vocabulary_limit)
        words, tables = estimate_ngrams(sentences, config, on_progress)
        if on_progress:
            on_progress("arranging the model")
        return cls.from_ngrams(words, tables)

    def write(self, path: FilePath, quantize: bool = False) -> None:
        """Write the model as a binary that `read` maps into memory in milliseconds.

        Args:
            path: File to write; replaced only when the new file is complete.
            quantize: Round each number to one of at most 65,536 values that lie where the model's
                own are dense. The file is about a sixth smaller.

        Raises:
            FileError: If the file cannot be written; an earlier file at `path` is then unchanged.

        Example:
            model.write("3-gram.lm", quantize=True)
        """
        ngrams = quantize_ngrams(self.ngrams) if quantize and not self.quantized else self.ngrams
        write_atomically(path, lambda file: write_binary(file, self.order, ngrams, self._spelled))

    def write_arpa(self, path: FilePath) -> None:
        """Write the model as ARPA, gzipped if the name of `path` ends in .gz.

        Numbers have nine digits, so reading them gives the same float32 values.

        Raises:
            FileError: If the file cannot be written; an earlier file at `path` is then unchanged.
        """

        def write(file: IO[bytes]) -> None:
            blocks = format_arpa(self.order, self.ngrams, self._spelled)
            if not os.fspath(path).endswith(".gz"):
                file.writelines(blocks)
                return
            with gzip.GzipFile("", "wb", 4, file, mtime=0) as compressed:
                compressed.writelines(blocks)

        write_atomically(path, write)

    def score(self, sentence: str) -> float:
        """Score a sentence.

        Args:
            sentence: Words separated by white space, without <s> and </s>.

        Returns:
            The natural log-probability of the words and of </s>, after <s>.

        Example:
            model.score("the cat sat") > model.score("sat cat the")
        """
        return float(self.word_log_probs([sentence])[1].sum())

    def perplexity(self, sentences: Iterable[str]) -> Perplexity:
        """Measure the perplexity of the model on a text.

        Args:
            sentences: Sentences whose words are separated by white space, without <s> and </s>.

        Raises:
            LanguageError: If there are no sentences.

        Example:
            model.perplexity(read_sentences(["dev.txt"])).perplexity
        """
        total, total_known, words, unknown, count = 0.0, 0.0, 0, 0, 0
        remaining = iter(sentences)
        while batch := list(itertools.islice(remaining, _BATCH_SENTENCES)):
            ids, log_probs = self.word_log_probs(batch)
            known = ids != self.unknown_word
            total += log_probs.sum()
            total_known += log_probs[known].sum()
            words += len(ids)
            unknown += len(ids) - int(known.sum())
            count += len(batch)
        if not count:
            raise LanguageError(
                "there are no sentences to measure the perplexity on; pass some text"
            )
        known_words = words - unknown
        return Perplexity(
            _exp(-total / words), _exp(-total_known / known_words), words, unknown, count
        )

    def word_log_probs(self, sentences: Iterable[str]) -> tuple[Int32, NDArray[np.float64]]:
        """The ids of all words of all sentences, </s> included, and their log-probabilities.

        Args:
            sentences: Sentences whose words are separated by white space, without <s> and </s>.

        Returns:
            (N,) ids, 0 for unknown words, and (N,) natural log-probabilities.
        """
        ids: list[int] = []
        ends = []
        for sentence in sentences:
            ids.extend(map(self.word_id, sentence.split()))
            ids.append(self.end_word)
            ends.append(len(ids))
        words = np.array(ids, np.int32)
        log_probs = _score_words(self.ngrams, self.begin_state, words, np.array(ends, np.int64))
        return words, log_probs


def _check_words(words: Sequence[str]) -> None:
    for needed in (UNKNOWN_WORD, BEGIN_WORD, END_WORD):
        if needed not in words:
            raise LanguageError(f"the words of a language model lack {needed}; add it")
    if words[0] != UNKNOWN_WORD:
        raise LanguageError(
            f"word 0 of a language model is {words[0]!r}; it must be {UNKNOWN_WORD}"
        )
    word, count = Counter(words).most_common(1)[0]
    if count > 1:
        raise LanguageError(
            f"the word {word!r} occurs {count} times among the words; remove the duplicates"
        )
    wrong = next((word for word in words if not word or re.search(r"[ \t\r\n]", word)), None)
    if wrong is not None:
        raise LanguageError(
            f"{wrong!r} cannot be a word; words are not empty and have no white space"
        )


def find_kind(path: FilePath) -> str:
    """The format of a model's file by its first bytes: "binary", "ARPA in gzip" and so on, or "ARPA".

    Raises OSError if the file cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(len(MAGIC))
    if start.startswith(MAGIC):
        return "binary"
    packed = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
    return next(
        (f"ARPA in {kind}" for magic, kind in packed.items() if start.startswith(magic)), "ARPA"
    )


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 709 else math.inf  # exp of more overflows a double
