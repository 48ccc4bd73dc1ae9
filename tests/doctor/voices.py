"""Synthetic speech, corpora made of it, and a corpus in which every kind of defect is planted."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.data.manifest import Utterance
from asr.doctor.findings import Diagnosis
from asr.doctor.sound import measure_sound
from asr.errors import AudioError

RATE = 16_000
HEALTHY = 110  # Number of healthy utterances, enough to tell what is usual in the corpus.


class Voices:
    """Makes sounds with the levels, pauses and band of speech, and texts of any length."""

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
        """A text with this number of characters, no two neighbors of which are equal."""
        letters = self.random.permutation(list("abcdefghijklmnopqrstuvwxyz"))
        text = "".join(" " if n % 6 == 5 else str(letters[n % 26]) for n in range(characters))
        return text.rstrip().ljust(characters, "q")


class Corpus:
    """Recordings in a folder, and the utterances that describe them."""

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


class Planted:
    """Training and dev utterances with planted defects, and the findings to expect."""

    def __init__(self, folder: Path) -> None:
        self.train = Corpus(folder / "train", "t", seed=1)
        self.dev = Corpus(folder / "dev", "d", seed=2)
        self.expected: dict[tuple[str, str], set[str]] = {}  # (kind, split) -> ids
        for number in range(HEALTHY):
            self.train.add(f"healthy{number}")
        # The order matters, because the parts share one stream of random numbers.
        plant_files_and_texts(self)
        plant_sounds(self)
        plant_bands_and_channels(self)
        plant_unusual(self)
        plant_copies(self)
        plant_dev(self)

    @property
    def splits(self) -> dict[str, list[Utterance]]:
        return {"train": self.train.utterances, "dev": self.dev.utterances}

    def expect(self, kind: str, *names: str, split: str = "train") -> None:
        self.expected.setdefault((kind, split), set()).update(names)


def plant_files_and_texts(planted: Planted) -> None:
    """Plant recordings and texts that training refuses."""
    corpus = planted.train
    voices = corpus.voices
    corpus.add("cut")
    whole = (corpus.folder / "cut.wav").read_bytes()
    (corpus.folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    corpus.add("gone")
    (corpus.folder / "gone.wav").unlink()
    planted.expect("audio", "cut", "gone")
    corpus.add("stated", stated=9.0)
    planted.expect("duration", "stated")
    corpus.add("untold", text=" ")
    planted.expect("empty", "untold")
    corpus.add("tagged", text="[laughs] well i never said any such thing")
    corpus.add("entity", text="bread &amp; butter for everybody in here")
    planted.expect("markup", "tagged", "entity")
    corpus.add("numbered", text="the train leaves at 10 from platform two", characters=40)
    planted.expect("digits", "numbered")
    corpus.add("accented", text="we met in a small café by the old river", characters=39)
    planted.expect("characters", "accented")
    corpus.add("hasty", voices.record(1.4, 0.05, 0.05), characters=42)
    planted.expect("ctc", "hasty")
    corpus.add("endless", voices.record(41), characters=530)
    planted.expect("long", "endless")


def plant_sounds(planted: Planted) -> None:
    """Plant silence, noise, clipping and pauses."""
    corpus = planted.train
    voices = corpus.voices
    corpus.add("muted", np.zeros(3 * RATE))
    corpus.add("unplugged", voices.random.normal(0, 1e-4, 3 * RATE))
    planted.expect("silence", "muted", "unplugged")
    corpus.add("noise", voices.random.normal(0, 0.05, 3 * RATE))
    planted.expect("steady", "noise")
    corpus.add("blip", voices.record(0.2, 0.02, 0.02), text="yes")
    planted.expect("short", "blip")
    corpus.add("clipped", np.clip(6 * voices.record(2.5), -0.9, 0.9), characters=32)
    planted.expect("clipping", "clipped")
    pause = voices.random.normal(0, 2e-4, round(4.3 * RATE))
    corpus.add(
        "paused", np.concatenate([voices.record(1.2), pause, voices.record(1.2)]), characters=31
    )
    corpus.add("late", voices.record(2.4, before=4.5), characters=31)
    planted.expect("air", "paused", "late")


def plant_bands_and_channels(planted: Planted) -> None:
    """Plant bands, channels and scales."""
    corpus = planted.train
    voices = corpus.voices
    narrow = soxr.resample(soxr.resample(voices.record(2.5), RATE, 8000), 8000, RATE)
    corpus.add("telephone", narrow, characters=32)
    low = soxr.resample(voices.record(2.5), RATE, 8000)
    corpus.add(
        "linear", np.interp(np.arange(2 * len(low)) / 2, np.arange(len(low)), low), characters=32
    )
    corpus.add("held", np.repeat(low, 2), characters=32)
    planted.expect("narrow", "telephone", "linear", "held")
    mono = voices.record(2.5)
    corpus.add("inverted", np.stack([mono, -mono], axis=1), characters=32)
    planted.expect("phase", "inverted")
    corpus.add(
        "interview", np.stack([voices.record(2.5), voices.record(2.5)[::-1]], axis=1), characters=32
    )
    planted.expect("channels", "interview")
    # Two channels with the same sound are healthy.
    corpus.add("stereo", np.stack([mono, 0.7 * mono], axis=1)[::-1], characters=32)
    stretched = np.concatenate([mono, mono])
    corpus.add("scaled", stretched, characters=64)
    soundfile.write(corpus.folder / "scaled.wav", 30_000 * stretched, RATE, "FLOAT")
    planted.expect("beyond", "scaled")
    planted.expect("level", "scaled")


def plant_unusual(planted: Planted) -> None:
    """Plant what stands out in the corpus, and mixtures of defects."""
    corpus = planted.train
    voices = corpus.voices
    word = voices.record(0.6, 0, 0)
    lone = voices.random.normal(0, 0.003, 16 * RATE)
    lone[8 * RATE : 8 * RATE + len(word)] += word
    corpus.add("lone", lone, text="perhaps")
    planted.expect("air", "lone")
    corpus.add("foreign", text="what \u0430 nice day for \u0430 walk in here", characters=31)
    planted.expect("characters", "foreign")
    corpus.add("twice", voices.record(41), text="9 times " + "that was endless " * 30)
    planted.expect("digits", "twice")
    planted.expect("long", "twice")
    corpus.add("whisper", voices.record(2.5) / 40, characters=32)
    planted.expect("level", "whisper")
    corpus.add("current", voices.record(2.5) + 0.08, characters=32)
    planted.expect("offset", "current")
    corpus.add("gabble", voices.record(1.2, 1.0, 1.8), characters=62)
    corpus.add("drawl", voices.record(5), text="oh my god")
    planted.expect("rate", "gabble", "drawl")
    corpus.add("wrong", voices.record(6.5), characters=30)
    planted.expect("mismatch", "wrong")


def plant_copies(planted: Planted) -> None:
    """Plant copies of recordings and a shared speaker."""
    corpus = planted.train
    copied, coded = corpus.utterances[3], corpus.utterances[4]
    for name, source, ending in (("copy", copied, "flac"), ("coded", coded, "ogg")):
        corpus.add(name, soundfile.read(source.audio)[0], source.text, ending=ending)
    planted.expect("duplicate", "copy", "coded")
    retold = corpus.utterances[5]
    corpus.add("other", soundfile.read(retold.audio)[0], characters=len(retold.text))
    planted.expect("contradiction", "other", retold.id)
    corpus.add("known", speaker="both")
    planted.expect("speakers", "known")


def plant_dev(planted: Planted) -> None:
    """Plant a dev split that shares a recording, sentences and a speaker with the training set."""
    dev = planted.dev
    for number in range(10):
        dev.add(f"dev{number}")
    leaked, said = planted.train.utterances[6], planted.train.utterances[7]
    dev.add("leaked", soundfile.read(leaked.audio)[0], leaked.text)
    planted.expect("leak", leaked.id)
    dev.add("said", text=said.text, characters=len(said.text))
    planted.expect("sentences", leaked.id, said.id)
    dev.add("voice", speaker="both")
    dev.add("dumb", np.zeros(2 * RATE))
    planted.expect("silence", "dumb", split="dev")


def named(diagnosis: Diagnosis) -> dict[tuple[str, str], set[str]]:
    return {(f.kind, f.split): set(f.ids) for f in diagnosis.findings}
