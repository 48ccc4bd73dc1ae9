"""Makes the digits corpus: numbers, times and short commands, spoken by the voices of espeak-ng.

    python recipes/digits/prepare.py        # data/digits/{train,dev,test}.jsonl and their audio

Nothing is downloaded: the speech comes from the library inside the `espeakng-loader` wheel. Its
hundred voices ("variants" of formants, pitch, breath and echo) each speak any of eight accents of
English. The voices of dev and test are never heard in training; the accents are. Speed, pitch,
intonation, loudness, room and noise are drawn anew for every utterance, in all three sets alike,
and are part of the recordings: test speech is as noisy and as reverberant as training speech.

The same settings and the same wheel give the same bytes, whatever the number of processes.
"""

import argparse
import ctypes
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.errors import EXIT_CODE, AsrError, DataError
from asr.progress import Bar

SAMPLE_RATE = 16_000
SPLITS = ("train", "dev", "test")
BLOCK = 600  # utterances spoken by one process
LONGEST_PATH = 120  # espeak-ng ends the process if the path of its data has 160 characters or more

# Chosen for their spread of pitch and timbre, before any model was trained; every other voice of
# the wheel is used for training.
# fmt: off
DEV_VOICES = (
    "Andrea", "Jacky", "Nguyen", "f5", "gustave", "m4", "marcelo", "pedro", "sandro", "shelby",
)
TEST_VOICES = (
    "Alex", "Annie", "Denis", "Lee", "Marco", "aunty", "ed", "f3", "grandma", "ian", "m2", "m7",
    "paul", "quincy", "victor",
)
ACCENTS = (
    "en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us",
    "en-us-nyc",
)
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
ROOMS = ("kitchen", "bedroom", "garden")
DEVICES = ("light", "heating", "radio")

WORDS_PER_MINUTE = (120, 210)
PITCH = (20, 80)  # espeak's scale of 0 to 99, around the voice's own pitch
INTONATION = (20, 80)  # likewise
PAUSE_SECONDS = (0.05, 0.25)  # before and after the words
PEAK_DB = (-15.0, -1.0)
ROOM_PROBABILITY = 0.3
REVERBERATION_SECONDS = (0.1, 0.5)  # until the echo has fallen by 60 dB
DIRECT_TO_ECHO_DB = (6.0, 18.0)
NOISES = ("white", "pink", "babble")
NOISE_RATIO_DB = (20.0, 40.0)  # speech above noise
BABBLE_VOICES = 5


def draw_text(random: np.random.Generator) -> str:
    """A sentence of the grammar: a number, a time or a command, 60 different words in all."""

    def pick(*choices: str) -> str:
        return choices[random.integers(len(choices))]

    def number() -> str:  # 0 to 99; rare words such as "thirteen" as often as "three"
        tens = pick(*TENS)
        return pick(pick(*UNITS), pick(*UNITS[10:]), tens, f"{tens} {pick(*UNITS[1:10])}")

    def time() -> str:
        hour = pick(*UNITS[1:13])
        minutes = pick(pick(*UNITS[10:]), f"{pick(*TENS[:4])} {pick('', *UNITS[1:10])}".strip())
        return pick(
            f"{hour} o'clock",
            f"half past {hour}",
            f"quarter {pick('past', 'to')} {hour}",
            f"{minutes} past {hour}",
            f"{hour} {minutes}",
        )

    digits = " ".join(pick(*UNITS[:10]) for _ in range(random.integers(3, 7)))
    device = f"{pick('', *ROOMS)} {pick(*DEVICES)}".strip()
    switch = pick("on", "off", "up", "down")
    return pick(
        number(),
        f"{pick(*UNITS[1:10])} hundred",
        f"{pick(*UNITS[1:10])} hundred and {number()}",
        digits,
        f"call {digits}",
        time(),
        f"wake me at {time()}",
        f"set the alarm for {time()}",
        f"set the timer for {number()} minutes",
        f"set the {device} to {number()}",
        f"set the heating to {number()} degrees",
        f"set the volume to {number()}",
        f"turn the {device} {switch}",
        f"turn {switch} the {device}",
        f"turn {pick('up', 'down')} the volume",
        f"{pick('play', 'stop')} {pick('the timer', 'the alarm', f'radio {number()}')}",
    )


class Speaker:
    """espeak-ng through ctypes.

    Its waveforms depend on what the process has spoken before: phases, echoes and random numbers
    run on, and no call resets them. Whoever wants the same bytes again starts a new process.
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._blocks: list[np.ndarray] = []
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = callback_type(self._receive)  # kept: the library holds only its address
        synchronous = 2  # AUDIO_OUTPUT_SYNCHRONOUS of speak_lib.h
        data = espeakng_loader.get_data_path()
        if len(data) > LONGEST_PATH:
            self._short = tempfile.TemporaryDirectory()
            short = Path(self._short.name, "data")
            short.symlink_to(data)
            data = str(short)
        self._sample_rate = self._library.espeak_Initialize(synchronous, 0, os.fsencode(data), 0)
        if self._sample_rate <= 0:
            raise DataError(f"espeak-ng could not be started with its data in {data}: reinstall it")
        self._library.espeak_SetSynthCallback(self._callback)
        # Initialising seeds both sources of breath and roughness with the time of day.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, intonation: int) -> np.ndarray:
        """The waveform (N,) float32 at SAMPLE_RATE, without the silence around the words."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice!r}")
        # The numbers are espeakRATE, espeakPITCH and espeakRANGE of speak_lib.h.
        for parameter, value in ((1, rate), (3, pitch), (4, intonation)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._blocks).astype(np.float32) / 32768
        waveform = soxr.resample(samples, self._sample_rate, SAMPLE_RATE)
        loud = np.flatnonzero(np.abs(waveform) > 1e-3)
        return waveform[loud[0] : loud[-1] + 1]


def draw_room(random: np.random.Generator) -> np.ndarray:
    """A room's impulse response (N,): the direct sound, then exponentially decaying noise."""
    samples = int(random.uniform(*REVERBERATION_SECONDS) * SAMPLE_RATE)
    decay = 10 ** np.linspace(0, -3, samples, dtype=np.float32)  # -60 dB at the end
    echo = random.standard_normal(samples, dtype=np.float32) * decay
    echo *= 10 ** (-random.uniform(*DIRECT_TO_ECHO_DB) / 20) / np.linalg.norm(echo)
    echo[0] = 1
    return echo


def reverberate(waveform: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The waveform (N,) convolved with the room, cut to its own length."""
    size = fast_size(len(waveform) + len(room))
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(room, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)]


def draw_noise(samples: int, others: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Noise (samples,) of unit power: white, pink, or several of the `others` talking at once."""
    kind = NOISES[random.integers(len(NOISES))]
    noise = random.standard_normal(fast_size(samples), dtype=np.float32)
    if kind == "pink":  # power falls with 1 / frequency
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))))
    noise = noise[:samples]
    if kind == "babble":
        noise = np.zeros(samples, dtype=np.float32)
        for index in random.integers(len(others), size=BABBLE_VOICES):
            voice = np.roll(others[index], random.integers(len(others[index])))
            noise += np.resize(voice, samples) / np.sqrt(np.mean(voice**2))
    return noise / np.sqrt(np.mean(noise**2))


def fast_size(samples: int) -> int:
    """The next power of two, where the Fourier transform is quick."""
    return 1 << (samples - 1).bit_length()


def place(
    waveform: np.ndarray, others: list[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """The clean speech (N,) in a room, with pauses, noise and its own loudness."""
    before, after = (random.uniform(*PAUSE_SECONDS, size=2) * SAMPLE_RATE).astype(int)
    placed = np.pad(waveform, (before, after))
    if random.random() < ROOM_PROBABILITY:
        placed = reverberate(placed, draw_room(random))
    speech_power = np.mean(placed[before:-after] ** 2)
    noise_gain = np.sqrt(speech_power) * 10 ** (-random.uniform(*NOISE_RATIO_DB) / 20)
    placed = placed + noise_gain * draw_noise(len(placed), others, random)
    return placed * 10 ** (random.uniform(*PEAK_DB) / 20) / np.abs(placed).max()


@dataclass(frozen=True)
class Block:
    """Utterances of one set that one process makes: numbers `first` to `first + count - 1`."""

    folder: Path
    split: str
    voices: tuple[str, ...]
    first: int
    count: int
    seed: int


def make_block(block: Block) -> list[dict[str, object]]:
    """Writes the block's audio files; its manifest rows come out."""
    random = np.random.default_rng([block.seed, SPLITS.index(block.split), block.first])
    speaker = Speaker()
    rows: list[dict[str, object]] = []
    spoken: list[np.ndarray] = []
    for number in range(block.first, block.first + block.count):
        text = draw_text(random)
        # Voices take turns, so that all speak equally often; accents are drawn.
        accent = ACCENTS[random.integers(len(ACCENTS))]
        voice = f"{accent}+{block.voices[number % len(block.voices)]}"
        rate, pitch, intonation = (
            int(random.integers(low, high + 1))
            for low, high in (WORDS_PER_MINUTE, PITCH, INTONATION)
        )
        spoken.append(speaker.say(text, voice, rate, pitch, intonation))
        name = f"{block.split}-{number:05d}"
        rows.append(
            {
                "id": name,
                "audio_filepath": f"{block.split}/{name}.wav",
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


def plan(folder: Path, utterances: int, seed: int) -> Iterator[Block]:
    """The corpus in blocks; their borders are fixed, because a block's bytes depend on them."""
    import espeakng_loader

    variants = Path(espeakng_loader.get_data_path(), "voices", "!v")
    held_out = {*DEV_VOICES, *TEST_VOICES}
    training = tuple(sorted(path.name for path in variants.iterdir() if path.name not in held_out))
    for split, voices, count in (
        ("train", training, utterances),
        ("dev", DEV_VOICES, utterances // 40),
        ("test", TEST_VOICES, utterances // 20),
    ):
        for first in range(0, count, BLOCK):
            yield Block(folder, split, voices, first, min(BLOCK, count - first), seed)


def prepare(folder: Path, utterances: int, seed: int, processes: int) -> bool:
    """Makes the corpus; False if the folder already holds it, made with the same settings.

    It is made beside its place and moved there when complete, so an interrupted run leaves nothing
    that could be taken for a corpus.
    """
    if utterances < 20:
        raise DataError(f"{utterances} utterances leave none for dev: ask for 20 or more")
    try:
        loader = importlib.metadata.version("espeakng_loader")
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            "the digits corpus is spoken by espeakng-loader, which is not installed: "
            "pip install 'asr[digits]'"
        ) from None
    settings = {
        "utterances": utterances,
        "seed": seed,
        "espeakng_loader": loader,
        "script": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    stamp = folder / "settings.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == settings:
        return False
    if folder.exists() and not stamp.is_file():
        raise DataError(f"{folder} exists and is not a digits corpus: name another with --folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    blocks = list(plan(partial, utterances, seed))
    rows: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}
    for split in rows:
        (partial / split).mkdir(parents=True)
    total = sum(block.count for block in blocks)
    # spawn and one block per process: see Speaker.
    pool = multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1)
    with pool, Bar("Speaking", total, "utterances") as bar:
        for block, made in zip(blocks, pool.imap(make_block, blocks), strict=True):
            rows[block.split] += made
            bar.advance(block.count)
    for split, made in rows.items():
        lines = (json.dumps(row) + "\n" for row in made)
        (partial / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (partial / stamp.name).write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes the digits corpus with espeak-ng voices.")
    parser.add_argument("--folder", type=Path, default=Path("data/digits"))
    parser.add_argument(
        "--utterances", type=int, default=12000, help="for training; dev 2.5 %%, test 5 %% more"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    try:
        made = prepare(arguments.folder, arguments.utterances, arguments.seed, arguments.processes)
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE
    print(f"{'made' if made else 'found'} the digits corpus in {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
