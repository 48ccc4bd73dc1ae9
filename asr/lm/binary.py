"""The binary file of a language model, mapped into memory."""

import struct
from typing import IO

import numpy as np

from asr.lm.ngrams import Bytes, Float32, NGrams, UInt16

MAGIC = b"asr lm\r\n"  # the line end shows damage by a transfer as text
VERSION = 1
# Magic, version, order, then how many: nodes, contexts, entries of the two books, bytes of words.
HEADER = struct.Struct("<8s2I5q")
_ALIGNMENT = 64
_BOOK_ENTRIES = 1 << 16


def list_sections(
    nodes: int, contexts: int, log_prob_book: int, backoff_book: int, spelled: int
) -> tuple[list[tuple[int, int, type]], int]:
    """(offset, length, type) of each array, and the size of the file."""
    coded = log_prob_book > 0
    lengths: list[tuple[int, type]] = [
        (contexts + 1, np.int32),
        (nodes, np.int32),
        (nodes, np.int32),
        (0 if coded else nodes, np.float32),
        (0 if coded else contexts, np.float32),
        (nodes if coded else 0, np.uint16),
        (contexts if coded else 0, np.uint16),
        (log_prob_book, np.float32),
        (backoff_book, np.float32),
        (spelled, np.uint8),
    ]
    sections = []
    end = HEADER.size
    for length, kind in lengths:
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = offset + length * np.dtype(kind).itemsize
        sections.append((offset, length, kind))
    return sections, end


def write_binary(file: IO[bytes], order: int, ngrams: NGrams, spelled: Bytes) -> None:
    """Write the header, the arrays and the words of a language model."""
    sizes = (
        len(ngrams.word),
        len(ngrams.first_child) - 1,
        len(ngrams.log_prob_book),
        len(ngrams.backoff_book),
        len(spelled),
    )
    file.write(HEADER.pack(MAGIC, VERSION, order, *sizes))
    for (offset, _, _), array in zip(list_sections(*sizes)[0], [*ngrams, spelled], strict=True):
        file.write(bytes(offset - file.tell()))
        file.write(np.asarray(array).data)


def is_tree(ngrams: NGrams, order: int) -> bool:
    """Whether the orders follow each other as they must; looks at a few numbers only."""
    contexts = len(ngrams.first_child) - 1
    starts = [0, 1]
    for _ in range(order):
        if not starts[-2] <= starts[-1] <= contexts:
            return False
        starts.append(int(ngrams.first_child[starts[-1]]))
    return ngrams.first_child[0] == 1 and starts[-2:] == [contexts, len(ngrams.word)]


def quantize_ngrams(ngrams: NGrams) -> NGrams:
    """The same n-grams with codes for numbers."""
    log_prob_code, log_prob_book = _coded(ngrams.log_prob)
    backoff_code, backoff_book = _coded(ngrams.backoff)
    return ngrams._replace(
        log_prob=np.zeros(0, np.float32),
        backoff=np.zeros(0, np.float32),
        log_prob_code=log_prob_code,
        backoff_code=backoff_code,
        log_prob_book=log_prob_book,
        backoff_book=backoff_book,
    )


def _coded(values: Float32) -> tuple[UInt16, Float32]:
    """Codes for `values`, and the book of what they mean: quantiles, the extremes and 0."""
    quantiles = np.linspace(0, len(values) - 1, _BOOK_ENTRIES - 1).astype(np.int64)
    book = np.unique(np.append(np.sort(values)[quantiles], np.float32(0)))
    middles = (book[1:].astype(np.float64) + book[:-1]) / 2
    code = np.searchsorted(middles, values)
    return code.astype(np.uint16), book
