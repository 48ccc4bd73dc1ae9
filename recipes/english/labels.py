"""Labels of recordings without transcripts, which another recognizer has written: which to train on.

A table of labels has a line for each recording, with tabs between

    file, seconds, text, mean log-probability, probability of no speech, compression ratio

as scripts around Whisper write them. A label is used if its recognizer was sure of it: on 44 validated
Common Voice clips, labels of Whisper base have 13.4 % word errors, and those with a mean
log-probability of at least -0.3 have 8.3 %.
"""

import math
from pathlib import Path

from asr.data.manifest import Reject, Utterance
from asr.errors import DataError
from asr.files import read_lines
from asr.text import Vocabulary, normalize

LEAST_LOG_PROB = -0.3
MOST_NO_SPEECH = 0.5
MOST_COMPRESSION = 2.4  # a text that repeats itself, as Whisper's do in loops
COLUMNS = 6


def read_labels(
    table: Path, folder: Path, least_log_prob: float = LEAST_LOG_PROB
) -> tuple[list[Utterance], list[Reject]]:
    """Read the labels that are good enough to train on.

    Args:
        table: The table of labels; only the names of its files count.
        folder: Where the recordings are.
        least_log_prob: Least mean log-probability of a label.

    Returns:
        The utterances, whose ids begin with "label-", and why the others are left out.

    Raises:
        DataError: If a line is not a label, or a recording occurs twice.
    """
    utterances, rejects = [], []
    alphabet = set(Vocabulary.english().symbols)
    seen = set()
    for number, line in read_lines(table, DataError):
        where = f"{table}, line {number}"
        try:
            file, seconds, text, *numbers = line.split("\t")
            duration, log_prob, no_speech, compression = map(float, (seconds, *numbers))
        except ValueError as error:
            raise DataError(
                f"{where} is not a label of {COLUMNS} columns with tabs between; see labels.py"
            ) from error
        name = Path(file).name
        if name in seen:
            raise DataError(f"{where}: {name} occurs twice; remove one of its labels")
        seen.add(name)
        label = f"label-{Path(name).stem}"
        words = normalize(text, "english")
        if not (math.isfinite(duration) and duration > 0):
            reason = "without a duration"
        elif log_prob < least_log_prob:
            reason = f"mean log-probability below {least_log_prob:g}"
        elif no_speech > MOST_NO_SPEECH or compression > MOST_COMPRESSION:
            reason = "silence, or a text that repeats itself"
        elif not words or not alphabet.issuperset(words):
            reason = "no words, or characters such as digits"
        elif not (folder / name).is_file():
            reason = "recording missing"
        else:
            utterances.append(Utterance(label, str(folder / name), duration, words))
            continue
        rejects.append(Reject(label, reason, ""))
    return utterances, rejects
