"""The doctor: every kind of planted defect is found by name, and healthy speech is left alone."""

import argparse
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from asr.audio.waveform import inspect_audio
from asr.checkpoint import save_model
from asr.cli import doctor as doctor_command
from asr.cli.main import main
from asr.data.augment import AugmentConfig
from asr.data.manifest import Reject, Utterance, read_manifest, write_manifest
from asr.doctor import examination as doctor_module
from asr.doctor import report
from asr.doctor.examination import Requirements, examine
from asr.doctor.findings import ERROR, INFORMATION, KINDS, WARNING, Diagnosis
from asr.doctor.manifests import read_leniently, select_sound
from asr.doctor.sound import measure_sound
from asr.encoder import EncoderConfig
from asr.errors import AudioError, DataError
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.text import Vocabulary, normalize
from asr.training.config import TrainingConfig

Run = Callable[..., tuple[int, str, str]]
RATE = 16_000
HEALTHY = 110  # enough for what is normal to be told


class Voices:
    """Sounds with the levels, pauses and band of speech, and texts as long as they are."""

    def __init__(self, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)

    def speak(self, seconds: float, rate: int = RATE) -> np.ndarray:
        """Syllables of 0.2 s: harmonics of a moving pitch that swell and fade, and a hiss."""
        t = np.arange(round(seconds * rate)) / rate
        phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
        tone = sum(np.sin(n * phase + n * n) / n for n in range(1, 20))
        loudness = np.repeat(self.random.uniform(0.3, 1.0, len(t) // (rate // 5) + 1), rate // 5)
        swell = np.abs(np.sin(5 * np.pi * t)) * loudness[: len(t)]
        hiss = self.random.normal(0, 0.05, len(t))
        return 0.1 * swell * (tone + hiss)

    def record(self, seconds: float, before: float = 0.3, after: float = 0.3) -> np.ndarray:
        """Speech between silences, with the noise of a microphone."""
        speech = self.speak(seconds)
        samples = np.concatenate(
            [np.zeros(round(before * RATE)), speech, np.zeros(round(after * RATE))]
        )
        return samples + self.random.normal(0, 2e-4, len(samples))

    def write(self, characters: int) -> str:
        """A text of so many characters, without any that repeats."""
        letters = self.random.permutation(list("abcdefghijklmnopqrstuvwxyz"))
        text = "".join(" " if n % 6 == 5 else str(letters[n % 26]) for n in range(characters))
        return text.rstrip().ljust(characters, "q")


class Corpus:
    """Recordings in a folder, and the manifest that describes them."""

    def __init__(self, folder: Path, prefix: str, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.prefix, self.voices = folder, prefix, Voices(seed)
        self.utterances: list[Utterance] = []

    def add(
        self,
        name: str,
        samples: np.ndarray | None = None,
        text: str | None = None,
        *,
        characters: int = 0,
        speaker: str = "",
        stated: float | None = None,
        ending: str = "wav",
    ) -> Utterance:
        characters = characters or int(self.voices.random.integers(20, 45))
        if samples is None:
            rate = 13 * np.exp(self.voices.random.normal(0, 0.06))
            samples = self.voices.record(characters / rate)
        text = self.voices.write(characters) if text is None else text
        path = self.folder / f"{name}.{ending}"
        soundfile.write(path, samples, RATE)
        seconds = measure_seconds(path) if stated is None else stated
        speaker = speaker or f"{self.prefix}{len(self.utterances) % 6}"
        utterance = Utterance(name, str(path), seconds, text, speaker)
        self.utterances.append(utterance)
        return utterance


def measure_seconds(path: Path) -> float:
    try:
        return measure_sound(path).seconds
    except AudioError:
        return 1.0


def plant(folder: Path) -> tuple[dict[str, list[Utterance]], dict[tuple[str, str], set[str]]]:
    """Training and dev utterances, and which ids each (kind, split) must name."""
    corpus = Corpus(folder / "train", "t", seed=1)
    voices = corpus.voices
    expected: dict[tuple[str, str], set[str]] = {}

    def expect(kind: str, *names: str, split: str = "train") -> None:
        expected.setdefault((kind, split), set()).update(names)

    for number in range(HEALTHY):
        corpus.add(f"healthy{number}")

    corpus.add("cut")
    whole = (corpus.folder / "cut.wav").read_bytes()
    (corpus.folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    corpus.add("gone")
    (corpus.folder / "gone.wav").unlink()
    expect("audio", "cut", "gone")
    corpus.add("stated", stated=9.0)
    expect("duration", "stated")
    corpus.add("untold", text=" ")
    expect("empty", "untold")
    corpus.add("tagged", text="[laughs] well i never said any such thing")
    corpus.add("entity", text="bread &amp; butter for everybody in here")
    expect("markup", "tagged", "entity")
    corpus.add("numbered", text="the train leaves at 10 from platform two", characters=40)
    expect("digits", "numbered")
    corpus.add("accented", text="we met in a small café by the old river", characters=39)
    expect("characters", "accented")
    corpus.add("hasty", voices.record(1.4, 0.05, 0.05), characters=42)
    expect("ctc", "hasty")
    corpus.add("endless", voices.record(41), characters=530)
    expect("long", "endless")
    corpus.add("muted", np.zeros(3 * RATE))
    corpus.add("unplugged", voices.random.normal(0, 1e-4, 3 * RATE))
    expect("silence", "muted", "unplugged")
    corpus.add("noise", voices.random.normal(0, 0.05, 3 * RATE))
    expect("steady", "noise")
    corpus.add("blip", voices.record(0.2, 0.02, 0.02), text="yes")
    expect("short", "blip")
    corpus.add("clipped", np.clip(6 * voices.record(2.5), -0.9, 0.9), characters=32)
    expect("clipping", "clipped")
    pause = voices.random.normal(0, 2e-4, round(4.3 * RATE))
    corpus.add(
        "paused", np.concatenate([voices.record(1.2), pause, voices.record(1.2)]), characters=31
    )
    corpus.add("late", voices.record(2.4, before=4.5), characters=31)
    expect("air", "paused", "late")
    narrow = soxr.resample(soxr.resample(voices.record(2.5), RATE, 8000), 8000, RATE)
    corpus.add("telephone", narrow, characters=32)
    low = soxr.resample(voices.record(2.5), RATE, 8000)
    corpus.add(
        "linear", np.interp(np.arange(2 * len(low)) / 2, np.arange(len(low)), low), characters=32
    )
    corpus.add("held", np.repeat(low, 2), characters=32)
    expect("narrow", "telephone", "linear", "held")
    mono = voices.record(2.5)
    corpus.add("inverted", np.stack([mono, -mono], axis=1), characters=32)
    expect("phase", "inverted")
    corpus.add(
        "interview", np.stack([voices.record(2.5), voices.record(2.5)[::-1]], axis=1), characters=32
    )
    expect("channels", "interview")
    corpus.add("stereo", np.stack([mono, 0.7 * mono], axis=1)[::-1], characters=32)  # healthy
    stretched = np.concatenate([mono, mono])
    corpus.add("scaled", stretched, characters=64)
    soundfile.write(corpus.folder / "scaled.wav", 30_000 * stretched, RATE, "FLOAT")
    expect("beyond", "scaled")
    expect("level", "scaled")
    word = voices.record(0.6, 0, 0)
    lone = voices.random.normal(0, 0.003, 16 * RATE)
    lone[8 * RATE : 8 * RATE + len(word)] += word
    corpus.add("lone", lone, text="perhaps")
    expect("air", "lone")
    corpus.add("foreign", text="what \u0430 nice day for \u0430 walk in here", characters=31)
    expect("characters", "foreign")
    corpus.add("twice", voices.record(41), text="9 times " + "that was endless " * 30)
    expect("digits", "twice")
    expect("long", "twice")
    corpus.add("whisper", voices.record(2.5) / 40, characters=32)
    expect("level", "whisper")
    corpus.add("current", voices.record(2.5) + 0.08, characters=32)
    expect("offset", "current")
    corpus.add("gabble", voices.record(1.2, 1.0, 1.8), characters=62)
    corpus.add("drawl", voices.record(5), text="oh my god")
    expect("rate", "gabble", "drawl")
    corpus.add("wrong", voices.record(6.5), characters=30)
    expect("mismatch", "wrong")
    copied, coded = corpus.utterances[3], corpus.utterances[4]
    for name, source, ending in (("copy", copied, "flac"), ("coded", coded, "ogg")):
        corpus.add(name, soundfile.read(source.audio)[0], source.text, ending=ending)
    expect("duplicate", "copy", "coded")
    heard = corpus.utterances[5]
    corpus.add("other", soundfile.read(heard.audio)[0], characters=len(heard.text))
    expect("contradiction", "other", heard.id)
    corpus.add("known", speaker="both")
    expect("speakers", "known")

    dev = Corpus(folder / "dev", "d", seed=2)
    for number in range(10):
        dev.add(f"dev{number}")
    leaked, said = corpus.utterances[6], corpus.utterances[7]
    dev.add("leaked", soundfile.read(leaked.audio)[0], leaked.text)
    expect("leak", leaked.id)
    dev.add("said", text=said.text, characters=len(said.text))
    expect("sentences", leaked.id, said.id)
    dev.add("voice", speaker="both")
    dev.add("dumb", np.zeros(2 * RATE))
    expect("silence", "dumb", split="dev")
    return {"train": corpus.utterances, "dev": dev.utterances}, expected


def named(diagnosis: Diagnosis) -> dict[tuple[str, str], set[str]]:
    return {(f.kind, f.split): set(f.ids) for f in diagnosis.findings}


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, list[Utterance]], dict[tuple[str, str], set[str]], Diagnosis]:
    splits, expected = plant(tmp_path_factory.mktemp("planted"))
    return splits, expected, examine(splits)


def test_every_planted_defect_is_found_and_nothing_else(planted) -> None:
    _, expected, diagnosis = planted
    assert named(diagnosis) == expected
    assert len({kind for kind, _ in expected}) >= 24


def test_findings_say_how_bad_it_is_and_what_to_do(planted) -> None:
    _, _, diagnosis = planted
    severity = {f.kind: f.severity for f in diagnosis.findings}
    refused = {"audio", "duration", "empty", "markup", "digits", "characters", "ctc", "long"}
    assert {kind for kind, how in severity.items() if how == ERROR} == refused
    assert {kind for kind, how in severity.items() if how == INFORMATION} == set()
    for finding in diagnosis.findings:
        assert finding.fix == KINDS[finding.kind][1]
        assert len(finding.details) == len(finding.ids) > 0
    details = {
        (f.kind, name): detail
        for f in diagnosis.findings
        for name, detail in zip(f.ids, f.details, strict=True)
    }
    assert "where 9.00 s are stated" in details["duration", "stated"]
    assert "cut short" in details["audio", "cut"]
    assert details["markup", "entity"] == "&amp;"
    assert details["characters", "accented"] == "'é'"
    assert details["duplicate", "copy"] == "the same recording as healthy3"
    assert details["duplicate", "coded"] == "sounds the same as healthy4"
    assert details["leak", "healthy6"] == "the same recording as leaked of dev"
    assert details["speakers", "known"] == "speaker both is in dev too"
    assert details["air", "late"].startswith("begins with 4.5 s")
    assert details["air", "paused"].startswith("is interrupted with 4.9 s")
    assert details["narrow", "linear"].startswith(
        "a mirror image of what is below alone above 4,000"
    )
    assert re.match(r"nothing above (3,[5-9]|4,0)\d\d Hz at 16,000", details["narrow", "telephone"])


def test_the_cleaned_manifest_is_healthy(planted) -> None:
    splits, _, diagnosis = planted
    without_errors = select_sound(splits["train"], diagnosis, "train")
    again = examine({"train": without_errors, "dev": splits["dev"]})
    assert again.count(ERROR) == 0
    assert again.count(WARNING) > 10
    strict = select_sound(splits["train"], diagnosis, "train", strict=True)
    again = examine({"train": strict, "dev": splits["dev"]})
    assert {(f.kind, f.split) for f in again.findings} == {("silence", "dev")}
    assert {f"healthy{n}" for n in range(HEALTHY)} - {u.id for u in strict} == {
        "healthy5",  # has two texts
        "healthy6",  # is in dev
        "healthy7",  # its sentence is in dev
    }


def test_threads_change_nothing_and_progress_is_told(planted) -> None:
    splits, _, diagnosis = planted
    told: list[int] = []
    parallel = examine(splits, threads=3, advance=told.append)
    assert parallel.findings == diagnosis.findings
    assert sum(told) == sum(map(len, splits.values()))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    corpus = Corpus(tmp_path_factory.mktemp("healthy"), "h", seed=3)
    for number in range(40):
        corpus.add(f"h{number}")
    return corpus


def test_a_codec_is_told_once(healthy: Corpus, tmp_path: Path) -> None:
    """What most recordings lack is what the corpus is: no one of them is wrong."""
    assert examine({"train": healthy.utterances}).findings == []
    for rate, limits in ((11_000, (4900, 5500)), (8_000, (3500, 4000))):
        corpus = Corpus(tmp_path / str(rate), "c", seed=4)
        for utterance in healthy.utterances:
            samples = soundfile.read(utterance.audio)[0]
            low = soxr.resample(soxr.resample(samples, RATE, rate), rate, RATE)
            corpus.add(utterance.id, low, utterance.text)
        [finding] = examine({"train": corpus.utterances}).findings
        assert (finding.kind, finding.severity, finding.ids) == ("band", INFORMATION, ())
        found = [
            int(hz.replace(",", "")) for hz in re.findall(r"% near ([\d,]+) Hz", finding.detail)
        ]
        assert all(limits[0] <= hz <= limits[1] for hz in found)


def test_a_file_at_a_telephones_rate_is_narrow_too(healthy: Corpus, tmp_path: Path) -> None:
    samples = soxr.resample(soundfile.read(healthy.utterances[0].audio)[0], RATE, 8000)
    soundfile.write(tmp_path / "low.wav", samples, 8000)
    seconds = measure_seconds(tmp_path / "low.wav")
    low = Utterance("low", str(tmp_path / "low.wav"), seconds, "some other words", "x")
    found = named(examine({"train": [*healthy.utterances, low]}))
    assert found == {("narrow", "train"): {"low"}}


def test_lossy_clipping_is_found_at_full_scale(healthy: Corpus, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, "c", seed=5)
    corpus.add("bent", np.clip(8 * corpus.voices.record(3), -1, 1), characters=39, ending="mp3")
    assert measure_sound(tmp_path / "bent.mp3").flat < 1e-3
    found = named(examine({"train": healthy.utterances + corpus.utterances}))
    assert found == {("clipping", "train"): {"bent"}}


def test_a_slow_speaker_is_no_wrong_text(healthy: Corpus, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, "c", seed=7)
    for number in range(70):
        corpus.add(f"c{number}")
    for number in range(10):
        corpus.add(f"slow{number}", corpus.voices.record(5), characters=30, speaker="slow")
    found = named(examine({"train": healthy.utterances + corpus.utterances}))
    assert found == {}
    corpus.add("odd", corpus.voices.record(5), characters=30, speaker="c1")
    found = named(examine({"train": healthy.utterances + corpus.utterances}))
    assert found == {("mismatch", "train"): {"odd"}}


def test_what_the_vocabulary_holds_is_no_error(healthy: Corpus) -> None:
    first, second = healthy.utterances[:2]
    texts = [
        Utterance("one", first.audio, first.seconds, "at 10 o'clock in a café", "a"),
        Utterance("two", second.audio, second.seconds, "a <b> tag", "a"),
    ]
    vocabulary = Vocabulary.from_transcripts(u.text for u in texts)
    findings = examine({"train": texts}, Requirements(vocabulary)).findings
    assert [(f.kind, f.severity, f.ids) for f in findings] == [
        ("markup", WARNING, ("two",)),
        ("digits", WARNING, ("one",)),
    ]


def test_limits_are_those_of_the_training(healthy: Corpus) -> None:
    splits = {"train": healthy.utterances, "dev": healthy.utterances[:1]}
    longest = max(u.seconds for u in healthy.utterances)
    found = examine(splits, Requirements(batch_seconds=longest - 0.01)).findings
    assert [f.ids for f in found if f.kind == "long"] == [
        tuple(u.id for u in healthy.utterances if u.seconds > longest - 0.01)
    ]
    fast = examine(splits, Requirements(fastest=4.0)).findings
    assert {(f.kind, f.severity, f.split) for f in fast if f.kind == "ctc"} == {
        ("ctc", ERROR, "train"),
        ("ctc", WARNING, "dev"),
    }
    assert Requirements().fastest == AugmentConfig().fastest


def test_few_known_sentences_are_information(healthy: Corpus, tmp_path: Path) -> None:
    dev = Corpus(tmp_path, "d", seed=6)
    for number in range(20):
        dev.add(f"d{number}")
    dev.add("same", text=healthy.utterances[0].text, characters=len(healthy.utterances[0].text))
    [finding] = examine({"train": healthy.utterances, "dev": dev.utterances}).findings
    assert (finding.kind, finding.severity) == ("sentences", INFORMATION)
    assert finding.ids == (healthy.utterances[0].id,)
    nameless = [Utterance(u.id, u.audio, u.seconds, u.text) for u in dev.utterances]
    findings = examine({"train": healthy.utterances, "dev": nameless}).findings
    assert [f.kind for f in findings] == ["sentences", "anonymous"]
    assert findings[1].detail.endswith("of 21 of 21 utterances of dev")
    some = [*nameless[:1], *dev.utterances[1:]]
    findings = examine({"train": healthy.utterances, "dev": some}).findings
    assert findings[1].detail.endswith("of 1 of 21 utterances of dev")


def test_an_utterance_is_named_once_a_kind(healthy: Corpus, tmp_path: Path) -> None:
    first = healthy.utterances[0]
    dev = Corpus(tmp_path, "d", seed=10)
    copies = [
        dev.add(name, soundfile.read(first.audio)[0], first.text, speaker="d", ending=ending)
        for name, ending in (("a", "wav"), ("b", "flac"), ("c", "ogg"))
    ]
    found = examine({"train": healthy.utterances, "one": copies}).findings
    ids = {(f.kind, f.split): f.ids for f in found}
    assert ids == {
        ("duplicate", "one"): ("b", "c"),
        ("leak", "train"): (first.id,),
        ("sentences", "train"): (first.id,),
    }
    [leak] = [f for f in found if f.kind == "leak"]
    assert leak.details[0].startswith("the same recording as a of one; sounds the same as")
    assert leak.detail == "1 of 40 utterances"


def test_splits_after_the_first_are_compared_with_each_other(
    healthy: Corpus, tmp_path: Path
) -> None:
    dev = Corpus(tmp_path, "d", seed=10)
    for number in range(10):
        dev.add(f"d{number}")
    test = [replace(u, id=f"t{u.id}") for u in dev.utterances[:2]]
    found = named(examine({"train": healthy.utterances, "dev": dev.utterances, "test": test}))
    speakers = {u.speaker for u in test}
    assert found == {
        ("leak", "dev"): {"d0", "d1"},
        ("sentences", "dev"): {"d0", "d1"},
        ("speakers", "dev"): {u.id for u in dev.utterances if u.speaker in speakers},
    }


def test_the_copy_that_is_kept_is_a_good_one(healthy: Corpus) -> None:
    first = healthy.utterances[0]
    wrong, good = replace(first, seconds=99.0), replace(first, id="good")
    utterances = [wrong, good, *healthy.utterances[1:]]
    diagnosis = examine({"train": utterances})
    assert named(diagnosis)["duplicate", "train"] == {first.id}
    assert select_sound(utterances, diagnosis, "train", strict=True) == utterances[1:]


def test_an_utterance_that_is_called_like_a_line_is_another_thing(healthy: Corpus) -> None:
    utterances = [replace(healthy.utterances[0], id="line 2"), *healthy.utterances[1:]]
    refused = {"train": [Reject("line 2", "line", "line 2 is not JSON")]}
    diagnosis = examine({"train": utterances}, refused=refused)
    assert select_sound(utterances, diagnosis, "train") == utterances
    numbered = [replace(utterances[0], text="9 lives"), *utterances[1:]]
    assert examine({"train": numbered}, refused=refused).count(ERROR) == 2


def test_letters_of_another_script_and_invisible_ones_are_found_where_they_are_rare(
    tmp_path: Path,
) -> None:
    corpus = Corpus(tmp_path, "c", seed=11)
    for number in range(HEALTHY):
        corpus.add(f"u{number}")
    texts = {"u1": "\u0430", "u2": "a\u200bb", "u3": "\U0001f600", "u4": "é"}
    utterances = [
        replace(u, text=u.text[:-2] + texts[u.id] if u.id in texts else u.text)
        for u in corpus.utterances
    ]
    vocabulary = Vocabulary.from_transcripts(normalize(u.text) for u in utterances)
    [finding] = examine({"train": utterances}, Requirements(vocabulary)).findings
    assert (finding.kind, finding.severity, finding.ids) == ("odd", WARNING, ("u1", "u2", "u3"))
    assert finding.details[0] == "'\\u0430' (cyrillic small letter a)"
    half = [replace(u, text="да нет") for u in utterances[::2]] + utterances[1::2]
    vocabulary = Vocabulary.from_transcripts(normalize(u.text) for u in half)
    found = named(examine({"train": half}, Requirements(vocabulary)))
    assert found["odd", "train"] == {"u3"}  # two scripts that are meant; u1 is cyrillic too


def test_what_is_no_file_and_what_nobody_foresaw_are_findings(
    healthy: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    utterances = [replace(healthy.utterances[0], audio=str(tmp_path / "pipe.wav"))]
    [finding] = examine({"train": utterances}).findings
    assert (finding.kind, "is a pipe or a device" in finding.details[0]) == ("audio", True)

    def fail(path: str) -> None:
        raise IndexError("out of bounds")

    monkeypatch.setattr(doctor_module, "measure_sound", fail)
    [finding] = examine({"train": healthy.utterances[:1]}).findings
    assert finding.kind == "audio"
    assert "cannot be measured (IndexError: out of bounds)" in finding.details[0]


def test_cost_is_estimated_with_its_assumptions(planted) -> None:
    splits, _, diagnosis = planted
    assert set(diagnosis.cost) == {"model", "steps in an epoch", "computing", "reading", "memory"}
    assert "operations" in diagnosis.cost["computing"]
    facts = diagnosis.summaries[0].facts
    assert facts["utterances"] == f"{len(splits['train']):,}"
    duration = diagnosis.summaries[0].histograms[0]
    assert sum(duration.counts) == len(splits["train"])
    assert len(duration.edges) == len(duration.counts) + 1


@pytest.mark.parametrize("rate", [1000, 8000, 22_050, 96_000])
@pytest.mark.parametrize("samples", [1, 100, 70_000])
def test_recordings_of_any_length_and_rate_are_measured(
    rate: int, samples: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(8)
    soundfile.write(tmp_path / "a.wav", random.normal(0, 0.1, samples), rate)
    sound = measure_sound(tmp_path / "a.wav")
    assert sound.seconds == samples / rate
    if samples > 1000:
        assert sound.level == pytest.approx(-20, abs=1.5)
    assert sound.cliff < 20


def test_floats_of_another_scale_are_a_level(tmp_path: Path) -> None:
    samples = np.random.default_rng(8).normal(0, 10_000, RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert measure_sound(tmp_path / "a.wav").level == pytest.approx(80, abs=1)


def test_levels_silences_and_bands_are_as_recorded(tmp_path: Path) -> None:
    voices = Voices(9)
    parts = [voices.record(1.0, before=0.5, after=0.0), voices.record(1.0, before=0.8, after=0.3)]
    path = tmp_path / "a.flac"
    soundfile.write(path, np.concatenate(parts), RATE)
    sound = measure_sound(path)
    times = sound.lead, sound.pause, sound.trail, sound.span
    assert times == pytest.approx((0.5, 0.8, 0.3, 2.8), abs=0.06)
    soundfile.write(tmp_path / "b.wav", np.concatenate(parts) / 10, RATE)
    assert measure_sound(tmp_path / "b.wav").level == pytest.approx(sound.level - 20, abs=0.5)
    soundfile.write(tmp_path / "c.wav", soundfile.read(path)[0], RATE)
    assert measure_sound(tmp_path / "c.wav").content == sound.content


# ---- Manifests that cannot be read whole --------------------------------------------------------

LINE = {"id": "u", "audio_filepath": "a.wav", "duration": 1.0, "text": "words"}
BROKEN = {
    "no JSON": "{",
    "no object": "[1]",
    "no audio": json.dumps({**LINE, "audio_filepath": ""}),
    "key missing": json.dumps({"id": "u"}),
    "negative": json.dumps({**LINE, "duration": -1}),
    "not a number": json.dumps({**LINE, "duration": "long"}),
    "no text": json.dumps({**LINE, "text": 5}),
    "offset": json.dumps({**LINE, "offset": 2.0}),
    "offset, empty": json.dumps({**LINE, "offset": 2.0, "text": ""}),
    "same id": json.dumps({**LINE, "id": "good"}),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_line_that_training_refuses_is_named_and_others_are_read(
    line: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps({**LINE, 'id': 'good'})}\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_manifest(path)
    utterances, refused = read_leniently(path)
    assert [u.id for u in utterances] == ["good"]
    assert [reject.id for reject in refused] == ["line 2"]
    diagnosis = examine({"m": utterances[:0]}, refused={"m": [Reject("line 2", "line", "?")]})
    assert named(diagnosis) == {("line", "m"): {"line 2"}}


def test_an_empty_text_is_left_to_the_examination(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**LINE, "text": " "}) + "\n")
    utterances, refused = read_leniently(path)
    assert (utterances[0].text, refused) == (" ", [])
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no utterance"):
        read_leniently(path)


# ---- Real speech --------------------------------------------------------------------------------


def read_every(shared: Path, step: int) -> dict[str, list[Utterance]]:
    """Every `step`-th utterance of each corpus, in the order of its own lists: train and dev."""
    splits: dict[str, list[Utterance]] = {}
    for split, mini in (("train", "train-mini"), ("dev", "dev-mini")):
        rows: list[list[tuple[str, str, str, str]]] = []  # id, path, text, speaker
        books = []
        for path in sorted((shared / "LibriSpeech" / mini).rglob("*.trans.txt")):
            for line in path.read_text().splitlines():
                name, text = line.split(" ", 1)
                books.append((name, str(path.parent / f"{name}.mp3"), text, name.split("-")[0]))
        rows.append(books)
        table = (shared / "CommonVoice" / "en" / f"{split}.tsv").read_text().splitlines()
        keys = table[0].split("\t")
        clips = [dict(zip(keys, line.split("\t"), strict=False)) for line in table[1:]]
        folder = shared / "CommonVoice" / "en" / "clips"
        rows.append(
            [(c["path"], str(folder / c["path"]), c["sentence"], c["client_id"]) for c in clips]
        )
        kaldi = shared / "speechocean762" / split
        tables = [
            dict(line.split(None, 1) for line in (kaldi / file).read_text().splitlines())
            for file in ("wav.scp", "text", "utt2spk")
        ]
        rows.append(
            [(n, str(kaldi / path), tables[1][n], tables[2][n]) for n, path in tables[0].items()]
        )
        splits[split] = [
            Utterance(name, path, inspect_audio(path).seconds, normalize(text, "english"), speaker)
            for corpus in rows
            for name, path, text, speaker in corpus[::step]
        ]
    return splits


def test_real_speech_raises_no_false_alarm(shared: Path) -> None:
    """Every 15th utterance of each list. Spectrograms of the two alarms show them to be right: one
    reader is done after half of the recording, the other says the sentence again after 7 s.
    """
    splits = read_every(shared, 15)
    assert sum(map(len, splits.values())) >= 500
    diagnosis = examine(splits, threads=2)
    assert named(diagnosis) == {
        ("air", "train"): {"common_voice_en_37281615.mp3", "096160001"},
        ("band", ""): set(),
    }


# ---- The command --------------------------------------------------------------------------------


@pytest.fixture
def doctor(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `asr doctor` in this process with one thread: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main(["doctor", "--threads", "1", *map(str, words)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def manifest(healthy: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "healthy.jsonl"
    write_manifest(path, healthy.utterances)
    return path


@pytest.fixture
def ill(healthy: Corpus, tmp_path: Path) -> Path:
    """Five good lines, two with errors, one with a warning, and one that cannot be used."""
    path = tmp_path / "ill.jsonl"
    digits, muted, gone = healthy.utterances[5:8]
    soundfile.write(tmp_path / "muted.wav", np.zeros(2 * RATE), RATE)
    write_manifest(
        path,
        [
            *healthy.utterances[:5],
            Utterance("d<i>gits", digits.audio, digits.seconds, "room 101 & more", "x"),
            Utterance("muted", str(tmp_path / "muted.wav"), 2.0, muted.text, "x"),
            Utterance("gone", str(tmp_path / "gone.wav"), gone.seconds, gone.text, "x"),
        ],
    )
    with path.open("a") as file:
        file.write("{broken\n")
    return path


class Page(HTMLParser):
    """Every element that begins must end; collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_healthy_corpus_is_reported_and_left_as_it_is(
    doctor: Run, manifest: Path, healthy: Corpus, tmp_path: Path
) -> None:
    code, out, err = doctor(manifest, "--write", tmp_path / "clean.jsonl", "--strict")
    assert code == 0
    assert "Nothing is wrong with these manifests." in out
    assert "utterances        40" in out
    assert "examining" in err
    assert read_manifest(tmp_path / "clean.jsonl") == healthy.utterances


def test_errors_are_listed_written_and_told_by_the_exit_code(
    doctor: Run, ill: Path, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("report.html", "report.json", "clean.jsonl")]
    code, out, _ = doctor(ill, "--html", files[0], "--json", files[1], "--write", files[2])
    assert code == 1
    assert "Utterances or lines with errors: 3, with warnings: 1." in out
    assert "line 9 is not JSON" in out
    assert f"digits in texts in {ill}: 1 of 8 utterances" in out
    assert "-> Spell numbers out as they are spoken." in out
    report = json.loads(files[1].read_text())
    assert report["counts"] == {"error": 3, "warning": 1, "information": 0}
    cases = {finding["kind"]: finding["cases"] for finding in report["findings"]}
    assert set(cases) == {"line", "audio", "digits", "characters", "silence"}
    assert cases["digits"] == {"d<i>gits": "101"}
    assert report["splits"][str(ill)]["facts"]["utterances"] == "8"
    page = Page()
    page.feed(files[0].read_text())
    page.close()
    assert page.open == []
    assert "i" not in page.seen  # no name is taken for an element
    assert "d<i>gits" in page.text
    assert page.seen.count("svg") == 5
    assert page.seen.count("script") == page.seen.count("link") == 0
    assert [u.id for u in read_manifest(files[2])] == [*(f"h{n}" for n in range(5)), "muted"]
    code, out, _ = doctor(ill, "--write", files[2], "--strict")
    assert "clean.jsonl: 5 utterances" in out
    assert "4 left out" in out
    assert [u.id for u in read_manifest(files[2])] == [f"h{n}" for n in range(5)]


def test_the_cleaned_manifest_keeps_all_keys_and_finds_its_recordings(
    doctor: Run, healthy: Corpus, tmp_path: Path
) -> None:
    real, deep, corpus = tmp_path / "real", tmp_path / "real" / "deep", tmp_path / "corpus"
    deep.mkdir(parents=True)
    corpus.mkdir()
    utterance = healthy.utterances[0]
    shutil.copy(utterance.audio, real / "x.wav")
    (corpus / "link").symlink_to(deep)  # from there `..` is real, not corpus
    record = {
        "audio_filepath": "link/../x.wav",
        "duration": utterance.seconds,
        "text": utterance.text,
        "lang": "en",
        "speaker": "s",
    }
    lines = [json.dumps(record), "no JSON", json.dumps(record | {"id": "again", "text": "a 5"})]
    (corpus / "m.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    code, out, _ = doctor(corpus / "m.jsonl", "--write", tmp_path / "clean.jsonl")
    assert code == 1
    assert "line 4 is not UTF-8 text" in out
    [line] = (tmp_path / "clean.jsonl").read_text().splitlines()
    assert json.loads(line) == record | {"audio_filepath": "real/x.wav"}
    [kept] = read_manifest(tmp_path / "clean.jsonl")
    assert measure_sound(kept.audio).seconds == utterance.seconds


def test_names_are_told_whatever_they_begin_with_and_cannot_steer_a_terminal(
    doctor: Run, healthy: Corpus, tmp_path: Path
) -> None:
    first, second = healthy.utterances[:2]
    write_manifest(
        tmp_path / "m.jsonl",
        [
            replace(first, id="7", text=f"{first.text} 7"),
            replace(second, id="a\x1b[31mb", text=f"{second.text} 7"),
        ],
    )
    _, out, _ = doctor(tmp_path / "m.jsonl", "--html", tmp_path / "page.html")
    assert "    7: 7\n" in out
    assert "    a\\x1b[31mb: 7\n" in out
    assert "\x1b" not in (tmp_path / "page.html").read_text()


def test_half_characters_are_lines_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"id": "good\\ud800", "audio_filepath": "a.wav", "duration": 1, "text": "x"}\n'
    )
    utterances, [reject] = read_leniently(path)
    assert utterances == []
    assert '"id" holds half a character' in reject.detail


def test_many_cases_are_cut_short_in_a_terminal_alone(
    doctor: Run, healthy: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(
        path, [Utterance(u.id, u.audio, u.seconds, f"{u.text} 7", "x") for u in healthy.utterances]
    )
    code, out, _ = doctor(path, "--json", tmp_path / "all.json")
    assert (code, out.count(": 7")) == (1, report.NAMES_SHOWN)
    assert f"and {40 - report.NAMES_SHOWN} more" in out
    assert len(json.loads((tmp_path / "all.json").read_text())["findings"][0]["ids"]) == 40
    code, out, _ = doctor(path, "--vocabulary", "transcripts")
    assert code == 0
    assert "with warnings: 40." in out


def test_the_training_set_is_compared_with_the_others(
    doctor: Run, manifest: Path, healthy: Corpus, tmp_path: Path
) -> None:
    dev = tmp_path / "dev.jsonl"
    write_manifest(dev, healthy.utterances[:2])
    code, out, _ = doctor(manifest, dev, "--write", tmp_path / "clean.jsonl", "--strict")
    assert code == 0
    assert f"h0: the same recording as h0 of {dev}" in out
    speakers = {u.speaker for u in healthy.utterances[:2]}
    kept = [u.id for u in healthy.utterances if u.speaker not in speakers]
    assert [u.id for u in read_manifest(tmp_path / "clean.jsonl")] == kept


def test_a_model_brings_its_own_demands(
    doctor: Run, manifest: Path, healthy: Corpus, tmp_path: Path
) -> None:
    vocabulary = Vocabulary.from_transcripts(["abc "])
    encoder = EncoderConfig(layers=1, hidden=8, stack=40)
    model = AcousticModel(FeaturesConfig(mels=20), encoder, len(vocabulary))
    save_model(tmp_path / "model.pt", model, vocabulary, {})
    path = tmp_path / "m.jsonl"
    first, second = healthy.utterances[:2]
    write_manifest(
        path,
        [
            Utterance("long", first.audio, first.seconds, "abc abc abc abc abc", "x"),
            Utterance("unknown", second.audio, second.seconds, "d", "x"),
        ],
    )
    code, out, _ = doctor(path, "--checkpoint", tmp_path / "model.pt")
    assert code == 1
    assert "unknown: 'd'" in out
    assert "long: needs 19 encoder frames" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gone.jsonl"], "gone.jsonl cannot be read"),
        (["healthy.jsonl", "healthy.jsonl"], "named twice"),
        (["healthy.jsonl", "--strict"], "--strict says what --write leaves out"),
        (["healthy.jsonl", "--write", "healthy.jsonl"], "written over a manifest"),
        (["healthy.jsonl", "--html", "x", "--json", "x"], "written over what --html names"),
        (["healthy.jsonl", "--html", "."], ". is a folder"),
        (["healthy.jsonl", "--threads", "0"], "--threads 0 is impossible"),
        (["healthy.jsonl", "--fastest", "0.5"], "--fastest 0.5 is impossible"),
        (["healthy.jsonl", "--batch-seconds", "nan"], "--batch-seconds nan is impossible"),
        (["healthy.jsonl", "--checkpoint", "gone.pt"], "gone.pt"),
        (["healthy.jsonl", "--checkpoint", "x", "--vocabulary", "english"], "omit --vocabulary"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    doctor: Run,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(manifest.parent)
    before = sorted(manifest.parent.iterdir())
    code, out, err = doctor(*words)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("asr: ")
    assert complaint in line
    assert sorted(manifest.parent.iterdir()) == before


def test_nothing_left_is_no_manifest(doctor: Run, tmp_path: Path) -> None:
    path, clean = tmp_path / "m.jsonl", tmp_path / "clean.jsonl"
    write_manifest(path, [Utterance("gone", str(tmp_path / "gone.wav"), 1.0, "words")])
    code, out, err = doctor(path, "--write", clean)
    assert code == 2
    assert "does not exist" in out  # the report comes first
    assert "would be left" in err
    assert not clean.exists()


def test_the_defaults_are_those_of_the_recipes() -> None:
    parser = argparse.ArgumentParser()
    doctor_command.declare(parser)
    arguments = parser.parse_args(["m.jsonl"])
    assert arguments.fastest == AugmentConfig().fastest
    assert arguments.batch_seconds == TrainingConfig().batch_seconds == Requirements().batch_seconds
