"""Hotwords: phrases whose probability is raised, as an automaton."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.decoder.lexicon import MOST_NATS, read_entries
from asr.errors import ConfigError, DataError
from asr.text import Vocabulary, normalize


class Hotwords(NamedTuple):
    """Words and phrases that earn a bonus wherever they stand as whole words (Aho & Corasick 1975).

    The state says how much of which phrase has been matched. State 0 is the beginning of a word,
    state 1 the inside of a word that matches nothing. `move` (states, columns) int32 is the next
    state; `column` (V,) int32 is the column of a symbol. While a phrase is matched, its bonus is
    lent in equal parts, so that the search sees it early; what was lent is given back at a
    mismatch, and a whole phrase keeps it. `factors` (states, 2) float64 are what a mass is
    multiplied by when it enters a state, and when it leaves it; `boost` is the most that one move
    can multiply by.
    """

    move: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]
    factors: npt.NDArray[np.float64]
    boost: float


def build_hotwords(weights: Mapping[str, float], vocabulary: Vocabulary) -> Hotwords:
    """The automaton of phrases; each occurrence adds its weight, in nats, for each of its words.

    Raises TextError for a phrase with characters that the vocabulary lacks, ConfigError for one
    that earns no number within `MOST_NATS`, or where the vocabulary has no space to part words by.
    """
    space = vocabulary.space
    if space is None:
        raise ConfigError("hotwords need a vocabulary with a space, which parts words")
    root, other = 0, 1
    children: list[dict[int, int]] = [{}, {}]
    lent, earned = [0.0, 0.0], [0.0, 0.0]
    for phrase, weight in weights.items():
        words = [word for word in phrase.split(" ") if word]
        bonus = weight * len(words)
        if not abs(bonus) <= MOST_NATS:  # so for NaN too
            raise ConfigError(
                f"the weight of hotword {phrase!r} is {weight}: a phrase may earn {MOST_NATS} nats"
            )
        symbols = [*vocabulary.encode(" ".join(words), f"hotword {phrase!r}"), space]
        state = root
        for depth, symbol in enumerate(symbols, start=1):
            if symbol not in children[state]:
                children[state][symbol] = len(children)
                children.append({})
                lent.append(-np.inf)
                earned.append(0.0)
            state = children[state][symbol]
            if depth < len(symbols):
                lent[state] = max(lent[state], bonus * depth / len(symbols))
        earned[state] += bonus

    used = sorted({symbol for node in children for symbol in node} | {space})
    column = np.zeros(len(vocabulary), dtype=np.int32)  # column 0: a symbol of no phrase
    column[used] = np.arange(1, len(used) + 1)
    move = np.full((len(children), len(used) + 1), other, dtype=np.int32)
    move[:, column[space]] = root
    # Breadth first: where a state cannot go on, it moves as its fallback does, the state of the
    # longest proper suffix that begins with a word; that one is shorter, so its row is complete.
    fallback = {root: other}
    queue = [root]
    for state in queue:
        move[state] = move[fallback[state]]
        earned[state] += earned[fallback[state]]
        for symbol, child in children[state].items():
            fallback[child] = int(move[fallback[state], column[symbol]])
            move[state, column[symbol]] = child
            queue.append(child)

    potential = np.array(lent)
    potential[np.isinf(potential)] = 0.0  # nothing goes on from here
    arrival = potential + earned
    boost = max(1.0, float(np.exp((arrival[move] - potential[:, None]).max())))
    return Hotwords(move, column, np.exp(np.stack([arrival, -potential], axis=1)), boost)


def read_hotwords(path: str | PathLike[str], weight: float) -> dict[str, float]:
    """The words and phrases of a file (in plain form) and their weights in nats: one a line.

    A tab and a number after a phrase are its own weight, instead of `weight`. Raises DataError for
    a file that cannot be read or holds no phrase, or for a weight that is not a number.
    """
    found = {}
    for number, line in read_entries(path):
        phrase, tab, own = line.partition("\t")
        if not phrase.strip():
            raise DataError(f"{fspath(path)}, line {number} has a weight, but no word; write one")
        try:
            found[normalize(phrase, "plain")] = float(own) if tab else weight
        except ValueError:
            raise DataError(
                f"{fspath(path)}, line {number}: {own!r} is no weight; write a number behind the tab"
            ) from None
    return found
