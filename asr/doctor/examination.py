"""What is wrong with speech as training data, found before a model is trained on it.

    manifests --read_leniently--> utterances by split --examine--> Diagnosis: findings, summary
    utterances, Diagnosis --select_sound--> the utterances that may stay

Every recording is decoded once (`asr.doctor.sound`) and leaves numbers only: some hundred
bytes an utterance.
A finding is an error where training would refuse the utterance or stop at it, a warning where it
likely makes the model or its measured error rates worse, information where it is good to know. The
thresholds are constants with their reason; those of levels and rates are robust distances from the
median of the corpus, in standard deviations as the median absolute deviation estimates them.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr.audio.containers import TOLERANCE_SECONDS
from asr.checkpoint import Checkpoint
from asr.data.augment import AugmentConfig
from asr.data.manifest import Reject, StrPath, Utterance
from asr.data.planning import Planner
from asr.data.selection import select_trainable
from asr.defaults import BATCH_SECONDS
from asr.doctor.cost import ACTIVATIONS, FLOPS_PER_CORE, PROCESS_BYTES, format_duration
from asr.doctor.duplicates import (
    NEIGHBOURS,
    SAME_LIKENESS,
    SAME_SECONDS,
    SENTENCE_WORDS,
    SHARED_SENTENCES,
    Indices,
)
from asr.doctor.findings import (
    ERROR,
    INFORMATION,
    KINDS,
    SEVERITIES,
    WARNING,
    Diagnosis,
    Finding,
    Histogram,
    Summary,
)
from asr.doctor.rates import (
    FASTEST,
    LEAST_UTTERANCES,
    RATE_DEVIATIONS,
    RATE_GROUP,
    SLOWEST,
    TIMES,
    group_by_value,
    score_rates,
    spread,
)
from asr.doctor.recordings import (
    BEYOND,
    CLIPPED_CREST,
    COMMON_LIMIT,
    DEAD_AIR_SECONDS,
    DIFFERENT_BALANCE_DB,
    DIFFERENT_LIKENESS,
    FADING_DB,
    FLAT_PART,
    FULL_SCALE,
    IMAGE,
    LEVEL_DB,
    LEVEL_DEVIATIONS,
    NARROW_HZ,
    OFFSET,
    OFFSET_DB,
    SHORT_SECONDS,
    SILENT_PEAK,
    STEADY_DB,
    limit_bands,
    map_in_order,
    measure_recording,
)
from asr.doctor.sound import ENVELOPE_BINS, Sound, alikeness
from asr.doctor.texts import DIGITS, MARKUP, ODD_PART, OTHER, respell, script_of
from asr.encoder import EncoderConfig
from asr.errors import AudioError
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.text import Vocabulary, normalize

T = TypeVar("T")


@dataclass(frozen=True)
class Requirements:
    """What the model and the training ask of an utterance; the defaults are the recipes'."""

    vocabulary: Vocabulary = field(default_factory=Vocabulary.english)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    fastest: float = field(default_factory=lambda: AugmentConfig().fastest)
    batch_seconds: float = BATCH_SECONDS  # also the longest utterance

    @classmethod
    def of_checkpoint(cls, path: StrPath, fastest: float, batch_seconds: float) -> "Requirements":
        """Those of a trained model. Raises CheckpointError."""
        checkpoint = Checkpoint.read(path)
        configs = checkpoint.features, checkpoint.encoder
        return cls(checkpoint.vocabulary, *configs, fastest, batch_seconds)


def examine(
    splits: Mapping[str, Sequence[Utterance]],
    requirements: Requirements | None = None,
    refused: Mapping[str, Sequence[Reject]] | None = None,
    threads: int = 1,
    advance: Callable[[int], object] = lambda _: None,
) -> Diagnosis:
    """Find what is wrong with the utterances of each split; the first one is for training.

    `refused` are the manifests' unusable lines by split, `threads` decode, and `advance` is told
    how many more utterances have been measured. Recordings that cannot be read are findings, not
    errors. Ids must be unique within a split.
    """
    examination = _Examination(splits, requirements or Requirements())
    for split, rejects in (refused or {}).items():
        for reject in rejects:
            examination.note("line", ERROR, split, reject.id, reject.detail)
    examination.measure(threads, advance)
    examination.judge_texts()
    examination.judge_sounds()
    examination.judge_levels()
    examination.judge_rates()
    examination.compare_splits()
    examination.find_band_limits()
    examination.find_duplicates()
    return examination.conclude()


_NUMBERS = (
    "seconds sample_rate channels peak level swing offset flat crest lead trail pause span active "
    "limit_hz cliff image fading balance likeness"
).split()
_MEASURED = np.dtype(
    [(name, np.float32) for name in _NUMBERS]
    + [("content", np.uint64), ("envelope", np.int8, ENVELOPE_BINS)]
)


class _Examination:
    """All utterances in one row, the splits one after the other, and what was found so far."""

    def __init__(
        self, splits: Mapping[str, Sequence[Utterance]], requirements: Requirements
    ) -> None:
        self.splits = splits
        self.names = list(splits)
        self.requirements = requirements
        self.model = AcousticModel(
            requirements.features, requirements.encoder, len(requirements.vocabulary)
        )
        self.utterances = [utterance for split in splits.values() for utterance in split]
        count = len(self.utterances)
        self.split = np.repeat(np.arange(len(splits)), [len(split) for split in splits.values()])
        self.measured = np.zeros(count, _MEASURED)
        self.readable = np.zeros(count, bool)
        self.spoken = np.zeros(count, bool)  # readable, with text, and neither silent nor steady
        self.refused = np.zeros(count, bool)  # named by an error
        self.doubted = np.zeros(count, bool)  # named by a warning
        self.text = np.zeros(count, np.uint64)  # a hash of the normalized text
        self.characters = np.zeros(count, np.int32)
        self.words = np.zeros(count, np.int32)
        self.reading_seconds = 0.0  # of CPU time
        self._cases: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        self._general: list[Finding] = []

    def note(self, kind: str, severity: str, split: str, name: str, detail: str) -> None:
        self._cases[kind, severity, split].append((name, detail))

    def _find(self, kind: str, index: int, detail: str, severity: str = WARNING) -> None:
        name = self.utterances[index].id
        self.note(kind, severity, self.names[self.split[index]], name, detail)
        self.refused[index] |= severity == ERROR
        self.doubted[index] |= severity == WARNING

    def _name(self, index: int, beside: int) -> str:
        """How an utterance is called in a detail about another one."""
        name = self.utterances[index].id
        if self.split[index] == self.split[beside]:
            return name
        return f"{name} of {self.names[self.split[index]]}"

    # Recordings

    def measure(self, threads: int, advance: Callable[[int], object]) -> None:
        paths = (utterance.audio for utterance in self.utterances)
        for index, (result, cpu_seconds) in enumerate(
            map_in_order(measure_recording, paths, threads)
        ):
            self.reading_seconds += cpu_seconds
            if isinstance(result, AudioError):
                self._find("audio", index, str(result), ERROR)
            else:
                self._keep(index, result)
            advance(1)

    def _keep(self, index: int, sound: Sound) -> None:
        row = self.measured[index]
        for name in _NUMBERS:
            row[name] = getattr(sound, name)
        row["content"], row["envelope"] = sound.content, sound.envelope
        self.readable[index] = True
        stated = self.utterances[index].seconds
        if abs(sound.seconds - stated) > TOLERANCE_SECONDS:
            detail = f"lasts {sound.seconds:.2f} s where {stated:.2f} s are stated"
            self._find("duration", index, detail, ERROR)

    def judge_sounds(self) -> None:
        """What is wrong with a recording by itself."""
        for index in np.flatnonzero(self.readable).tolist():
            m = self.measured[index]
            if m["fading"] <= FADING_DB:
                self._find("phase", index, f"the mean of the channels loses {-m['fading']:.0f} dB")
            elif m["peak"] < SILENT_PEAK:
                self._find("silence", index, f"no sample exceeds {m['peak']:.5f} of full scale")
            elif m["swing"] < STEADY_DB:
                self._find("steady", index, f"its level varies by {m['swing']:.1f} dB")
            else:
                self.spoken[index] = self.characters[index] > 0
                self._judge_speech(index, m)

    def _judge_speech(self, index: int, m: Any) -> None:
        if m["likeness"] < DIFFERENT_LIKENESS and m["balance"] < DIFFERENT_BALANCE_DB:
            self._find("channels", index, f"their correlation is {m['likeness']:.2f}")
        if m["seconds"] < SHORT_SECONDS:
            self._find("short", index, f"lasts {m['seconds']:.2f} s")
        if m["peak"] >= BEYOND:
            self._find("beyond", index, f"its samples reach {m['peak']:.4g}")
        elif m["flat"] >= FLAT_PART:
            detail = f"{100 * m['flat']:.1f} % of the sounding samples lie on flat tops"
            self._find("clipping", index, f"{detail} at {m['peak']:.2f}")
        elif m["peak"] >= FULL_SCALE and m["crest"] <= CLIPPED_CREST:
            detail = f"1 % of the samples reach {m['peak'] / m['crest']:.2f} of full scale"
            self._find("clipping", index, detail)
        silences = {"begins": m["lead"], "ends": m["trail"], "is interrupted": m["pause"]}
        where, longest = max(silences.items(), key=lambda item: float(item[1]))
        if longest >= DEAD_AIR_SECONDS:
            self._find("air", index, f"{where} with {longest:.1f} s of silence")
        offset = max(abs(float(m["offset"])), 1e-9)
        against = 20 * np.log10(offset) - m["level"]
        large = OFFSET * max(1.0, float(m["peak"]))
        if offset >= large or (offset >= large / 10 and against >= OFFSET_DB):
            detail = (
                f"the mean amplitude is {m['offset']:.3f}, {against:+.0f} dB against the speech"
            )
            self._find("offset", index, detail)

    # Texts

    def judge_texts(self) -> None:
        """What is wrong with a text, and whether its recording has time for it."""
        asked = self.requirements
        known = frozenset(asked.vocabulary.symbols[1:])
        rejects: dict[tuple[int, str], Reject] = {}
        for number, utterances in enumerate(self.splits.values()):
            found = {reject.id: reject for reject in self._refuse(utterances)}
            # Whatever else is wrong with those whose characters are: as if these were other ones.
            spelled = [
                replace(u, text=respell(normalize(u.text), known))
                for u in utterances
                if u.id in found and found[u.id].reason.startswith("characters")
            ]
            found |= {reject.id: reject for reject in self._refuse(spelled)}
            rejects |= {(number, name): reject for name, reject in found.items()}
        for index, utterance in enumerate(self.utterances):
            text = normalize(utterance.text)
            self.text[index] = _hash(text)
            self.characters[index] = len(text)
            self.words[index] = len(text.split())
            self._judge_characters(index, text, known)
            trained = self.split[index] == 0  # other splits are only transcribed
            reject = rejects.get((int(self.split[index]), utterance.id))
            if reject is None:
                continue
            if reject.reason.startswith("empty"):
                self._find("empty", index, "there is no word in it", ERROR)
            elif reject.reason.startswith("longer"):
                severity = ERROR if trained else INFORMATION
                self._find("long", index, f"{reject.detail}, {reject.reason}", severity)
            elif not reject.reason.startswith("characters"):
                self._find("ctc", index, reject.detail, ERROR if trained else WARNING)
        self._find_odd_characters(known)

    def _find_odd_characters(self, known: frozenset[str]) -> None:
        """Characters of the vocabulary that hardly any text has, and that nobody meant to be in it."""
        scripts = {c: script for c in known if (script := script_of(c))}
        if len(set(scripts.values()) - {OTHER}) < 2 and OTHER not in scripts.values():  # all meant
            return
        having: dict[str, list[int]] = defaultdict(list)  # utterances by script, or OTHER
        for index, utterance in enumerate(self.utterances):
            for script in {scripts[c] for c in scripts.keys() & set(normalize(utterance.text))}:
                having[script].append(index)
        for script, indices in having.items():
            if script == OTHER or len(indices) < ODD_PART * len(self.utterances):
                for index in indices:
                    text = normalize(self.utterances[index].text)
                    odd = sorted({c for c in text if scripts.get(c) == script})
                    names = (
                        f"{c!a} ({unicodedata.name(c, 'without a name').lower()})" for c in odd
                    )
                    self._find("odd", index, ", ".join(names))

    def _refuse(self, utterances: Sequence[Utterance]) -> list[Reject]:
        """What training would leave out."""
        asked = self.requirements
        _, rejects = select_trainable(
            utterances,
            asked.vocabulary,
            self.model.frames,
            asked.fastest,
            max_seconds=asked.batch_seconds,
            sample_rate=asked.features.sample_rate,
        )
        return rejects

    def _judge_characters(self, index: int, text: str, known: frozenset[str]) -> None:
        rest = text
        for kind, pattern in (("markup", MARKUP), ("digits", DIGITS)):
            if found := pattern.findall(rest):
                severity = WARNING if set("".join(found)) <= known else ERROR
                self._find(kind, index, " ".join(found[:5]), severity)
                rest = pattern.sub("", rest)
        if unknown := set(rest) - known:
            self._find("characters", index, " ".join(map(repr, sorted(unknown))), ERROR)

    # What stands out in the corpus

    def judge_levels(self) -> None:
        """Recordings that are much quieter or louder than the others."""
        indices = np.flatnonzero(self.spoken)
        if len(indices) < RATE_GROUP:
            return
        levels = self.measured["level"][indices].astype(np.float64)
        median, deviation = spread(levels)
        limit = max(LEVEL_DB, LEVEL_DEVIATIONS * deviation)
        for index, level in zip(indices.tolist(), levels.tolist(), strict=True):
            if abs(level - median) > limit:
                detail = f"speech at {level:.0f} dB where the corpus has {median:.0f} dB"
                self._find("level", index, detail)

    def judge_rates(self) -> None:
        """Texts that are too long or too short for their recordings.

        First by what any speaker can do; then by how this one does it, at texts of this length. An
        outlier must be one whether pauses count as speaking time or not.
        """
        indices = np.flatnonzero(self.spoken & ~self.refused)
        characters = self.characters[indices].astype(np.float64)
        span, active = (self.measured[name][indices].astype(np.float64) for name in TIMES)
        fast = characters / span > FASTEST
        slow = characters / active < SLOWEST
        for place in np.flatnonzero(fast | slow).tolist():
            seconds, noun = (span, "speech") if fast[place] else (active, "sound")
            detail = f"{characters[place]:.0f} characters in {seconds[place]:.2f} s of {noun}"
            self._find("rate", int(indices[place]), detail)
        keep = ~(fast | slow)
        indices, characters = indices[keep], characters[keep]
        span, active = span[keep], active[keep]
        if len(indices) < LEAST_UTTERANCES:
            return
        names = [self.utterances[index].speaker for index in indices.tolist()]
        both = [score_rates(characters, characters / seconds, names) for seconds in (span, active)]
        scores = np.where(both[0] * both[1] > 0, np.minimum(*np.abs(both)), 0.0)
        for place in np.flatnonzero(scores > RATE_DEVIATIONS).tolist():
            direction = "more" if both[0][place] > 0 else "less"
            detail = (
                f"{characters[place]:.0f} characters in {span[place]:.2f} s, {direction} than "
                f"expected by {scores[place]:.1f} standard deviations"
            )
            self._find("mismatch", int(indices[place]), detail)

    def find_band_limits(self) -> None:
        """Narrow bands; and, once for all splits, what codecs have cut off."""
        indices = np.flatnonzero(self.spoken)
        limits = limit_bands(self.measured[indices])
        narrow = limits <= NARROW_HZ
        if 0 < narrow.sum() <= len(indices) / 2:  # else it is what the corpus is
            for place in np.flatnonzero(narrow).tolist():
                rate = self.measured["sample_rate"][indices[place]]
                image = self.measured["image"][indices[place]] >= IMAGE
                what = "a mirror image of what is below alone" if image else "nothing"
                detail = f"{what} above {limits[place]:,.0f} Hz at {rate:,.0f} samples per second"
                self._find("narrow", int(indices[place]), detail)
            limits = limits[~narrow]
        high = self.requirements.features.high_hz
        steps, counts = np.unique(np.floor(limits[limits < high] / 250) * 250, return_counts=True)
        common = counts >= COMMON_LIMIT * len(indices)
        if not common.any():
            return
        parts = [
            f"{100 * count / len(indices):.0f} % near {step + 125:,.0f} Hz"
            for step, count in zip(steps[common], counts[common], strict=True)
        ]
        detail = f"recordings end below the model's {high:,.0f} Hz: {', '.join(parts)}"
        self._general.append(_general("band", detail))

    # The same twice

    def find_duplicates(self) -> None:
        """Equal recordings: by their samples, or, for the same text, by their envelopes."""
        spoken = np.flatnonzero(self.spoken)
        for group in group_by_value(spoken, self.measured["content"]):
            if len(np.unique(self.text[group])) > 1:
                for index in group.tolist():
                    other = next(i for i in group.tolist() if self.text[i] != self.text[index])
                    detail = f"the same recording as {self._name(other, index)}, another text"
                    self._find("contradiction", index, detail)
            else:
                self._note_copies(group, "the same recording as")
        for group in group_by_value(spoken, self.text):
            self._find_codings(group)

    def _find_codings(self, group: Indices) -> None:
        """Recordings (of one text) that sound alike though their samples differ."""
        seconds = self.measured["seconds"][group]
        group, seconds = group[np.argsort(seconds, kind="stable")], np.sort(seconds, kind="stable")
        family = np.arange(len(group))
        content = self.measured["content"][group]
        envelopes = self.measured["envelope"][group]
        for step in range(1, min(len(group), NEIGHBOURS + 1)):
            near = np.flatnonzero(
                (seconds[step:] - seconds[:-step] <= SAME_SECONDS)
                & (content[step:] != content[:-step])
            )
            if not len(near):
                continue
            alike = alikeness(envelopes[near], envelopes[near + step]) >= SAME_LIKENESS
            for place in near[alike].tolist():
                old, new = family[place + step], family[place]
                family[family == old] = new
        for members in group_by_value(np.arange(len(group)), family):
            self._note_copies(np.sort(group[members]), "sounds the same as")

    def _note_copies(self, group: Indices, words: str) -> None:
        """Of recordings that are the same, all that a later split has too, and else all but one."""
        best_first = np.lexsort((group, self.doubted[group], self.refused[group]))
        group = group[best_first]
        splits = self.split[group]
        for index in group.tolist():
            first = int(group[splits == self.split[index]][0])
            later = group[splits > self.split[index]]
            if len(later):
                self._find("leak", index, f"{words} {self._name(int(later.min()), index)}")
            elif index != first:
                self._find("duplicate", index, f"{words} {self._name(first, index)}")

    def compare_splits(self) -> None:
        """Speakers and sentences that a split shares with a later one."""
        if len(self.names) < 2:
            return
        anonymous = [
            f"{missing:,} of {len(split):,} utterances of {name}"
            for name, split in self.splits.items()
            if (missing := sum(not utterance.speaker for utterance in split))
        ]
        if anonymous:
            detail = f"whether splits share speakers is unknown of {', '.join(anonymous)}"
            self._general.append(_general("anonymous", detail))
        for one, other in combinations(range(len(self.names)), 2):
            self._compare(np.flatnonzero(self.split == one), np.flatnonzero(self.split == other))

    def _compare(self, here: Indices, there: Indices) -> None:
        if not len(there):
            return
        name = self.names[self.split[there[0]]]
        known = {self.utterances[index].speaker for index in there.tolist()} - {""}
        for index in here.tolist():
            if (speaker := self.utterances[index].speaker) in known:
                self._find("speakers", index, f"speaker {speaker} is in {name} too")
        shared = np.isin(self.text[there], self.text[here])
        shared &= self.words[there] >= SENTENCE_WORDS
        share = np.count_nonzero(shared) / len(there)
        severity = WARNING if share >= SHARED_SENTENCES else INFORMATION
        detail = f"its sentence is in {name} too, as are {100 * share:.0f} % of the sentences there"
        for index in here[np.isin(self.text[here], self.text[there[shared]])].tolist():
            self._find("sentences", index, detail, severity)

    # The whole

    def conclude(self) -> Diagnosis:
        """The findings in order, and what the splits are."""
        findings = list(self._general)
        for (kind, severity, split), cases in self._cases.items():
            told: dict[str, str] = {}  # one line an utterance, also where two splits share it
            for name, detail in cases:
                told[name] = f"{told[name]}; {detail}" if name in told else detail
            beside = f"{len(self.splits[split]):,}"
            total = f"beside {beside} good ones" if kind == "line" else f"of {beside} utterances"
            findings.append(
                Finding(
                    kind,
                    severity,
                    split,
                    tuple(told),
                    f"{len(told):,} {total}",
                    KINDS[kind][1],
                    tuple(told.values()),
                )
            )
        kinds = list(KINDS)
        splits = ["", *self.names]
        findings.sort(
            key=lambda f: (SEVERITIES.index(f.severity), kinds.index(f.kind), splits.index(f.split))
        )
        summaries = [self._summarize(number) for number in range(len(self.names))]
        return Diagnosis(findings, summaries, self._estimate_cost())

    def _summarize(self, number: int) -> Summary:
        split = self.names[number]
        utterances = self.splits[split]
        here = self.split == number
        spoken = self.measured[here & self.spoken]
        characters = self.characters[here & self.spoken]
        stated = np.array([utterance.seconds for utterance in utterances])
        facts = {
            "utterances": f"{len(utterances):,}",
            "hours": f"{stated.sum() / 3600:,.2f}",
            "speakers": f"{len({u.speaker for u in utterances} - {''}):,}",
            "different texts": f"{len(np.unique(self.text[here])):,}",
        }
        if len(spoken):
            rates, counts = np.unique(spoken["sample_rate"], return_counts=True)
            facts["sample rates"] = ", ".join(
                f"{rate:,.0f} Hz ({100 * count / len(spoken):.0f} %)"
                for rate, count in zip(rates, counts, strict=True)
            )
            silent = 1 - float(spoken["active"].sum()) / float(spoken["seconds"].sum())
            facts["silence"] = f"{100 * silent:.0f} % of the time"
        histograms = [
            _draw("duration", "s", stated),
            _draw("speech level", "dB of full scale", spoken["level"]),
            _draw("loud speech above the background", "dB", spoken["swing"]),
            _draw("speaking rate", "characters/s", characters / spoken["span"]),
            _draw("band limit", "kHz", limit_bands(spoken) / 1000),
        ]
        return Summary(split, facts, [h for h in histograms if h.counts])

    def _estimate_cost(self) -> dict[str, str]:
        """What an epoch on the first split takes, and by what assumptions."""
        asked, encoder = self.requirements, self.requirements.encoder
        utterances = self.splits[self.names[0]] if self.names else ()
        usable = [u for u in utterances if u.seconds <= asked.batch_seconds]
        if not usable:
            return {}
        seconds = np.array([u.seconds for u in usable])
        batches = Planner(seconds, (u.id for u in usable), asked.batch_seconds).epoch(0).batches
        padded = sum(len(batch) * float(seconds[batch[0]]) for batch in batches)
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        frames = padded / self.model.frame_seconds
        computing = 6 * weights * frames / FLOPS_PER_CORE
        part = sum(u.seconds for u in usable) / max(sum(u.seconds for u in self.utterances), 1e-9)
        directions = 1 if encoder.kind == "forward" else 2
        cells = encoder.layers * directions * encoder.hidden
        kept = 4 * ACTIVATIONS * cells * asked.batch_seconds / self.model.frame_seconds
        memory = PROCESS_BYTES + 16 * weights + kept
        return {
            "model": f"{encoder.kind}, {encoder.layers} x {encoder.hidden}, {weights:,} weights",
            "steps in an epoch": f"{len(batches):,} of up to {asked.batch_seconds:g} s, "
            f"{100 * (1 - seconds.sum() / padded):.1f} % padding",
            "computing": f"{format_duration(computing)} on one core, at 6 operations a weight and "
            f"frame and {FLOPS_PER_CORE / 1e9:.0f} billion operations a second",
            "reading": f"{format_duration(self.reading_seconds * part)} on one core, as measured "
            "here; augmentation and features come on top",
            "memory": f"{memory / 1e9:.1f} GB a process: {PROCESS_BYTES / 1e9:.1f} GB of torch, 16 "
            f"bytes a weight, {4 * ACTIVATIONS} bytes a cell and frame of a batch",
        }


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _general(kind: str, detail: str) -> Finding:
    return Finding(kind, INFORMATION, "", (), detail, KINDS[kind][1])


def _draw(name: str, unit: str, values: npt.NDArray[Any], bins: int = 40) -> Histogram:
    """A histogram whose first and last column hold the outermost thousandth too."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Histogram(name, unit, [], [])
    low, high = np.percentile(values, (0.1, 99.9))
    high = max(high, low + 1e-3)
    counts, edges = np.histogram(np.clip(values, low, high), bins, (low, high))
    return Histogram(name, unit, edges.tolist(), counts.tolist())
