"""Synthetic voices: engines that read a text aloud, behind one interface.

- espeak-ng has a hundred voices ("variants" of formants, pitch, breath and echo), each of which speaks
  eight accents of English. Its speech is clear but far from a person's.
- hibari has one natural voice, from which any number of speakers is made by scaling the pitch, the
  formants and the tempo.

Whatever varies between two utterances of a voice, such as rate and intonation, is drawn from a
generator that the caller passes. `ENGINES` lists the engines by name.
"""

import ctypes
import importlib
import importlib.metadata
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import soxr

from asr.errors import DataError, quote

Array = npt.NDArray[np.floating[Any]]

SAMPLE_RATE = 16_000
# Samples below this value are silence around the words.
SILENCE = 1e-3


class Speech(NamedTuple):
    """An utterance of a synthetic voice.

    Attributes:
        waveform: Samples (N,) at SAMPLE_RATE, without silence around the words; empty if the voice
            has no sound for the text.
        speaker: Name of the speaker.
    """

    waveform: Array
    speaker: str


class Engine(Protocol):
    """Reads texts aloud; starting one raises DataError if its package is not installed."""

    def speak(self, text: str, voice: str, random: np.random.Generator) -> Speech:
        """Read a text aloud.

        Args:
            text: The words, in lower case.
            voice: One of `voices`.
            random: Source of all draws.

        Raises:
            DataError: If there is no such voice.
        """
        ...

    @staticmethod
    def voices() -> list[str]:
        """The names of the voices. Raises DataError if the package is not installed."""
        ...

    @staticmethod
    def version() -> str:
        """The package and its version. Raises DataError if it is not installed."""
        ...


class Espeak:
    """espeak-ng, called through ctypes.

    Its waveforms depend on everything that the process has spoken before, because phases, echoes and
    random numbers continue and cannot be reset. A new process reproduces the same bytes.

    Raises DataError if the wheel is not installed or the library fails to start.
    """

    ACCENTS = (
        "en en-029 en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-gb-x-rp en-us en-us-nyc".split()
    )
    WORDS_PER_MINUTE = (120, 210)
    PITCH = (20, 80)  # on espeak's scale from 0 to 99, relative to the voice's own pitch
    INTONATION = (20, 80)  # on espeak's scale from 0 to 99
    # Maximum length of the path of espeak-ng's data; from 160 characters on, it ends the process.
    LONGEST_PATH = 120

    def __init__(self) -> None:
        loader = self._import_loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        self._variants = frozenset(self.voices())
        self._blocks: list[npt.NDArray[np.int16]] = []
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        # The object must be referenced here, because the library stores only its address.
        self._callback = callback_type(self._receive)
        synchronous = 2  # AUDIO_OUTPUT_SYNCHRONOUS of speak_lib.h
        data = loader.get_data_path()
        if len(data) > self.LONGEST_PATH:
            self._short = tempfile.TemporaryDirectory()
            short = Path(self._short.name, "data")
            short.symlink_to(data)
            data = str(short)
        self._sample_rate = self._library.espeak_Initialize(synchronous, 0, os.fsencode(data), 0)
        if self._sample_rate <= 0:
            raise DataError(
                f"espeak-ng could not be started with its data in {data}; reinstall espeakng-loader"
            )
        self._library.espeak_SetSynthCallback(self._callback)
        # Initialization seeds both random sources of breath and roughness with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, intonation: int) -> Array:
        """Read a text aloud in a given manner.

        Args:
            text: The words.
            voice: Accent and variant, such as "en-us+Andrea".
            rate: Words per minute.
            pitch: 0 to 99.
            intonation: Range of the pitch, 0 to 99.

        Returns:
            The waveform (N,) of `Speech`.

        Raises:
            DataError: If there is no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {quote(voice)}; use one of `voices`")
        # The numbers are espeakRATE, espeakPITCH and espeakRANGE of speak_lib.h.
        for parameter, value in ((1, rate), (3, pitch), (4, intonation)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate([np.zeros(0, np.int16), *self._blocks]).astype(np.float32) / 32768
        return trim(soxr.resample(samples, self._sample_rate, SAMPLE_RATE))

    def speak(self, text: str, voice: str, random: np.random.Generator) -> Speech:
        """Read a text aloud; the accent, rate, pitch and intonation are drawn."""
        if voice not in self._variants:  # which espeak-ng would leave out without a word
            raise DataError(f"espeak-ng has no voice {quote(voice)}; use one of `voices`")
        speaker = f"{self.ACCENTS[random.integers(len(self.ACCENTS))]}+{voice}"
        ranges = (self.WORDS_PER_MINUTE, self.PITCH, self.INTONATION)
        rate, pitch, intonation = (int(random.integers(low, high + 1)) for low, high in ranges)
        return Speech(self.say(text, speaker, rate, pitch, intonation), speaker)

    @staticmethod
    def voices() -> list[str]:
        """The names of the variants."""
        variants = Path(Espeak._import_loader().get_data_path(), "voices", "!v")
        return sorted(path.name for path in variants.iterdir())

    @staticmethod
    def version() -> str:
        """The wheel and its version."""
        Espeak._import_loader()
        return f"espeakng-loader {importlib.metadata.version('espeakng_loader')}"

    @staticmethod
    def _import_loader() -> ModuleType:
        return import_package("espeakng_loader", "espeakng-loader", "synthesis")


class Hibari:
    """hibari-tts, whose network predicts spectra and the pitch, which are changed before the vocoder.

    Another pitch and a spectrum that is stretched along the frequency, as by a vocal tract of another
    length, make another speaker. Scaling each by itself keeps the words intelligible within the
    ranges below (Whisper base makes 6.6 % errors on them, 4.4 % on the voice as it is).

    Raises DataError if the package is not installed.
    """

    SPEAKERS = 1000
    PITCH = (0.6, 1.15)  # factor of the fundamental frequency
    FORMANTS = (0.88, 1.08)  # factor of all frequencies of the spectrum
    FORMANT_SPREAD = 0.04  # largest difference from the formants that go along with a pitch
    TEMPO = (0.85, 1.2)
    INTONATION = (0.8, 1.3)  # exponent of the pitch relative to its mean
    HERTZ = (55.0, 420.0)  # lowest and highest pitch
    LEAST_VOICED = 40.0  # Hz; below, hibari's pitch means an unvoiced frame

    def __init__(self) -> None:
        package = self._import_package()
        self._synthesizer = package.Hibari(threads=1)
        self._vocoder = importlib.import_module("hibari.dsp")

    def speak(self, text: str, voice: str, random: np.random.Generator) -> Speech:
        """Read a text aloud; the tempo and intonation are drawn, pitch and formants are the voice's."""
        pitch, formants = self.make_speaker(voice)
        tempo = np.array([random.uniform(*self.TEMPO)], np.float32)
        intonation = random.uniform(*self.INTONATION)
        parts = [np.zeros(0, np.float32)]
        # With a full stop, the pitch falls at the end of the sentence.
        sentence = f"{text.strip().capitalize()}." if text.strip() else ""
        for phonemes in self._synthesizer.phonemize(sentence):
            inputs = {"ids": np.array([self._synthesizer.ids(phonemes)]), "speed": tempo}
            outputs = self._synthesizer.sess.run(None, inputs)
            # Spectra (bins, frames) of harmonics, noise and the rest, and the pitch (frames,).
            *spectra, hertz = (output[0] for output in outputs)
            harmonics, turns, noise, rest, phases = spectra
            warped = [warp(part, formants) for part in (harmonics, turns, noise, rest)]
            hertz = self._scale_pitch(hertz, pitch, intonation)
            parts.append(self._vocoder.synth(*warped, phases, hertz, random))
        waveform = np.concatenate(parts)
        waveform = soxr.resample(waveform, self._synthesizer.sample_rate, SAMPLE_RATE)
        return Speech(trim(waveform), voice)

    def _scale_pitch(self, hertz: Array, factor: float, intonation: float) -> Array:
        """The pitch (frames,) with another mean and range; unvoiced frames stay as they are."""
        voiced = hertz > self.LEAST_VOICED
        scaled = hertz.copy()
        if voiced.any():
            mean = np.exp(np.log(hertz[voiced]).mean())
            scaled[voiced] = np.clip(
                mean * factor * (hertz[voiced] / mean) ** intonation, *self.HERTZ
            )
        return scaled

    @classmethod
    def make_speaker(cls, voice: str) -> tuple[float, float]:
        """The factors of the pitch and the formants of a voice; low voices have long vocal tracts."""
        if voice not in cls._numbers():
            raise DataError(f"hibari has no voice {quote(voice)}; use one of `voices`")
        random = np.random.default_rng(int(voice))
        position = random.random()  # from the lowest pitch to the highest
        low, high = cls.PITCH
        pitch = low * (high / low) ** position
        low, high = cls.FORMANTS
        formants = low + (high - low) * position
        formants += random.uniform(-cls.FORMANT_SPREAD, cls.FORMANT_SPREAD)
        return pitch, min(max(formants, low), high)

    @classmethod
    def _numbers(cls) -> list[str]:
        return [f"{number:04d}" for number in range(cls.SPEAKERS)]

    @staticmethod
    def voices() -> list[str]:
        """The names of the speakers."""
        Hibari._import_package()
        return Hibari._numbers()

    @staticmethod
    def version() -> str:
        """The package and its version."""
        Hibari._import_package()
        return f"hibari-tts {importlib.metadata.version('hibari-tts')}"

    @staticmethod
    def _import_package() -> ModuleType:
        return import_package("hibari", "hibari-tts", "voices")


ENGINES: dict[str, type[Engine]] = {"espeak-ng": Espeak, "hibari": Hibari}
"""The engines by name."""


def trim(waveform: Array) -> Array:
    """Cut the silence before and after the words of a waveform (N,)."""
    loud = np.flatnonzero(np.abs(waveform) > SILENCE)
    found: Array = waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]
    return found


def warp(spectrum: Array, factor: float) -> Array:
    """Move everything in a spectrum (bins, frames) to `factor` times its frequency."""
    last = len(spectrum) - 1
    positions = np.minimum(np.arange(len(spectrum)) / factor, last)
    lower = np.minimum(positions.astype(np.intp), last - 1)
    weight = (positions - lower)[:, None].astype(spectrum.dtype)
    warped: Array = spectrum[lower] * (1 - weight) + spectrum[lower + 1] * weight
    return warped


def import_package(module: str, package: str, extra: str) -> ModuleType:
    """Import an optional package. Raises DataError that names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f"synthetic speech needs {package}, which is not installed; "
            f"pip install 'lstm-asr[{extra}]'"
        ) from None
