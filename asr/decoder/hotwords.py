"""Hotwords: words and phrases with a bonus, compiled into an automaton for the beam search."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.decoder.lexicon import MOST_NATS, read_entries
from asr.errors import ConfigError, DataError, quote
from asr.text import Vocabulary, normalize

Integers = npt.NDArray[np.int32]

_ROOT, _OTHER = 0, 1  # the first states: the beginning of a word, and the inside of any other word


class Hotwords(NamedTuple):
    """An automaton that finds phrases of whole words and scores them (Aho & Corasick 1975).

    The state is the matched prefix of a phrase. State 0 is the beginning of a word, state 1 the
    inside of a word that matches no phrase. The bonus is paid in equal parts during the match, so
    that the beam keeps the phrase, and revoked on a mismatch.
    """

    move: Integers  # (states, columns) next state
    column: Integers  # (V,) column of each symbol in `move`
    factors: npt.NDArray[np.float64]  # (states, 2) factor for entering a state and for leaving it
    boost: float  # largest factor of a single move


def build_hotwords(weights: Mapping[str, float], vocabulary: Vocabulary) -> Hotwords:
    """Build the automaton of phrases.

    Args:
        weights: Phrases, and the bonus in nats that each occurrence earns for each of its words.
        vocabulary: Symbols of the model; it must have a space.

    Raises:
        TextError: If a phrase contains characters that the vocabulary lacks.
        ConfigError: If a bonus is not a number within `MOST_NATS`, or the vocabulary has no space.
    """
    space = vocabulary.space
    if space is None:
        raise ConfigError("hotwords need a vocabulary with a space, which separates words")
    children: list[dict[int, int]] = [{}, {}]
    advance, earned = [0.0, 0.0], [0.0, 0.0]  # nats of each state
    for phrase, weight in weights.items():
        words = [word for word in phrase.split(" ") if word]
        bonus = weight * len(words)
        if not abs(bonus) <= MOST_NATS:  # catches NaN too
            raise ConfigError(
                f"the weight of hotword {quote(phrase)} is {weight}; the bonus of a phrase must be "
                f"within {MOST_NATS} nats"
            )
        symbols = [*vocabulary.encode(" ".join(words), f"hotword {quote(phrase)}"), space]
        state = _ROOT
        for depth, symbol in enumerate(symbols, start=1):
            if symbol not in children[state]:
                children[state][symbol] = len(children)
                children.append({})
                advance.append(-np.inf)
                earned.append(0.0)
            state = children[state][symbol]
            if depth < len(symbols):
                advance[state] = max(advance[state], bonus * depth / len(symbols))
        earned[state] += bonus

    used = sorted({symbol for node in children for symbol in node} | {space})
    # Column 0 stands for symbols that no phrase has.
    column = np.zeros(len(vocabulary), dtype=np.int32)
    column[used] = np.arange(1, len(used) + 1)
    move = np.full((len(children), len(used) + 1), _OTHER, dtype=np.int32)
    move[:, column[space]] = _ROOT
    _link_states(children, move, column, earned)
    potential = np.array(advance)
    potential[np.isinf(potential)] = 0.0  # the phrase is complete in these states
    arrival = potential + earned
    if (most := float(np.abs(np.stack([arrival, potential])).max())) > MOST_NATS:
        raise ConfigError(
            f"hotwords that contain each other earn {most:g} nats together; they must stay within "
            f"{MOST_NATS} nats, so lower their weights or leave some out"
        )
    boost = max(1.0, float(np.exp((arrival[move] - potential[:, None]).max())))
    return Hotwords(move, column, np.exp(np.stack([arrival, -potential], axis=1)), boost)


def _link_states(
    children: list[dict[int, int]], move: Integers, column: Integers, earned: list[float]
) -> None:
    """Complete `move`, and add to each state's nats those of the phrases that end inside it.

    `children` holds the next state by symbol, along the phrases.
    """
    # Breadth first: a state without a child for a symbol moves as its fallback does, which is the
    # state of the longest proper suffix that starts at a word. That suffix is shorter, so its row
    # is already complete.
    fallback = {_ROOT: _OTHER}
    queue = [_ROOT]
    for state in queue:
        move[state] = move[fallback[state]]
        earned[state] += earned[fallback[state]]
        for symbol, child in children[state].items():
            fallback[child] = int(move[fallback[state], column[symbol]])
            move[state, column[symbol]] = child
            queue.append(child)


def read_hotwords(path: str | PathLike[str], weight: float) -> dict[str, float]:
    """Read hotwords from a file, one word or phrase per line.

    Args:
        path: UTF-8 text file; a phrase may be followed by a tab and a weight of its own.
        weight: Bonus in nats per word, for phrases without a weight of their own.

    Returns:
        The phrases in the "plain" profile of `asr.text`, and the weight of each.

    Raises:
        DataError: If the file cannot be read or contains no phrases, or a weight is not a number.

    Example:
        hotwords = read_hotwords("names.txt", weight=3.0)
        decoder = BeamDecoder(vocabulary, 0.04, hotwords=hotwords)
    """
    found = {}
    for number, line in read_entries(path):
        phrase, tab, own = line.partition("\t")
        if not phrase.strip():
            raise DataError(
                f"line {number} of {fspath(path)} has a weight, but no word; write a word first"
            )
        try:
            found[normalize(phrase, "plain")] = float(own) if tab else weight
        except ValueError:
            raise DataError(
                f"line {number} of {fspath(path)} has the weight {quote(own)}; it must be a number"
            ) from None
    return found
