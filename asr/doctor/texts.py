"""Checks of transcripts: scripts, digits, markup and odd characters."""

import re
import unicodedata

ODD_PART, OTHER = 0.01, "other"  # of the texts have a script that is meant
DIGITS = re.compile(r"\d+")
MARKUP = re.compile(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}|&#?\w+;|\w+://|www\.|[*_~#|\\]")


def script_of(character: str) -> str:
    """The script of a letter, OTHER for what is invisible, a picture or unassigned, else ""."""
    category = unicodedata.category(character)
    if category in ("Cf", "Cc", "Cn", "Co", "So"):
        return OTHER
    return unicodedata.name(character, "").partition(" ")[0] if category[0] == "L" else ""


def respell(text: str, known: frozenset[str]) -> str:
    """A text with a known character in place of each one that is not, and none repeated for it."""
    letters = sorted(known - {" "})[:2] or ["-"]
    spelled: list[str] = []
    for character in text:
        if character not in known:
            character = next((x for x in letters if x != "".join(spelled[-1:])), letters[0])
        spelled.append(character)
    return "".join(spelled)
