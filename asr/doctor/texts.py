"""Checks of the texts: empty, too long, markup, digits, and characters that do not belong there."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from asr.data.manifest import Reject
from asr.data.planning import hash_id
from asr.data.selection import select_trainable
from asr.doctor.findings import ERROR, INFORMATION, WARNING
from asr.doctor.measurements import Examination
from asr.doctor.requirements import Requirements
from asr.text import normalize

PATTERNS = {  # kind of finding -> what it looks for
    "markup": re.compile(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}|&#?\w+;|\w+://|www\.|[*_~#|\\]"),
    "digits": re.compile(r"\d+"),
}


def check_texts(examination: Examination, known: frozenset[str]) -> None:
    """Measure every normalized text; report markup, digits and characters that are not `known`."""
    for index, utterance in enumerate(examination.utterances):
        text = normalize(utterance.text)
        examination.text_hashes[index] = hash_id(text)
        examination.characters[index] = len(text)
        examination.words[index] = len(text.split())
        for kind, pattern in PATTERNS.items():
            if found := pattern.findall(text):
                severity = WARNING if set("".join(found)) <= known else ERROR
                examination.add(kind, index, " ".join(found[:5]), severity)
                text = pattern.sub("", text)
        if unknown := set(text) - known:
            examination.add("characters", index, " ".join(map(repr, sorted(unknown))), ERROR)


# A script that occurs in less than this share of the texts is assumed to be a mistake.
RARE_SCRIPT = 0.01
# What `script_of` returns for characters that are in no script.
NO_SCRIPT = "other"


def check_scripts(examination: Examination, known: frozenset[str]) -> None:
    """Report characters of the vocabulary that are of a rare script, invisible or pictures."""
    scripts = {c: script for c in known if (script := script_of(c))}
    found = set(scripts.values())
    if NO_SCRIPT not in found and len(found) < 2:
        return
    having: dict[str, list[int]] = defaultdict(list)  # script -> utterances
    for index, utterance in enumerate(examination.utterances):
        for script in {scripts[c] for c in scripts.keys() & set(normalize(utterance.text))}:
            having[script].append(index)
    for script, indices in having.items():
        rare = len(indices) < RARE_SCRIPT * len(examination.utterances)
        for index in indices if rare or script == NO_SCRIPT else ():
            text = normalize(examination.utterances[index].text)
            odd = sorted({c for c in text if scripts.get(c) == script})
            names = (f"{c!a} ({unicodedata.name(c, 'without a name').lower()})" for c in odd)
            examination.add("odd", index, ", ".join(names))


def script_of(character: str) -> str:
    """The script of a letter, NO_SCRIPT if invisible, a picture or unassigned, else ""."""
    category = unicodedata.category(character)
    if category in ("Cf", "Cc", "Cn", "Co", "So"):
        return NO_SCRIPT
    return unicodedata.name(character, "").partition(" ")[0] if category[0] == "L" else ""


def check_trainable(
    examination: Examination, requirements: Requirements, frames: Callable[[int], int]
) -> None:
    """Report the utterances that training would leave out, for other reasons than characters.

    `frames` is the number of encoder frames that the model makes of a number of samples.
    """
    select = partial(
        select_trainable,
        vocabulary=requirements.vocabulary,
        frames=frames,
        fastest=requirements.fastest,
        max_seconds=requirements.batch_seconds,
        sample_rate=requirements.features.sample_rate,
    )
    known = requirements.known
    start = 0
    for number, utterances in enumerate(examination.splits.values()):
        rejects = {reject.id: reject for reject in select(utterances)[1]}
        # Unknown characters can hide a second defect, so they are replaced by known ones and the
        # checks run again.
        respelled = [
            replace(u, text=respell(normalize(u.text), known))
            for u in utterances
            if u.id in rejects and rejects[u.id].reason.startswith("characters")
        ]
        rejects |= {reject.id: reject for reject in select(respelled)[1]}
        for index, utterance in enumerate(utterances, start):
            if reject := rejects.get(utterance.id):
                _report(reject, index, examination, trained_on=number == 0)
        start += len(utterances)


def _report(reject: Reject, index: int, examination: Examination, trained_on: bool) -> None:
    """Record why an utterance is left out; in splits that are only transcribed it matters less."""
    if reject.reason.startswith("empty"):
        examination.add("empty", index, "the text has no words", ERROR)
    elif reject.reason.startswith("longer"):
        severity = ERROR if trained_on else INFORMATION
        examination.add("long", index, f"{reject.detail}, {reject.reason}", severity)
    elif not reject.reason.startswith("characters"):
        examination.add("ctc", index, reject.detail, ERROR if trained_on else WARNING)


def respell(text: str, known: frozenset[str]) -> str:
    """A text of the same length and without unknown characters, none of them replaced by a repeat.

    CTC needs an extra frame for each repeated character, so a replacement must not add one.
    """
    letters = 2 * (sorted(known - {" "}) or ["-"])
    spelled = ""
    for character in text:
        spelled += character if character in known else letters[spelled.endswith(letters[0])]
    return spelled
