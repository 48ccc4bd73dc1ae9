"""Text on both sides of the model: normalized transcripts, and characters <-> ids.

Symbol 0 of every vocabulary is the CTC blank, which stands for "no new character" and never occurs
in text. Characters without an id are never dropped silently: they raise an error that names them.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from operator import eq

from asr.errors import TextError, quote
from asr.files import FilePath, read_lines

BLANK = "<blank>"

# The text profiles that `normalize` knows, each with a description for help texts.
PROFILES: dict[str, str] = {
    "plain": "lower case, white space collapsed",
    "english": "for cased and punctuated references: lower case, accents to ASCII, hyphens and "
    "dashes to spaces, quotes and other punctuation dropped, & to and, white space collapsed",
    "multilingual": "for any language and script: lower case, composed letters (NFC), accents and "
    "other marks kept, punctuation and emoji dropped, white space collapsed",
    "turkish": "multilingual, with the lower case of Turkish and Azerbaijani: I to ı, İ to i",
}


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model can output, the CTC blank first.

    It is hashable and equal to any vocabulary with the same symbols in the same order.

    Attributes:
        symbols: V strings; `symbols[0]` is the blank, every other one a different single character.

    Raises:
        TextError: If `symbols` does not have this form.

    Example:
        >>> Vocabulary.english().encode("it's")
        [10, 21, 28, 20]
    """

    symbols: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.symbols[:1] != (BLANK,) or len(self.symbols) < 2:
            raise TextError(
                f"a vocabulary is {BLANK!r} followed by at least one character, but this one "
                f"begins with {quote(list(self.symbols[:3]))}; put the blank first"
            )
        ids: dict[str, int] = {}
        for index, symbol in enumerate(self.symbols[1:], start=1):
            if not isinstance(symbol, str) or len(symbol) != 1:
                raise TextError(
                    f"symbol {index} of a vocabulary is {quote(symbol)}; it must be one character"
                )
            if symbol.isspace() and symbol != " ":
                raise TextError(
                    f"symbol {index} of a vocabulary is the white space {_describe(symbol)}, but "
                    "only the space may separate words; normalize the text"
                )
            if symbol in ids:
                raise TextError(
                    f"symbols {ids[symbol]} and {index} of a vocabulary are both {quote(symbol)}; "
                    "leave one out"
                )
            ids[symbol] = index
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def english(cls) -> "Vocabulary":
        """Return the default vocabulary of 29 symbols: blank, space, a to z, apostrophe."""
        return cls((BLANK, *" abcdefghijklmnopqrstuvwxyz'"))

    @classmethod
    def from_transcripts(cls, transcripts: Iterable[str]) -> "Vocabulary":
        """Build the vocabulary of normalized transcripts.

        Args:
            transcripts: Texts, of which at least one is not empty.

        Returns:
            The blank and every character that occurs, in code point order.

        Raises:
            TextError: If there is no character, or white space other than the space.
        """
        characters = set(chain.from_iterable(transcripts))
        if not characters:
            raise TextError(
                "a vocabulary cannot be built from transcripts without a character; pass texts"
            )
        return cls((BLANK, *sorted(characters)))

    @classmethod
    def read(cls, path: FilePath) -> "Vocabulary":
        """Read an alphabet: a UTF-8 file with the characters that a model shall be able to write.

        They may stand on one line or on many, in upper or lower case. The space, which separates
        words, is always among them.

        Args:
            path: The file.

        Returns:
            The blank, the space, and the characters of the file in lower case, in their order.

        Raises:
            TextError: If the file cannot be read or has no character.
        """
        lines = [_plain(line) for _, line in read_lines(path, TextError)]
        characters = dict.fromkeys(" " + "".join(lines))
        if len(characters) == 1:
            raise TextError(f"{os.fspath(path)} has no character; write the letters of the texts")
        return cls((BLANK, *characters))

    def extend(self, characters: Iterable[str]) -> "Vocabulary":
        """Return the vocabulary with the characters that it lacks at its end, in code point order.

        Args:
            characters: Single characters.
        """
        return Vocabulary((*self.symbols, *sorted(set(characters) - set(self.symbols))))

    @classmethod
    def from_list(cls, symbols: Iterable[str]) -> "Vocabulary":
        """Rebuild a vocabulary from `to_list`. Raises TextError if the list is not valid."""
        return cls(tuple(symbols))

    def to_list(self) -> list[str]:
        """Return the symbols in id order, as plain JSON data."""
        return list(self.symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def space(self) -> int | None:
        """The id of the space, or None if the vocabulary has none."""
        return self._ids.get(" ")

    def encode(self, text: str, where: str = "") -> list[int]:
        """Convert text to ids.

        Args:
            text: Normalized text, not empty.
            where: What to call the text in errors, such as the utterance's id.

        Returns:
            The U ids of the characters, each from 1 to V - 1.

        Raises:
            TextError: If the text is empty or has characters that the vocabulary lacks.
        """
        try:
            ids = list(map(self._ids.__getitem__, text))
        except KeyError:
            unknown = [_describe(c) for c in dict.fromkeys(text) if c not in self._ids]
            more = f" and {len(unknown) - 5} more characters" if len(unknown) > 5 else ""
            raise TextError(
                f"{where or repr(text[:40])} contains {', '.join(unknown[:5])}{more}, not in the "
                f"vocabulary of {len(self)} symbols; normalize the text, fix or leave out the "
                "utterance, or build the vocabulary from the transcripts"
            ) from None
        if not ids:
            raise TextError(f"{where or 'a transcript'} has empty text; add its words or remove it")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids to text, one character per id.

        Args:
            ids: Ids from which a decoder has removed CTC's repeats and blanks.

        Returns:
            The text.

        Raises:
            TextError: If an id is the blank or outside the vocabulary.
        """
        numbers = [int(i) for i in ids]
        for number in numbers:
            if not 0 < number < len(self):
                raise TextError(
                    f"id {number} is no character; ids of characters run from 1 to {len(self) - 1}"
                )
        return "".join([self.symbols[number] for number in numbers])


def min_ctc_frames(ids: Iterable[int] | str) -> int:
    """Return the minimum number of encoder frames for which CTC can output `ids` (U,).

    Every id needs a frame, and two equal ids in a row need a blank between them. A text can be
    passed if every character has its own id. Graves et al. (2006), "Connectionist temporal
    classification", section 3.1.
    """
    symbols = list(ids)
    repeats: int = sum(map(eq, symbols, symbols[1:]))
    return len(symbols) + repeats


def normalize(text: str, profile: str = "plain") -> str:
    """Bring text into the form in which transcripts are trained on and scored.

    Normalizing a second time changes nothing.

    Args:
        text: Any text.
        profile: "plain" (lower case, single spaces), "english", which also removes accents and
            punctuation and separates hyphenated words, "multilingual", which does so for any script
            and keeps accents and other marks, or "turkish"; see `PROFILES`.

    Returns:
        The normalized text, which may be empty.

    Raises:
        TextError: If there is no such profile.

    Example:
        >>> normalize("“Don’t!” she said, twenty-one.", "english")
        "don't she said twenty one"
    """
    if profile not in _NORMALIZERS:
        raise TextError(
            f"there is no text profile {quote(profile)}; use one of {', '.join(map(repr, PROFILES))}"
        )
    return _NORMALIZERS[profile](text)


def count_changes(text: str, profile: str) -> Counter[str]:
    """Count the characters that a profile removes or replaces, apart from case and white space.

    Args:
        text: Any text.
        profile: A profile of `normalize`.

    Returns:
        How often each character, in lower case, occurs in the text and no longer in the normalized
        text. A replaced one counts too: "english" turns ё into е.
    """
    before = "".join(_fold(text, profile == "turkish").split())
    return Counter(before) - Counter(normalize(text, profile))


def describe_characters(counts: Counter[str], limit: int = 20) -> str:
    """Describe counted characters in one line, the most frequent first: "ё (12), й (3)"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{name if name.isprintable() and not is_mark(name) else _describe(name)} ({count:,})"
        for name, count in ordered[:limit]
    ]
    more = f" and {len(ordered) - limit} other characters" if len(ordered) > limit else ""
    return ", ".join(shown) + more


def is_mark(character: str) -> bool:
    """Whether a character is a combining mark, such as a vowel sign or an accent."""
    return unicodedata.category(character).startswith("M")


def is_letter(character: str) -> bool:
    """Whether a character is a letter or a combining mark."""
    return unicodedata.category(character)[0] in "LM"


def _describe(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})"


def _fold(text: str, turkish: bool = False) -> str:
    """Compose letters (NFC), so that é is one letter however it is encoded, in lower case.

    Full case folding would merge letters that are written differently: ß and ss, ς and σ.
    """
    text = unicodedata.normalize("NFC", text)
    if "İ" in text:  # Python's lower case of it is i with a second dot, a combining mark
        text = text.replace("İ", "i")
    if turkish:
        text = re.sub("i\u0307+", "i", text.replace("I", "ı"))
    return unicodedata.normalize("NFC", text.lower())


def _plain(text: str) -> str:
    # NFC: é must be the same letter whether it is encoded as one code point or as two.
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


class _EnglishTable(dict[int, str | None]):
    """A table for `str.translate` of decomposed lower-case text, filled as characters occur."""

    SPACED = frozenset("/\\_")  # punctuation that becomes a space
    # Symbols that are read aloud, like digits. Dropping them would falsify the transcript, so they
    # stay, and the vocabulary raises an error that names them.
    SPOKEN = frozenset("%@#")

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)  # Pd: dashes; Cf: soft hyphens, direction marks
        is_accent = 0x300 <= code <= 0x36F
        is_punctuation = category.startswith("P") and character not in self.SPOKEN
        if category == "Pd" or character in self.SPACED:
            self[code] = " "
        elif is_accent or is_punctuation or category == "Cf":
            self[code] = None
        else:
            self[code] = character
        return self[code]


_APOSTROPHES = dict.fromkeys(map(ord, "'‘’‛ʼʻ′`´＇"), "'")
_ENGLISH = _EnglishTable(
    {
        **_APOSTROPHES,
        **{ord("&"): " and ", ord("ø"): "o", ord("ł"): "l", ord("đ"): "d", ord("ð"): "d"},
        **{ord("æ"): "ae", ord("œ"): "oe", ord("ß"): "ss", ord("þ"): "th", ord("ı"): "i"},
    }
)
# An ellipsis, or punctuation without a space after it ("yes,sir"). It becomes a space, because
# dropping it would join two words.
_WORD_BREAK = re.compile(r"\.{2,}|(?<=[^\W\d_]|[\u0300-\u036f])[,;:!?]+(?=[^\W\d_])")
_DIGIT = re.compile(r"\d")
# A number keeps its sign and its decimal marks: 1.5 is not 15, and -5 is not 5.
_NUMBER = re.compile(r"((?:(?<!\S)-)?(?:(?<![^\s$£€-])\.)?\d+(?:[.,]\d+)*)")
_BEFORE_NUMBER = re.compile(r"[(\[\"“”](?=-?\.?\d)")
_BETWEEN_NUMBERS = re.compile(r"(?<=\d)(?![.,]\d)[.,:;*\"”()\[\]!?·]+(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d)(?<!\d{4}),(?=\d{3}(?!\d))")
# Apostrophes at a word's left edge (group 1), at its right edge (group 2), and standing alone.
_OUTER_APOSTROPHE = re.compile(r"(?<![^\s'])(')(?=[^\s'])|(?<=[^\s'])(')(?![^\s'])|(?<!\S)'(?!\S)")


def _english(text: str) -> str:
    text = text.replace("´", "'")  # NFKD would decompose it into a space and an accent
    text = _decompose(text).lower()
    text = _WORD_BREAK.sub(" ", text)
    if _DIGIT.search(text):
        text = _BETWEEN_NUMBERS.sub(" ", _BEFORE_NUMBER.sub(" ", text))
        parts = _NUMBER.split(_THOUSANDS.sub("", text))  # numbers at the odd positions
        text = "".join([p if i % 2 else p.translate(_ENGLISH) for i, p in enumerate(parts)])
    else:
        text = text.translate(_ENGLISH)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return _drop_single_quotes(text) if "'" in text else text


def _decompose(text: str) -> str:
    """Decompose letters (NFKD), but not ² and ½, which would turn 10² into 102."""
    if text.isascii():
        return text
    if any(unicodedata.category(character) == "No" for character in text):
        return "".join(
            c if unicodedata.category(c) == "No" else unicodedata.normalize("NFKD", c) for c in text
        )
    return unicodedata.normalize("NFKD", text)


def _drop_single_quotes(text: str) -> str:
    """Drop apostrophes that quote ('like this') and keep those that are part of a word.

    An apostrophe at a word's edge is ambiguous: "the hours' play", "'tis". Left and right edges are
    matched like brackets; pairs are quotes and are dropped, single ones are kept.
    """
    text = re.sub("''+", "'", text)
    opened: list[int] = []  # positions of left quotes without a partner so far
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


# Characters that "multilingual" replaces everywhere: forms of the apostrophe, stretched Arabic letters,
# variants of signs, and Armenian marks inside words; and the invisible break of Khmer and Thai.
_MULTILINGUAL: dict[int, str | None] = {
    **_APOSTROPHES,
    ord("‚"): "'",
    **dict.fromkeys(map(ord, "\u0640՛՜՞՟"), None),
    **dict.fromkeys(range(0xFE00, 0xFE10), None),
    0x200B: " ",
}
_OTHER_SIGN = re.compile(r"[^\w\s']|_")  # marks, punctuation, symbols, formats


def _multilingual(text: str) -> str:
    text = _OTHER_SIGN.sub(_replace_sign, _fold(text).translate(_MULTILINGUAL))
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return _drop_single_quotes(text) if "'" in text else text


def _turkish(text: str) -> str:
    return _fold(_multilingual(_fold(text, turkish=True)), turkish=True)


def _replace_sign(match: re.Match[str]) -> str:
    """What "multilingual" writes for a character that is neither letter, digit nor apostrophe."""
    sign, text, at = match[0], match.string, match.start()
    category = unicodedata.category(sign)
    before = text[at - 1] if at else " "
    after = text[at + 1] if at + 1 < len(text) else " "
    in_word = is_letter(before) and is_letter(after)
    is_first = before.isspace() or before in '"([«“„‚'  # before a number: a sign or a decimal mark
    if category[0] == "M" or category in ("Sc", "Sm", "Co", "Cn", "Cs") or sign in "%‰@#&§°№":
        return sign  # marks belong to letters; the others are read aloud
    if sign in "\u200c\u200d":  # joiners, which Persian and the scripts of India spell with
        return sign if in_word else ""
    if category[0] == "C":
        return ""
    if category == "Pd" or sign in "/\\_":
        return "-" if sign == "-" and is_first and after.isdecimal() else " "
    if sign == "." and after.isdecimal() and is_first:
        return sign
    if before.isdecimal() and after.isdecimal() and sign != "…":
        return sign  # 1.5 is not 15
    if in_word and _is_spelled(sign, before, after):
        return "״" if sign == '"' else sign
    is_initial = sign == "." and is_letter(before) and not (at > 1 and is_letter(text[at - 2]))
    is_bracket = category in ("Ps", "Pe", "Pi", "Pf") or sign == '"'
    return "" if is_initial or (is_bracket and in_word) else " "


def _is_spelled(sign: str, before: str, after: str) -> bool:
    """Whether punctuation inside a word is part of it: Catalan l·l, Hebrew צה״ל."""
    if sign == "·":
        return before == after == "l"
    return sign in '׳״"' and all("\u0591" <= letter <= "\u05f2" for letter in (before, after))


_NORMALIZERS: dict[str, Callable[[str], str]] = {
    "plain": _plain,
    "english": _english,
    "multilingual": _multilingual,
    "turkish": _turkish,
}
