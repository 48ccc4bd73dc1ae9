"""The kinds of findings, and the diagnosis that they make up."""

from dataclasses import dataclass
from typing import Any

ERROR, WARNING, INFORMATION = "error", "warning", "information"
SEVERITIES = (ERROR, WARNING, INFORMATION)

TITLES = {  # kind -> what it is called in reports, which list the kinds in this order
    "line": "manifest lines that cannot be used",
    "audio": "unreadable or truncated audio",
    "duration": "wrong durations",
    "empty": "empty texts",
    "markup": "markup in texts",
    "digits": "digits in texts",
    "characters": "characters outside the vocabulary",
    "odd": "unusual characters: from a rare script, invisible, or pictographs",
    "ctc": "texts too long for CTC to fit into the recording",
    "long": "utterances that are longer than a batch",
    "silence": "silent recordings",
    "steady": "recordings of a steady sound without speech",
    "short": "very short recordings",
    "clipping": "clipped recordings",
    "beyond": "samples far beyond full scale",
    "air": "long silences",
    "narrow": "upsampled narrow-band audio",
    "phase": "channels that cancel each other out when mixed to mono",
    "channels": "channels with different sounds",
    "level": "unusually quiet or loud recordings",
    "offset": "direct current in the signal (DC offset)",
    "rate": "impossible speaking rates",
    "mismatch": "texts that probably belong to other recordings",
    "duplicate": "duplicate recordings",
    "contradiction": "identical recordings with different texts",
    "leak": "recordings shared between splits",
    "speakers": "speakers shared between splits",
    "sentences": "sentences shared between splits",
    "band": "band limits below the model's",
    "anonymous": "missing speaker names",
}
FIXES = {  # kind -> what to do about it
    "line": "Correct or remove these lines.",
    "audio": "Copy or export these recordings again, or remove them.",
    "duration": 'Correct "duration" in the manifest, or copy the recordings again if they were '
    "cut short.",
    "empty": "Transcribe these recordings, or remove them.",
    "markup": "Remove tags and annotations, and keep only the spoken words.",
    "digits": "Spell numbers out as they are spoken.",
    "characters": 'Normalize the texts with the profile "english", or train with '
    "data.vocabulary=transcripts.",
    "odd": "Replace them with the intended characters; many look like ordinary letters, but the "
    "model would learn them as different ones.",
    "ctc": "Check that text and recording belong together, or train with a smaller encoder.stack.",
    "long": "Split these recordings, or raise training.batch_seconds.",
    "silence": "Record these again or remove them; the model would learn to write words for "
    "silence.",
    "steady": "Listen to these recordings, and remove those that contain only hum, a tone or "
    "noise.",
    "short": "Check that the whole word was recorded, or remove these recordings.",
    "clipping": "Record these again with less gain, or remove them.",
    "beyond": "Divide the samples of all recordings by the largest amplitude in the corpus; they "
    "are stored as floating-point numbers on another scale than -1 to 1.",
    "air": "Cut the silences off, and check that no speech is missing from the recordings.",
    "narrow": "Use the original recordings, or keep telephone speech in a separate corpus.",
    "phase": "Invert one channel, or keep only one.",
    "channels": "Keep the channel of the speaker whose words are in the text.",
    "level": "Bring these recordings to the level of the others.",
    "offset": "Subtract the mean from the samples, or apply a high-pass filter at 20 Hz.",
    "rate": "Check that each recording contains all of its text and nothing else.",
    "mismatch": "Listen to these recordings; their texts are far too long or too short for the "
    "way the speaker usually talks.",
    "duplicate": "Keep one copy of each.",
    "contradiction": "Find out which text is right, and remove the other copies.",
    "leak": "Remove them here; a model must be tested on recordings that it was neither trained "
    "on nor selected with.",
    "speakers": "Remove them here, so that the error rate is measured on new voices.",
    "sentences": "Remove them here, or bear in mind that the error rate is measured on known "
    "sentences.",
    "band": "Set features.high_hz just below the lowest of these limits, so that the model learns "
    "speech and not the properties of the source.",
    "anonymous": 'Add "speaker" to the manifests, so that shared speakers can be found.',
}


@dataclass(frozen=True)
class Finding:
    """One kind of defect in one split.

    Attributes:
        kind: A key of `TITLES`.
        severity: One of `SEVERITIES`.
        split: The name of the split; empty if the finding is about all splits.
        ids: The utterances or lines concerned; empty if the finding is about no single one.
        detail: A summary with numbers.
        details: What is wrong with each of `ids`, with numbers.
    """

    kind: str
    severity: str
    split: str
    ids: tuple[str, ...]
    detail: str
    details: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name of the kind in words."""
        return TITLES[self.kind]

    @property
    def fix(self) -> str:
        """What to do about it."""
        return FIXES[self.kind]

    @property
    def where(self) -> str:
        """The split in words, to follow the title; empty if the finding is about all splits."""
        return f" in {self.split}" if self.split else ""

    @property
    def cases(self) -> dict[str, str]:
        """What is wrong with each utterance or line, by its id."""
        return dict(zip(self.ids, self.details, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON data."""
        names = ("kind", "severity", "split", "title", "detail", "fix", "ids", "cases")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Histogram:
    """`counts` (n,) of the values, in `unit`, that lie between neighboring `edges` (n + 1,)."""

    name: str
    unit: str
    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Summary:
    """Facts about a split, for people to read, and its histograms, each with a name of its own."""

    split: str
    facts: dict[str, str]
    histograms: list[Histogram]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first; a summary of each split; the cost of an epoch on the first."""

    findings: list[Finding]
    summaries: list[Summary]
    cost: dict[str, str]

    def count(self, severity: str) -> int:
        """The number of distinct utterances and lines that findings of this severity name."""
        findings = [f for f in self.findings if f.severity == severity]
        return len({(f.split, f.kind == "line", name) for f in findings for name in f.ids})

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain JSON data."""
        return {
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "splits": {
                s.split: {"facts": s.facts, "histograms": [vars(h) for h in s.histograms]}
                for s in self.summaries
            },
            "cost": self.cost,
            "findings": [finding.to_dict() for finding in self.findings],
        }
