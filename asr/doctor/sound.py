"""Acoustic measurements of a recording that need no transcript.

    blocks at the file's own rate --> frames of 20 ms --> levels, silences, spectrum --> Sound

A recording is decoded once, block by block, and only numbers are kept of it. If it has several
channels, its first minute is decoded once more to compare them. Recordings are measured at their
own sample rate, because a resampler cuts off a band just as telephones and codecs do.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from asr.audio.recording import Waveform
from asr.audio.waveform import inspect_audio, load_channels, read_blocks
from asr.files import FilePath

FRAME_SECONDS = 0.02
ENVELOPE_BINS = 64
# Lowest level reported, used for digital silence.
LOWEST_DB = -120.0
# Active frames are at least ABOVE_FLOOR_DB above the noise floor and at most BELOW_LOUD_DB below
# loud speech.
ABOVE_FLOOR_DB = 6.0
BELOW_LOUD_DB = 25.0

Levels = npt.NDArray[np.float64]  # (T,) dB of full scale, one each 20 ms


class Sound(NamedTuple):
    """The measurements of one recording.

    Levels are in dB of full scale, where a square wave of amplitude 1 has 0 dB.

    Attributes:
        seconds: The duration.
        sample_rate: The sample rate of the file in Hz.
        peak: The largest amplitude.
        level: The level of the active frames in dB.
        dynamic_range: From the noise floor to loud speech in dB (10th to 95th percentile).
        dc_offset: The mean of the samples.
        clipped_share: The share of the active samples that lie on flat tops at the peak.
        crest: The amplitude that 1 in 10,000 samples exceeds, over the one that 1 in 100 exceeds.
        leading_silence: Seconds before the first active frame.
        trailing_silence: Seconds after the last active frame.
        longest_pause: Seconds of the longest silence between active frames.
        span: Seconds from the first active frame to the last.
        active: Seconds of all active frames together.
        band_limit_hz: Where the spectrum falls most steeply, which may be the edge of a band.
        band_limit_drop: How many dB everything above that edge is below the 500 Hz under it.
        mirror_correlation: The correlation of the spectrum above 4 kHz with the mirrored spectrum
            below: Near 0 in real recordings, near 1 if cheap resampling made the upper band.
        downmix_gain: The level of the mean of all channels relative to the channels, in dB; at most
            0, and 0 for a single channel.
        channel_balance: The level of the loudest channel relative to the quietest in dB.
        channel_correlation: The correlation of the first two channels; 1 for a single channel.
        content: A 64-bit hash of the decoded samples, equal for a wav file and a flac copy of it.
        envelope: (64,) The course of the level over the span, similar for another coding of it.
    """

    seconds: float
    sample_rate: int
    peak: float
    level: float
    dynamic_range: float
    dc_offset: float
    clipped_share: float
    crest: float
    leading_silence: float
    trailing_silence: float
    longest_pause: float
    span: float
    active: float
    band_limit_hz: float
    band_limit_drop: float
    mirror_correlation: float
    downmix_gain: float
    channel_balance: float
    channel_correlation: float
    content: int
    envelope: npt.NDArray[np.int8]


def measure_sound(path: FilePath) -> Sound:
    """Decode a recording and measure it. Raises AudioError if it cannot be decoded."""
    info = inspect_audio(path)
    rate = info.sample_rate
    meter = _Meter(rate)
    for block in read_blocks(path, rate):  # (n,)
        meter.feed(block)
    levels, spectrum = meter.finish()
    active, floor, loud = _find_active(levels)
    indices = np.flatnonzero(active)
    first, last = int(indices[0]), int(indices[-1])
    active_seconds = len(indices) * FRAME_SECONDS
    limit_hz, drop = find_band_limit(spectrum, rate)
    gain, balance, correlation = _compare_channels(path) if info.channels > 1 else (0.0, 0.0, 1.0)
    return Sound(
        seconds=meter.samples / rate,
        sample_rate=rate,
        peak=meter.peak,
        level=_decibels(float(np.mean(10 ** (levels[active] / 10)))),
        dynamic_range=loud - floor,
        dc_offset=meter.sum / meter.samples,
        clipped_share=meter.count_flat() / (active_seconds * rate),
        crest=meter.crest(),
        leading_silence=first * FRAME_SECONDS,
        trailing_silence=(len(levels) - 1 - last) * FRAME_SECONDS,
        longest_pause=(int(np.diff(indices).max(initial=1)) - 1) * FRAME_SECONDS,
        span=(last + 1 - first) * FRAME_SECONDS,
        active=active_seconds,
        band_limit_hz=limit_hz,
        band_limit_drop=drop,
        mirror_correlation=meter.mirror_correlation(),
        downmix_gain=gain,
        channel_balance=balance,
        channel_correlation=correlation,
        content=int.from_bytes(meter.hash.digest(), "little"),
        envelope=_shape(levels[first : last + 1], loud),
    )


def find_band_limit(spectrum: npt.NDArray[np.float64], sample_rate: int) -> tuple[float, float]:
    """The frequency in Hz above which the spectrum falls most steeply, and by how many dB it falls.

    Speech falls by a few dB in 500 Hz. At the band limit of telephones, codecs and resamplers the
    spectrum falls by 40 dB or more, and stays down above it.

    Args:
        spectrum: (bins,) The mean power at equally spaced frequencies up to half the sample rate.
        sample_rate: The sample rate in Hz.
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
    """The correlation (n,) of each envelope in `first` (n, 64) with the one in `second` (n, 64)."""
    a = first - first.mean(axis=-1, keepdims=True, dtype=np.float64)
    b = second - second.mean(axis=-1, keepdims=True, dtype=np.float64)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    correlation: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / np.maximum(scale, 1e-9)
    return correlation


# The histogram of amplitudes has this many bins up to full scale, and ends at twice full scale,
# which lossy codecs overshoot.
AMPLITUDE_BINS = 4096
HIGHEST_AMPLITUDE = 2.0
# Three samples in a row form a flat top if all reach the first share of their block's peak. It
# counts as clipping if that peak reaches the second share of the recording's peak.
FLAT_TOP_SHARE = 0.99
HIGH_BLOCK_SHARE = 0.98
# Cheap resampling of telephone speech mirrors the spectrum around half of the telephone's sample
# rate. The bins this far below and above it are compared; they are 150 to 1,650 Hz away.
FOLD_HZ = 4000.0
FOLD_BINS = range(3, 33)


class _Meter:
    """Accumulates measurements over the blocks of a recording."""

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
        self._amplitudes = np.zeros(round(HIGHEST_AMPLITUDE * AMPLITUDE_BINS) + 1, np.int64)
        # For each pair of mirrored bins: sums of x, y, xy, x^2 and y^2 over the frames.
        self._mirror_sums = np.zeros((5, len(FOLD_BINS)))
        self._mirror_frames = 0
        # For each block: its peak, and the number of its samples that lie on flat tops.
        self._flat_tops: list[tuple[float, int]] = []

    def feed(self, block: Waveform) -> None:
        """Add the next samples (n,) of the recording."""
        amplitudes = np.abs(block)
        peak = float(amplitudes.max())
        high = amplitudes >= FLAT_TOP_SHARE * peak
        flat = int((high[2:] & high[1:-1] & high[:-2]).sum()) if peak else 0
        self._flat_tops.append((peak, flat))
        self.peak = max(self.peak, peak)
        self.samples += len(block)
        self.sum += float(block.sum(dtype=np.float64))
        bins = (np.minimum(amplitudes, HIGHEST_AMPLITUDE) * AMPLITUDE_BINS).astype(np.int32)
        self._amplitudes += np.bincount(bins, minlength=len(self._amplitudes))
        # Samples are hashed as 16 bits, so that the rounding of other file formats does not matter.
        self.hash.update(np.rint(np.clip(block, -1, 1) * 32_767).astype("<i2").tobytes())
        joined = np.concatenate((self._rest, block))
        whole = len(joined) // self.hop * self.hop
        self._rest = joined[whole:]
        self._measure(joined[:whole].reshape(-1, self.hop))

    def _measure(self, frames: npt.NDArray[np.float32]) -> None:  # (T, hop)
        # The mean is subtracted from the power, because direct current is not audible.
        means = frames.mean(axis=1, dtype=np.float64)
        squares = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)
        self._powers.append(np.maximum(squares / self.hop - means**2, 0.0))
        bins = np.fft.rfft(frames * self.window, axis=1)
        powers = bins.real**2 + bins.imag**2  # (T, bins)
        self._spectrum += powers.sum(axis=0, dtype=np.float64)
        self._compare_bands(powers)

    def _compare_bands(self, powers: npt.NDArray[np.floating]) -> None:
        """Add the sums for the correlation of the bands above and below 4 kHz in loud frames."""
        fold = round(FOLD_HZ * FRAME_SECONDS)  # The bins are 1 / FRAME_SECONDS Hz apart.
        if not len(powers) or powers.shape[1] <= fold + FOLD_BINS.stop:
            return
        sums = powers.sum(axis=1)
        loud = sums > 10 ** (-BELOW_LOUD_DB / 10) * np.percentile(sums, 95)
        steps = np.array(FOLD_BINS)
        bands = (powers[loud][:, places] for places in (fold - steps, fold + steps))
        logs = (np.log(band + 1e-12).astype(np.float64) for band in bands)
        # The mean is subtracted, so that the loudness of a frame does not count as correlation.
        below, above = (log - log.mean(axis=1, keepdims=True) for log in logs)
        parts = (below, above, below * above, below**2, above**2)
        self._mirror_sums += [part.sum(axis=0) for part in parts]
        self._mirror_frames += len(below)

    def mirror_correlation(self) -> float:
        """The correlation of the two bands over the loud frames; 0 if there are none."""
        x, y, xy, xx, yy = self._mirror_sums
        n = max(self._mirror_frames, 1)
        shared = float((xy - x * y / n).sum())
        scale = float((xx - x * x / n).sum()) * float((yy - y * y / n).sum())
        return float(shared / np.sqrt(max(scale, 1e-12)))

    def finish(self) -> tuple[Levels, npt.NDArray[np.float64]]:
        """The levels (T,) of all frames, at least one, and the mean power spectrum (bins,)."""
        if self.samples < self.hop:
            self._measure(np.pad(self._rest, (0, self.hop - self.samples))[None])
        powers = np.concatenate(self._powers)
        levels = 10 * np.log10(np.maximum(powers, 10 ** (LOWEST_DB / 10)))
        return levels, self._spectrum / len(powers) / self.hop**2

    def count_flat(self) -> int:
        """The number of samples on flat tops that are as high as the recording's peak."""
        lowest = HIGH_BLOCK_SHARE * self.peak
        return sum(count for peak, count in self._flat_tops if peak >= lowest)

    def crest(self) -> float:
        """The amplitude that 1 in 10,000 samples exceeds, divided by the one that 1 in 100 does."""
        counts = self._amplitudes.copy()
        # Samples below -60 dB are left out, so that the length of silences does not matter.
        counts[: AMPLITUDE_BINS // 1000] = 0
        parts = np.cumsum(counts) / max(counts.sum(), 1)
        high, low = np.searchsorted(parts, (0.9999, 0.99))
        return float((high + 0.5) / (low + 0.5))


# The level of a frame is the median over this many, so that neither clicks nor the fluctuation of
# noise interrupt a silence.
SMOOTHED_FRAMES = 5
# If this many frames, as many as the shortest word has, are louder than the 95th percentile by this
# many dB, they are the loud speech: a percentile misses a single word in half a minute.
BURST_FRAMES = 10
BURST_DB = 10.0


def _find_active(levels: Levels) -> tuple[npt.NDArray[np.bool_], float, float]:
    """Which frames are active (T,), and the levels of the noise floor and of loud speech in dB.

    Active frames are clearly above the noise floor, and not far below loud speech.
    """
    floor, loud = map(float, np.percentile(levels, (10, 95)))
    padded = np.pad(levels, SMOOTHED_FRAMES // 2, mode="edge")
    smooth = np.median(sliding_window_view(padded, SMOOTHED_FRAMES), axis=1)  # (T,)
    burst = float(np.sort(smooth)[-min(BURST_FRAMES, len(smooth))])
    if burst - loud >= BURST_DB:
        loud = burst
    threshold = max(loud - BELOW_LOUD_DB, min(floor + ABOVE_FLOOR_DB, loud - ABOVE_FLOOR_DB))
    # The loudest frame is always active.
    return smooth > min(threshold, float(smooth.max()) - 1e-6), floor, loud


def _shape(levels: Levels, loud: float) -> npt.NDArray[np.int8]:
    """Levels relative to loud speech, averaged over each of 64 equal parts of their time."""
    relative = np.clip(levels - loud, -BELOW_LOUD_DB, BELOW_LOUD_DB)
    sums = np.concatenate(([0.0], np.cumsum(relative)))
    edges = np.linspace(0, len(relative), ENVELOPE_BINS + 1)
    means = np.diff(np.interp(edges, np.arange(len(sums)), sums)) * ENVELOPE_BINS / len(relative)
    return np.rint(means).astype(np.int8)


def _compare_channels(path: FilePath) -> tuple[float, float, float]:
    """The downmix gain, balance and correlation of the channels in the first minute."""
    samples = load_channels(path, 60.0)  # (n, channels)
    powers = np.einsum("ij,ij->j", samples, samples, dtype=np.float64)
    if not powers.any():
        return 0.0, 0.0, 1.0
    mean = samples.mean(axis=1, dtype=np.float64)
    gain = _decibels(float(mean @ mean)) - _decibels(float(powers.mean()))
    balance = _decibels(float(powers.max())) - _decibels(float(powers.min()))
    product = float(np.einsum("i,i->", samples[:, 0], samples[:, 1], dtype=np.float64))
    correlation = product / max(float(np.sqrt(powers[0] * powers[1])), 1e-12)
    return min(gain, 0.0), balance, correlation


def _decibels(power: float) -> float:
    return float(10 * np.log10(max(power, 10 ** (LOWEST_DB / 10))))
