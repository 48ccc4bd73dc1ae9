"""The binary file of a language model: writing it, and mapping it into memory.

The file contains a header, then the arrays of `NGrams` and the words, each aligned to 64 bytes.
"""

import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from asr.errors import LanguageError
from asr.lm.ngrams import Bytes, Float32, NGrams, UInt16

MAGIC = b"asr lm\r\n"
"""First bytes of the file; the line end reveals a transfer in text mode."""

_VERSION = 1
# Magic, version, order, then the numbers of nodes, of contexts, of entries in the two codebooks,
# and of bytes in the words.
_HEADER = struct.Struct("<8s2I5q")
# Types of the arrays: those of `NGrams`, then the words.
_KINDS = [np.dtype(code) for code in "i4 i4 i4 f4 f4 u2 u2 f4 f4 u1".split()]
_ALIGNMENT = 64
_BOOK_ENTRIES = 1 << 16  # number of different uint16 codes


def write_binary(file: IO[bytes], order: int, ngrams: NGrams, spelled: Bytes) -> None:
    """Write a model; `spelled` holds the words in id order as UTF-8, joined by line feeds."""
    books = len(ngrams.log_prob_book), len(ngrams.backoff_book)
    sizes = (len(ngrams.word), len(ngrams.first_child) - 1, *books, len(spelled))
    file.write(_HEADER.pack(MAGIC, _VERSION, order, *sizes))
    for (offset, _, _), array in zip(_list_sections(*sizes)[0], [*ngrams, spelled], strict=True):
        file.write(bytes(offset - file.tell()))
        file.write(np.asarray(array).data)


def read_binary(name: str) -> tuple[int, NGrams, Bytes]:
    """Map the file `name` into memory.

    Returns:
        The order, the n-grams, and the words, as `write_binary` takes them.

    Raises:
        LanguageError: If the file is truncated, damaged, or of another version.
    """
    # Copy-on-write, because numba would compile another version for read-only arrays.
    file = np.asarray(np.memmap(name, np.uint8, mode="c"))
    if len(file) < _HEADER.size:
        raise LanguageError(f"{name} is truncated within its header; copy it again")
    _, version, order, *sizes = _HEADER.unpack(file[: _HEADER.size].tobytes())
    if version != _VERSION:
        raise LanguageError(
            f"{name} has format version {version}, but this asr reads version {_VERSION}; "
            "convert it again from its ARPA file"
        )
    sections, size = _list_sections(*sizes)
    if min(sizes) < 0 or size != len(file):
        raise LanguageError(
            f"{name} is truncated or damaged (it has {len(file)} bytes, but its header counts "
            f"{size}); copy it again"
        )
    arrays: list[NDArray[Any]] = [
        file[offset : offset + length * kind.itemsize].view(kind)
        for offset, length, kind in sections
    ]
    ngrams = NGrams(*arrays[:-1])
    if not _is_tree(ngrams, order):
        raise LanguageError(f"{name} is damaged (its n-grams do not form a tree); copy it again")
    return order, ngrams, arrays[-1]


def quantize_ngrams(ngrams: NGrams) -> NGrams:
    """The same n-grams with codes into codebooks instead of float32 numbers."""
    empty = np.zeros(0, np.float32)
    log_prob_code, log_prob_book = _quantize(ngrams.log_prob)
    backoff_code, backoff_book = _quantize(ngrams.backoff)
    return NGrams(
        *ngrams[:3], empty, empty, log_prob_code, backoff_code, log_prob_book, backoff_book
    )


def _quantize(values: Float32) -> tuple[UInt16, Float32]:
    """Codes for `values`, and the codebook: quantiles, the extremes and 0."""
    quantiles = np.linspace(0, len(values) - 1, _BOOK_ENTRIES - 1).astype(np.int64)
    book = np.unique(np.append(np.sort(values)[quantiles], np.float32(0)))
    middles = (book[1:].astype(np.float64) + book[:-1]) / 2
    code = np.searchsorted(middles, values)
    return code.astype(np.uint16), book


def _list_sections(
    nodes: int, contexts: int, log_prob_book: int, backoff_book: int, spelled: int
) -> tuple[list[tuple[int, int, np.dtype[Any]]], int]:
    """(offset, length, type) of each array, and the size of the file."""
    lengths = [contexts + 1, nodes, nodes]
    lengths += [0, 0, nodes, contexts] if log_prob_book else [nodes, contexts, 0, 0]
    lengths += [log_prob_book, backoff_book, spelled]
    sections = []
    end = _HEADER.size
    for length, kind in zip(lengths, _KINDS, strict=True):
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = offset + length * kind.itemsize
        sections.append((offset, length, kind))
    return sections, end


def _is_tree(ngrams: NGrams, order: int) -> bool:
    """Whether the first nodes of all orders are consistent; reads only a few numbers."""
    contexts = len(ngrams.first_child) - 1
    starts = [0, 1]
    for _ in range(order):
        if not starts[-2] <= starts[-1] <= contexts:
            return False
        starts.append(int(ngrams.first_child[starts[-1]]))
    return ngrams.first_child[0] == 1 and starts[-2:] == [contexts, len(ngrams.word)]
