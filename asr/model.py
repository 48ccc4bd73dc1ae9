"""The acoustic model: log-mel features, the LSTM encoder, and a linear CTC head.

Letters in shapes: B utterances, N samples, T feature frames, T' encoder frames, F mel bins, H
encoder width, V symbols, of which symbol 0 is the CTC blank.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from asr.encoder import Context, Encoder, EncoderConfig, advance_encoders
from asr.errors import ConfigError
from asr.features import FeaturesConfig, LogMel, advance_features

T = TypeVar("T")

MAX_CONTEXT_FRAMES = 10_000  # upper limit of a chunk and its right context together


@dataclass(frozen=True)
class Emissions:
    """The model's output for a batch of utterances.

    Attributes:
        log_probs: (B, T', V) float32, normalized over V.
        lengths: (B,) valid frames of each utterance.
    """

    log_probs: Tensor
    lengths: Tensor


class AcousticModel(nn.Module):
    """Features (B, T, F) -> log-probabilities of symbols (B, T', V), trained with CTC.

    The submodules are `features` (waveform to normalized log-mel frames), `encoder` and `head`.

    Args:
        features: How waveforms become feature frames.
        encoder: The architecture of the encoder.
        vocabulary_size: Number V of symbols, the blank included.

    Example:
        >>> model = AcousticModel(FeaturesConfig(), EncoderConfig(), vocabulary_size=29)
        >>> model.emit([np.zeros(16_000, np.float32)]).log_probs.shape
        torch.Size([1, 25, 29])
    """

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
        """Return the number of encoder frames T' of a recording of `samples` samples."""
        return self.encoder.frames(self.features.frames(samples))

    def latency_seconds(self, context: Context) -> float:
        """Return the algorithmic latency at an operating point: how far text lags behind its sound.

        The first sound of a chunk waits for the rest of the chunk, its right context and the last
        window. Resampling before the features adds to it.
        """
        config = self.features.config
        overlap = (config.window - config.hop) / config.sample_rate
        return context.frames * self.frame_seconds + overlap

    def context(self, latency_ms: float) -> Context:
        """Return the operating point with at most this algorithmic latency.

        Args:
            latency_ms: Milliseconds. A latency-controlled encoder spends half of them on right
                context.

        Returns:
            The chunk size and right context in encoder frames.

        Raises:
            ConfigError: If the latency is shorter than one encoder frame takes, or too long.
        """
        frame, lowest = self.frame_seconds, self.latency_seconds(Context(1))
        frames = 0
        if math.isfinite(latency_ms):
            frames = math.floor((latency_ms / 1000 - lowest) / frame + 1e-9) + 1
        if not 1 <= frames < MAX_CONTEXT_FRAMES:
            raise ConfigError(
                f"a latency of {latency_ms:g} ms is out of range; with this model it is from "
                f"{math.ceil(1000 * lowest)} ms to {MAX_CONTEXT_FRAMES * frame / 60:.0f} minutes"
            )
        right = frames // 2 if self.encoder.config.kind == "latency_controlled" else 0
        return Context(frames - right, right)

    def forward(
        self, features: Tensor, lengths: Tensor, context: Context | None = None
    ) -> Emissions:
        """Compute the log-probabilities of a ragged batch of features.

        Args:
            features: Normalized log-mel frames (B, T, F).
            lengths: (B,) valid frames of each row.
            context: Chunk size and right context, see `Encoder.forward`; None for whole recordings.

        Returns:
            `Emissions` with log_probs (B, T', V) and lengths (B,).

        Raises:
            ConfigError: If a bidirectional encoder was given a context.
        """
        x, lengths = self.encoder(features, lengths, context)  # (B, T', H)
        return Emissions(self._log_probs(x), lengths)

    @torch.inference_mode()
    def emit(
        self, waveforms: Sequence[npt.NDArray[np.float32]], context: Context | None = None
    ) -> Emissions:
        """Compute the log-probabilities of recordings as one ragged batch.

        Args:
            waveforms: B arrays (N,) in -1..1 at the model's sample rate.
            context: As in `forward`.

        Returns:
            `Emissions` with log_probs (B, T', V) and lengths (B,), on the model's device.

        Raises:
            ConfigError: If a bidirectional encoder was given a context.
        """
        device = self.head.weight.device
        features = [self.features(torch.from_numpy(w).to(device)) for w in waveforms]  # (T, F) each
        lengths = torch.tensor([len(f) for f in features], device=device)
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)  # (B, T, F)
        emissions: Emissions = self(padded, lengths, context)
        return emissions

    def stream(self, context: Context) -> "EmissionStream":
        """Start a recording that arrives in pieces.

        Args:
            context: Chunk size and right context in encoder frames.

        Returns:
            A stream whose chunks `advance_models` reads.

        Raises:
            ConfigError: If the encoder is bidirectional.
        """
        return EmissionStream(self, context)

    def _log_probs(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.head(x).float(), dim=-1)  # (..., V)


class EmissionStream:
    """Log-probs of one recording that arrives in pieces, equal to the model's on the whole of it.

    Samples are only stored until `advance_models` reads a chunk, so `accept` costs next to nothing.
    """

    def __init__(self, model: AcousticModel, context: Context) -> None:
        self.model = model
        self._encoder = model.encoder.stream(context)
        self._features = model.features.stream()
        self._ended = False

    def accept(self, waveform: npt.NDArray[np.float32]) -> None:
        """Take the next samples (N,). The array is not copied; the caller must not change it."""
        self._features.accept(waveform)

    def end(self) -> None:
        """End the recording."""
        self._ended = True

    @property
    def ready(self) -> bool:
        """Whether a chunk can be read."""
        return self.has_right_context or (
            self._ended and (self._features.frames > 0 or not self._encoder.is_empty)
        )

    @property
    def has_right_context(self) -> bool:
        """Whether the next chunk and its whole right context have arrived."""
        frames, stack = self._features.frames, self.model.encoder.config.stack
        # At the end of the recording the last, incomplete stack counts as an encoder frame.
        complete = -(-frames // stack) if self._ended else frames // stack
        return complete >= self._encoder.missing_frames

    @torch.inference_mode()
    def restart(self, frames: int) -> None:
        """Start a new signal, see `EncoderStream.restart`."""
        self._encoder.restart(frames)


@torch.inference_mode()
def advance_models(streams: Sequence[EmissionStream]) -> list[npt.NDArray[np.float32]]:
    """Read the next chunk of every stream that is ready, all of them together.

    A stream's result does not depend on the other streams.

    Args:
        streams: Streams of one model and one context.

    Returns:
        The chunk's log-probs (n, V) of each stream; n = 0 if it is not ready.
    """
    if not streams:
        return []
    model = streams[0].model
    if ready := [stream for stream in streams if stream.ready]:
        _feed_encoders(ready)
    frames = advance_encoders([stream._encoder for stream in streams])  # (n, H) each
    log_probs = model._log_probs(torch.cat(frames)).cpu().numpy()  # (sum of n, V)
    edges = np.cumsum([len(rows) for rows in frames])
    return np.split(log_probs, edges[:-1])


def _feed_encoders(streams: Sequence[EmissionStream]) -> None:
    """Compute the features that each stream's next chunk needs and pass them to its encoder."""
    stack = streams[0].model.encoder.config.stack
    counts = [min(s._features.frames, s._encoder.missing_frames * stack) for s in streams]
    found = advance_features([stream._features for stream in streams], counts)
    for stream, features in zip(streams, found, strict=True):
        stream._encoder.accept(features)
        if stream._ended and not stream._features.frames:
            stream._encoder.end()


def group_by_seconds(items: Iterable[tuple[float, T]], batch_seconds: float) -> Iterator[list[T]]:
    """Group neighbors, each given with its seconds, into batches of at most `batch_seconds`.

    Padding counts; an item longer than that is a batch by itself. Starting again at the first item
    of any batch gives the same batches from there on, so processes can share them out.
    """
    batch: list[T] = []
    longest = 0.0
    for seconds, item in items:
        longest = max(longest, seconds)
        if batch and (len(batch) + 1) * longest > batch_seconds:
            yield batch
            batch, longest = [], seconds
        batch.append(item)
    if batch:
        yield batch
