"""What the doctor finds: the kinds of findings, a recorder that collects them, and the diagnosis."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from asr.data.manifest import Utterance

ERROR, WARNING, INFORMATION = "error", "warning", "information"
SEVERITIES = (ERROR, WARNING, INFORMATION)

KINDS: dict[str, tuple[str, str]] = {  # kind -> what it is called, what to do about it
    "line": (
        "manifest lines that cannot be used",
        "Mend or remove these lines.",
    ),
    "audio": (
        "unreadable or truncated audio",
        "Copy or export these recordings again, or remove them.",
    ),
    "duration": (
        "wrong durations",
        "Write the manifest anew from the recordings, or copy again what was cut short.",
    ),
    "empty": (
        "empty texts",
        "Transcribe these recordings or remove them.",
    ),
    "markup": (
        "markup in texts",
        "Remove tags and annotations; write only what is said.",
    ),
    "digits": (
        "digits in texts",
        "Spell numbers out as they are spoken.",
    ),
    "characters": (
        "characters outside the vocabulary",
        'Normalize the texts (profile "english"), or train with a vocabulary of the transcripts.',
    ),
    "odd": (
        "characters that hardly any text has: of another script, invisible, or pictures",
        "Write what is meant; they look alike, and the model would learn them as other letters.",
    ),
    "ctc": (
        "texts impossible under CTC in the recording's time",
        "Check that text and recording belong together, or train with a smaller encoder.stack.",
    ),
    "long": (
        "longer than a batch may be",
        "Cut these recordings, or raise training.batch_seconds.",
    ),
    "silence": (
        "silent recordings",
        "Record again or remove them: the model would learn to hear words in silence.",
    ),
    "steady": (
        "a steady sound without speech",
        "Listen to these: a hum, a tone or noise teaches nothing; remove them.",
    ),
    "short": (
        "very short recordings",
        "Check that the word is heard whole, or remove them.",
    ),
    "clipping": (
        "clipping",
        "Record with less gain, or remove them.",
    ),
    "beyond": (
        "samples beyond full scale",
        "Divide the samples by the largest of the corpus: they are floats on another scale.",
    ),
    "air": (
        "dead air",
        "Cut long silences off, and check that no speech is missing from the recording.",
    ),
    "narrow": (
        "upsampled narrow-band audio",
        "Take the original recordings, or keep telephone speech in a corpus of its own.",
    ),
    "phase": (
        "channels that cancel out in the downmix",
        "Invert one channel, or keep only one.",
    ),
    "channels": (
        "channels with different sounds",
        "Keep the channel of the speaker whose words the text has.",
    ),
    "level": (
        "levels far from the corpus",
        "Bring these recordings to the level of the others.",
    ),
    "offset": (
        "direct current",
        "Subtract the mean from the samples, or filter below 20 Hz.",
    ),
    "rate": (
        "impossible speaking rates",
        "Check that the recording holds all of its text and nothing else.",
    ),
    "mismatch": (
        "likely the wrong text",
        "Listen to these: their texts are far too long or too short for how this speaker talks.",
    ),
    "duplicate": (
        "duplicates",
        "Keep one of each.",
    ),
    "contradiction": (
        "one recording with several texts",
        "Find out which text is right, and remove the others.",
    ),
    "leak": (
        "recordings shared between splits",
        "Remove them here: a model is not tested by what it has learned or was chosen by.",
    ),
    "speakers": (
        "speakers shared between splits",
        "Remove them here, so that the error rate is that of new voices.",
    ),
    "sentences": (
        "sentences shared between splits",
        "Remove them here, or read the error rate as that of known sentences.",
    ),
    "band": (
        "band limits below the model's",
        "Set features.high_hz just below the lowest, so that the model learns speech and not "
        "the source.",
    ),
    "anonymous": (
        "speakers not stated",
        'State "speaker" in the manifests, so that shared speakers can be found.',
    ),
}


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong in one split.

    `details` says of each of `ids` what it is, with numbers; `detail` sums the finding up. `split`
    is empty where a finding is about all of them, `ids` where it is about no single utterance.
    """

    kind: str  # a key of KINDS
    severity: str  # one of SEVERITIES
    split: str
    ids: tuple[str, ...]
    detail: str
    fix: str
    details: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What the kind is called."""
        return KINDS[self.kind][0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `cases` holds the details by id."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "split": self.split,
            "title": self.title,
            "detail": self.detail,
            "fix": self.fix,
            "ids": list(self.ids),
            "cases": dict(zip(self.ids, self.details, strict=True)),
        }


class Recorder:
    """Collects what the checks find and turns it into findings.

    Attributes:
        refused: (N,) True for each utterance that an error names.
        doubted: (N,) True for each utterance that a warning names.
    """

    def __init__(self, splits: Mapping[str, Sequence[Utterance]]) -> None:
        self._splits = splits
        self._names = list(splits)
        self._ends = list(accumulate(map(len, splits.values())))
        count = self._ends[-1] if self._ends else 0
        self.refused = np.zeros(count, np.bool_)
        self.doubted = np.zeros(count, np.bool_)
        self._cases: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        self._general: list[Finding] = []

    def add(self, kind: str, index: int, detail: str, severity: str = WARNING) -> None:
        """Record that something is wrong with an utterance, counted through all splits."""
        number = bisect_right(self._ends, index)
        split = self._names[number]
        name = self._splits[split][index - self._ends[number]].id  # counted from the split's end
        self._cases[kind, severity, split].append((name, detail))
        self.refused[index] |= severity == ERROR
        self.doubted[index] |= severity == WARNING

    def add_line(self, split: str, line: str, detail: str) -> None:
        """Record a line of a split's manifest that cannot be used."""
        self._cases["line", ERROR, split].append((line, detail))

    def add_general(self, kind: str, detail: str) -> None:
        """Record information that is about all splits and no single utterance."""
        self._general.append(Finding(kind, INFORMATION, "", (), detail, KINDS[kind][1]))

    def build_findings(self) -> list[Finding]:
        """All findings: the worst first, then in the order of `KINDS` and of the splits."""
        findings = [*self._general, *(self._build(*key) for key in self._cases)]
        kinds, splits = list(KINDS), ["", *self._names]
        findings.sort(
            key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind), splits.index(f.split))
        )
        return findings

    def _build(self, kind: str, severity: str, split: str) -> Finding:
        details: dict[str, str] = {}  # The details of an utterance that has several are joined.
        for name, detail in self._cases[kind, severity, split]:
            details[name] = f"{details[name]}; {detail}" if name in details else detail
        size = f"{len(self._splits[split]):,}"
        total = f"beside {size} good ones" if kind == "line" else f"of {size} utterances"
        ids = tuple(details)
        summary = f"{len(ids):,} {total}"
        fix = KINDS[kind][1]
        return Finding(kind, severity, split, ids, summary, fix, tuple(details.values()))


@dataclass(frozen=True)
class Histogram:
    """How often a value in `unit` falls between two neighbors of `edges` (n + 1,): `counts` (n,)."""

    name: str
    unit: str
    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Summary:
    """What a split is as a whole; `facts` are for people, the names of histograms are unique."""

    split: str
    facts: dict[str, str]
    histograms: list[Histogram]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first, what each split is, and what an epoch on the first will cost."""

    findings: list[Finding]
    summaries: list[Summary]
    cost: dict[str, str]

    def count(self, severity: str) -> int:
        """How many utterances and lines findings of this severity name, each once."""
        return len(
            {
                (f.split, f.kind == "line", name)
                for f in self.findings
                if f.severity == severity
                for name in f.ids
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "splits": {
                summary.split: {
                    "facts": summary.facts,
                    "histograms": [vars(histogram) for histogram in summary.histograms],
                }
                for summary in self.summaries
            },
            "cost": self.cost,
            "findings": [finding.to_dict() for finding in self.findings],
        }
