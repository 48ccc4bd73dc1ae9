"""N-gram language models: how likely a word is after the words before it.

    model = LanguageModel.read("3-gram.arpa.gz")   # ARPA, ARPA in gzip, or the binary of `write`
    model.score("the cat sat")                     # natural log-probability, </s> included
    model.write("3-gram.lm")                       # opens in milliseconds, shared between processes

A model is a tree of words held in a few flat arrays (`asr.lm.ngrams`), so that it can be mapped from
disk and searched by compiled code. Scores are those of KenLM (Heafield 2011).
"""

import gzip
import itertools
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from asr.compiled import compiled
from asr.errors import LanguageError
from asr.files import write_atomically
from asr.lm.arpa import format_arpa, read_arpa
from asr.lm.binary import (
    HEADER,
    MAGIC,
    VERSION,
    is_tree,
    list_sections,
    quantize_ngrams,
    write_binary,
)
from asr.lm.ngrams import (
    BEGIN,
    END,
    UNKNOWN,
    Bytes,
    Int32,
    NGrams,
    NGramTable,
    build,
    level_starts,
    query,
)

FilePath = str | os.PathLike[str]

_LARGEST_EXPONENT = 709.0  # e to more is no double
_BATCH_SENTENCES = 10_000  # scored at a time


@compiled
def _score_words(
    ngrams: NGrams, begin_state: int, words: Int32, ends: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The log-probability of each of `words`, in sentences that end before the indices `ends`."""
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
    """How well a model foresees a text; </s> counts as a word of each sentence, <s> does not.

    `perplexity` counts every word, the unknown ones as <unk>; `perplexity_known` leaves the
    unknown ones out (they still are context).
    """

    perplexity: float
    perplexity_known: float
    words: int
    unknown: int
    sentences: int


class LanguageModel:
    """A back-off n-gram model.

    `order` is the longest n-gram's length, `ngrams` the arrays for compiled code, `unknown_word`
    the id of <unk>: 0.
    """

    unknown_word = 0

    def __init__(self, order: int, ngrams: NGrams, spelled: Bytes) -> None:
        """`spelled`: the words in id order as UTF-8, joined by line feeds."""
        self.order = order
        self.ngrams = ngrams
        self._spelled = spelled

    @property
    def quantized(self) -> bool:
        """Whether the numbers are held as codes into books."""
        return len(self.ngrams.log_prob_code) > 0

    @property
    def memory_bytes(self) -> int:
        """How much memory the arrays and the words take, mapped from a file or not."""
        return len(self._spelled) + sum(array.nbytes for array in self.ngrams)

    @cached_property
    def begin_state(self) -> int:
        """The state after <s>."""
        return query(self.ngrams, 0, self.word_id(BEGIN))[1]

    @cached_property
    def end_word(self) -> int:
        """The id of </s>."""
        return self.word_id(END)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many n-grams there are of each order."""
        return tuple(np.diff(level_starts(self.ngrams, self.order)).tolist())

    @cached_property
    def words(self) -> Sequence[str]:
        """The words; the index of each is its id."""
        return tuple(self._spelled.tobytes().decode().split("\n"))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def word_id(self, text: str) -> int:
        """The id of a word, 0 where the model does not know it."""
        return self._ids.get(text, self.unknown_word)

    @classmethod
    def from_ngrams(cls, words: Sequence[str], tables: Iterable[NGramTable]) -> "LanguageModel":
        """A model of `tables`, one for each order from 1 up.

        `words[0]` is <unk>, and <s> and </s> are among the words. Every word is a unigram, but <unk>
        need not be. An n-gram whose context is missing brings it in at its backed-off probability.
        Raises `LanguageError` for anything else.
        """
        _check_words(words)
        order, ngrams = build(tables, len(words))
        return cls(order, ngrams, np.frombuffer(bytearray("\n".join(words).encode()), np.uint8))

    @classmethod
    def read(cls, path: FilePath) -> "LanguageModel":
        """The model in a file: ARPA, ARPA in gzip, or what `write` wrote; its content tells which.

        Raises `LanguageError` where it is missing, damaged or anything else.
        """
        name = os.fspath(path)
        try:
            with open(path, "rb") as file:
                start = file.peek(len(MAGIC))
                if start.startswith(MAGIC):
                    return _map_binary(name)
                if start.startswith(_GZIP_MAGIC):
                    return cls(*read_arpa(gzip.GzipFile(fileobj=file), name))
                return cls(*read_arpa(file, name))
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise LanguageError(
                f"{name} is a truncated or damaged gzip file: fetch it again"
            ) from None
        except OSError as error:
            raise LanguageError(
                f"{name} cannot be read ({error.strerror}): check the path"
            ) from error
        except MemoryError:
            raise LanguageError(f"{name} promises more n-grams than fit into the memory") from None

    def write(self, path: FilePath, quantize: bool = False) -> None:
        """Write the binary that `read` maps into memory in milliseconds.

        Quantized, each number is one of at most 65,536 that lie where the model's own are dense:
        the file is about a sixth smaller. Raises `FileError` where the disk refuses; what stood
        at `path` before is then untouched.
        """
        ngrams = quantize_ngrams(self.ngrams) if quantize and not self.quantized else self.ngrams
        write_atomically(path, lambda file: write_binary(file, self.order, ngrams, self._spelled))

    def write_arpa(self, path: FilePath) -> None:
        """Write the model as ARPA, in gzip where the name ends in .gz.

        Nine digits, so that reading it gives the same float32 numbers. Raises as `write` does.
        """

        def write(file: IO[bytes]) -> None:
            blocks = format_arpa(self.order, self.ngrams, self._spelled)
            if not os.fspath(path).endswith(".gz"):
                file.writelines(blocks)
                return
            with gzip.GzipFile(
                filename="", mode="wb", fileobj=file, compresslevel=4, mtime=0
            ) as compressed:
                compressed.writelines(blocks)

        write_atomically(path, write)

    def score(self, sentence: str) -> float:
        """The natural log-probability of a sentence's words and of </s>, after <s>."""
        return float(self._log_probs([sentence])[1].sum())

    def perplexity(self, sentences: Iterable[str]) -> Perplexity:
        """How well the model foresees `sentences`. Raises `LanguageError` where there is none."""
        total, total_known, words, unknown, count = 0.0, 0.0, 0, 0, 0
        remaining = iter(sentences)
        while batch := list(itertools.islice(remaining, _BATCH_SENTENCES)):
            ids, log_probs = self._log_probs(batch)
            known = ids != self.unknown_word
            total += log_probs.sum()
            total_known += log_probs[known].sum()
            words += len(ids)
            unknown += len(ids) - int(known.sum())
            count += len(batch)
        if not count:
            raise LanguageError("there is no sentence to measure the perplexity of")
        return Perplexity(
            perplexity=_exp(-total / words),
            perplexity_known=_exp(-total_known / (words - unknown)),
            words=words,
            unknown=unknown,
            sentences=count,
        )

    def _log_probs(self, sentences: list[str]) -> tuple[Int32, NDArray[np.float64]]:
        """The ids of all words of all sentences, </s> included, and their log-probabilities."""
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
    for needed in (UNKNOWN, BEGIN, END):
        if needed not in words:
            raise LanguageError(f"the words of a language model must have {needed} among them")
    if words[0] != UNKNOWN:
        raise LanguageError(f"word 0 of a language model must be {UNKNOWN}, not {words[0]!r}")
    word, count = Counter(words).most_common(1)[0]
    if count > 1:
        raise LanguageError(f"the word {word!r} is {count} times among the words: leave one")
    wrong = next((word for word in words if not word or re.search(r"[ \t\r\n]", word)), None)
    if wrong is not None:
        raise LanguageError(f"{wrong!r} cannot be a word: words have letters and no white space")


def find_kind(path: FilePath) -> str:
    """What the first bytes of a model's file say it is: "binary", "ARPA in gzip" or "ARPA".

    Raises OSError where there is no such file.
    """
    with open(path, "rb") as file:
        return _kind_of(file.read(len(MAGIC)))


def _kind_of(start: bytes) -> str:
    if start.startswith(MAGIC):
        return "binary"
    return "ARPA in gzip" if start.startswith(_GZIP_MAGIC) else "ARPA"


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < _LARGEST_EXPONENT else math.inf


# A header, then the arrays of `NGrams` in their order and the words, each at a multiple of 64 bytes.
_GZIP_MAGIC = b"\x1f\x8b"


def _map_binary(name: str) -> LanguageModel:
    # Copy-on-write, because compiled code is compiled anew for arrays that it may not write to.
    file = np.asarray(np.memmap(name, np.uint8, mode="c"))
    if len(file) < HEADER.size:
        raise LanguageError(f"{name} is truncated within its header: copy it again")
    _, version, order, *sizes = HEADER.unpack(file[: HEADER.size].tobytes())
    if version != VERSION:
        raise LanguageError(
            f"{name} has format version {version}, this asr reads version {VERSION}: "
            "write it again from its ARPA file"
        )
    sections, size = list_sections(*sizes)
    if min(sizes) < 0 or size != len(file):
        raise LanguageError(
            f"{name} has {len(file)} bytes, but its header speaks of {size}: "
            "it is truncated or damaged, copy it again"
        )
    arrays: list[NDArray[Any]] = [
        file[offset : offset + length * np.dtype(kind).itemsize].view(kind)
        for offset, length, kind in sections
    ]
    ngrams = NGrams(*arrays[:-1])
    if not is_tree(ngrams, order):
        raise LanguageError(f"{name} is damaged: its n-grams make no tree, copy it again")
    return LanguageModel(order, ngrams, arrays[-1])
