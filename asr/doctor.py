"""What is wrong with speech as training data, found before a model is trained on it.

    manifests --read_leniently--> utterances by split --examine--> Diagnosis: findings, summary
    utterances, Diagnosis --select_sound--> the utterances that may stay

Every recording is decoded once (`asr.sound`) and leaves numbers only: some hundred bytes an utterance.
A finding is an error where training would refuse the utterance or stop at it, a warning where it
likely makes the model or its measured error rates worse, information where it is good to know. The
thresholds are constants with their reason; those of levels and rates are robust distances from the
median of the corpus, in standard deviations as the median absolute deviation estimates them.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import unicodedata
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr.audio import TOLERANCE_SECONDS
from asr.augment import AugmentConfig
from asr.checkpoint import load_model
from asr.data import (
    Reject,
    StrPath,
    Utterance,
    parse_utterance,
    read_lines,
    write_records,
)
from asr.diagnosis import (
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
from asr.errors import AudioError, DataError
from asr.features import FeaturesConfig
from asr.index import admit
from asr.lstm import EncoderConfig
from asr.model import AcousticModel
from asr.planning import Planner
from asr.sound import ENVELOPE_BINS, FOLD_HZ, Sound, alikeness, measure_sound
from asr.text import Vocabulary, normalise

SILENT_PEAK = 0.001  # -60 dB: what a muted microphone leaves
STEADY_DB = 6.0  # speech rises above its own pauses by 10 dB in loud noise, by 40 in a quiet room
SHORT_SECONDS = 0.3  # 7 encoder frames of 40 ms: hardly the shortest word
DEAD_AIR_SECONDS = 4.0  # readers who hesitate, children too, stay below
FLAT_PART = 1e-3  # of the active samples on flat tops: audible; unclipped recordings have 0.0002
# Lossy codecs bend flat tops, but leave all peaks as high; of 7,561 readings 3 are below, 1 at 1.29.
FULL_SCALE, CLIPPED_CREST = 0.98, 1.25
BEYOND = 2.0  # amplitude: more than a lossy codec overshoots
OFFSET, OFFSET_DB = 0.05, -6.0  # amplitude; against the speech: leaks into the lowest mel bins
NARROW_HZ = 4300.0  # half the rate of a telephone, and the width of a cliff
IMAGE = 0.9  # real speech reaches 0.2; linear interpolation, held and repeated samples 0.99
CLIFF_DB = 30.0  # speech itself may fall by 25 dB
FADING_DB = -10.0  # uncorrelated channels lose 3 dB in their mean
DIFFERENT_LIKENESS, DIFFERENT_BALANCE_DB = 0.3, 20.0  # two voices, both of them heard
LEVEL_DEVIATIONS, LEVEL_DB = 5.0, 20.0
FASTEST, SLOWEST = 40.0, 2.5  # characters a second: of 7,561 readings the extremes are 33 and 3.5
RATE_DEVIATIONS = 5.0
LEAST_RATE_DEVIATION = 0.1  # of the logarithm: a corpus of one machine voice varies less
RATE_GROUP = 30  # utterances from which a median is taken
LEAST_UTTERANCES = 100  # from which it can be told how rates depend on the length of a text
SPEAKER_PRIOR = 4  # utterances as many as which the corpus's rate counts in a speaker's
SAME_LIKENESS = 0.98  # of two envelopes; the likest of 399,170 pairs of other recordings reach 0.88
SAME_SECONDS = 0.1  # what encoders add in front and behind
NEIGHBOURS = 200  # readings of one sentence that are compared with each
SHARED_SENTENCES = 0.1  # of a split
SENTENCE_WORDS = 4  # shorter ones, such as "yes", are shared by chance
ODD_PART, OTHER = 0.01, "other"  # of the texts have a script that is meant
COMMON_LIMIT = 0.05  # of the recordings, from which a band limit counts
FLOPS_PER_CORE = 50e9  # a second, as LSTM layers reach on one modern x86-64 core
ACTIVATIONS = 40  # numbers kept for the backward pass by each cell at each frame (measured)
PROCESS_BYTES = 0.6e9  # of torch and what it has loaded

_TIMES = ("span", "active")
_DIGITS = re.compile(r"\d+")
_MARKUP = re.compile(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}|&#?\w+;|\w+://|www\.|[*_~#|\\]")
T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Requirements:
    """What the model and the training ask of an utterance; the defaults are the recipes'."""

    vocabulary: Vocabulary = field(default_factory=Vocabulary.english)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    fastest: float = field(default_factory=lambda: AugmentConfig().fastest)
    batch_seconds: float = 40.0  # also the longest utterance

    @classmethod
    def of_checkpoint(cls, path: StrPath, fastest: float, batch_seconds: float) -> "Requirements":
        """Those of a trained model. Raises CheckpointError."""
        model, vocabulary = load_model(path)
        configs = model.features.config, model.encoder.config
        return cls(vocabulary, *configs, fastest, batch_seconds)


def read_leniently(path: StrPath) -> tuple[list[Utterance], list[Reject]]:
    """The utterances of a manifest, and its lines that `asr.data.read_manifest` would refuse.

    An empty text is let pass, to be found by `examine`. Raises DataError only where the file as a
    whole cannot be read, or holds nothing but blank lines.
    """
    path = Path(path)
    utterances: list[Utterance] = []
    refused: list[Reject] = []
    lines: dict[str, int] = {}
    for number, line in read_lines(path, errors="surrogateescape"):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            utterance = _parse_leniently(line, where, str(path.parent))[0]
        except DataError as error:
            refused.append(Reject(where, "line", str(error)))
            continue
        first = lines.setdefault(utterance.id, number)
        if first == number:
            utterances.append(utterance)
        else:
            detail = f"{where}: the id {utterance.id!r} is already that of line {first}."
            refused.append(Reject(where, "line", detail))
    if not utterances and not refused:
        raise DataError(f"{path} holds no utterance; write one JSON object a line into it.")
    return utterances, refused


def _parse_leniently(line: str, where: str, folder: str) -> tuple[Utterance, dict[str, Any]]:
    """A line's utterance, whose text may be empty, and its object. Raises DataError."""
    if _is_broken(line):
        raise DataError(f"{where} is not UTF-8 text; convert it.")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or text.strip():
        utterance = parse_utterance(line, where, folder)
    else:
        filled = parse_utterance(json.dumps({**record, "text": "-"}), where, folder)
        utterance = replace(filled, text=text)
    assert record is not None  # else it would not have been parsed
    for key in ("id", "audio_filepath", "text", "speaker"):
        if _is_broken(str(record.get(key, ""))):
            raise DataError(
                f'{where}: "{key}" holds half a character (a surrogate); write it anew.'
            )
    return utterance, record


def _is_broken(text: str) -> bool:
    """Whether it holds what is no character, and so cannot be written."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def write_sound(source: StrPath, target: StrPath, kept: Iterable[Utterance]) -> None:
    """Write a manifest of those of another one's utterances, with all keys that they have there.

    Their recordings are named as by `asr.data.write_manifest`. Raises FileError and DataError.
    """
    source = Path(source)
    wanted = {utterance.id for utterance in kept}

    def choose() -> Iterator[dict[str, Any]]:
        for _, line in read_lines(source, errors="surrogateescape"):
            with contextlib.suppress(DataError):
                utterance, record = _parse_leniently(line, "", str(source.parent))
                if utterance.id in wanted:
                    wanted.remove(utterance.id)
                    yield record | {"audio_filepath": utterance.audio}

    write_records(target, choose())


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


def select_sound(
    utterances: Iterable[Utterance], diagnosis: Diagnosis, split: str, strict: bool = False
) -> list[Utterance]:
    """The utterances of a split that no error names and, if `strict`, no warning either."""
    bad = (ERROR, WARNING) if strict else (ERROR,)
    named = {
        name
        for finding in diagnosis.findings
        if finding.split == split and finding.severity in bad and finding.kind != "line"
        for name in finding.ids
    }
    return [utterance for utterance in utterances if utterance.id not in named]


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
        self.text = np.zeros(count, np.uint64)  # a hash of the normalised text
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
        for index, (result, cpu_seconds) in enumerate(_map_in_order(_measure, paths, threads)):
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
                replace(u, text=_respell(normalise(u.text), known))
                for u in utterances
                if u.id in found and found[u.id].reason.startswith("characters")
            ]
            found |= {reject.id: reject for reject in self._refuse(spelled)}
            rejects |= {(number, name): reject for name, reject in found.items()}
        for index, utterance in enumerate(self.utterances):
            text = normalise(utterance.text)
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
        scripts = {c: script for c in known if (script := _script(c))}
        if len(set(scripts.values()) - {OTHER}) < 2 and OTHER not in scripts.values():  # all meant
            return
        having: dict[str, list[int]] = defaultdict(list)  # utterances by script, or OTHER
        for index, utterance in enumerate(self.utterances):
            for script in {scripts[c] for c in scripts.keys() & set(normalise(utterance.text))}:
                having[script].append(index)
        for script, indices in having.items():
            if script == OTHER or len(indices) < ODD_PART * len(self.utterances):
                for index in indices:
                    text = normalise(self.utterances[index].text)
                    odd = sorted({c for c in text if scripts.get(c) == script})
                    names = (
                        f"{c!a} ({unicodedata.name(c, 'without a name').lower()})" for c in odd
                    )
                    self._find("odd", index, ", ".join(names))

    def _refuse(self, utterances: Sequence[Utterance]) -> list[Reject]:
        """What training would leave out."""
        asked = self.requirements
        _, rejects = admit(
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
        for kind, pattern in (("markup", _MARKUP), ("digits", _DIGITS)):
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
        median, deviation = _spread(levels)
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
        span, active = (self.measured[name][indices].astype(np.float64) for name in _TIMES)
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
        both = [_score_rates(characters, characters / seconds, names) for seconds in (span, active)]
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
        limits = _limit_bands(self.measured[indices])
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
        for group in _groups(spoken, self.measured["content"]):
            if len(np.unique(self.text[group])) > 1:
                for index in group.tolist():
                    other = next(i for i in group.tolist() if self.text[i] != self.text[index])
                    detail = f"the same recording as {self._name(other, index)}, another text"
                    self._find("contradiction", index, detail)
            else:
                self._note_copies(group, "the same recording as")
        for group in _groups(spoken, self.text):
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
        for members in _groups(np.arange(len(group)), family):
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
        summaries = [self._summarise(number) for number in range(len(self.names))]
        return Diagnosis(findings, summaries, self._estimate_cost())

    def _summarise(self, number: int) -> Summary:
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
            _draw("band limit", "kHz", _limit_bands(spoken) / 1000),
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
            "computing": f"{_duration(computing)} on one core, at 6 operations a weight and frame "
            f"and {FLOPS_PER_CORE / 1e9:.0f} billion operations a second",
            "reading": f"{_duration(self.reading_seconds * part)} on one core, as measured here; "
            "augmentation and features come on top",
            "memory": f"{memory / 1e9:.1f} GB a process: {PROCESS_BYTES / 1e9:.1f} GB of torch, 16 "
            f"bytes a weight, {4 * ACTIVATIONS} bytes a cell and frame of a batch",
        }


def _measure(path: str) -> tuple[Sound | AudioError, float]:
    """What a recording is, or why it cannot be read; and the seconds of CPU that took."""
    began = time.thread_time()
    result: Sound | AudioError
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise AudioError(f"{path} is a pipe or a device, no file; name a recording")
        result = measure_sound(path)
    except AudioError as error:
        result = error
    except Exception as error:  # one odd file must not lose hours of examination
        reason = f"{type(error).__name__}: {error}"
        result = AudioError(f"{path} cannot be measured ({reason}); export it again")
    return result, time.thread_time() - began


def _map_in_order(function: Callable[[str], T], items: Iterable[str], threads: int) -> Iterator[T]:
    """The results in order, computed in threads that are never far ahead of who takes them."""
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[T]] = deque(
            pool.submit(function, item) for item in islice(items, 2 * threads)
        )
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(items, 1))
        finally:
            for future in running:
                future.cancel()


def _script(character: str) -> str:
    """The script of a letter, OTHER for what is invisible, a picture or unassigned, else ""."""
    category = unicodedata.category(character)
    if category in ("Cf", "Cc", "Cn", "Co", "So"):
        return OTHER
    return unicodedata.name(character, "").partition(" ")[0] if category[0] == "L" else ""


def _respell(text: str, known: frozenset[str]) -> str:
    """A text with a known character in place of each one that is not, and none repeated for it."""
    letters = sorted(known - {" "})[:2] or ["-"]
    spelled: list[str] = []
    for character in text:
        if character not in known:
            character = next((x for x in letters if x != "".join(spelled[-1:])), letters[0])
        spelled.append(character)
    return "".join(spelled)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _general(kind: str, detail: str) -> Finding:
    return Finding(kind, INFORMATION, "", (), detail, KINDS[kind][1])


def _groups(indices: Indices, keys: npt.NDArray[Any]) -> Iterator[Indices]:
    """The indices that share a key, in their order, for each key that several have."""
    order = indices[np.argsort(keys[indices], kind="stable")]
    edges = np.flatnonzero(np.diff(keys[order].astype(np.uint64)) != 0) + 1
    for group in np.split(order, edges):
        if len(group) > 1:
            yield group


def _limit_bands(measured: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The upper edges of bands (n,) in Hz, where there is a cliff; else half the sample rate."""
    limits = np.where(
        measured["cliff"] >= CLIFF_DB, measured["limit_hz"], measured["sample_rate"] / 2
    )
    return np.where(measured["image"] >= IMAGE, np.minimum(limits, FOLD_HZ), limits)


def _spread(values: Floats) -> tuple[float, float]:
    """The median, and the standard deviation that a normal distribution of this MAD would have."""
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))


def _score_rates(characters: Floats, rates: Floats, speakers: Sequence[str]) -> Floats:
    """How many standard deviations the logarithm of each rate is from what is expected.

    Expected is the median at texts of this length (short ones are spoken more slowly), moved
    towards the speaker's own, the more so the more there is of that speaker. The less there is, the
    more of the spread between speakers is allowed for.
    """
    lengths, logs = np.log(characters), np.log(rates)
    parts = int(np.clip(len(rates) // RATE_GROUP, 1, 10))
    order = np.argsort(lengths, kind="stable")
    medians = [
        (np.median(lengths[part]), np.median(logs[part])) for part in np.array_split(order, parts)
    ]
    centres, heights = np.array(medians).T
    logs = logs - np.interp(lengths, centres, heights)
    residuals, known = logs.copy(), np.zeros(len(logs))
    _, numbers = np.unique(speakers, return_inverse=True)
    for group in _groups(np.arange(len(logs)), numbers):
        if speakers[int(group[0])]:
            known[group] = len(group) / (len(group) + SPEAKER_PRIOR)
            residuals[group] -= known[group] * np.median(logs[group])
    middle, within = _spread(residuals)
    within = max(within, LEAST_RATE_DEVIATION)
    between = max(_spread(logs)[1] ** 2 - within**2, 0.0)
    scores: Floats = (residuals - middle) / np.sqrt(within**2 + (1 - known) ** 2 * between)
    return scores


def _draw(name: str, unit: str, values: npt.NDArray[Any], bins: int = 40) -> Histogram:
    """A histogram whose first and last column hold the outermost thousandth too."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Histogram(name, unit, [], [])
    low, high = np.percentile(values, (0.1, 99.9))
    high = max(high, low + 1e-3)
    counts, edges = np.histogram(np.clip(values, low, high), bins, (low, high))
    return Histogram(name, unit, edges.tolist(), counts.tolist())


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
