"""The acoustic model: log-mel features, the stacked encoder, and a linear CTC head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.encoder import Context, Encoder, EncoderConfig, advance
from asr.errors import ConfigError
from asr.features import FeaturesConfig, LogMel, read_features

MOST_FRAMES = 10_000  # of a chunk and its right context together


@dataclass(frozen=True)
class Emissions:
    """What the model says at each encoder frame.

    log_probs: (B, T', V) float32, normalized over V; symbol 0 is the blank.
    lengths: (B,) valid frames of each utterance.
    """

    log_probs: Tensor
    lengths: Tensor


class AcousticModel(nn.Module):
    """Features -> `Emissions`. `features` makes them from waveforms, globally normalized."""

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

    def latency_seconds(self, context: Context) -> float:
        """How long after a sound its text can come, by the algorithm alone, at the model's rate.

        The first sound of a chunk waits for the chunk, its right context and the last window. A
        resampler before the features adds its own wait.
        """
        config = self.features.config
        return (
            context.frames * self.frame_seconds + (config.window - config.hop) / config.sample_rate
        )

    def context(self, latency_ms: float) -> Context:
        """The operating point of at most this latency; ConfigError where even a frame takes longer.

        Of a latency-controlled encoder's frames half are right context.
        """
        frame, least = self.frame_seconds, self.latency_seconds(Context(1))
        frames = 0
        if math.isfinite(latency_ms):
            frames = math.floor((latency_ms / 1000 - least) / frame + 1e-9) + 1
        if not 1 <= frames < MOST_FRAMES:
            raise ConfigError(
                f"A latency of {latency_ms:g} ms is impossible; with this model it is from "
                f"{math.ceil(1000 * least)} ms to {MOST_FRAMES * frame / 60:.0f} minutes."
            )
        right = frames // 2 if self.encoder.config.kind == "latency_controlled" else 0
        return Context(frames - right, right)

    def forward(
        self, features: Tensor, lengths: Tensor, context: Context | None = None
    ) -> Emissions:
        """Features (B, T, F), of which the first `lengths` (B,) frames are valid -> `Emissions`.

        `context`: how far the encoder sees, see `Encoder.forward`; None: the whole recording.
        """
        x, lengths = self.encoder(features, lengths, context)  # (B, T', H)
        return Emissions(self._log_probs(x), lengths)

    @torch.inference_mode()
    def emit(
        self, waveforms: Sequence[npt.NDArray[np.float32]], context: Context | None = None
    ) -> Emissions:
        """`Emissions` of recordings, each (N,) at the model's sample rate, as one ragged batch."""
        device = self.head.weight.device
        features = [self.features(torch.from_numpy(w).to(device)) for w in waveforms]  # (T, F) each
        lengths = torch.tensor([len(f) for f in features], device=device)
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)  # (B, T, F)
        emissions: Emissions = self(padded, lengths, context)
        return emissions

    def stream(self, context: Context) -> "EmissionStream":
        """The same log-probs from a waveform that arrives in pieces; ConfigError: bidirectional."""
        return EmissionStream(self, context)

    def _log_probs(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.head(x).float(), dim=-1)  # (..., V)


class EmissionStream:
    """Log-probs of one recording that arrives in pieces; equal to the model's on the whole of it.

    What arrives is kept as it is until `read_chunks` reads it, chunk by chunk: a piece that completes
    no chunk costs next to nothing.
    """

    def __init__(self, model: AcousticModel, context: Context) -> None:
        self.model = model
        self._encoder = model.encoder.stream(context)
        self._sound = model.features.stream()
        self._ended = False

    def accept(self, waveform: npt.NDArray[np.float32]) -> None:
        """Take the next samples (N,), which nobody may change from now on."""
        self._sound.accept(waveform)

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True

    @property
    def ready(self) -> bool:
        """Whether a chunk can be read."""
        return self.is_followed or (
            self._ended and (self._sound.frames > 0 or not self._encoder.is_empty)
        )

    @property
    def is_followed(self) -> bool:
        """Whether the next chunk's right context is all there."""
        frames, stack = self._sound.frames, self.model.encoder.config.stack
        # The last, incomplete stack counts where nothing follows.
        return (-(-frames // stack) if self._ended else frames // stack) >= self._encoder.missing

    @torch.inference_mode()
    def restart(self, frames: int) -> None:
        """As `EncoderStream.restart` does."""
        self._encoder.restart(frames)


@torch.inference_mode()
def read_chunks(streams: Sequence[EmissionStream]) -> list[npt.NDArray[np.float32]]:
    """The log-probs (n, V) of the next chunk of each stream, computed together; n = 0: not ready.

    The streams are of one model and context. What comes out does not depend on the company.
    """
    if not streams:
        return []
    model = streams[0].model
    _read_sound([stream for stream in streams if stream.ready])
    frames = advance([stream._encoder for stream in streams])  # (n, H) each
    log_probs = model._log_probs(torch.cat(frames)).cpu().numpy()  # (sum of n, V)
    edges = np.cumsum([len(rows) for rows in frames])
    return np.split(log_probs, edges[:-1])


def _read_sound(streams: Sequence[EmissionStream]) -> None:
    """Give the encoder the features that the next chunk of each of these streams needs."""
    if not streams:
        return
    stack = streams[0].model.encoder.config.stack
    counts = [min(s._sound.frames, s._encoder.missing * stack) for s in streams]
    found = read_features([stream._sound for stream in streams], counts)
    for stream, features in zip(streams, found, strict=True):
        stream._encoder.accept(features)
        if stream._ended and not stream._sound.frames:
            stream._encoder.end()
