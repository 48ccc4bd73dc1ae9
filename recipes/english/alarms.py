"""Sounds without speech, in which every word that a recognizer finds is a false alarm."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from asr.audio.waveform import find_audio, load_audio
from asr.errors import DataError

FAINT_DB = -60.0  # level (RMS) of the white noise relative to full scale

Waveform = np.ndarray  # (N,) float32


def find_noises(folder: Path) -> dict[str, list[Path]]:
    """Find the recordings of each kind of noise: a file in the folder, or a folder in it.

    Raises DataError if there are none.
    """
    noises: dict[str, list[Path]] = {}
    for path in find_audio(folder):
        top = path.relative_to(folder).parts[0]
        noises.setdefault(Path(top).stem, []).append(path)
    if not noises:
        raise DataError(
            f"{folder} contains no recording of noise; run prepare.py, or specify a --noise"
        )
    return noises


def make_sounds(
    noises: dict[str, list[Path]], seconds: float, sample_rate: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the names and WAV files of sounds without speech, each of this many seconds.

    They are digital silence, faint white noise, and each kind of noise, repeated to that length.
    Raises AudioError.
    """
    samples = math.ceil(seconds * sample_rate)
    yield "digital silence", encode(np.zeros(samples, np.float32), sample_rate)
    white = 10 ** (FAINT_DB / 20) * np.random.default_rng(1).standard_normal(samples)
    yield "faint white noise", encode(white, sample_rate)
    for name, paths in noises.items():
        once = np.concatenate([load_audio(path, sample_rate) for path in paths])
        yield name.replace("_", " "), encode(np.resize(once, samples), sample_rate)


def encode(waveform: Waveform, sample_rate: int) -> bytes:
    """Encode samples (N,) as a WAV file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, waveform, sample_rate, "PCM_16", format="WAV")
    return file.getvalue()
