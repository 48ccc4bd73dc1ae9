"""The state of an examination: numbers about every utterance, and what the checks have found.

All splits share one table. Every recording is decoded once (`asr.doctor.sound`); only about a hundred
bytes of it are kept.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Utterance
from asr.doctor.findings import ERROR, INFORMATION, SEVERITIES, TITLES, WARNING, Finding
from asr.doctor.sound import ENVELOPE_BINS, Sound

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The fields of `Sound`, of which the last two are a hash and an array.
RECORDING = np.dtype(
    [(name, np.float32) for name in Sound._fields[:-2]]
    + [("content", np.uint64), ("envelope", np.int8, ENVELOPE_BINS)]
)


class Examination:
    """Numbers about each of N utterances, which start as zeros, and the findings about them.

    Attributes:
        splits: The utterances of each split, the training set first.
        names: The names of the splits.
        utterances: The utterances of all splits, one split after the other.
        split: (N,) The position of each utterance's split in `names`.
        recordings: (N,) The measurements of each recording that could be decoded, see `Sound`.
        spoken: (N,) True if the recording is readable and contains speech, and the text is not empty.
        text_hashes: (N,) A 64-bit hash of each normalized text.
        characters: (N,) The number of characters of each normalized text.
        words: (N,) The number of words of each normalized text.
        has_error: (N,) True for each utterance that an error names.
        has_warning: (N,) True for each utterance that a warning names.
        reading_seconds: CPU time spent on decoding and measuring the recordings.
    """

    def __init__(self, splits: Mapping[str, Sequence[Utterance]]) -> None:
        self.splits = splits
        self.names = list(splits)
        self.utterances = [utterance for split in splits.values() for utterance in split]
        self.split = np.repeat(np.arange(len(splits)), [len(split) for split in splits.values()])
        count = len(self.utterances)
        self.recordings = np.zeros(count, RECORDING)
        self.spoken, self.has_error, self.has_warning = np.zeros((3, count), np.bool_)
        self.text_hashes = np.zeros(count, np.uint64)
        self.characters, self.words = np.zeros((2, count), np.int32)
        self.reading_seconds = 0.0
        self._general: list[Finding] = []
        # (kind, severity, split) -> id of an utterance -> what is wrong with it
        self._cases: defaultdict[tuple[str, str, str], defaultdict[str, list[str]]]
        self._cases = defaultdict(lambda: defaultdict(list))

    def add(self, kind: str, index: int, detail: str, severity: str = WARNING) -> None:
        """Record a problem of an utterance; `index` counts utterances across all splits."""
        self.has_error[index] |= severity == ERROR
        self.has_warning[index] |= severity == WARNING
        cases = self._cases[kind, severity, self.names[self.split[index]]]
        cases[self.utterances[index].id].append(detail)

    def add_line(self, split: str, line: str, detail: str) -> None:
        """Record a line of a split's manifest that cannot be used."""
        self._cases["line", ERROR, split][line].append(detail)

    def add_general(self, kind: str, detail: str) -> None:
        """Record information that is about all splits and no single utterance."""
        self._general.append(Finding(kind, INFORMATION, "", (), detail))

    def build_findings(self) -> list[Finding]:
        """All findings: the worst first, then in the order of `TITLES` and of the splits."""
        findings = list(self._general)
        for (kind, severity, split), cases in self._cases.items():
            count, size = f"{len(cases):,}", f"{len(self.splits[split]):,}"
            detail = f"{count} of {size} utterances"
            if kind == "line":
                detail = f"{count} lines, besides {size} usable ones"
            details = tuple(map("; ".join, cases.values()))
            findings.append(Finding(kind, severity, split, tuple(cases), detail, details))
        kinds, splits = list(TITLES), ["", *self.names]
        findings.sort(
            key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind), splits.index(f.split))
        )
        return findings

    def label(self, index: int, beside: int) -> str:
        """The id of an utterance, followed by its split unless `beside` is in the same split."""
        name, split = self.utterances[index].id, self.split[index]
        return name if split == self.split[beside] else f"{name} in {self.names[split]}"


def group_by_value(indices: Indices, keys: npt.NDArray[Any]) -> Iterator[Indices]:
    """Yield, for each key that occurs several times, the indices that share it, in their order."""
    order = indices[np.argsort(keys[indices], kind="stable")]
    edges = np.flatnonzero(np.diff(keys[order].astype(np.uint64)) != 0) + 1
    yield from (group for group in np.split(order, edges) if len(group) > 1)


def estimate_normal(values: Floats) -> tuple[float, float]:
    """Robust estimates of a normal distribution's mean and standard deviation.

    These are the median and 1.4826 times the median absolute deviation from it.
    """
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))
