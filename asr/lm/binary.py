"""The binary file of a language model: writing it, and mapping it into memory.

The file contains a header, then the arrays of `NGrams` and the words, each aligned to 64 bytes. The
last 8 bytes of the header are the CRC-32 of all other bytes, plus `_HAS_CHECKSUM`; they are 0 in files
of earlier versions of asr.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from asr.errors import LanguageError
from asr.lm.ngrams import HUGE, MOST_ORDER, Bytes, Float32, NGrams, UInt16

MAGIC = b"asr lm\r\n"
"""First bytes of the file; the line end reveals a transfer in text mode."""

_VERSION = 1
# Magic, version, order, then the numbers of nodes, of contexts, of entries in the two codebooks,
# and of bytes in the words; then the checksum.
_HEADER = struct.Struct("<8s2I5qQ")
_CHECKSUM_AT = 56
_HAS_CHECKSUM = 1 << 32
_CHECKED_AT_ONCE = 1 << 18  # numbers, so that temporary arrays stay in the processor's cache
# Types of the arrays: those of `NGrams`, then the words.
_KINDS = [np.dtype(code) for code in "i4 i4 i4 f4 f4 u2 u2 f4 f4 u1".split()]
_ALIGNMENT = 64
_LINE_FEED = 10
_BOOK_ENTRIES = 1 << 16  # number of different uint16 codes


def write_binary(file: IO[bytes], order: int, ngrams: NGrams, spelled: Bytes) -> None:
    """Write a model; `spelled` holds the words in id order as UTF-8, joined by line feeds."""
    books = len(ngrams.log_prob_book), len(ngrams.backoff_book)
    sizes = (len(ngrams.word), len(ngrams.first_child) - 1, *books, len(spelled))
    arrays: list[NDArray[Any]] = [*ngrams, spelled]
    parts: list[bytes | memoryview] = []
    end = _HEADER.size
    for (offset, _, _), array in zip(_list_sections(*sizes)[0], arrays, strict=True):
        parts += [bytes(offset - end), np.asarray(array).data.cast("B") if len(array) else b""]
        end = offset + array.nbytes
    header = _HEADER.pack(MAGIC, _VERSION, order, *sizes, 0)[:_CHECKSUM_AT]
    checksum = zlib.crc32(header)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    file.write(header + struct.pack("<Q", _HAS_CHECKSUM | checksum))
    file.writelines(parts)


def read_binary(name: str) -> tuple[int, NGrams, Bytes]:
    """Map the file `name` into memory, and check it: no damage leads queries out of the arrays.

    Returns:
        The order, the n-grams, and the words, as `write_binary` takes them.

    Raises:
        LanguageError: If the file is truncated, damaged, or of another version.
    """
    # Copy-on-write, because numba would compile another version for read-only arrays.
    file = np.asarray(np.memmap(name, np.uint8, mode="c"))
    header = file[: _HEADER.size].tobytes().ljust(_HEADER.size, b"\0")
    _, version, order, *sizes, checksum = _HEADER.unpack(header)
    if version not in (0, _VERSION):  # 0: cut off before it
        raise LanguageError(
            f"{name} has format version {version}, but this asr reads version {_VERSION}; "
            "convert it again from its ARPA file"
        )
    if not version or len(file) < _HEADER.size:
        raise LanguageError(f"{name} is truncated within its header; copy it again")
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
    ngrams, spelled = NGrams(*arrays[:-1]), arrays[-1]
    found = zlib.crc32(file[_HEADER.size :].data, zlib.crc32(file[:_CHECKSUM_AT].data))
    if checksum and checksum != _HAS_CHECKSUM | found:
        problem = "its checksum differs"
    else:
        problem = _find_damage(ngrams, order, spelled)
    if problem:
        raise LanguageError(
            f"{name} is damaged ({problem}); copy it again, or convert it again from its ARPA file"
        )
    return order, ngrams, spelled


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


def _find_damage(ngrams: NGrams, order: int, spelled: Bytes) -> str:
    """What is wrong with the arrays, or ""; every number that a query follows is checked."""
    contexts, nodes = len(ngrams.first_child) - 1, len(ngrams.word)
    first_child = ngrams.first_child
    if not (
        1 <= order <= MOST_ORDER
        and 1 <= contexts <= nodes
        and first_child[0] == 1
        and first_child[-1] == nodes
        and all(_is_within(part[:-1], part[1:]) for part in _blocks(first_child, 1))
        and _is_tree(ngrams, order)
    ):
        return "its n-grams do not form a tree"
    words = int(first_child[1]) - 1
    if not all(_is_within(part, words - 1) for part in _blocks(ngrams.word)):
        return "an n-gram has an unknown word"
    # A suffix has a smaller number than its node, so that following suffixes ends.
    for start, suffix in enumerate(_blocks(ngrams.suffix)):
        below = np.arange(-1, len(suffix) - 1) + start * _CHECKED_AT_ONCE
        if not _is_within(suffix, np.clip(below, 0, contexts - 1)):
            return "an n-gram has no suffix"
    for code, book in (
        (ngrams.log_prob_code, ngrams.log_prob_book),
        (ngrams.backoff_code, ngrams.backoff_book),
    ):
        if not all(_is_within(part, len(book) - 1) for part in _blocks(code)):
            return "a code is not in its codebook"
    for numbers in (ngrams.log_prob, ngrams.backoff, ngrams.log_prob_book, ngrams.backoff_book):
        # No sum of the logarithms of an n-gram is larger. Comparisons with NaN are false.
        if not all((np.abs(part) <= HUGE * MOST_ORDER).all() for part in _blocks(numbers)):
            return "a number is not a logarithm of a probability"
    if np.count_nonzero(spelled == _LINE_FEED) != words - 1 or not _is_utf8(spelled):
        return "its words are not UTF-8 text, or are not as many as its unigrams"
    return ""


def _blocks(array: NDArray[Any], overlap: int = 0) -> Iterator[NDArray[Any]]:
    """Yield an array in pieces of `_CHECKED_AT_ONCE`, each with `overlap` more items."""
    for start in range(0, len(array), _CHECKED_AT_ONCE):
        yield array[start : start + _CHECKED_AT_ONCE + overlap]


def _is_within(numbers: NDArray[Any], most: NDArray[Any] | int) -> bool:
    """Whether all numbers are from 0 to `most`."""
    return bool(((numbers >= 0) & (numbers <= most)).all())


def _is_utf8(text: Bytes) -> bool:
    try:
        text.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_tree(ngrams: NGrams, order: int) -> bool:
    """Whether the first nodes of all orders are consistent."""
    contexts = len(ngrams.first_child) - 1
    starts = [0, 1]
    for _ in range(order):
        if not starts[-2] <= starts[-1] <= contexts:
            return False
        starts.append(int(ngrams.first_child[starts[-1]]))
    return starts[-2:] == [contexts, len(ngrams.word)]
