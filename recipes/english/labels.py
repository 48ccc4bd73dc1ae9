"""Tables of labels: texts that a recognizer gave to recordings without transcripts.

A table has a line for each recording, with tabs between

    file, seconds, text, mean log-probability, probability of no speech, compression ratio

as label.py and other scripts around Whisper write them. A label is used if its recognizer was sure of
it: on 44 validated Common Voice clips, labels of Whisper base have 13.4 % word errors, those with a
mean log-probability of at least -0.3 have 8.3 %, and those of which Whisper tiny.en writes at most a
tenth of the words differently have 6.4 %.
"""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spelling import spell_numbers

from asr.data.manifest import Reject, Utterance, summarize_rejects
from asr.errors import DataError
from asr.files import read_lines
from asr.progress import say
from asr.scoring import score
from asr.text import Vocabulary, normalize

LEAST_LOG_PROB = -0.3
MOST_NO_SPEECH = 0.5
MOST_COMPRESSION = 2.4  # a text that repeats itself, as Whisper's do in loops
MOST_DIFFERENCE = 0.2  # of the words, from another recognizer's


class Label(NamedTuple):
    """A line of a table; the text is the recognizer's, with capitals, punctuation and digits."""

    file: str
    seconds: float
    text: str
    log_prob: float
    no_speech: float
    compression: float

    @property
    def words(self) -> str:
        """The text as a model writes it, with numbers in words."""
        return normalize(spell_numbers(self.text), "english")


def read_table(table: Path) -> dict[str, Label]:
    """Read the labels by the names of their files, without folders.

    Raises:
        DataError: If a line is not a label, or a recording occurs twice.
    """
    labels: dict[str, Label] = {}
    for number, line in read_lines(table, DataError):
        where = f"{table}, line {number}"
        try:
            file, seconds, text, *numbers = line.split("\t")
            label = Label(file, float(seconds), text, *map(float, numbers))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{where} is not a label of {len(Label._fields)} columns with tabs between; "
                "see labels.py"
            ) from error
        name = Path(file).name
        if name in labels:
            raise DataError(f"{where}: {name} occurs twice; remove one of its labels")
        labels[name] = label
    return labels


def read_labels(
    table: Path,
    folder: Path,
    least_log_prob: float = LEAST_LOG_PROB,
    other: Mapping[str, Label] | None = None,
    most_difference: float = MOST_DIFFERENCE,
) -> tuple[list[Utterance], list[Reject]]:
    """Read the labels that are good enough to train on.

    Args:
        table: The table of labels; only the names of its files count.
        folder: Where the recordings are.
        least_log_prob: Least mean log-probability of a label.
        other: Another recognizer's labels by file name, with which these have to agree.
        most_difference: Largest share of words in which the two may differ.

    Returns:
        The utterances, whose ids begin with "label-", and why the others are left out.

    Raises:
        DataError: If a line is not a label, or a recording occurs twice.
    """
    utterances, rejects = [], []
    alphabet = set(Vocabulary.english().symbols)
    for name, label in read_table(table).items():
        words = label.words
        if not (math.isfinite(label.seconds) and label.seconds > 0):
            reason = "without a duration"
        elif not label.log_prob >= least_log_prob:
            reason = f"mean log-probability below {least_log_prob:g}"
        elif label.no_speech > MOST_NO_SPEECH or label.compression > MOST_COMPRESSION:
            reason = "silence, or a text that repeats itself"
        elif not words or not alphabet.issuperset(words):
            reason = "no words, or characters such as digits"
        elif other is not None and name not in other:
            reason = "without a label by the other recognizer"
        elif other is not None and differ(words, other[name].words) > most_difference:
            reason = (
                f"the other recognizer writes more than {100 * most_difference:g} % differently"
            )
        elif not (folder / name).is_file():
            reason = "recording missing"
        else:
            audio = str(folder / name)
            utterances.append(Utterance(f"label-{Path(name).stem}", audio, label.seconds, words))
            continue
        rejects.append(Reject(f"label-{Path(name).stem}", reason))
    return utterances, rejects


def differ(words: str, others: str) -> float:
    """The share of words that would have to be changed to make the others of them."""
    return score({"": words}, {"": others}).wer


def read_labeled(
    tables: Sequence[Path], folder: Path, dev: Sequence[Utterance]
) -> Iterator[Utterance]:
    """Yield the recordings whose labels are good enough, without any sentence of a dev set."""
    forbidden = {utterance.text for utterance in dev}
    for table in tables:
        utterances, rejects = read_labels(table, folder)
        yield from leave_out(utterances, rejects, forbidden, table)


def leave_out(
    utterances: Sequence[Utterance],
    rejects: Sequence[Reject],
    forbidden: Container[str],
    table: Path,
) -> list[Utterance]:
    """The utterances without forbidden sentences; prints what is left out of a table and why."""
    kept = [utterance for utterance in utterances if utterance.text not in forbidden]
    hours = sum(utterance.seconds for utterance in kept) / 3600
    if rejects:
        say(f"{table}:\n{summarize_rejects(rejects)}")
    say(
        f"{table}: {len(kept):,} recordings, {hours:.2f} hours; "
        f"{len(utterances) - len(kept)} left out as sentences of a dev set"
    )
    return kept
