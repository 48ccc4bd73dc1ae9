"""What guides a beam search by spelling: the lexicon as a trie, and hotwords as an automaton.

Both are flat arrays over the symbols of one vocabulary, made once and read by compiled code.
"""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.errors import DataError
from asr.text import Vocabulary, normalize

MOST_NATS = 300
"""The most that a hotword may earn, or cost: e to the 300th outweighs everything, and is a number."""

MASK_SYMBOLS = 64
"""Vocabularies up to this size find a child by a bit mask instead of a binary search."""

NODE = np.dtype(
    [
        ("mask", np.int64),  # a bit for each child's symbol, in vocabularies of at most 64
        ("enter", np.float64),  # factor on the way into the node
        ("ahead", np.float64),  # nats that the factors on the way here amount to
        ("leave", np.float64),  # factor where a word goes on that the lexicon lacks
        ("first_child", np.int32),
        ("children", np.int32),
        ("symbol", np.int32),  # leads here
        ("word", np.int32),  # id of the word that ends here, or -1
    ],
    align=True,
)
"""A node of a lexicon, which is a trie of words: an array of nodes. Node 0 is the root; the children
of a node lie side by side, sorted by symbol. The factors are 1 until `look_ahead`."""

Nodes = npt.NDArray[np.void]


def build_lexicon(spellings: Sequence[Sequence[int]], words: Sequence[int], symbols: int) -> Nodes:
    """The trie of words spelled in ids below `symbols`; `words` are their ids, one each.

    A spelling that occurs twice keeps the id of the first. No spelling may be empty.
    """
    lengths = np.array([len(spelling) for spelling in spellings], dtype=np.int64)
    depth = int(lengths.max(initial=0))
    table = np.full((len(spellings), depth), -1, dtype=np.int32)  # (words, depth), padded
    table[np.arange(depth) < lengths[:, None]] = np.fromiter(
        (symbol for spelling in spellings for symbol in spelling), np.int32, int(lengths.sum())
    )
    # Sorted by spelling (the sort is stable), words with a common beginning lie together.
    order = np.lexsort(table.T[::-1]) if depth else np.arange(0)
    table, lengths = table[order], lengths[order]
    ids = np.asarray(words, dtype=np.int32)[order]

    parents, found_symbols, ends = [np.array([-1])], [np.array([-1])], []
    node = np.zeros(len(table), dtype=np.int64)  # of each word's beginning so far
    nodes = 1
    for column in range(depth):
        rows = np.flatnonzero(lengths > column)
        key = node[rows] * symbols + table[rows, column]
        new = np.diff(key, prepend=-1) != 0
        parents.append(node[rows][new])
        found_symbols.append(table[rows, column][new])
        node[rows] = nodes + np.cumsum(new) - 1
        nodes += int(new.sum())
        last = rows[lengths[rows] == column + 1]
        ends.append(last[np.diff(node[last], prepend=-1) != 0])

    parent = np.concatenate(parents)
    lexicon = np.ones(nodes, NODE)
    lexicon["ahead"] = 0.0
    lexicon["symbol"], lexicon["word"], lexicon["mask"] = np.concatenate(found_symbols), -1, 0
    for rows in ends:
        lexicon["word"][node[rows]] = ids[rows]
    lexicon["children"] = np.bincount(parent[1:], minlength=nodes)
    lexicon["first_child"] = 1 + np.cumsum(lexicon["children"]) - lexicon["children"]
    if symbols <= MASK_SYMBOLS:
        bits = np.left_shift(np.uint64(1), lexicon["symbol"][1:].astype(np.uint64)).view(np.int64)
        np.bitwise_or.at(lexicon["mask"], parent[1:], bits)
    return lexicon


def look_ahead(
    lexicon: Nodes,
    log_probs: npt.NDArray[np.float64],
    alpha: float,
    unknown_log_prob: float,
    unknown: float,
) -> Nodes:
    """The lexicon with other factors: every beginning of a word is charged with the best word below it.

    `log_probs` (W,) are the words' own, by id, weighted with `alpha`. The end of a word takes the
    charge back, because the language model then speaks for itself; leaving the lexicon takes it
    back too, and charges for an unknown word: its log-probability, and `unknown`, in nats.
    """
    best = np.full(len(lexicon), -np.inf)
    is_word = lexicon["word"] >= 0
    best[is_word] = alpha * log_probs[lexicon["word"][is_word]]
    parent = np.repeat(np.arange(len(lexicon)), lexicon["children"])  # of nodes 1, 2, ...
    begin, end = 0, 1  # of each level, from the root on
    levels = []
    while begin < end:
        levels.append((begin, end))
        begin, end = end, end + int(lexicon["children"][begin:end].sum())
    for begin, end in reversed(levels[1:]):
        np.maximum.at(best, parent[begin - 1 : end - 1], best[begin:end])
    best[0] = 0.0
    weighed = lexicon.copy()
    weighed["enter"][1:] = np.exp(best[1:] - best[parent])
    weighed["ahead"] = best
    # No price is so low that it would be no number any more.
    weighed["leave"] = np.exp(np.minimum(alpha * unknown_log_prob + unknown - best, MOST_NATS))
    return weighed


def spell(
    words: Sequence[str], vocabulary: Vocabulary
) -> tuple[list[list[int]], npt.NDArray[np.int64]]:
    """The spellings of the words that the vocabulary can write, and the places of these in `words`.

    A word is spelled as it is, or else in lower or upper case: published models of the same corpus
    come in both. A spelling that a word has as it is goes before one that needs another case.
    """
    symbols = {symbol: index for index, symbol in enumerate(vocabulary.symbols) if index}
    symbols.pop(" ", None)
    exact: list[list[int]] = []
    places: list[int] = []
    others: list[tuple[int, str]] = []
    get = symbols.__getitem__
    for place, word in enumerate(words):
        try:
            exact.append(list(map(get, word)))
            places.append(place)
        except KeyError:
            others.append((place, word))
    for place, word in others:
        for other in (word.lower(), word.upper()):
            if symbols.keys() >= set(other):
                exact.append(list(map(get, other)))
                places.append(place)
                break
    return exact, np.array(places, dtype=np.int64)


def read_words(path: str | PathLike[str]) -> list[str]:
    """The words of a file, one a line (in plain form, see `asr.text`), without repeats.

    What follows a word on its line, such as the pronunciation in a published lexicon, is ignored.
    Raises DataError for a file that cannot be read or holds no word.
    """
    words = [line.split()[0] for _, line in read_entries(path)]
    return list(dict.fromkeys(normalize(word, "plain") for word in words))


def read_entries(path: str | PathLike[str]) -> list[tuple[int, str]]:
    """The lines that hold something, with their numbers from 1."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{fspath(path)} cannot be read ({error.strerror}); check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{fspath(path)} is not UTF-8 text; name a file of words") from error
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{fspath(path)} holds no word; write one on each line")
    return [(number, line.strip("\r\n ")) for number, line in lines]
