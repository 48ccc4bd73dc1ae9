"""Mixing language models: linear interpolation in one model, its weights, and pruning it to a size.

The mixture gives an n-gram that any of the models has the probability

    p(word | context) = sum of weight[i] * p_i(word | context)

and all others by back-off, with back-offs that make every distribution sum to 1 (Stolcke 2002,
"SRILM - an extensible language modeling toolkit", as its `-mix-lm`). The weights are those under which
a text of the domain is most probable, found by expectation maximization (Jelinek & Mercer 1980). A
mixture is pruned to the n-grams whose loss would change it most, by the relative entropy between the
model with and without each of them (Stolcke 1998, "Entropy-based Pruning of Backoff Language Models").
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.compiled import compiled
from asr.errors import ConfigError, LanguageError
from asr.lm.model import LanguageModel
from asr.lm.ngrams import (
    BEGIN_WORD,
    END_WORD,
    LN10,
    UNKNOWN_LOG10_PROB,
    UNKNOWN_WORD,
    Int32,
    NGrams,
    NGramTable,
    build,
    level_starts,
    query,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
OnProgress = Callable[[str], object]

RESERVED = (UNKNOWN_WORD, BEGIN_WORD, END_WORD)
BEGIN_ID = 1
STEPS = 50  # of expectation maximization
SMALLEST_CHANGE = 1e-5  # of a weight, below which expectation maximization has converged
LEAST = 1e-12  # smallest mass of a distribution's rest, so that no back-off is 0


class _Level(NamedTuple):
    """The n-grams of one order in all models together, sorted by (context, word)."""

    context: Int32  # (n,) index of the context in the level below
    word: Int32  # (n,)
    prob: Floats  # (n,) probability of the word after the context


@dataclass(frozen=True)
class Mixing:
    """What became of a mixture.

    Attributes:
        model: The mixture.
        weights: The weight of each model.
        dropped: Number of n-grams that were pruned.
    """

    model: LanguageModel
    weights: tuple[float, ...]
    dropped: int


@compiled
def _score_words(
    ngrams: NGrams, states: Int32, words: Int32, log_probs: Floats, next_states: Int32
) -> None:
    """Score each word after its state; a word of -1, which the model lacks, has probability 0."""
    for index in range(len(words)):
        state, word = np.int64(states[index]), np.int64(max(words[index], 0))
        log_prob, next_state = query(ngrams, state, word)
        log_probs[index] = log_prob if words[index] >= 0 else -np.inf
        next_states[index] = next_state


def fit_weights(models: Sequence[LanguageModel], sentences: Iterable[str]) -> tuple[float, ...]:
    """Find the weights of a mixture under which a text is most probable.

    Args:
        models: The models.
        sentences: Text of the domain that the mixture is for; words that no model has are left out.

    Returns:
        The weights, which sum to 1.

    Raises:
        LanguageError: If the text has no word that a model knows.
    """
    text = list(sentences)
    measured = [model.word_log_probs(text) for model in models]
    probs = np.stack([np.where(ids > 0, np.exp(logs), 0.0) for ids, logs in measured])
    probs = probs[:, probs.sum(axis=0) > 0]  # (models, words)
    if not probs.size:
        raise LanguageError("the text has no word that a model knows; use text of the domain")
    weights = np.full(len(models), 1 / len(models))
    for _ in range(STEPS):
        shares = weights[:, None] * probs
        before, weights = weights, (shares / shares.sum(axis=0)).mean(axis=1)
        if np.abs(weights - before).max() < SMALLEST_CHANGE:
            break
    return tuple(weights.tolist())


def mix(
    models: Sequence[LanguageModel],
    weights: Sequence[float],
    limit: int | None = None,
    vocabulary_limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> Mixing:
    """Mix language models by linear interpolation.

    Args:
        models: Two models or more.
        weights: The weight of each model, 0 or more; they are divided by their sum.
        limit: Largest number of n-grams of order 2 and above, of which the most important stay; None
            for all. Contexts of n-grams that stay are kept in addition.
        vocabulary_limit: Keep only this many of the most probable words; None for all.
        on_progress: Called with a short label when each stage begins.

    Raises:
        ConfigError: If a weight or a limit is out of range.

    Example:
        >>> books = LanguageModel.estimate(["the cat sat", "the cat ran"], order=2)
        >>> news = LanguageModel.estimate(["the market fell", "the bank fell"], order=2)
        >>> mixing = mix([books, news], [0.5, 0.5])
        >>> mixing.model.perplexity(["the cat fell"]).unknown
        0
    """
    report = on_progress or (lambda _: None)
    shares = _check(models, weights, limit, vocabulary_limit)
    report("mixing the words")
    words, ids, unigrams = _mix_unigrams(models, shares, vocabulary_limit)
    levels = [
        _Level(np.zeros(len(words), np.int32), np.arange(len(words), dtype=np.int32), unigrams)
    ]
    nodes = (
        ids  # for each of a model's n-grams of the last order, its index in the mixture's, or -1
    )
    lookup = [_invert(own, len(words)) for own in ids]
    empty = np.zeros(1, np.int32)
    states = [
        _step(model, empty, levels[0], own)[1] for model, own in zip(models, lookup, strict=True)
    ]
    for order in range(2, max(model.order for model in models) + 1):
        report(f"mixing {order}-grams")
        level, nodes = _join(models, ids, nodes, order)
        prob = np.zeros(len(level.word))
        for number, (model, own) in enumerate(zip(models, lookup, strict=True)):
            log_probs, states[number] = _step(model, states[number], level, own)
            prob += shares[number] * np.exp(log_probs)
        levels.append(level._replace(prob=prob))
    report("computing back-offs")
    tables = _make_tables(levels, len(words))
    dropped = 0
    if limit is not None and sum(len(level.word) for level in levels[1:]) > limit:
        report("pruning")
        kept = _choose(levels, tables, limit, len(words))
        dropped = sum(len(flags) - int(flags.sum()) for flags in kept)
        tables = _make_tables(_select(levels, kept), len(words))
    report("arranging the model")
    return Mixing(LanguageModel.from_ngrams(words, tables), tuple(shares.tolist()), dropped)


def _check(
    models: Sequence[LanguageModel],
    weights: Sequence[float],
    limit: int | None,
    vocabulary_limit: int | None,
) -> Floats:
    """The weights, divided by their sum."""
    shares: Floats = np.array(weights, np.float64)
    if len(models) < 2 or shares.shape != (len(models),):
        raise ConfigError(
            f"{len(models)} models and {len(shares)} weights cannot be mixed; pass at least two "
            "models and a weight for each"
        )
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise ConfigError(f"the weights are {list(weights)}; they must be 0 or more, and not all 0")
    for name, value in (("limit", limit), ("vocabulary_limit", vocabulary_limit)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1, or None")
    shares /= shares.sum()
    return shares


def _mix_unigrams(
    models: Sequence[LanguageModel], shares: Floats, vocabulary_limit: int | None
) -> tuple[list[str], list[Int32], Floats]:
    """Mix the unigrams.

    Returns:
        The words of the mixture; for each model, the mixture's id of each of its words, or -1; and
        the probability of each word.
    """
    probs: dict[str, float] = dict.fromkeys(RESERVED, 0.0)
    for model, share in zip(models, shares.tolist(), strict=True):
        log_probs, _ = _query_all(
            model.ngrams,
            np.zeros(len(model.words), np.int32),
            np.arange(len(model.words), dtype=np.int32),
        )
        for word, prob in zip(model.words, np.exp(log_probs).tolist(), strict=True):
            probs[word] = probs.get(word, 0.0) + share * prob
    if vocabulary_limit is not None and len(probs) - len(RESERVED) > vocabulary_limit:
        ranked = sorted(list(probs)[len(RESERVED) :], key=lambda word: -probs[word])
        for word in ranked[vocabulary_limit:]:
            probs[UNKNOWN_WORD] += probs.pop(word)
    probs[BEGIN_WORD] = 0.0  # which is never predicted
    words = list(probs)
    found = {word: number for number, word in enumerate(words)}
    ids = [np.array([found.get(word, -1) for word in model.words], np.int32) for model in models]
    unigrams = np.array(list(probs.values()))
    return words, ids, unigrams / unigrams.sum()


def _query_all(ngrams: NGrams, states: Int32, words: Int32) -> tuple[Floats, Int32]:
    log_probs, next_states = np.empty(len(words)), np.empty(len(words), np.int32)
    _score_words(ngrams, states, words, log_probs, next_states)
    return log_probs, next_states


def _step(
    model: LanguageModel, states: Int32, level: _Level, lookup: Int32
) -> tuple[Floats, Int32]:
    """A model's log-probability of each n-gram of a level, and its state after each.

    `states` are those after the contexts, and `lookup` has the model's id of each word, or -1.
    """
    return _query_all(model.ngrams, states[level.context], lookup[level.word])


def _invert(ids: Int32, words: int) -> Int32:
    """The model's id of each of the mixture's words, or -1; <unk> has a probability of its own."""
    lookup = np.full(words, -1, np.int32)
    known = ids >= 0
    lookup[ids[known]] = np.flatnonzero(known)
    return lookup


def _join(
    models: Sequence[LanguageModel],
    ids: Sequence[Int32],
    nodes: Sequence[Int32],
    order: int,
) -> tuple[_Level, list[Int32]]:
    """The n-grams of an order in all models, and the index of each model's own among them, or -1."""
    keys = []
    for model, own, places in zip(models, ids, nodes, strict=True):
        if order > model.order:
            keys.append(np.zeros(0, np.int64))
            continue
        starts = level_starts(model.ngrams, order)
        begin, end = starts[order - 1], starts[order]
        parents = starts[order - 2]
        counts = np.diff(model.ngrams.first_child[parents : begin + 1])
        context = np.repeat(places, counts).astype(np.int64)
        word = own[model.ngrams.word[begin:end]]
        keys.append(np.where((context >= 0) & (word >= 0), context << 32 | word, -1))
    joined = np.unique(np.concatenate(keys))
    joined = joined[joined >= 0]
    found = [np.where(key >= 0, np.searchsorted(joined, key), -1).astype(np.int32) for key in keys]
    contexts, words = (part.astype(np.int32) for part in np.divmod(joined, 1 << 32))
    return _Level(contexts, words, np.zeros(len(joined))), found


def _make_tables(levels: Sequence[_Level], words: int) -> list[NGramTable]:
    """The tables of a model, with the back-offs that make its distributions sum to 1."""
    tables: list[NGramTable] = []
    rows = np.zeros((1, 0), np.int32)
    for number, level in enumerate(levels):
        if number:
            _, backoff, _ = _back_off(tables, levels, number, words)
            tables[-1] = tables[-1]._replace(backoff=backoff)
        rows = np.concatenate([rows[level.context], level.word[:, None]], axis=1)
        tables.append(NGramTable(rows, _log(level.prob), None))
    return tables


def _back_off(
    tables: Sequence[NGramTable], levels: Sequence[_Level], number: int, words: int
) -> tuple[Floats, NDArray[np.float32], Floats]:
    """The back-offs of the contexts of a level.

    Returns:
        The probability (n,) that each n-gram of the level would have by back-off, without the
        back-off's factor; the back-off of each context, a natural logarithm; and what the n-grams of
        each context leave of the probability.
    """
    level, contexts = levels[number], len(levels[number - 1].word)
    _, lower = build(list(tables[:number]), words)
    states = np.zeros(1, np.int32)
    for other in levels[:number]:
        states = _query_all(lower, states[other.context], other.word)[1]
    suffix = np.exp(_query_all(lower, states[level.context], level.word)[0])
    rest = np.maximum(1 - np.bincount(level.context, level.prob, contexts), LEAST)
    lower_rest = np.maximum(1 - np.bincount(level.context, suffix, contexts), LEAST)
    backoff = np.log(rest / lower_rest)
    backoff[np.bincount(level.context, minlength=contexts) == 0] = 0.0
    return suffix, backoff.astype(np.float32), rest


def _choose(
    levels: Sequence[_Level], tables: Sequence[NGramTable], limit: int, words: int
) -> list[Flags]:
    """Which n-grams stay, for each level from the bigrams up."""
    losses = []
    joint = levels[0].prob.copy()  # probability of each context
    joint[BEGIN_ID] = joint[2]  # a sentence begins as often as one ends
    for number, level in enumerate(levels[1:], start=1):
        suffix, backoff, rest = _back_off(tables, levels, number, words)
        before = backoff[level.context].astype(np.float64)
        freed = rest[level.context] + level.prob
        lower_rest = rest[level.context] / np.exp(before) + suffix
        after = np.log(freed / lower_rest)
        with np.errstate(divide="ignore"):
            change = level.prob * (np.log(suffix) + after - np.log(level.prob))
        change += rest[level.context] * (after - before)
        losses.append(-joint[level.context] * change)
        joint = joint[level.context] * level.prob
    everything = np.concatenate(losses)
    threshold = np.partition(everything, len(everything) - limit)[len(everything) - limit]
    kept = [loss >= threshold for loss in losses]
    for number in range(len(kept) - 1, 0, -1):  # contexts of what stays
        kept[number - 1][np.unique(levels[number + 1].context[kept[number]])] = True
    return kept


def _select(levels: Sequence[_Level], kept: Sequence[Flags]) -> list[_Level]:
    """The levels with only the n-grams that stay; their contexts are renumbered."""
    selected = [levels[0]]
    numbers = np.arange(len(levels[0].word), dtype=np.int32)
    for level, flags in zip(levels[1:], kept, strict=True):
        selected.append(_Level(numbers[level.context[flags]], level.word[flags], level.prob[flags]))
        numbers = (np.cumsum(flags) - 1).astype(np.int32)
    return selected


def _log(values: Floats) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        logs = np.minimum(np.log(values), 0)
    return np.maximum(logs, UNKNOWN_LOG10_PROB * LN10).astype(np.float32)  # <s> has probability 0
