"""The tree of n-grams: flat arrays, the compiled code that asks them, and how they are built.

Back-off after Katz 1987. `asr.lm.model` says how it is used.
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
# What compiled code hands on is np.int64 throughout: it is compiled anew for each kind of integer.
Integer = int | np.int64

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
# For a source without <unk>; KenLM's choice.
UNKNOWN_LOG10_PROB = -100.0
LN10 = math.log(10.0)
HUGE = 1e6  # no logarithm of a probability or a back-off comes near


class NGrams(NamedTuple):
    """A tree of n-grams: what compiled code takes.

    Node 0 is the root, the empty context. Nodes 1 to W are the unigrams: the node of a word is its
    id + 1. Then come the bigrams, sorted by (context, word), the trigrams, and so on: the children
    of a node lie side by side, sorted by word. n counts all nodes, L those below the highest order.
    A node is *live* where it is worth keeping as a context: it has children or a back-off.

    Probabilities are natural logarithms, held either as float32 (`log_prob`, `backoff`) or as
    codes into books; the arrays of the other kind are empty.
    """

    first_child: Int32  # (L + 1,) children of i: first_child[i] to first_child[i + 1] - 1
    word: Int32  # (n,) the last word of each node
    suffix: Int32  # (n,) the longest live context left when the oldest words are dropped; or 0
    log_prob: Float32  # (n,)
    backoff: Float32  # (L,)
    log_prob_code: UInt16  # (n,)
    backoff_code: UInt16  # (L,)
    log_prob_book: Float32
    backoff_book: Float32


class NGramTable(NamedTuple):
    """The n-grams of one order k, one a row, in any order."""

    words: Int32  # (n, k) word ids, oldest first
    log_prob: Float32  # (n,) natural logarithm, at most 0
    backoff: Float32 | None  # (n,) natural logarithm; None at the highest order


@compiled_core
def _find_child(first_child: Int32, word: Int32, node: Integer, wanted: Integer) -> int:
    """The child of `node` whose word is `wanted`, or -1."""
    low = first_child[node]
    end = first_child[node + 1]
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
    """The natural log-probability of `word` after the context `state`, and the state after it.

    A state is the node of a live context, 0 where nothing is remembered. `word` must be an id of
    the model.
    """
    backoff = 0.0
    child = -1
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
    """The first node of each order from 1 up, and the number of nodes."""
    starts = [1]
    for _ in range(order):
        starts.append(int(ngrams.first_child[starts[-1]]))
    return starts


class _Level(NamedTuple):
    """The n-grams of one order, sorted; contexts are indices into the level below."""

    context: Int32  # (n,)
    word: Int32  # (n,)
    log_prob: Float32  # (n,) NaN where the backed-off probability is still to be put in
    backoff: Float32  # (n,)


Process = Callable[[int, int], str]  # (order, row of its table) -> its name in errors


def _table_row(order: int, row: int) -> str:
    return f"row {row} of the table of {order}-grams"


def build(
    tables: Iterable[NGramTable], words: int, place: Process = _table_row
) -> tuple[int, NGrams]:
    """The order and the arrays of a model of `words` words, out of a table for each order.

    `LanguageModel.from_ngrams` says what tables may hold; `place` names a row of one in errors.
    """
    levels: list[_Level] = []
    for table in tables:
        table = _checked(table, words, len(levels) + 1, place)
        levels = _with_level(levels, table, place) if levels else [_first(table, words, place)]
        del table  # its memory is free before the source makes the next one
    if not levels:
        raise LanguageError("a language model needs a table of unigrams at least")
    ngrams = _joined(levels)
    _link(ngrams)
    return len(levels), ngrams


def _checked(table: NGramTable, words: int, order: int, place: Process) -> NGramTable:
    """`table` in the types of `NGramTable`, after a look at every number."""
    rows = len(table.log_prob)
    backoff = np.zeros(0) if table.backoff is None else table.backoff
    if table.words.shape != (rows, order) or len(backoff) not in (0, rows):
        raise LanguageError(
            f"a table of {rows} {order}-grams needs words of shape {(rows, order)} and as many "
            f"back-offs, not {table.words.shape} and {len(backoff)}"
        )
    # NaN satisfies no comparison.
    wrong = np.flatnonzero(~((table.log_prob <= 0) & (table.log_prob > -HUGE)))
    if len(wrong):
        raise LanguageError(
            f"{place(order, int(wrong[0]))} has the log-probability "
            f"{table.log_prob[wrong[0]]}, but logarithms of probabilities are 0 or less"
        )
    wrong = np.flatnonzero(~(np.abs(backoff) < HUGE))
    if len(wrong):
        raise LanguageError(
            f"{place(order, int(wrong[0]))} has the back-off {backoff[wrong[0]]}, not a logarithm"
        )
    if rows and (table.words.min() < 0 or table.words.max() >= words):
        raise LanguageError(f"a table of {order}-grams holds ids that are not 0 to {words - 1}")
    return NGramTable(
        table.words.astype(np.int32, copy=False),
        table.log_prob.astype(np.float32, copy=False),
        None if table.backoff is None else backoff.astype(np.float32, copy=False),
    )


def _first(table: NGramTable, words: int, place: Process) -> _Level:
    """The unigrams in id order, with <unk> where the table lacks it."""
    ids = table.words[:, 0]
    _sorting(ids, 1, place)
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


def _with_level(levels: list[_Level], table: NGramTable, place: Process) -> list[_Level]:
    """`levels` and one more above them, after the contexts that `table` needs and they lack."""
    words, log_prob, backoff = table
    context = _find_nodes(levels, words[:, :-1])
    missing = context < 0
    if missing.any():
        below = _with_contexts(levels, np.unique(words[missing, :-1], axis=0))
        levels = _with_level(levels[:-1], below, place)
        context = _find_nodes(levels, words[:, :-1])
    key = context.astype(np.int64)
    key <<= 32
    key |= words[:, -1]
    rows = _sorting(key, words.shape[1], place)
    key = key[rows]
    level = _Level(
        context=(key >> 32).astype(np.int32),
        word=key.astype(np.int32),
        log_prob=log_prob[rows],
        backoff=np.zeros(len(key), np.float32) if backoff is None else backoff[rows],
    )
    return [*levels, level]


def _sorting(key: NDArray[Any], order: int, place: Process) -> NDArray[np.int64] | slice:
    """The index that sorts `key`. Raises `LanguageError` where a key repeats."""
    if (key[1:] > key[:-1]).all():
        return slice(None)
    rows = np.argsort(key)
    ordered = key[rows]
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(repeated):
        first, second = sorted(rows[repeated[0] : repeated[0] + 2].tolist())
        raise LanguageError(
            f"{place(order, second)} repeats the {order}-gram of {place(order, first)}: leave one"
        )
    return rows


def _find_nodes(levels: list[_Level], contexts: Int32) -> Int32:
    """The index of each row of `contexts` (n, k) in level k, -1 where it is missing."""
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
    """Moves each of `nodes` to its child by `words`, or to -1."""
    for index in range(len(nodes)):
        if nodes[index] >= 0:
            nodes[index] = _find_child(
                first_child, word, np.int64(nodes[index]), np.int64(words[index])
            )


def _with_contexts(levels: list[_Level], contexts: Int32) -> NGramTable:
    """The highest of `levels` as a table again, and rows whose probability is still to be put in."""
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


def _joined(levels: list[_Level]) -> NGrams:
    """The arrays of all levels one after another, below them the root; suffixes still to be set."""
    sizes = [1, *(len(level.word) for level in levels)]  # the root is a level too
    starts = np.cumsum([0, *sizes])  # (order + 2,) first node of each level
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
        log_prob_code=np.zeros(0, np.uint16),
        backoff_code=np.zeros(0, np.uint16),
        log_prob_book=np.zeros(0, np.float32),
        backoff_book=np.zeros(0, np.float32),
    )


@compiled
def _link(ngrams: NGrams) -> None:
    """Sets the suffix of each node, and the probability of each context that was put in.

    The suffix of context + word is the state in which `word` leaves the suffix of the context.
    Both lie below the node, so going up by node number finds them ready.
    """
    for context in range(1, len(ngrams.first_child) - 1):
        for child in range(ngrams.first_child[context], ngrams.first_child[context + 1]):
            log_prob, state = query(
                ngrams, np.int64(ngrams.suffix[context]), np.int64(ngrams.word[child])
            )
            ngrams.suffix[child] = state
            if np.isnan(ngrams.log_prob[child]):
                ngrams.log_prob[child] = ngrams.backoff[context] + log_prob
