"""What can be measured of a recording without knowing what is said in it.

    blocks at the file's own rate --> frames of 20 ms --> levels, silences, spectrum --> Sound

A recording is decoded once, block by block, and nothing of it is kept but numbers; one with several
channels is decoded once more to compare them. The file's own rate matters: after resampling, the
band that a telephone or a codec has taken away cannot be told from what the resampler has.
"""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from asr.audio.containers import Waveform
from asr.audio.waveform import inspect_audio, load_channels, read_blocks

FRAME_SECONDS = 0.02
ENVELOPE_BINS = 64
SILENCE_DB = -120.0  # what digital silence counts as
# Frames are active above the noise floor (10th percentile of the levels) by this, and within this
# of the loud ones (95th percentile).
ABOVE_FLOOR_DB = 6.0
BELOW_LOUD_DB = 25.0
SMOOTHED_FRAMES = 5
BURST_FRAMES, BURST_DB = 10, 10.0  # as long as the shortest word, as far above all else
AMPLITUDE_STEPS = 4096  # of the histogram of amplitudes, up to 1
LARGEST_AMPLITUDE = 2.0  # lossy codecs overshoot full scale
FLAT_TOP_PART = 0.99  # X
FOLD_HZ = 4000.0  # half the rate of a telephone: around it cheap resampling mirrors the spectrum
FOLD_BINS = range(3, 33)  # from there, both ways, which are compared: 150 to 1,650 Hz
COMPARED_SECONDS = 60.0  # of a recording with several channels
TOP_PART = 0.98  # of the recording's peak: blocks that reach it are looked at for flat tops

FilePath = str | os.PathLike[str]
Levels = npt.NDArray[np.float64]  # (T,) dB of full scale, one each 20 ms


@dataclass(frozen=True, slots=True)
class Sound:
    """Numbers about one recording. Levels are in dB of full scale: 0 is the power of a square wave.

    `lead`, `trail` and `pause` are silences in seconds: before the first active frame, after the
    last, the longest between. `span` is from the first active frame to the last, `active` their sum.
    """

    seconds: float
    sample_rate: int  # of the file
    channels: int
    peak: float  # largest amplitude
    level: float  # dB, of the active frames
    dynamic_range: float  # dB, from the noise floor (10th percentile) to loud frames (95th)
    dc_offset: float  # mean amplitude: 0 unless there is direct current
    clipped_share: (
        float  # part of the active samples that lie on flat tops, as clipping leaves them
    )
    crest: float  # amplitude that 1 in 10,000 samples exceeds, over what 1 in 100 exceeds
    leading_silence: float
    trailing_silence: float
    longest_pause: float
    span: float
    active: float
    band_limit_hz: (
        float  # the upper edge of the band; half the sample rate where nothing is cut off
    )
    band_limit_drop: float  # dB by which all above the edge lies below the 500 Hz under it
    mirror_correlation: (
        float  # how the spectrum above 4 kHz follows that below, mirrored: real sound 0, an image 1
    )
    downmix_gain: float  # dB that the mean of the channels has lost against them; 0 for one channel
    channel_balance: float  # dB between the loudest and the quietest channel
    channel_correlation: float  # correlation of the first two channels
    content: int  # 64-bit hash of the decoded samples: equal for a wav and the flac made of it
    envelope: npt.NDArray[np.int8]  # (64,) levels over the span: close for another coding of it


def measure_sound(path: FilePath) -> Sound:
    """Decode a recording and measure it. Raises the AudioErrors of `asr.audio.load_audio`."""
    info = inspect_audio(path)
    rate = info.sample_rate
    meter = _Meter(rate)
    for block in read_blocks(path, rate):  # (n,)
        meter.feed(block)
    levels, spectrum = meter.finish()
    activity = _Activity(levels)
    first, last = activity.first, activity.last
    limit_hz, cliff = find_band_limit(spectrum, rate)
    fading, balance, likeness = _compare_channels(path) if info.channels > 1 else (0.0, 0.0, 1.0)
    active = activity.count * FRAME_SECONDS
    return Sound(
        seconds=meter.samples / rate,
        sample_rate=rate,
        channels=info.channels,
        peak=meter.peak,
        level=_decibels(float(np.mean(10 ** (levels[activity.frames] / 10)))),
        dynamic_range=activity.loud - activity.floor,
        dc_offset=meter.sum / meter.samples,
        clipped_share=meter.count_flat() / (active * rate),
        crest=meter.crest(),
        leading_silence=first * FRAME_SECONDS,
        trailing_silence=(len(levels) - 1 - last) * FRAME_SECONDS,
        longest_pause=activity.longest_pause * FRAME_SECONDS,
        span=(last + 1 - first) * FRAME_SECONDS,
        active=active,
        band_limit_hz=limit_hz,
        band_limit_drop=cliff,
        mirror_correlation=meter.image(),
        downmix_gain=fading,
        channel_balance=balance,
        channel_correlation=likeness,
        content=int.from_bytes(meter.hash.digest(), "little"),
        envelope=_shape(levels[first : last + 1], activity.loud),
    )


def find_band_limit(spectrum: npt.NDArray[np.float64], sample_rate: int) -> tuple[float, float]:
    """Where a band ends, in Hz, and how deep the cliff is, in dB.

    `spectrum` (bins,) is the mean power up to half the sample rate. Speech falls by some dB in 500
    Hz; telephones, codecs and resamplers by 40 or more, and nothing above comes up again.
    """
    decibels = 10 * np.log10(np.maximum(spectrum, 1e-16))
    bins = len(decibels)
    hz = sample_rate / 2 / max(bins - 1, 1)
    below, above = round(500 / hz), round(300 / hz)
    edges = np.arange(round(1500 / hz), bins - above)
    if not len(edges):
        return sample_rate / 2, 0.0
    sums = np.concatenate(([0.0], np.cumsum(decibels)))
    highest_above = np.maximum.accumulate(decibels[::-1])[::-1]
    drops = (sums[edges] - sums[edges - below]) / below - highest_above[edges + above]
    edge = int(drops.argmax())
    return float(edges[edge] * hz), float(drops[edge])


def envelope_correlation(
    first: npt.NDArray[Any], second: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """The correlation (n,) of each of the envelopes `first` (n, 64) with that in `second` (n, 64)."""
    a = first - first.mean(axis=-1, keepdims=True, dtype=np.float64)
    b = second - second.mean(axis=-1, keepdims=True, dtype=np.float64)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    correlation: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / np.maximum(scale, 1e-9)
    return correlation


class _Meter:
    """What is summed up over the blocks of a recording."""

    def __init__(self, sample_rate: int) -> None:
        self.hop = round(sample_rate * FRAME_SECONDS)
        self.window = np.hanning(self.hop + 1)[:-1].astype(np.float32)
        self.samples = 0
        self.sum = 0.0
        self.peak = 0.0
        self.hash = hashlib.blake2b(digest_size=8)
        self._rest = np.zeros(0, np.float32)
        self._powers: list[npt.NDArray[np.float64]] = []
        self._spectrum = np.zeros(self.hop // 2 + 1)
        self._amplitudes = np.zeros(round(LARGEST_AMPLITUDE * AMPLITUDE_STEPS) + 1, np.int64)
        self._image = np.zeros((5, len(FOLD_BINS)))  # sums for the correlation of two bands
        self._image_frames = 0
        self._flat: list[tuple[float, int]] = []  # of each block: its peak, samples on flat tops

    def feed(self, block: Waveform) -> None:
        sizes = np.abs(block)
        peak = float(sizes.max())
        runs = sizes >= FLAT_TOP_PART * peak
        self._flat.append((peak, int((runs[2:] & runs[1:-1] & runs[:-2]).sum()) if peak else 0))
        self.peak = max(self.peak, peak)
        self.samples += len(block)
        self.sum += float(block.sum(dtype=np.float64))
        steps = (np.minimum(sizes, LARGEST_AMPLITUDE) * AMPLITUDE_STEPS).astype(np.int32)
        self._amplitudes += np.bincount(steps, minlength=len(self._amplitudes))
        # As 16 bits: what another file format rounds differently is still the same recording.
        self.hash.update(np.rint(np.clip(block, -1, 1) * 32_767).astype("<i2").tobytes())
        joined = np.concatenate((self._rest, block))
        whole = len(joined) // self.hop * self.hop
        self._rest = joined[whole:]
        self._measure(joined[:whole].reshape(-1, self.hop))

    def _measure(self, frames: npt.NDArray[np.float32]) -> None:  # (T, hop)
        means = frames.mean(axis=1, dtype=np.float64)
        # Without the direct current, which is no sound.
        squares = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)
        self._powers.append(np.maximum(squares / self.hop - means**2, 0.0))
        bins = np.fft.rfft(frames * self.window, axis=1)
        powers = bins.real**2 + bins.imag**2  # (T, bins)
        self._spectrum += powers.sum(axis=0, dtype=np.float64)
        self._compare_bands(powers)

    def _compare_bands(self, powers: npt.NDArray[np.floating]) -> None:
        """Add up how loud frames' spectra above 4 kHz and below, mirrored, go together."""
        fold = round(FOLD_HZ * FRAME_SECONDS)  # bins lie 1 / FRAME_SECONDS apart
        if not len(powers) or powers.shape[1] <= fold + FOLD_BINS.stop:
            return
        sums = powers.sum(axis=1)
        loud = sums > 10 ** (-BELOW_LOUD_DB / 10) * np.percentile(sums, 95)
        steps = np.array(FOLD_BINS)
        below, above = (
            np.log(powers[loud][:, places] + 1e-12).astype(np.float64)
            for places in (fold - steps, fold + steps)
        )
        below -= below.mean(axis=1, keepdims=True)  # loudness alone is no likeness
        above -= above.mean(axis=1, keepdims=True)
        parts = (below, above, below * above, below**2, above**2)
        self._image += [part.sum(axis=0) for part in parts]
        self._image_frames += len(below)

    def image(self) -> float:
        """The correlation of the two bands over the loud frames; 0 where there are none."""
        x, y, xy, xx, yy = self._image
        n = max(self._image_frames, 1)
        shared = float((xy - x * y / n).sum())
        scale = float((xx - x * x / n).sum()) * float((yy - y * y / n).sum())
        return float(shared / np.sqrt(max(scale, 1e-12)))

    def finish(self) -> tuple[Levels, npt.NDArray[np.float64]]:
        """The levels (T,) of all frames, at least one, and the mean power spectrum (bins,)."""
        if self.samples < self.hop:
            self._measure(np.pad(self._rest, (0, self.hop - self.samples))[None])
        powers = np.concatenate(self._powers)
        levels = 10 * np.log10(np.maximum(powers, 10 ** (SILENCE_DB / 10)))
        return levels, self._spectrum / len(powers) / self.hop**2

    def count_flat(self) -> int:
        """Samples on flat tops as high as the recording's peak."""
        return sum(count for peak, count in self._flat if peak >= TOP_PART * self.peak)

    def crest(self) -> float:
        counts = self._amplitudes.copy()
        counts[: AMPLITUDE_STEPS // 1000] = 0  # below -60 dB: how long it is silent does not matter
        parts = np.cumsum(counts) / max(counts.sum(), 1)
        high, low = np.searchsorted(parts, (0.9999, 0.99))
        return float((high + 0.5) / (low + 0.5))


class _Activity:
    """Which frames are active: clearly above the noise, and not far below what is loud.

    Levels are the median of five frames, so that neither clicks nor the noise's own ups and downs
    interrupt a silence. Where the loud ones are too few for their percentile, as one word in half a
    minute, they are what is louder than all else.
    """

    def __init__(self, levels: Levels) -> None:
        self.floor, self.loud = map(float, np.percentile(levels, (10, 95)))
        padded = np.pad(levels, SMOOTHED_FRAMES // 2, mode="edge")
        smooth = np.median(sliding_window_view(padded, SMOOTHED_FRAMES), axis=1)  # (T,)
        burst = float(np.sort(smooth)[-min(BURST_FRAMES, len(smooth))])
        if burst - self.loud >= BURST_DB:
            self.loud = burst
        near_floor = min(self.floor + ABOVE_FLOOR_DB, self.loud - ABOVE_FLOOR_DB)
        threshold = max(self.loud - BELOW_LOUD_DB, near_floor)
        self.frames = smooth > min(threshold, float(smooth.max()) - 1e-6)  # never none
        indices = np.flatnonzero(self.frames)
        self.first, self.last = int(indices[0]), int(indices[-1])
        self.count = len(indices)
        self.longest_pause = int(np.diff(indices).max(initial=1)) - 1


def _shape(levels: Levels, loud: float) -> npt.NDArray[np.int8]:
    """Levels, relative to what is loud, averaged into 64 equal parts of their time."""
    relative = np.clip(levels - loud, -BELOW_LOUD_DB, BELOW_LOUD_DB)
    sums = np.concatenate(([0.0], np.cumsum(relative)))
    edges = np.linspace(0, len(relative), ENVELOPE_BINS + 1)
    means = np.diff(np.interp(edges, np.arange(len(sums)), sums)) * ENVELOPE_BINS / len(relative)
    return np.rint(means).astype(np.int8)


def _compare_channels(path: FilePath) -> tuple[float, float, float]:
    """`fading`, `balance` and `likeness` of the first minute."""
    samples = load_channels(path, COMPARED_SECONDS)  # (n, channels)
    powers = np.einsum("ij,ij->j", samples, samples, dtype=np.float64)
    if not powers.any():
        return 0.0, 0.0, 1.0
    mean = samples.mean(axis=1, dtype=np.float64)
    fading = _decibels(float(mean @ mean)) - _decibels(float(powers.mean()))
    balance = _decibels(float(powers.max())) - _decibels(float(powers.min()))
    product = float(np.einsum("i,i->", samples[:, 0], samples[:, 1], dtype=np.float64))
    likeness = product / max(float(np.sqrt(powers[0] * powers[1])), 1e-12)
    return min(fading, 0.0), balance, likeness


def _decibels(power: float) -> float:
    return float(10 * np.log10(max(power, 10 ** (SILENCE_DB / 10))))
