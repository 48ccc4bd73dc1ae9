"""Audio in, waveforms out: any file, bytes or pipe becomes mono float32 samples at one rate.

    path | bytes | pipe --> blocks (n, channels) --> mean of the channels --> soxr --> (N,) float32

soundfile decodes (wav, flac, mp3, ogg, opus, aiff, au, sph, w64, caf, ...); PyAV decodes what lies
in an mp4 or webm container (extra `media`). Both return a recording that was cut short without an
error, so what a header promises is compared here with what is there: better refuse a file than
lose the end of a sentence silently.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import soxr

from asr.audio.containers import TOLERANCE_SECONDS, AudioSource, Waveform, open_recording
from asr.audio.mp3 import Block
from asr.errors import AudioError

SAMPLE_RATE = 16_000
LOUDEST = 1e6  # times full scale: floats of another scale may be 32,768, damaged ones anything

# fmt: off
EXTENSIONS = frozenset((
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".sph", ".nist",
    ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf",
    ".m4a", ".m4b", ".mp4", ".mov", ".webm", ".mka", ".mkv",  # by PyAV
))


@dataclass(frozen=True)
class AudioInfo:
    """What a recording is before downmixing and resampling; `frames` are samples per channel."""

    seconds: float
    sample_rate: int
    channels: int
    format: str
    subtype: str
    frames: int


def load_audio(
    source: AudioSource,
    sample_rate: int = SAMPLE_RATE,
    *,
    expected_seconds: float | None = None,
) -> Waveform:
    """The whole recording as one waveform: exactly the concatenation of `read_blocks`.

    Args:
        source: a path, the bytes of a file, or a binary file, which is read from where it stands to
            its end and need not be seekable; or samples (N,) at `sample_rate`, float32 in -1..1 or
            int16.
        sample_rate: samples per second of the result.
        expected_seconds: the duration that a manifest states. A recording that differs by more than
            50 ms in either direction is refused: shorter, it lost speech that its transcript has;
            longer, the manifest describes another recording and batches planned by it overflow.

    Returns:
        Float32 samples (N,), mono, in -1..1 unless the file itself goes beyond; never empty.

    Raises:
        AudioError: the recording is missing, unreadable, empty, damaged, cut short or not finite.
    """
    return np.concatenate(list(read_blocks(source, sample_rate, expected_seconds=expected_seconds)))


def read_blocks(
    source: AudioSource,
    sample_rate: int = SAMPLE_RATE,
    *,
    expected_seconds: float | None = None,
    on_end: Callable[[float], object] | None = None,
) -> Iterator[Waveform]:
    """The recording as consecutive waveforms (n,), decoded in blocks of one fixed size.

    What a header alone reveals is refused before the first block, what only decoding reveals (NaN,
    a stream that ends early) where it is met. Arguments, units and errors: see `load_audio`; a
    source may also be an open recording, which is read once. `on_end` is called at the end with the
    duration that `inspect_audio` gives, in seconds.
    """
    if isinstance(source, np.ndarray):
        waveform = to_waveform(source, sample_rate)
        if not len(waveform):
            raise AudioError("the array holds no samples; give it some")
        _check_seconds("the array", len(waveform) / sample_rate, expected_seconds)
        if on_end:
            on_end(len(waveform) / sample_rate)
        yield waveform
        return
    with open_recording(source) as recording:
        resampler = Resampler(recording.sample_rate, sample_rate)
        decoded = 0  # frames
        samples = 0
        for block in recording.blocks:  # (n, channels)
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                # channel by channel: 20 times faster than block.mean(axis=1)
                mono = np.ascontiguousarray(block.T).mean(axis=0)
            finite = np.isfinite(mono)
            if not finite.all():
                seconds = (decoded + int(finite.argmin())) / recording.sample_rate
                raise AudioError(
                    f"{recording.name} holds samples that are not finite numbers, the first at"
                    f" {seconds:.3f} s; export it again"
                )
            if max(-float(mono.min(initial=0)), float(mono.max(initial=0))) > LOUDEST:
                raise AudioError(
                    f"{recording.name} holds samples of more than {LOUDEST:,.0f} where 1 is full"
                    " scale; export it again"
                )
            decoded += len(block)
            waveform = resampler.feed(mono)
            samples += len(waveform)
            if len(waveform):
                yield waveform
        recording.check_length(decoded, sample_rate)
        waveform = resampler.finish()
        samples += len(waveform)
        if len(waveform):
            yield waveform
        _check_seconds(recording.name, samples / sample_rate, expected_seconds)
        if on_end:
            frames = decoded if recording.frames is None else recording.frames
            on_end(frames / recording.sample_rate)


def _check_seconds(name: str, seconds: float, expected: float | None) -> None:
    if expected is not None and abs(seconds - expected) > TOLERANCE_SECONDS:
        raise AudioError(
            f"{name} lasts {seconds:.2f} s where {expected:.2f} s are expected; copy it again if it"
            " was cut short, or else correct the manifest"
        )


def to_waveform(
    samples: npt.NDArray[Any],
    sample_rate: int,
    before: int = 0,
    name: str = "the array",
    advice: str = "look where they come from",
) -> Waveform:
    """Samples (N,), float32 or int16, as a waveform in memory of its own; N may be 0.

    `before` samples of the signal came before; `name` and `advice` are for messages. Raises
    AudioError for another type or shape, and for samples that are not finite or beyond all reason.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype not in (np.float32, np.int16):
        kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise AudioError(f"{name} must be a NumPy array of float32 or int16, not {kind}")
    if samples.ndim != 1:
        raise AudioError(
            f"samples of shape {samples.shape} are not one channel: give an array of shape (N,)"
        )
    waveform = np.array(samples, np.float32)
    if samples.dtype == np.int16:
        waveform /= 32_768
    sound = np.abs(waveform) <= LOUDEST  # false for NaN too
    if not sound.all():
        seconds = (before + int(sound.argmin())) / sample_rate
        raise AudioError(
            f"{name} holds samples that are not finite numbers, or of more than {LOUDEST:,.0f} where"
            f" 1 is full scale, the first at {seconds:.3f} s; {advice}"
        )
    return waveform


def load_channels(source: AudioSource, seconds: float) -> Block:
    """The first seconds of a recording as they are in the file: (n, channels), at its own rate.

    Raises the AudioErrors of `load_audio` that are met until then.
    """
    blocks, frames = [], 0
    with open_recording(source) as recording:
        wanted = round(seconds * recording.sample_rate)
        for block in recording.blocks:
            blocks.append(block)
            frames += len(block)
            if frames >= wanted:
                break
        else:
            recording.check_length(frames)
    return np.concatenate(blocks)[:wanted]


def inspect_audio(source: AudioSource) -> AudioInfo:
    """Duration and format of a recording from its header, in the units of the file itself.

    Where no header states a length (mp3 without a Xing header, mp4, webm) the recording is decoded
    to count its samples. Raises the AudioErrors of `load_audio` that a header alone reveals.
    """
    with open_recording(source) as recording:
        frames = recording.frames
        if frames is None:
            frames = sum(len(block) for block in recording.blocks)
        recording.check_length(frames)
        return AudioInfo(
            seconds=frames / recording.sample_rate,
            sample_rate=recording.sample_rate,
            channels=recording.channels,
            format=recording.format,
            subtype=recording.subtype,
            frames=frames,
        )


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """All recordings in a folder and below, sorted, known by their extension in any case.

    Hidden files are left out: macOS archives hold a `._x.wav` of metadata beside each `x.wav`.
    Raises AudioError where there is no such folder; the list may be empty.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder} is not a folder; name one that holds recordings")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play faster (factor > 1) or slower by resampling: tempo and pitch change together.

    Returns exactly round(N / factor) samples for N; speed perturbation as in Ko et al. 2015,
    "Audio augmentation for speech recognition". Raises AudioError for a factor of 0 or below.
    """
    if not 0 < factor < float("inf"):
        raise AudioError(
            f"a speed factor of {factor} is impossible; choose one above 0, such as 1.1"
        )
    if factor == 1:
        return waveform
    samples = round(len(waveform) / factor)
    faster: Waveform = soxr.resample(waveform, factor, 1.0)[:samples]
    return np.pad(faster, (0, samples - len(faster)))  # soxr promises no exact length


class Resampler:
    """Changes the sample rate of one signal that arrives in pieces.

    Whatever the pieces, their results join to what one call would give. The filter looks ahead, so
    a piece's result comes in part with later pieces or with `finish`, which ends the signal.
    Quality: soxr HQ, whose stop band lies below the 16-bit noise floor.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._stream = (
            None
            if source_rate == target_rate
            else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
        )

    def feed(self, waveform: Waveform) -> Waveform:
        """The samples (m,) that became certain with the samples (n,) of `waveform`."""
        if self._stream is None:
            return waveform
        return cast(Waveform, self._stream.resample_chunk(waveform))

    def finish(self) -> Waveform:
        """The samples (m,) that were still waiting for their future; the signal ends here."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._stream is None:
            return nothing
        return cast(Waveform, self._stream.resample_chunk(nothing, last=True))
