"""The lexicon of a beam search: a trie of words, held in flat arrays that compiled code reads."""

from collections.abc import Sequence
from os import PathLike, fspath

import numpy as np
import numpy.typing as npt

from asr.errors import DataError
from asr.files import read_lines
from asr.text import Vocabulary, normalize

MOST_NATS = 300
"""Largest bonus or penalty in nats. exp(300) outweighs every score and is still a finite number."""

MOST_LETTERS = 100
"""Longest word of a lexicon. Longer ones are no words, and the table that a trie is built from has a
column for each letter of the longest."""

MASK_SYMBOLS = 64
"""In vocabularies up to this size a child is found by a bit mask instead of a binary search."""


def record_type(**fields: type) -> np.dtype[np.void]:
    """The type of a record with these fields, aligned as compiled code expects."""
    return np.dtype(list(fields.items()), align=True)


NODE = record_type(
    mask=np.int64,  # one bit per child symbol, if the vocabulary is small enough
    enter=np.float64,  # factor of a prefix that enters the node
    ahead=np.float64,  # logarithm of the product of the factors on the way here
    leave=np.float64,  # factor of a prefix whose open word leaves the lexicon here
    first_child=np.int32,  # index of the first child
    children=np.int32,  # number of children
    symbol=np.int32,  # symbol on the edge to this node
    word=np.int32,  # id of the word that ends here, or -1
)
"""A node of a lexicon. The lexicon is a trie of words, stored as an array of nodes. Node 0 is the
root; the children of a node are adjacent and sorted by symbol. `look_ahead` sets the factors."""

Nodes = npt.NDArray[np.void]
Floats = npt.NDArray[np.float64]


def build_lexicon(spellings: Sequence[Sequence[int]], words: Sequence[int], symbols: int) -> Nodes:
    """Build the trie of a list of words.

    Args:
        spellings: Symbol ids of each word, not empty.
        words: Word id of each spelling. Of equal spellings, the first one counts.
        symbols: Size of the vocabulary; all symbol ids are below it.

    Returns:
        The nodes (N,), of type `NODE`, with factors of 1.
    """
    lengths = np.array([len(spelling) for spelling in spellings], dtype=np.int64)
    depth = int(lengths.max(initial=0))
    table = np.full((len(spellings), depth), -1, dtype=np.int32)  # (words, depth), padded
    table[np.arange(depth) < lengths[:, None]] = np.fromiter(
        (symbol for spelling in spellings for symbol in spelling), np.int32, int(lengths.sum())
    )
    # Sorted by spelling, words with a common prefix are adjacent; the stable sort keeps the first
    # of equal spellings first.
    order = np.lexsort(table.T[::-1]) if depth else np.arange(0)
    table, lengths = table[order], lengths[order]
    ids = np.asarray(words, dtype=np.int32)[order]

    parents, found_symbols, ends = [np.array([-1])], [np.array([-1])], []
    node = np.zeros(len(table), dtype=np.int64)  # node that each word has reached so far
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
    lexicon: Nodes, log_probs: Floats, alpha: float, unknown_log_prob: float, unknown: float
) -> Nodes:
    """Copy the lexicon with factors that apply the language model before a word is complete.

    A partial word is scored with the best unigram log-probability among its completions (language
    model look-ahead). At the end of the word this score is replaced by the log-probability that the
    language model gives in context; when the word leaves the lexicon, by that of an unknown word.

    Args:
        lexicon: (N,) nodes.
        log_probs: (W,) unigram log-probability of each word id.
        alpha: Weight of the language model.
        unknown_log_prob: Unigram log-probability of the unknown word.
        unknown: Bonus in nats per unknown word.

    Returns:
        The nodes (N,) with factors.
    """
    best = np.full(len(lexicon), -np.inf)
    is_word = lexicon["word"] >= 0
    best[is_word] = alpha * log_probs[lexicon["word"][is_word]]
    parent = np.repeat(np.arange(len(lexicon)), lexicon["children"])  # parent of nodes 1, 2, ...
    begin, end = 0, 1  # nodes of one level, from the root down
    levels = []
    while begin < end:
        levels.append((begin, end))
        begin, end = end, end + int(lexicon["children"][begin:end].sum())
    for begin, end in reversed(levels[1:]):
        np.maximum.at(best, parent[begin - 1 : end - 1], best[begin:end])
    best[0] = 0.0
    weighted = lexicon.copy()
    weighted["enter"][1:] = np.exp(best[1:] - best[parent])
    weighted["ahead"] = best
    # Bounded so that the factor stays finite.
    weighted["leave"] = np.exp(np.minimum(alpha * unknown_log_prob + unknown - best, MOST_NATS))
    return weighted


def spell(
    words: Sequence[str], vocabulary: Vocabulary
) -> tuple[list[list[int]], npt.NDArray[np.int64]]:
    """Spell words in symbols of the vocabulary.

    A word that the vocabulary cannot spell as given is tried in lower and in upper case, because
    published models come in both.

    Returns:
        The spellings, and the index in `words` of each. Words spelled as given come first; words
        that cannot be spelled, or have more than `MOST_LETTERS`, are left out.
    """
    symbols = {symbol: index for index, symbol in enumerate(vocabulary.symbols) if index}
    symbols.pop(" ", None)
    exact: list[list[int]] = []
    places: list[int] = []
    others: list[tuple[int, str]] = []
    get = symbols.__getitem__
    for place, word in enumerate(words):
        if len(word) > MOST_LETTERS:
            continue
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
    """Read the words of a file, one per line, without duplicates.

    Only the first field of a line counts; a pronunciation after it, as in published lexicons, is
    ignored.

    Args:
        path: UTF-8 text file.

    Returns:
        The distinct words in the "plain" profile of `asr.text`, in order of appearance.

    Raises:
        DataError: If the file cannot be read or contains no words.
    """
    words = [line.split()[0] for _, line in read_entries(path)]
    return list(dict.fromkeys(normalize(word, "plain") for word in words))


def read_entries(path: str | PathLike[str]) -> list[tuple[int, str]]:
    """The lines of a file with their numbers from 1, without blank ones and comments (`# ...`)."""
    advice = "use a text file with one word per line"
    lines = [
        (number, line.strip(" "))
        for number, line in read_lines(path, DataError, advice)
        if line.strip() and line.split()[0] != "#"
    ]
    if not lines:
        raise DataError(f"{fspath(path)} contains no words; write one word per line")
    return lines
