"""Synthetic speech: sentences spoken by the voices of espeak-ng, with random rooms and noise.

The library in the `espeakng-loader` wheel has a hundred voices ("variants" of formants, pitch, breath
and echo), each of which speaks eight accents of English. Speed, pitch, intonation, loudness, room and
noise are drawn for every utterance. The same seed and the same wheel give the same bytes for any
number of processes.
"""

import ctypes
import importlib.metadata
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from asr.errors import DataError

Array = npt.NDArray[np.floating[Any]]
Draw = Callable[[int, np.random.Generator], str]

SAMPLE_RATE = 16_000
# Number of utterances that one process speaks.
BLOCK = 600
# Maximum length of the path of espeak-ng's data; from 160 characters on, it ends the process.
LONGEST_PATH = 120

ACCENTS = (
    "en en-029 en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-gb-x-rp en-us en-us-nyc".split()
)
WORDS_PER_MINUTE = (120, 210)
PITCH = (20, 80)  # on espeak's scale from 0 to 99, relative to the voice's own pitch
INTONATION = (20, 80)  # on espeak's scale from 0 to 99
PAUSE_SECONDS = (0.05, 0.25)  # silence before and after the words
PEAK_DB = (-15.0, -1.0)  # peak level of an utterance relative to full scale
ROOM_PROBABILITY = 0.3
REVERBERATION_SECONDS = (0.1, 0.5)  # time in which the echo decays by 60 dB
DIRECT_TO_ECHO_DB = (6.0, 18.0)
NOISES = ("white", "pink", "babble")
NOISE_RATIO_DB = (20.0, 40.0)  # signal-to-noise ratio
BABBLE_VOICES = 5


class Speaker:
    """espeak-ng, called through ctypes.

    Its waveforms depend on everything that the process has spoken before, because phases, echoes and
    random numbers continue and cannot be reset. A new process reproduces the same bytes.

    Raises DataError if the wheel is not installed or the library fails to start.
    """

    def __init__(self) -> None:
        loader = _import_loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        self._blocks: list[npt.NDArray[np.int16]] = []
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        # The object must be referenced here, because the library stores only its address.
        self._callback = callback_type(self._receive)
        synchronous = 2  # AUDIO_OUTPUT_SYNCHRONOUS of speak_lib.h
        data = loader.get_data_path()
        if len(data) > LONGEST_PATH:
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
        """Speak a text.

        Args:
            text: The words.
            voice: Accent and variant, such as "en-us+Andrea".
            rate: Words per minute.
            pitch: 0 to 99.
            intonation: Range of the pitch, 0 to 99.

        Returns:
            The waveform (N,) float32 at SAMPLE_RATE, without silence around the words; empty if the
            voice has no sound for the text.

        Raises:
            DataError: If there is no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice!r}; use one of `voices`")
        # The numbers are espeakRATE, espeakPITCH and espeakRANGE of speak_lib.h.
        for parameter, value in ((1, rate), (3, pitch), (4, intonation)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate([np.zeros(0, np.int16), *self._blocks]).astype(np.float32) / 32768
        waveform = soxr.resample(samples, self._sample_rate, SAMPLE_RATE)
        loud = np.flatnonzero(np.abs(waveform) > 1e-3)
        found: Array = waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]
        return found


def draw_room(random: np.random.Generator) -> Array:
    """Draw a room impulse response (N,): direct sound, then exponentially decaying noise."""
    samples = int(random.uniform(*REVERBERATION_SECONDS) * SAMPLE_RATE)
    decay = 10 ** np.linspace(0, -3, samples, dtype=np.float32)  # -60 dB at its end
    echo = random.standard_normal(samples, dtype=np.float32) * decay
    echo *= 10 ** (-random.uniform(*DIRECT_TO_ECHO_DB) / 20) / np.linalg.norm(echo)
    echo[0] = 1
    return echo


def reverberate(waveform: Array, room: Array) -> Array:
    """Convolve a waveform (N,) with a room impulse response and cut it to N samples."""
    size = fast_size(len(waveform) + len(room))
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(room, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)]


def draw_noise(samples: int, others: list[Array], random: np.random.Generator) -> Array:
    """Draw noise (samples,) of unit power: white, pink, or several `others` speaking at once."""
    kind = NOISES[random.integers(len(NOISES))]
    noise: Array = random.standard_normal(fast_size(samples), dtype=np.float32)
    if kind == "pink":  # power falls with 1 / frequency
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))))
    noise = noise[:samples]
    if kind == "babble":
        noise = np.zeros(samples, dtype=np.float32)
        for index in random.integers(len(others), size=BABBLE_VOICES):
            voice = np.roll(others[index], random.integers(len(others[index])))
            noise += np.resize(voice, samples) / np.sqrt(np.mean(voice**2))
    unit: Array = noise / np.sqrt(np.mean(noise**2))
    return unit


def fast_size(samples: int) -> int:
    """The next power of two, a fast size for Fourier transforms."""
    return 1 << (samples - 1).bit_length()


def place(waveform: Array, others: list[Array], random: np.random.Generator) -> Array:
    """Add pauses, a room, noise and a random level to clean speech (N,)."""
    before, after = (random.uniform(*PAUSE_SECONDS, size=2) * SAMPLE_RATE).astype(int)
    placed: Array = np.pad(waveform, (before, after))
    if random.random() < ROOM_PROBABILITY:
        placed = reverberate(placed, draw_room(random))
    speech_power = np.mean(placed[before:-after] ** 2)
    noise_gain = np.sqrt(speech_power) * 10 ** (-random.uniform(*NOISE_RATIO_DB) / 20)
    placed = placed + noise_gain * draw_noise(len(placed), others, random)
    level = 10 ** (random.uniform(*PEAK_DB) / 20)
    leveled: Array = placed * level / np.abs(placed).max()
    return leveled


@dataclass(frozen=True)
class Block:
    """Utterances that one process speaks: numbers `first` to `first + count - 1` of a set.

    Attributes:
        folder: Folder of the set.
        prefix: Beginning of each file's path in the folder, such as "train/train"; its last part
            also begins the ids.
        voices: Variants, see `voices`.
        first: Number of the first utterance.
        count: Number of utterances.
        seed: Seed of the set.
        draw: Draws the text of the utterance with a given number; it must be picklable.
    """

    folder: Path
    prefix: str
    voices: Sequence[str]
    first: int
    count: int
    seed: tuple[int, ...]
    draw: Draw


def plan(
    folder: Path, prefix: str, voices: Sequence[str], count: int, seed: tuple[int, ...], draw: Draw
) -> list[Block]:
    """Divide a set into blocks of a fixed size.

    The size is fixed, because an utterance depends on those before it in its block.
    """
    return [
        Block(folder, prefix, voices, first, min(BLOCK, count - first), seed, draw)
        for first in range(0, count, BLOCK)
    ]


def speak(blocks: Sequence[Block], processes: int) -> Iterator[list[dict[str, object]]]:
    """Write the audio of each block as 16-bit WAV files and yield its manifest rows, in order.

    Paths are relative to the block's folder, and the folders of the files must exist. An utterance
    is left out if its voice has no sound for the text.
    """
    # A new process for each block makes its bytes reproducible, see `Speaker`.
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap(speak_block, blocks)


def speak_block(block: Block) -> list[dict[str, object]]:
    """Write the audio of a block in this process, see `speak`."""
    random = np.random.default_rng([*block.seed, block.first])
    speaker = Speaker()
    rows: list[dict[str, object]] = []
    spoken: list[Array] = []
    for number in range(block.first, block.first + block.count):
        text = block.draw(number, random)
        # Voices rotate, so that all speak equally often; accents are drawn.
        accent = ACCENTS[random.integers(len(ACCENTS))]
        voice = f"{accent}+{block.voices[number % len(block.voices)]}"
        ranges = (WORDS_PER_MINUTE, PITCH, INTONATION)
        rate, pitch, intonation = (int(random.integers(low, high + 1)) for low, high in ranges)
        waveform = speaker.say(text, voice, rate, pitch, intonation)
        if not len(waveform):
            continue
        spoken.append(waveform)
        name = f"{block.prefix}-{number:05d}"
        rows.append(
            {
                "id": name.rpartition("/")[2],
                "audio_filepath": f"{name}.wav",
                "duration": 0.0,
                "text": text,
                "speaker": voice,
            }
        )
    for row, waveform in zip(rows, spoken, strict=True):
        placed = place(waveform, spoken, random)
        row["duration"] = len(placed) / SAMPLE_RATE
        soundfile.write(block.folder / str(row["audio_filepath"]), placed, SAMPLE_RATE, "PCM_16")
    return rows


def voices() -> list[str]:
    """The names of the wheel's variants. Raises DataError if the wheel is not installed."""
    variants = Path(_import_loader().get_data_path(), "voices", "!v")
    return sorted(path.name for path in variants.iterdir())


def version() -> str:
    """The version of the wheel. Raises DataError if it is not installed."""
    _import_loader()
    return importlib.metadata.version("espeakng_loader")


def _import_loader() -> ModuleType:
    """Import the optional package espeakng_loader."""
    try:
        return importlib.import_module("espeakng_loader")
    except ImportError:
        raise DataError(
            "synthetic speech needs espeakng-loader, which is not installed; "
            "pip install 'lstm-asr[synthesis]'"
        ) from None
