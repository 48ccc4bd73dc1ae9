"""The tree of n-grams: its flat arrays, the compiled code that queries them, and how it is built.

Back-off follows Katz 1987. `asr.lm.model` is the interface to it.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.compiled import compiled, compiled_core
from asr.errors import LanguageError

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
UInt16 = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
# Compiled code passes np.int64 everywhere, because numba compiles a version per type of integer.
Integer = int | np.int64

UNKNOWN_WORD, BEGIN_WORD, END_WORD = "<unk>", "<s>", "</s>"
UNKNOWN_LOG10_PROB = -100.0
"""Log10 probability of <unk> if the source does not give one, as in KenLM."""

MOST_ORDER = 100
"""Largest order of a model that is read."""

LN10 = math.log(10.0)
HUGE = 1e6
"""Bound on the absolute logarithm of a probability or back-off; larger values are errors."""


class NGrams(NamedTuple):
    """A tree of n-grams, in the form that compiled code takes.

    Node 0 is the root, the empty context. Nodes 1 to W are the unigrams: the node of a word is its
    id + 1. Then come the bigrams, sorted by (context, word), the trigrams, and so on; the children
    of a node are adjacent and sorted by word. n is the number of nodes, L the number of nodes below
    the highest order. A node is *live* if it matters as a context: it has children or a back-off.

    Probabilities are natural logarithms, stored either as float32 (`log_prob`, `backoff`) or as
    codes into codebooks; the arrays of the other form are empty.
    """

    first_child: Int32  # (L + 1,) children of i: first_child[i] to first_child[i + 1] - 1
    word: Int32  # (n,) the last word of each node
    suffix: Int32  # (n,) longest live context after dropping the oldest words; 0 if there is none
    log_prob: Float32  # (n,)
    backoff: Float32  # (L,)
    log_prob_code: UInt16 = np.zeros(0, np.uint16)  # (n,)
    backoff_code: UInt16 = np.zeros(0, np.uint16)  # (L,)
    log_prob_book: Float32 = np.zeros(0, np.float32)  # value of each code
    backoff_book: Float32 = np.zeros(0, np.float32)  # value of each code


class NGramTable(NamedTuple):
    """The n-grams of one order k, one per row, in any sequence."""

    words: Int32  # (n, k) word ids, oldest first
    log_prob: Float32  # (n,) natural logarithm, at most 0
    backoff: Float32 | None  # (n,) natural logarithm; None at the highest order


@compiled_core
def _find_child(first_child: Int32, word: Int32, node: Integer, wanted: Integer) -> int:
    """The child of `node` whose word is `wanted`, or -1."""
    low, end = first_child[node], first_child[node + 1]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if word[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return int(low) if low < end and word[low] == wanted else -1


@compiled_core
def backoff_of(ngrams: NGrams, context: Integer) -> float:
    """The natural logarithm of a context's back-off."""
    if len(ngrams.backoff):
        return float(ngrams.backoff[context])
    return float(ngrams.backoff_book[ngrams.backoff_code[context]])


@compiled_core
def log_prob_of(ngrams: NGrams, node: Integer) -> float:
    """The natural log-probability of a node."""
    if len(ngrams.log_prob):
        return float(ngrams.log_prob[node])
    return float(ngrams.log_prob_book[ngrams.log_prob_code[node]])


@compiled_core
def query(ngrams: NGrams, state: Integer, word: Integer) -> tuple[float, int]:
    """The natural log-probability of `word` after the context `state`, and the next state.

    A state is the node of a live context, or 0 for the empty context. `word` must be a valid id.
    """
    backoff, child = 0.0, -1
    while state != 0:
        child = _find_child(ngrams.first_child, ngrams.word, state, word)
        if child >= 0:
            break
        backoff += backoff_of(ngrams, state)
        state = np.int64(ngrams.suffix[state])
    if state == 0:
        child = int(word) + 1
    contexts = len(ngrams.first_child) - 1
    live = child < contexts and (
        ngrams.first_child[child + 1] > ngrams.first_child[child] or backoff_of(ngrams, child) != 0
    )
    return backoff + log_prob_of(ngrams, child), int(child if live else ngrams.suffix[child])


def level_starts(ngrams: NGrams, order: int) -> list[int]:
    """The first node of each order from 1 up, followed by the number of nodes."""
    starts = [1]
    for _ in range(order):
        starts.append(int(ngrams.first_child[starts[-1]]))
    return starts


class _Level(NamedTuple):
    """The n-grams of one order, sorted by (context, word)."""

    context: Int32  # (n,) index of the context in the level below
    word: Int32  # (n,)
    log_prob: Float32  # (n,) NaN if the backed-off probability is still to be computed
    backoff: Float32  # (n,)


LocateRow = Callable[[int, int], str]
"""Names a row in error messages, given the order and the row of its table."""


def _locate_table_row(order: int, row: int) -> str:
    return f"row {row} of the table of {order}-grams"


def build(
    tables: Iterable[NGramTable], words: int, locate: LocateRow = _locate_table_row
) -> tuple[int, NGrams]:
    """Build the tree of a model.

    Args:
        tables: The n-grams of each order from 1 up; `LanguageModel.from_ngrams` says what is valid.
        words: Number of words, W.
        locate: Names a row of a table in error messages.

    Returns:
        The order of the model, and its arrays.

    Raises:
        LanguageError: If the tables are not valid.
    """
    levels: list[_Level] = []
    for table in tables:
        table = _check_table(table, words, len(levels) + 1, locate)
        levels = (
            _add_level(levels, table, locate) if levels else [_make_unigrams(table, words, locate)]
        )
        del table  # free its memory before the iterator makes the next table
    if not levels:
        raise LanguageError("a language model needs at least a table of unigrams")
    ngrams = _join_levels(levels)
    _link_suffixes(ngrams)
    return len(levels), ngrams


def _check_table(table: NGramTable, words: int, order: int, locate: LocateRow) -> NGramTable:
    """`table` in the types of `NGramTable`; every number is checked."""
    rows = len(table.log_prob)
    backoff = np.zeros(0) if table.backoff is None else table.backoff
    if table.words.shape != (rows, order) or len(backoff) not in (0, rows):
        raise LanguageError(
            f"a table of {rows} {order}-grams needs words of shape {(rows, order)} and as many "
            f"back-offs, not {table.words.shape} and {len(backoff)}"
        )
    # Negated, because comparisons with NaN are false.
    wrong = np.flatnonzero(~((table.log_prob <= 0) & (table.log_prob > -HUGE)))
    if len(wrong):
        raise LanguageError(
            f"{locate(order, int(wrong[0]))} has the log-probability "
            f"{table.log_prob[wrong[0]]}, but logarithms of probabilities are 0 or less"
        )
    wrong = np.flatnonzero(~(np.abs(backoff) < HUGE))
    if len(wrong):
        raise LanguageError(
            f"{locate(order, int(wrong[0]))} has the back-off {backoff[wrong[0]]}, not a logarithm"
        )
    if rows and (table.words.min() < 0 or table.words.max() >= words):
        raise LanguageError(f"a table of {order}-grams contains ids that are not 0 to {words - 1}")
    return NGramTable(
        table.words.astype(np.int32, copy=False),
        table.log_prob.astype(np.float32, copy=False),
        None if table.backoff is None else backoff.astype(np.float32, copy=False),
    )


def _make_unigrams(table: NGramTable, words: int, locate: LocateRow) -> _Level:
    """The unigrams in id order; <unk> is added if the table lacks it."""
    ids = table.words[:, 0]
    _find_order(ids, 1, locate)
    log_prob = np.full(words, np.nan, np.float32)
    backoff = np.zeros(words, np.float32)
    log_prob[0] = UNKNOWN_LOG10_PROB * LN10
    log_prob[ids] = table.log_prob
    if table.backoff is not None:
        backoff[ids] = table.backoff
    missing = np.flatnonzero(np.isnan(log_prob))
    if len(missing):
        raise LanguageError(f"word {missing[0]} has no unigram, but every word needs one")
    return _Level(np.zeros(words, np.int32), np.arange(words, dtype=np.int32), log_prob, backoff)


def _add_level(levels: list[_Level], table: NGramTable, locate: LocateRow) -> list[_Level]:
    """`levels` with the n-grams of `table` on top; contexts that are missing are added below."""
    words, log_prob, backoff = table
    context = _find_nodes(levels, words[:, :-1])
    missing = context < 0
    if missing.any():
        below = _add_contexts(levels, np.unique(words[missing, :-1], axis=0))
        levels = _add_level(levels[:-1], below, locate)
        context = _find_nodes(levels, words[:, :-1])
    key = context.astype(np.int64)
    key <<= 32
    key |= words[:, -1]
    rows = _find_order(key, words.shape[1], locate)
    key = key[rows]
    context, word = (key >> 32).astype(np.int32), key.astype(np.int32)
    backoff = np.zeros(len(key), np.float32) if backoff is None else backoff[rows]
    return [*levels, _Level(context, word, log_prob[rows], backoff)]


def _find_order(key: NDArray[Any], order: int, locate: LocateRow) -> NDArray[np.int64] | slice:
    """The index that sorts `key`. Raises LanguageError if a key occurs twice."""
    if (key[1:] > key[:-1]).all():
        return slice(None)
    rows = np.argsort(key)
    ordered = key[rows]
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(repeated):
        first, second = sorted(rows[repeated[0] : repeated[0] + 2].tolist())
        raise LanguageError(
            f"{locate(order, second)} repeats the {order}-gram of {locate(order, first)}; "
            "remove one"
        )
    return rows


def _find_nodes(levels: list[_Level], contexts: Int32) -> Int32:
    """The index of each row of `contexts` (n, k) in level k, or -1 if it is missing."""
    nodes = contexts[:, 0].copy()  # a unigram's index is its word
    for order in range(1, contexts.shape[1]):
        first_child = _first_child(levels[order].context, len(levels[order - 1].word))
        words = np.ascontiguousarray(contexts[:, order])
        _find_children(first_child, levels[order].word, nodes, words)
    return nodes


def _first_child(context: Int32, contexts: int) -> Int32:
    counts = np.bincount(context, minlength=contexts)
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)


@compiled
def _find_children(first_child: Int32, word: Int32, nodes: Int32, words: Int32) -> None:
    """Replace each of `nodes` by its child with the word in `words`, or by -1."""
    for index in range(len(nodes)):
        if nodes[index] >= 0:
            node, wanted = np.int64(nodes[index]), np.int64(words[index])
            nodes[index] = _find_child(first_child, word, node, wanted)


def _add_contexts(levels: list[_Level], contexts: Int32) -> NGramTable:
    """The highest level as a table, with rows for `contexts` that have no probability yet."""
    columns = []
    node = np.arange(len(levels[-1].word), dtype=np.int32)
    for level in reversed(levels):
        columns.append(level.word[node])
        node = level.context[node]
    added = len(contexts)
    return NGramTable(
        np.concatenate([np.stack(columns[::-1], axis=1), contexts]),
        np.append(levels[-1].log_prob, np.full(added, np.nan, np.float32)),
        np.append(levels[-1].backoff, np.zeros(added, np.float32)),
    )


def _join_levels(levels: list[_Level]) -> NGrams:
    """The arrays of the root and all levels, concatenated; `_link_suffixes` sets the suffixes."""
    sizes = [1, *(len(level.word) for level in levels)]  # the root counts as a level
    starts = np.cumsum([0, *sizes])  # (order + 2,) first node of each level, then n
    first_child = [
        _first_child(level.context, below)[:-1] + starts[order]
        for order, (level, below) in enumerate(zip(levels, sizes[:-1], strict=True), start=1)
    ]
    root = np.zeros(1, np.float32)
    return NGrams(
        first_child=np.concatenate([*first_child, starts[-1:]]).astype(np.int32),
        word=np.concatenate([np.zeros(1, np.int32), *(level.word for level in levels)]),
        suffix=np.zeros(starts[-1], np.int32),
        log_prob=np.concatenate([root, *(level.log_prob for level in levels)]),
        backoff=np.concatenate([root, *(level.backoff for level in levels[:-1])]),
    )


@compiled
def _link_suffixes(ngrams: NGrams) -> None:
    """Set the suffix of each node, and the probability of each context that was added.

    The suffix of context + word is the state after `word` in the suffix of the context. Both have
    smaller node numbers, so they are complete when nodes are visited in order.
    """
    for context in range(1, len(ngrams.first_child) - 1):
        for child in range(ngrams.first_child[context], ngrams.first_child[context + 1]):
            state, word = np.int64(ngrams.suffix[context]), np.int64(ngrams.word[child])
            log_prob, ngrams.suffix[child] = query(ngrams, state, word)
            if np.isnan(ngrams.log_prob[child]):
                ngrams.log_prob[child] = ngrams.backoff[context] + log_prob
