"""Checks between utterances: duplicates, and what one split shares with another."""

from itertools import combinations

import numpy as np

from asr.doctor.findings import INFORMATION, WARNING, Recorder
from asr.doctor.measurements import Indices, Measurements, group_by_value
from asr.doctor.sound import envelope_correlation


def check_splits(measurements: Measurements, recorder: Recorder) -> None:
    """Report speakers and sentences that a split shares with a later one."""
    if len(measurements.names) < 2:
        return
    anonymous = [
        f"{missing:,} of {len(split):,} utterances of {name}"
        for name, split in measurements.splits.items()
        if (missing := sum(not utterance.speaker for utterance in split))
    ]
    if anonymous:
        detail = f"it is unknown whether splits share the speakers of {', '.join(anonymous)}"
        recorder.add_general("anonymous", detail)
    for one, other in combinations(range(len(measurements.names)), 2):
        here, there = (np.flatnonzero(measurements.split == number) for number in (one, other))
        if len(there):
            _check_speakers(measurements, recorder, here, there)
            _check_sentences(measurements, recorder, here, there)


def _check_speakers(
    measurements: Measurements, recorder: Recorder, here: Indices, there: Indices
) -> None:
    name = measurements.names[measurements.split[there[0]]]
    known = {measurements.utterances[index].speaker for index in there.tolist()} - {""}
    for index in here.tolist():
        if (speaker := measurements.utterances[index].speaker) in known:
            recorder.add("speakers", index, f"speaker {speaker} is also in {name}")


# Sentences of fewer words, such as "yes", are shared by chance.
SENTENCE_WORDS = 4
# Shared sentences are a warning if they are at least this share of the later split.
SHARED_SENTENCES = 0.1


def _check_sentences(
    measurements: Measurements, recorder: Recorder, here: Indices, there: Indices
) -> None:
    name = measurements.names[measurements.split[there[0]]]
    texts = measurements.text_hashes
    shared = np.isin(texts[there], texts[here])
    shared &= measurements.words[there] >= SENTENCE_WORDS
    share = np.count_nonzero(shared) / len(there)
    severity = WARNING if share >= SHARED_SENTENCES else INFORMATION
    detail = (
        f"the sentence is also in {name}, {100 * share:.0f} % of which is shared with this split"
    )
    for index in here[np.isin(texts[here], texts[there[shared]])].tolist():
        recorder.add("sentences", index, detail, severity)


def check_duplicates(measurements: Measurements, recorder: Recorder) -> None:
    """Report recordings whose samples are equal, or that sound alike and have the same text."""
    spoken = np.flatnonzero(measurements.spoken)
    texts = measurements.text_hashes
    for group in group_by_value(spoken, measurements.recordings["content"]):
        if len(np.unique(texts[group])) > 1:
            for index in group.tolist():
                other = next(i for i in group.tolist() if texts[i] != texts[index])
                label = measurements.label(other, index)
                detail = f"the same recording as {label}, but with another text"
                recorder.add("contradiction", index, detail)
        else:
            _report_copies(measurements, recorder, group, "the same recording as")
    for group in group_by_value(spoken, texts):
        _check_codings(measurements, recorder, group)


# Two recordings of one text are the same if the correlation of their envelopes reaches the first
# number and their durations differ by no more than the second, the silence that encoders add. The
# highest correlation among 399,170 pairs of different recordings is 0.88.
SAME_CORRELATION = 0.98
SAME_SECONDS = 0.1
# Each recording of a text is compared with this many that are about as long.
NEIGHBORS = 200


def _check_codings(measurements: Measurements, recorder: Recorder, group: Indices) -> None:
    """Report recordings of one text that sound alike although their samples differ."""
    seconds = measurements.recordings["seconds"][group]
    group, seconds = group[np.argsort(seconds, kind="stable")], np.sort(seconds, kind="stable")
    family = np.arange(len(group))
    content = measurements.recordings["content"][group]
    envelopes = measurements.recordings["envelope"][group]
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
        _report_copies(measurements, recorder, np.sort(group[members]), "sounds the same as")


def _report_copies(
    measurements: Measurements, recorder: Recorder, group: Indices, words: str
) -> None:
    """Report every copy that also occurs in a later split; within a split, all except the best one.

    The best copy is free of errors and, if possible, of warnings.
    """
    best_first = np.lexsort((group, recorder.has_warning[group], recorder.has_error[group]))
    group = group[best_first]
    splits = measurements.split[group]
    for index in group.tolist():
        first = int(group[splits == measurements.split[index]][0])
        later = group[splits > measurements.split[index]]
        if len(later):
            label = measurements.label(int(later.min()), index)
            recorder.add("leak", index, f"{words} {label}")
        elif index != first:
            recorder.add("duplicate", index, f"{words} {measurements.label(first, index)}")
