"""Checks between utterances: duplicates, and what one split shares with another."""

from itertools import combinations

import numpy as np

from asr.doctor.findings import INFORMATION, WARNING
from asr.doctor.measurements import Examination, Indices, group_by_value
from asr.doctor.sound import envelope_correlation

# Sentences of fewer words, such as "yes", are shared by chance.
SENTENCE_WORDS = 4
# Shared sentences are a warning if they are at least this share of the later split.
SHARED_SENTENCES = 0.1


def check_splits(examination: Examination) -> None:
    """Report speakers and sentences that a split shares with a later one."""
    if len(examination.names) < 2:
        return
    anonymous = [
        f"{missing:,} of {len(split):,} utterances of {name}"
        for name, split in examination.splits.items()
        if (missing := sum(not utterance.speaker for utterance in split))
    ]
    if anonymous:
        detail = f"it is unknown whether splits share the speakers of {', '.join(anonymous)}"
        examination.add_general("anonymous", detail)
    for one, other in combinations(range(len(examination.names)), 2):
        here, there = (np.flatnonzero(examination.split == number) for number in (one, other))
        if len(there):
            _check_pair(examination, here, there, examination.names[other])


def _check_pair(examination: Examination, here: Indices, there: Indices, name: str) -> None:
    """Report what a split shares with the later split `name`, which has the utterances `there`."""
    known = {examination.utterances[index].speaker for index in there.tolist()} - {""}
    for index in here.tolist():
        if (speaker := examination.utterances[index].speaker) in known:
            examination.add("speakers", index, f"speaker {speaker} is also in {name}")
    texts = examination.text_hashes
    shared = np.isin(texts[there], texts[here])
    shared &= examination.words[there] >= SENTENCE_WORDS
    share = np.count_nonzero(shared) / len(there)
    severity = WARNING if share >= SHARED_SENTENCES else INFORMATION
    detail = (
        f"the sentence is also in {name}, {100 * share:.0f} % of which is shared with this split"
    )
    for index in here[np.isin(texts[here], texts[there[shared]])].tolist():
        examination.add("sentences", index, detail, severity)


def check_duplicates(examination: Examination) -> None:
    """Report recordings whose samples are equal, or that sound alike and have the same text."""
    spoken = np.flatnonzero(examination.spoken)
    texts = examination.text_hashes
    for group in group_by_value(spoken, examination.recordings["content"]):
        if len(np.unique(texts[group])) > 1:
            for index in group.tolist():
                other = next(i for i in group.tolist() if texts[i] != texts[index])
                label = examination.label(other, index)
                detail = f"the same recording as {label}, but with another text"
                examination.add("contradiction", index, detail)
        else:
            _report_copies(examination, group, "the same recording as")
    for group in group_by_value(spoken, texts):
        _check_codings(examination, group)


# Two recordings of one text are the same if the correlation of their envelopes reaches the first
# number and their durations differ by no more than the second, the silence that encoders add. The
# highest correlation among 399,170 pairs of different recordings is 0.88.
SAME_CORRELATION = 0.98
SAME_SECONDS = 0.1
# Each recording of a text is compared with this many that are about as long.
NEIGHBORS = 200


def _check_codings(examination: Examination, group: Indices) -> None:
    """Report recordings of one text that sound alike although their samples differ."""
    seconds = examination.recordings["seconds"][group]
    group, seconds = group[np.argsort(seconds, kind="stable")], np.sort(seconds, kind="stable")
    family = np.arange(len(group))
    content = examination.recordings["content"][group]
    envelopes = examination.recordings["envelope"][group]
    for step in range(1, min(len(group), NEIGHBORS + 1)):
        near = np.flatnonzero(
            (seconds[step:] - seconds[:-step] <= SAME_SECONDS) & (content[step:] != content[:-step])
        )
        if not len(near):
            continue
        same = envelope_correlation(envelopes[near], envelopes[near + step]) >= SAME_CORRELATION
        for place in near[same].tolist():
            old, new = family[place + step], family[place]
            family[family == old] = new
    for members in group_by_value(np.arange(len(group)), family):
        _report_copies(examination, np.sort(group[members]), "sounds the same as")


def _report_copies(examination: Examination, group: Indices, words: str) -> None:
    """Report every copy that also occurs in a later split; within a split, all except the best one.

    The best copy is free of errors and, if possible, of warnings.
    """
    best_first = np.lexsort((group, examination.has_warning[group], examination.has_error[group]))
    group = group[best_first]
    splits = examination.split[group]
    for index in group.tolist():
        first = int(group[splits == examination.split[index]][0])
        later = group[splits > examination.split[index]]
        if len(later):
            label = examination.label(int(later.min()), index)
            examination.add("leak", index, f"{words} {label}")
        elif index != first:
            examination.add("duplicate", index, f"{words} {examination.label(first, index)}")
