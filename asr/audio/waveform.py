"""Audio in, waveforms out: any file, bytes or pipe becomes mono float32 samples at one rate.

    path | bytes | pipe --> blocks (n, channels) --> mean of the channels --> soxr --> (N,) float32

soundfile decodes wav, flac, mp3, ogg, opus, aiff, au, sph, w64, caf and others; PyAV (extra `media`)
decodes containers such as mp4, webm and ts, and AAC, AMR, WMA and others. Neither reports a recording
that is cut short, or that continues after the length in its header. Therefore what is decoded is
compared with the header and with the bytes that there are: an error is better than a sentence that
silently loses its end.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import soxr

from asr.audio.containers import AudioSource, open_recording
from asr.audio.recording import TOLERANCE_SECONDS, Block, Recording, Waveform
from asr.errors import AudioError
from asr.files import walk_files

SAMPLE_RATE = 16_000
MAX_AMPLITUDE = 1e6  # full scale is 1; valid floats may reach 32,768, damaged ones any value

CANCELED_POWER = 1e-3  # of the mean of the channels, relative to theirs
QUIET_POWER = 10**-4.5  # -45 dBFS
CLIPPED_AMPLITUDE = 0.999
CLIPPED_SHARE = 1e-3

# What is read: by libsndfile, and from the third line on by PyAV. Every other file of a folder is
# counted by `count_other_files`.
EXTENSIONS = frozenset(
    """.wav .wave .bwf .w64 .rf64 .flac .mp3 .mp2 .mpa .m2a .ogg .oga .opus .sph .nist .aiff .aif .aifc
    .au .snd .caf .voc .avr .pvf .paf .sf .svx .iff
    .m4a .m4b .m4r .m4v .mp4 .mov .qt .3gp .3g2 .f4v .webm .weba .mka .mkv .mk3d
    .aac .adts .amr .ac3 .eac3 .ec3 .wma .wmv .asf .avi .flv .ts .mts .m2ts .mpg .mpeg .vob
    .wv .tta .spx""".split()
)
# Texts that are kept beside recordings; nobody expects them to be transcribed.
TEXT_EXTENSIONS = frozenset(
    ".txt .md .rst .json .jsonl .srt .vtt .textgrid .ctm .stm .trn .lab .tsv .csv .log".split()
)


@dataclass(frozen=True)
class AudioInfo:
    """The format of a recording, before downmixing and resampling."""

    seconds: float
    sample_rate: int
    channels: int
    format: str
    subtype: str
    frames: int  # samples per channel


@dataclass(frozen=True)
class Condition:
    """What is known about a recording that was read to its end.

    Attributes:
        seconds: Its duration, as in `AudioInfo`.
        gaps: (start, end) in seconds of what is damaged and was replaced by silence.
        warnings: Sentences on what makes it hard to recognize, without their final periods.
    """

    seconds: float
    gaps: tuple[tuple[float, float], ...] = ()
    warnings: tuple[str, ...] = ()


def load_audio(
    source: AudioSource, sample_rate: int = SAMPLE_RATE, *, expected_seconds: float | None = None
) -> Waveform:
    """Load a whole recording as one waveform, the concatenation of `read_blocks`.

    Args:
        source: A path, the bytes of a file, or a binary file, which is read from its current
            position to its end and need not be seekable; a `Track` of any of these; or samples (N,)
            at `sample_rate`, float32 in -1..1 or int16.
        sample_rate: Samples per second of the result.
        expected_seconds: The duration in a manifest. A recording that differs by more than 50 ms in
            either direction is an error: if shorter, it lost speech that its transcript has; if
            longer, the manifest describes another recording and batches planned by it overflow.

    Returns:
        Mono float32 samples (N,), N >= 1, in -1..1 unless the file itself exceeds this range.

    Raises:
        AudioError: If the recording is missing, unreadable, empty, damaged, cut short or not finite.

    Example:
        >>> waveform = load_audio("docs/sample.flac")
        >>> waveform.shape, waveform.dtype
        ((69901,), dtype('float32'))
    """
    return np.concatenate(list(read_blocks(source, sample_rate, expected_seconds=expected_seconds)))


def read_blocks(
    source: AudioSource,
    sample_rate: int = SAMPLE_RATE,
    *,
    expected_seconds: float | None = None,
    on_end: Callable[[Condition], object] = lambda _: None,
    keep_damaged: bool = False,
) -> Iterator[Waveform]:
    """Yield a recording as consecutive waveforms (n,), decoded in blocks of a fixed size.

    Errors visible in the header are raised before the first block; others, such as NaN samples or a
    truncated stream, are raised when decoding reaches them.

    Args:
        source: As in `load_audio`; an open `Recording` is read once.
        sample_rate: As in `load_audio`.
        expected_seconds: As in `load_audio`.
        on_end: Called at the end with the recording's duration and condition.
        keep_damaged: Replace damaged parts by silence and report them to `on_end`, where the decoder
            can go on after them (flac, mp3, Ogg, mp4, webm); otherwise they are errors.

    Yields:
        Mono float32 samples (n,), n >= 1.

    Raises:
        AudioError: as in `load_audio`.
    """
    if isinstance(source, np.ndarray):
        waveform = to_waveform(source, sample_rate)
        if not len(waveform):
            raise AudioError("the array contains no samples; pass at least one")
        _check_seconds("the array", len(waveform) / sample_rate, expected_seconds)
        level = _Level(sample_rate)
        level.feed(waveform[:, None], waveform)
        on_end(Condition(len(waveform) / sample_rate, (), level.warn("the array")))
        yield waveform
        return
    with open_recording(source) as recording:
        resampler = Resampler(recording.sample_rate, sample_rate)
        level = _Level(recording.sample_rate)
        decoded = 0  # frames
        samples = 0
        for block in recording.blocks:  # (n, channels)
            if not keep_damaged:
                recording.check_gaps()
            mono, is_canceled = _mix_channels(block, recording, decoded)  # (n,)
            level.feed(block, mono, is_canceled)
            decoded += len(block)
            waveform = resampler.feed(mono)
            samples += len(waveform)
            if len(waveform):
                yield waveform
        if not keep_damaged:
            recording.check_gaps()
        recording.check_length(decoded, sample_rate)
        waveform = resampler.finish()
        samples += len(waveform)
        if len(waveform):
            yield waveform
        _check_seconds(recording.name, samples / sample_rate, expected_seconds)
        frames = decoded if recording.frames is None else recording.frames
        warnings = (*recording.warnings, *level.warn(recording.name))
        on_end(Condition(frames / recording.sample_rate, tuple(recording.gaps), warnings))


def _mix_channels(block: Block, recording: Recording, before: int) -> tuple[Waveform, bool]:
    """Average the channels of a block (n, channels) that follows `before` decoded frames: (n,).

    Channels that cancel each other, such as one that was recorded with inverted polarity, would
    leave silence; the loudest is taken instead, which the second result tells. Raises AudioError
    for samples that are not finite or too large.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # such samples raise an error below
        # The mean over rows is 20 times faster than block.mean(axis=1).
        mono: Waveform = np.ascontiguousarray(block.T).mean(axis=0)
        is_canceled = block.shape[1] > 1 and len(block) > 0 and _cancels(block, mono)
        if is_canceled:
            mono = np.ascontiguousarray(block[:, np.square(block).sum(axis=0).argmax()])
    finite = np.isfinite(mono)
    if not finite.all():
        seconds = (before + int(finite.argmin())) / recording.sample_rate
        raise AudioError(
            f"{recording.name} contains samples that are not finite numbers, the first at"
            f" {seconds:.3f} s; export it again"
        )
    if max(-float(mono.min(initial=0)), float(mono.max(initial=0))) > MAX_AMPLITUDE:
        raise AudioError(
            f"{recording.name} contains samples above {MAX_AMPLITUDE:,.0f}, although full scale is"
            " 1; export it again"
        )
    return mono, is_canceled


def _cancels(block: Block, mono: Waveform) -> bool:
    """Return whether the mean `mono` (n,) of the channels of a block (n, c) is nearly silent."""
    channels = float(np.mean(np.square(block)))
    return float(np.mean(np.square(mono))) < CANCELED_POWER * channels


class _Level:
    """The level of a recording, measured while it is read."""

    def __init__(self, sample_rate: int) -> None:
        self._frame = max(sample_rate // 10, 1)  # samples
        self._power = 0.0  # of the loudest frame
        self._samples = self._clipped = self._canceled = 0

    def feed(self, block: Block, mono: Waveform, is_canceled: bool = False) -> None:
        """Measure a block (n, channels) and its waveform (n,)."""
        if not len(mono):
            return
        starts = np.arange(0, len(mono), self._frame)
        lengths = np.diff(np.append(starts, len(mono)))
        energy = np.add.reduceat(np.square(mono, dtype=np.float64), starts)
        self._power = max(self._power, float((energy / np.maximum(lengths, 100)).max()))
        self._samples += len(mono)
        self._clipped += int(np.count_nonzero(np.abs(block).max(axis=1) >= CLIPPED_AMPLITUDE))
        self._canceled += len(mono) if is_canceled else 0

    def warn(self, name: str) -> tuple[str, ...]:
        """Return what a listener should know about the level."""
        warnings = []
        if self._power == 0:
            warnings.append(f"{name} is silent; check that the microphone was on")
        elif self._power < QUIET_POWER:
            warnings.append(
                f"{name} is very quiet ({10 * np.log10(self._power):.0f} dBFS in its loudest tenth of"
                " a second); record it louder if words are missing"
            )
        if self._clipped > CLIPPED_SHARE * self._samples:
            warnings.append(
                f"{name} is clipped ({100 * self._clipped / self._samples:.1f} % of its samples are at"
                " full scale); record it at a lower level if words are wrong"
            )
        if 2 * self._canceled > self._samples:
            warnings.append(
                f"{name} is silent in mono, because its channels have opposite signs; the louder one"
                " is used"
            )
        return tuple(warnings)


def _check_seconds(name: str, seconds: float, expected: float | None) -> None:
    if expected is not None and abs(seconds - expected) > TOLERANCE_SECONDS:
        raise AudioError(
            f"{name} lasts {seconds:.2f} s, but {expected:.2f} s are expected; copy it again if it"
            " was cut short, otherwise correct the manifest"
        )


def to_waveform(
    samples: npt.NDArray[Any],
    sample_rate: int,
    before: int = 0,
    name: str = "the array",
    advice: str = "check where they come from",
) -> Waveform:
    """Copy samples (N,), float32 or int16, to a float32 waveform (N,); N may be 0.

    `before` counts the earlier samples of the signal; `name` and `advice` appear in messages. Raises
    AudioError for another type or shape, and for samples that are not finite or too large.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype not in (np.float32, np.int16):
        kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise AudioError(
            f"{name} must be a NumPy array of float32 or int16, not {kind}; convert it"
        )
    if samples.ndim != 1:
        raise AudioError(
            f"samples of shape {samples.shape} are not one channel; pass an array of shape (N,)"
        )
    waveform = np.array(samples, np.float32)
    if samples.dtype == np.int16:
        waveform /= 32_768
    valid = np.abs(waveform) <= MAX_AMPLITUDE  # false for NaN too
    if not valid.all():
        seconds = (before + int(valid.argmin())) / sample_rate
        raise AudioError(
            f"{name} contains samples that are not finite numbers or are above"
            f" {MAX_AMPLITUDE:,.0f}, although full scale is 1, the first at {seconds:.3f} s; {advice}"
        )
    return waveform


def load_channels(source: AudioSource, seconds: float) -> Block:
    """Load the first seconds of a recording, all channels (n, channels), at its own sample rate.

    Raises the AudioErrors of `load_audio`, but checks only the part that is decoded.
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
        recording.check_gaps()
    return np.concatenate(blocks)[:wanted]


def inspect_audio(source: AudioSource) -> AudioInfo:
    """Return the duration and format of a recording, from its header if possible.

    If no header gives an exact length (mp3 without a Xing header, mp4, webm), the recording is
    decoded to count its samples. Raises the AudioErrors of `load_audio`, but checks only the part
    that is read.
    """
    with open_recording(source) as recording:
        frames, rate = recording.frames, recording.sample_rate
        if frames is None:
            frames = sum(len(block) for block in recording.blocks)
            recording.check_gaps()
        recording.check_length(frames)
        return AudioInfo(
            frames / rate, rate, recording.channels, recording.format, recording.subtype, frames
        )


def find_audio(
    folder: str | os.PathLike[str], on_error: Callable[[str], object] | None = None
) -> list[Path]:
    """Find all recordings in a folder and its subfolders by extension; returns a sorted list.

    Hidden files are skipped: macOS archives have metadata in `._x.wav` beside every `x.wav`. Raises
    AudioError if there is no such folder, or if a folder cannot be read; with `on_error`, that is
    called with the message of each subfolder that cannot be read instead.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder} is not a folder; use one that contains recordings")
    files = walk_files(folder, AudioError, on_error)
    return sorted(path for path in files if path.suffix.lower() in EXTENSIONS)


def count_other_files(folder: str | os.PathLike[str]) -> Counter[str]:
    """Count the files of a folder and its subfolders that `find_audio` leaves out, by extension.

    Hidden files and texts are not counted.
    """
    return Counter(
        path.suffix.lower() or "no extension"
        for path in walk_files(folder, AudioError, on_error=lambda _: None)
        if path.suffix.lower() not in EXTENSIONS | TEXT_EXTENSIONS
    )


def describe_other_files(folder: str | os.PathLike[str], counts: Counter[str]) -> str:
    """Return a sentence on what `count_other_files` counted, without its final period.

    An example: "2 files in DIR have other formats and are left out: .zip (2); convert ...".
    """
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in counts.most_common(10))
    few, many = "file in {} has another format and is", "files in {} have other formats and are"
    subject = (few if counts.total() == 1 else many).format(os.fspath(folder))
    advice = "convert recordings among them to wav or flac"
    return f"{counts.total():,} {subject} left out: {kinds}; {advice}"


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play a waveform (N,) faster (factor > 1) or slower by resampling; its pitch changes too.

    Returns exactly round(N / factor) samples. This is the speed perturbation of Ko et al. (2015),
    "Audio augmentation for speech recognition". Raises AudioError for an invalid factor.
    """
    if not 0 < factor < float("inf"):
        raise AudioError(
            f"a speed factor of {factor} is out of range; use one above 0, such as 1.1"
        )
    if factor == 1:
        return waveform
    samples = round(len(waveform) / factor)
    faster: Waveform = soxr.resample(waveform, factor, 1.0)[:samples]
    return np.pad(faster, (0, samples - len(faster)))  # soxr's length is not exact


class Resampler:
    """Changes the sample rate of one signal that arrives in pieces.

    The results of any pieces concatenate to that of a single call. The filter needs future samples,
    so part of a piece's result comes with later pieces or with `finish`. Its quality is soxr's HQ,
    whose stop band lies below the 16-bit noise floor.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._stream = (
            None
            if source_rate == target_rate
            else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
        )

    def feed(self, waveform: Waveform) -> Waveform:
        """Take the next samples (n,) and return those that are ready (m,)."""
        if self._stream is None:
            return waveform
        return cast(Waveform, self._stream.resample_chunk(waveform))

    def finish(self) -> Waveform:
        """End the signal and return the remaining samples (m,)."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._stream is None:
            return nothing
        return cast(Waveform, self._stream.resample_chunk(nothing, last=True))
