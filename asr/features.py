"""Log-mel features: waveform -> globally normalized log-mel frames, whole or in pieces.

A frame is a window of samples, weighted by a Hann window. Triangular mel filters sum its power
spectrum, and the frame holds the logarithms of these sums:

    power[t] = |rfft(hann · samples[t·hop : t·hop + window])|²
    features[t, f] = (log(mel[f] · power[t] + floor) - mean[f]) / std[f]

Frames are neither centered nor padded nor normalized per recording. Each depends on its own samples
only, so a stream gives exactly the frames of the whole file. `mean` and `std` are measured once on
the training set and stored in the model.

Letters in shapes: B utterances, N samples, T feature frames, F mel bins.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.errors import AudioError, ConfigError, check_number

MOST_WINDOW = 1 << 16
"""Largest number of samples of a window."""


@dataclass
class FeaturesConfig:
    """How a waveform becomes log-mel frames.

    Attributes:
        sample_rate: Samples per second of the waveforms.
        window_ms: Length of a frame in milliseconds.
        hop_ms: Milliseconds between the starts of two frames, at most `window_ms`.
        mels: Number F of mel bins.
        low_hz: Lower edge of the lowest mel filter, in hertz.
        high_hz: Upper edge of the highest mel filter, in hertz, at most half the sample rate.
        floor: Added to the mel power, so that digital silence has a logarithm.

    Raises:
        ConfigError: If a value is out of range; the message names it.

    Example:
        >>> config = FeaturesConfig(mels=40, window_ms=32.0)
        >>> config.window, config.hop
        (512, 160)
    """

    sample_rate: int = 16_000
    window_ms: float = 25.0
    hop_ms: float = 10.0
    mels: int = 80
    low_hz: float = 20.0
    high_hz: float = 7600.0
    floor: float = 1e-8

    def __post_init__(self) -> None:
        check_number("features.sample_rate", self.sample_rate, most=1_000_000, whole=True)
        check_number("features.mels", self.mels, most=1000, whole=True)
        for key in ("window_ms", "hop_ms", "low_hz", "high_hz", "floor"):
            check_number(f"features.{key}", getattr(self, key))
        if self.sample_rate <= 0:
            raise ConfigError(f"features.sample_rate is {self.sample_rate}; it must be positive")
        if not (0 < self.hop_ms <= self.window_ms < math.inf and self.hop >= 1):
            raise ConfigError(
                f"features.hop_ms is {self.hop_ms} with a window of {self.window_ms} ms; it must be "
                "at least one sample and at most the window"
            )
        if self.window > MOST_WINDOW:
            raise ConfigError(
                f"features.window_ms is {self.window_ms}, which is {self.window} samples; use at "
                f"most {MOST_WINDOW}"
            )
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ConfigError(
                f"features.low_hz is {self.low_hz} and features.high_hz {self.high_hz}; they must "
                f"satisfy 0 <= low < high <= {self.sample_rate / 2:g}, half the sample rate"
            )
        if self.mels < 1:
            raise ConfigError(f"features.mels is {self.mels}; it must be at least 1")
        if not 0 < self.floor < math.inf:
            raise ConfigError(f"features.floor is {self.floor}; it must be above 0")

    @property
    def window(self) -> int:
        """Samples per frame."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between the starts of two frames."""
        return round(self.sample_rate * self.hop_ms / 1000)


class LogMel(nn.Module):
    """Waveform (N,) -> normalized log-mel frames (T, F).

    `mean` and `std` (F,) are 0 and 1 until `measure` sets them; they are part of the state_dict.
    """

    window: Tensor
    mel_matrix: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.config = config
        self.fft = 1 << (config.window - 1).bit_length()
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        matrix = torch.from_numpy(mel_filters(config, self.fft).T.copy())  # (fft/2 + 1, F)
        self.register_buffer("mel_matrix", matrix, persistent=False)
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("std", torch.ones(config.mels))

    def frames(self, samples: int) -> int:
        """Return the number of frames T of `samples` samples; the last window must be complete."""
        return max(0, 1 + (samples - self.config.window) // self.config.hop)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the features (T, F) of a waveform (N,), or (B, T, F) of (B, N); T = frames(N)."""
        if waveform.shape[-1] < self.config.window:
            return waveform.new_zeros(*waveform.shape[:-1], 0, self.config.mels)
        return self.transform_windows(waveform.unfold(-1, self.config.window, self.config.hop))

    def transform_windows(self, windows: Tensor) -> Tensor:
        """Compute the features (..., F) of windows of samples (..., window)."""
        spectrum = torch.fft.rfft(windows * self.window, n=self.fft)  # (..., fft/2 + 1)
        power = spectrum.real.square() + spectrum.imag.square()
        log_mel = torch.log(power @ self.mel_matrix + self.config.floor)  # (..., F)
        return (log_mel - self.mean) / self.std

    def stream(self) -> "LogMelStream":
        """Start a waveform that arrives in pieces; `advance_features` computes its features."""
        return LogMelStream(self)

    @torch.no_grad()
    def fit_normalization(self, waveforms: Iterable[npt.NDArray[np.float32]]) -> None:
        """Set `mean` and `std` to those of all frames of the waveforms, each (N,).

        Raises AudioError if no waveform is as long as a window.
        """
        self.mean.zero_()
        self.std.fill_(1.0)
        count = 0
        total = torch.zeros(self.config.mels, dtype=torch.float64)
        squares = torch.zeros(self.config.mels, dtype=torch.float64)
        for waveform in waveforms:
            features = self(torch.from_numpy(waveform)).double()  # (T, F)
            count += len(features)
            total += features.sum(dim=0)
            squares += features.square().sum(dim=0)
        if count == 0:
            raise AudioError(
                "no recording is as long as one feature window, so the features' mean cannot be "
                "measured; use longer recordings"
            )
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        # A bin that never varies, such as one above a band limit, keeps its scale: dividing by its
        # tiny deviation would amplify rounding errors.
        self.std.copy_(torch.where(variance > 1e-4, variance.sqrt(), 1.0))


class LogMelStream:
    """A waveform that arrives in pieces of any size; `advance_features` computes its features."""

    def __init__(self, log_mel: LogMel) -> None:
        self.log_mel = log_mel
        self._pieces: list[npt.NDArray[np.float32]] = []
        self._samples = 0  # total length of the pieces

    def accept(self, waveform: npt.NDArray[np.float32]) -> None:
        """Take the next samples (N,). The array is not copied; the caller must not change it."""
        if len(waveform):
            self._pieces.append(waveform)
            self._samples += len(waveform)

    @property
    def frames(self) -> int:
        """Number of frames that can be read."""
        return self.log_mel.frames(self._samples)

    def take_windows(self, frames: int) -> Tensor:
        """Consume the next `frames` frames, at most `self.frames`; returns (frames, window)."""
        config = self.log_mel.config
        # A single long piece is sliced, so that reading it chunk by chunk copies nothing.
        samples = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        rest = samples[frames * config.hop :]
        self._pieces, self._samples = [rest], len(rest)
        return torch.from_numpy(samples).unfold(0, config.window, config.hop)[:frames]


def advance_features(streams: Sequence[LogMelStream], frames: Sequence[int]) -> Sequence[Tensor]:
    """Compute the next frames of every stream, all of them together.

    Args:
        streams: At least one stream, all of one `LogMel`.
        frames: How many frames to read from each stream, at most `stream.frames`.

    Returns:
        The features (T, F) of each stream, equal to those that `LogMel` gives for the whole waveform.
    """
    log_mel = streams[0].log_mel
    pairs = zip(streams, frames, strict=True)
    windows = [stream.take_windows(count) for stream, count in pairs if count]  # (T, window) each
    if not windows:
        return [log_mel.mean.new_zeros(0, log_mel.config.mels)] * len(streams)
    features = log_mel.transform_windows(torch.cat(windows).to(log_mel.mean.device))  # (sum T, F)
    return torch.split(features, list(frames))


def mel_filters(config: FeaturesConfig, fft: int) -> npt.NDArray[np.float32]:
    """Compute triangular mel filters (F, fft/2 + 1) of equal area on Slaney's mel scale.

    The scale is linear up to 1 kHz and logarithmic above: Slaney (1998), "Auditory Toolbox". The
    values equal those of `librosa.filters.mel`, which takes almost two seconds to import.
    """
    mels = np.linspace(_hz_to_mel(config.low_hz), _hz_to_mel(config.high_hz), config.mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, config.sample_rate / 2, fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.clip(np.minimum(rising, falling), 0, None)
    filters *= (2 / (edges[2:] - edges[:-2]))[:, None]
    empty = int((filters.max(axis=1) == 0).sum())
    if empty:
        raise ConfigError(
            f"features.mels is {config.mels}, but {empty} of these filters cover no frequency of a "
            f"{fft}-point spectrum; use fewer mel bins or a longer window"
        )
    return filters.astype(np.float32)


def _hz_to_mel(hertz: float) -> float:
    if hertz < 1000:
        return hertz * 3 / 200
    return float(15 + np.log(hertz / 1000) * 27 / np.log(6.4))
