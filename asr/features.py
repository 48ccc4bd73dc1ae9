"""Log-mel features: waveform -> globally normalized log-mel frames, whole or in chunks.

A frame is `window_ms` of samples under a Hann window, its power spectrum summed by triangular mel
filters, and the logarithm of that sum:

    power[t] = |rfft(hann · samples[t·hop : t·hop + window])|²
    features[t, f] = (log(mel[f] · power[t] + floor) - mean[f]) / std[f]

Nothing is centered, padded or normalized per recording, so a frame depends on its own samples only
and streaming gives exactly the frames of the whole file. `mean` and `std` are measured once on the
training set and live in the model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.errors import AudioError, ConfigError


@dataclass
class FeaturesConfig:
    """How a waveform becomes frames. Frequencies in hertz, durations in milliseconds."""

    sample_rate: int = 16_000
    window_ms: float = 25.0
    hop_ms: float = 10.0
    mels: int = 80
    low_hz: float = 20.0
    high_hz: float = 7600.0
    floor: float = 1e-8  # added to the mel power, so that digital silence has a logarithm

    def __post_init__(self) -> None:
        if self.sample_rate <= 0:
            raise ConfigError(f"features.sample_rate is {self.sample_rate}; it must be positive.")
        if not (0 < self.hop_ms <= self.window_ms < math.inf and self.hop >= 1):
            raise ConfigError(
                f"features.hop_ms is {self.hop_ms} with a window of {self.window_ms} ms; "
                "it must hold a sample and be at most the window."
            )
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ConfigError(
                f"features.low_hz {self.low_hz} and features.high_hz {self.high_hz} must satisfy "
                f"0 <= low < high <= {self.sample_rate / 2:g}, half the sample rate."
            )
        if self.mels < 1:
            raise ConfigError(f"features.mels is {self.mels}; at least one mel bin is needed.")
        if not 0 < self.floor < math.inf:
            raise ConfigError(f"features.floor is {self.floor}; it must be above 0.")

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between the starts of two frames."""
        return round(self.sample_rate * self.hop_ms / 1000)


class LogMel(nn.Module):
    """Waveform -> normalized log-mel frames. `mean` and `std` (F,) are 0 and 1 until measured."""

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
        """How many frames `samples` samples give: only windows that are filled whole."""
        return max(0, 1 + (samples - self.config.window) // self.config.hop)

    def forward(self, waveform: Tensor) -> Tensor:
        """Features (T, F) of a waveform (N,), or (B, T, F) of (B, N); T = `frames(N)`."""
        if waveform.shape[-1] < self.config.window:
            return waveform.new_zeros(*waveform.shape[:-1], 0, self.config.mels)
        return self.read_windows(waveform.unfold(-1, self.config.window, self.config.hop))

    def read_windows(self, windows: Tensor) -> Tensor:
        """Features (..., F) of windows of samples (..., window)."""
        spectrum = torch.fft.rfft(windows * self.window, n=self.fft)  # (..., fft/2 + 1)
        power = spectrum.real.square() + spectrum.imag.square()
        log_mel = torch.log(power @ self.mel_matrix + self.config.floor)  # (..., F)
        return (log_mel - self.mean) / self.std

    def stream(self) -> "LogMelStream":
        """The same features from a waveform that arrives in pieces, see `read_features`."""
        return LogMelStream(self)

    @torch.no_grad()
    def measure(self, waveforms: Iterable[npt.NDArray[np.float32]]) -> None:
        """Set `mean` and `std` to those of all frames of `waveforms`, each (N,).

        Raises AudioError where there is not one frame to measure.
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
                "No recording is as long as one feature window, so the features' mean cannot be "
                "measured; give longer recordings."
            )
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        # A bin that never varies (above a band limit, say) keeps its scale: no division by 0.
        self.std.copy_(torch.where(variance > 1e-4, variance.sqrt(), 1.0))


class LogMelStream:
    """A waveform that arrives in pieces of any size; `read_features` makes its features."""

    def __init__(self, log_mel: LogMel) -> None:
        self.log_mel = log_mel
        self._pieces: list[npt.NDArray[np.float32]] = []
        self._samples = 0  # in them

    def accept(self, waveform: npt.NDArray[np.float32]) -> None:
        """Take the next samples (N,), which nobody may change from now on."""
        if len(waveform):
            self._pieces.append(waveform)
            self._samples += len(waveform)

    @property
    def frames(self) -> int:
        """How many frames can be read."""
        return self.log_mel.frames(self._samples)

    def take(self, frames: int) -> Tensor:
        """The windows (frames, window) of the next frames, at most as many as can be read."""
        config = self.log_mel.config
        # One long piece is read chunk by chunk and not copied for each.
        samples = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        rest = samples[frames * config.hop :]
        self._pieces, self._samples = [rest], len(rest)
        return torch.from_numpy(samples).unfold(0, config.window, config.hop)[:frames]


def read_features(streams: Sequence[LogMelStream], frames: Sequence[int]) -> Sequence[Tensor]:
    """So many next frames (T, F) of each stream, computed together, equal to `LogMel` of the whole.

    The streams, at least one, are of one `LogMel`, and hold that many.
    """
    log_mel = streams[0].log_mel
    windows = [stream.take(count) for stream, count in zip(streams, frames, strict=True) if count]
    if not windows:
        return [log_mel.mean.new_zeros(0, log_mel.config.mels)] * len(streams)
    features = log_mel.read_windows(torch.cat(windows).to(log_mel.mean.device))  # (sum of T, F)
    return torch.split(features, list(frames))


def mel_filters(config: FeaturesConfig, fft: int) -> npt.NDArray[np.float32]:
    """Triangular mel filters (F, fft/2 + 1) of equal area, on Slaney's scale.

    The scale is linear up to 1 kHz and logarithmic above (Slaney, Auditory Toolbox, 1998); the
    values are those of `librosa.filters.mel`, whose import costs almost two seconds.
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
            f"features.mels is {config.mels}, but {empty} of these filters hold no frequency of a "
            f"{fft}-point spectrum; take fewer mel bins or a longer window."
        )
    return filters.astype(np.float32)


def _hz_to_mel(hertz: float) -> float:
    if hertz < 1000:
        return hertz * 3 / 200
    return float(15 + np.log(hertz / 1000) * 27 / np.log(6.4))
