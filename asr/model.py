"""The acoustic model: log-mel features, the stacked encoder, and a linear CTC head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.features import FeaturesConfig, LogMel
from asr.lstm import Encoder, EncoderConfig, State


@dataclass(frozen=True)
class Emissions:
    """What the model says at each encoder frame.

    log_probs: (B, T', V) float32, normalised over V; symbol 0 is the blank.
    lengths: (B,) valid frames of each utterance.
    """

    log_probs: Tensor
    lengths: Tensor


class AcousticModel(nn.Module):
    """Features -> `Emissions`. `features` makes them from waveforms, globally normalised."""

    def __init__(
        self, features: FeaturesConfig, encoder: EncoderConfig, vocabulary_size: int
    ) -> None:
        super().__init__()
        self.features = LogMel(features)
        self.encoder = Encoder(encoder, features.mels)
        self.head = nn.Linear(encoder.width, vocabulary_size)

    @property
    def frame_seconds(self) -> float:
        """Seconds of audio per encoder frame."""
        config = self.features.config
        return self.encoder.config.stack * config.hop / config.sample_rate

    def frames(self, samples: int) -> int:
        """Encoder frames T' of a recording of so many samples."""
        return self.encoder.frames(self.features.frames(samples))

    def forward(self, features: Tensor, lengths: Tensor) -> Emissions:
        """Features (B, T, F), of which the first `lengths` (B,) frames are valid -> `Emissions`."""
        x, lengths, _ = self.encoder(features, lengths)  # (B, T', H)
        return Emissions(self._log_probs(x), lengths)

    @torch.inference_mode()
    def emit(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Emissions:
        """`Emissions` of recordings, each (N,) at the model's sample rate, as one ragged batch."""
        device = self.head.weight.device
        features = [self.features(torch.from_numpy(w).to(device)) for w in waveforms]  # (T, F) each
        lengths = torch.tensor([len(f) for f in features], device=device)
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)  # (B, T, F)
        emissions: Emissions = self(padded, lengths)
        return emissions

    def stream(self) -> "EmissionStream":
        """The same log-probs from a waveform that arrives in pieces; ConfigError: bidirectional."""
        self.encoder.require_forward()
        return EmissionStream(self)

    def _log_probs(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.head(x).float(), dim=-1)  # (B, T', V)


class EmissionStream:
    """Log-probs of one recording that arrives in pieces; equal to the model's on the whole of it.

    What is carried between pieces: samples of an incomplete window, feature frames of an incomplete
    stack, and each layer's memory.
    """

    def __init__(self, model: AcousticModel) -> None:
        self._model = model
        self._features = model.features.stream()
        self._frames = model.head.weight.new_zeros(0, model.features.config.mels)
        self._state: list[State] | None = None

    @torch.inference_mode()
    def accept(self, waveform: npt.NDArray[np.float32]) -> Tensor:
        """Log-probs (T', V) of the encoder frames that the new samples (N,) complete."""
        samples = torch.from_numpy(waveform).to(self._frames.device)
        self._frames = torch.cat([self._frames, self._features.accept(samples)])
        stack = self._model.encoder.config.stack
        return self._encode(len(self._frames) // stack * stack)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """Log-probs (T', V) of what is left: the last, incomplete stack of frames, if any."""
        return self._encode(len(self._frames))

    def _encode(self, frames: int) -> Tensor:
        ready, self._frames = self._frames[:frames], self._frames[frames:]
        if not len(ready):
            return ready.new_zeros(0, self._model.head.out_features)
        x, _, self._state = self._model.encoder(
            ready[None], torch.tensor([frames], device=ready.device), self._state
        )
        return self._model._log_probs(x)[0]
