"""Text on both sides of the model: normalized transcripts, and characters <-> ids.

Symbol 0 of every vocabulary is the CTC blank; it stands for "no new character" and never occurs in
text. Nothing is lost in silence here: a character without an id is an error that names it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import eq

from asr.errors import TextError

BLANK = "<blank>"

PROFILES: dict[str, str] = {
    "plain": "lower case, white space collapsed",
    "english": "for cased and punctuated references: lower case, accents to ASCII, hyphens and "
    "dashes to spaces, quotes and other punctuation dropped, & to and, white space collapsed",
}


@dataclass(frozen=True)
class Vocabulary:
    """The symbols a model writes: `symbols[0]` is the blank, every other one a single character.

    Hashable, and equal to any vocabulary of the same symbols in the same order. Raises `TextError`
    where the symbols are not such a list.
    """

    symbols: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.symbols[:1] != (BLANK,) or len(self.symbols) < 2:
            raise TextError(
                f"a vocabulary is {BLANK!r} followed by at least one character, "
                f"but these symbols begin {list(self.symbols[:3])!r}"
            )
        ids: dict[str, int] = {}
        for index, symbol in enumerate(self.symbols[1:], start=1):
            if not isinstance(symbol, str) or len(symbol) != 1:
                raise TextError(f"symbol {index} of a vocabulary is {symbol!r}, not one character")
            if symbol.isspace() and symbol != " ":
                raise TextError(
                    f"symbol {index} of a vocabulary is the white space {_name(symbol)}; "
                    "only the space may part words: normalize the text"
                )
            if symbol in ids:
                raise TextError(
                    f"symbols {ids[symbol]} and {index} are both {symbol!r}: leave one out"
                )
            ids[symbol] = index
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def english(cls) -> "Vocabulary":
        """The default: blank, space, a to z and the apostrophe (29 symbols)."""
        return cls((BLANK, *" abcdefghijklmnopqrstuvwxyz'"))

    @classmethod
    def from_transcripts(cls, transcripts: Iterable[str]) -> "Vocabulary":
        """Blank and every character of the (normalized) transcripts, in code point order."""
        characters: set[str] = set()
        for transcript in transcripts:
            characters.update(transcript)
        if not characters:
            raise TextError("a vocabulary cannot be built from transcripts without a character")
        return cls((BLANK, *sorted(characters)))

    @classmethod
    def from_list(cls, symbols: Iterable[str]) -> "Vocabulary":
        """What `to_list` gave, checked."""
        return cls(tuple(symbols))

    def to_list(self) -> list[str]:
        """The symbols in id order, as plain JSON data."""
        return list(self.symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def space(self) -> int | None:
        """The id of the space, or None where words are not parted."""
        return self._ids.get(" ")

    def encode(self, text: str, where: str = "") -> list[int]:
        """The id of each character of `text`; `where` (an utterance id) is named in errors.

        Raises `TextError` for empty text, and for characters that the vocabulary lacks.
        """
        try:
            ids = list(map(self._ids.__getitem__, text))
        except KeyError:
            unknown = [_name(c) for c in dict.fromkeys(text) if c not in self._ids]
            more = f" and {len(unknown) - 5} more characters" if len(unknown) > 5 else ""
            raise TextError(
                f"{where or repr(text[:40])} holds {', '.join(unknown[:5])}{more}, not in the "
                f"vocabulary of {len(self)} symbols: normalize the text, mend or leave out the "
                "utterance, or build the vocabulary from the transcripts"
            ) from None
        if not ids:
            raise TextError(
                f"{where or 'a transcript'} has empty text: give it words or leave it out"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of `ids`, one each; decoders have removed CTC's repeats and blanks.

        Raises `TextError` for the blank and for ids outside the vocabulary.
        """
        numbers = [int(i) for i in ids]
        for number in numbers:
            if not 0 < number < len(self):
                raise TextError(f"id {number} is no character: they run from 1 to {len(self) - 1}")
        return "".join([self.symbols[number] for number in numbers])


def ctc_frames_needed(ids: Iterable[int] | str) -> int:
    """The fewest frames in which CTC can write `ids`: one each, and a blank inside each repeat.

    A text does as well, where every character has an id of its own.

    Graves et al. 2006, "Connectionist Temporal Classification", section 3.1.
    """
    symbols = list(ids)
    repeats: int = sum(map(eq, symbols, symbols[1:]))
    return len(symbols) + repeats


def normalize(text: str, profile: str = "plain") -> str:
    """`text` in the form that `PROFILES[profile]` describes; doing it twice changes nothing more.

    Raises `TextError` for a profile that does not exist.
    """
    if profile not in _NORMALISERS:
        raise TextError(
            f"there is no text profile {profile!r}: choose one of {', '.join(map(repr, PROFILES))}"
        )
    return _NORMALISERS[profile](text)


def _name(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})"


def _plain(text: str) -> str:
    # NFC: é must count as the same letter whether it came as one code point or as two.
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


class _EnglishTable(dict[int, str | None]):
    """`str.translate` table from decomposed lower-case text, filled as characters turn up."""

    SPACED = frozenset("/\\_")
    # Read aloud, like digits: dropping them would falsify a transcript, so the vocabulary refuses
    # them by name.
    SPOKEN = frozenset("%@#")

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)  # Pd: dashes; Cf: soft hyphens, direction marks
        accent = 0x300 <= code <= 0x36F
        punctuation = category.startswith("P") and character not in self.SPOKEN
        if category == "Pd" or character in self.SPACED:
            self[code] = " "
        elif accent or punctuation or category == "Cf":
            self[code] = None
        else:
            self[code] = character
        return self[code]


_ENGLISH = _EnglishTable(
    {
        **dict.fromkeys(map(ord, "'‘’‛ʼʻ′`"), "'"),
        **{ord("&"): " and ", ord("ø"): "o", ord("ł"): "l", ord("đ"): "d", ord("ð"): "d"},
        **{ord("æ"): "ae", ord("œ"): "oe", ord("ß"): "ss", ord("þ"): "th", ord("ı"): "i"},
    }
)
# An ellipsis, or punctuation typed without its space ("yes,sir"): dropping would join two words.
_WORD_BREAK = re.compile(r"\.{2,}|(?<=[^\W\d_]|[\u0300-\u036f])[,;:!?]+(?=[^\W\d_])")
# Apostrophes at a word's left edge, at its right edge, and beside no word.
_OUTER_APOSTROPHE = re.compile(r"(?<![^\s'])(')(?=[^\s'])|(?<=[^\s'])(')(?![^\s'])|(?<!\S)'(?!\S)")


def _english(text: str) -> str:
    text = text.replace("´", "'")  # decomposes into a space and an accent
    text = unicodedata.normalize("NFKD", text).lower()
    text = _WORD_BREAK.sub(" ", text).translate(_ENGLISH)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return _drop_single_quotes(text) if "'" in text else text


def _drop_single_quotes(text: str) -> str:
    """Without the apostrophes that quote ('like this'), with those that are part of a word.

    The edge of a word is ambiguous: "the hours' play", "'tis". Pairs of a left and a right edge,
    matched like brackets, are quotes and go; what has no partner stays.
    """
    text = re.sub("''+", "'", text)
    opened: list[int] = []
    dropped: set[int] = set()
    for match in _OUTER_APOSTROPHE.finditer(text):
        if match[1]:
            opened.append(match.start())
        elif not match[2]:
            dropped.add(match.start())
        elif opened:
            dropped |= {opened.pop(), match.start()}
    kept = "".join([character for i, character in enumerate(text) if i not in dropped])
    return " ".join(kept.split())


_NORMALISERS: dict[str, Callable[[str], str]] = {"plain": _plain, "english": _english}
