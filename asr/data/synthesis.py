"""Synthetic speech: sentences spoken by the voices of an engine, with random rooms and noise.

`asr.data.voices` has the engines. How a voice speaks, loudness, room and noise are drawn for every
utterance. The same seed and the same version of the engine give the same bytes for any number of
processes.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from asr.data.voices import ENGINES, SAMPLE_RATE

Array = npt.NDArray[np.floating[Any]]
Draw = Callable[[int, np.random.Generator], str]

# Number of utterances that one process speaks.
BLOCK = 600

PAUSE_SECONDS = (0.05, 0.25)  # silence before and after the words
PEAK_DB = (-15.0, -1.0)  # peak level of an utterance relative to full scale
ROOM_PROBABILITY = 0.3
REVERBERATION_SECONDS = (0.1, 0.5)  # time in which the echo decays by 60 dB
DIRECT_TO_ECHO_DB = (6.0, 18.0)
NOISES = ("white", "pink", "babble")
NOISE_RATIO_DB = (20.0, 40.0)  # signal-to-noise ratio
BABBLE_VOICES = 5


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
        voices: Voices of the engine, which take turns.
        first: Number of the first utterance.
        count: Number of utterances.
        seed: Seed of the set.
        draw: Draws the text of the utterance with a given number; it must be picklable.
        engine: Name of the engine, one of `asr.data.voices.ENGINES`.
        suffix: Ending of the files, ".wav" or ".flac"; both hold 16-bit samples.
    """

    folder: Path
    prefix: str
    voices: Sequence[str]
    first: int
    count: int
    seed: tuple[int, ...]
    draw: Draw
    engine: str = "espeak-ng"
    suffix: str = ".wav"


def plan(
    folder: Path,
    prefix: str,
    voices: Sequence[str],
    count: int,
    seed: tuple[int, ...],
    draw: Draw,
    engine: str = "espeak-ng",
    suffix: str = ".wav",
) -> list[Block]:
    """Divide a set into blocks of a fixed size.

    The size is fixed, because an utterance depends on those before it in its block.
    """
    return [
        Block(folder, prefix, voices, first, min(BLOCK, count - first), seed, draw, engine, suffix)
        for first in range(0, count, BLOCK)
    ]


def speak(blocks: Sequence[Block], processes: int) -> Iterator[list[dict[str, object]]]:
    """Write the audio of each block as files and yield its manifest rows, in order.

    Paths are relative to the block's folder, and the folders of the files must exist. An utterance
    is left out if its voice has no sound for the text.
    """
    # A new process for each block makes its bytes reproducible, see `asr.data.voices.Espeak`.
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap(speak_block, blocks)


def speak_block(block: Block) -> list[dict[str, object]]:
    """Write the audio of a block in this process, see `speak`."""
    random = np.random.default_rng([*block.seed, block.first])
    engine = ENGINES[block.engine]()
    rows: list[dict[str, object]] = []
    spoken: list[Array] = []
    for number in range(block.first, block.first + block.count):
        text = block.draw(number, random)
        # Voices take turns, so that all speak equally often.
        voice = block.voices[number % len(block.voices)]
        waveform, speaker = engine.speak(text, voice, random)
        if not len(waveform):
            continue
        spoken.append(waveform)
        name = f"{block.prefix}-{number:05d}"
        rows.append(
            {
                "id": name.rpartition("/")[2],
                "audio_filepath": f"{name}{block.suffix}",
                "duration": 0.0,
                "text": text,
                "speaker": speaker,
            }
        )
    for row, waveform in zip(rows, spoken, strict=True):
        placed = place(waveform, spoken, random)
        row["duration"] = len(placed) / SAMPLE_RATE
        soundfile.write(block.folder / str(row["audio_filepath"]), placed, SAMPLE_RATE)  # PCM_16
    return rows
