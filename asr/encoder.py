"""The encoder: a stack of LSTM layers, forward, bidirectional or latency-controlled.

It uses torch's fused kernels for the equations that `asr.lstm.MemoryCell` writes out.

Letters in shapes: B utterances, T feature frames, T' encoder frames, F mel bins, H encoder width,
D width of one direction of a layer (H is D or, with both directions, 2 · D), I inputs of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from asr.errors import ConfigError, check_number, quote
from asr.lstm import CellActivations, MemoryCell, State, open_forget_gates

CELLS: dict[str, type[nn.LSTM] | type[nn.RNN]] = {"lstm": nn.LSTM, "rnn": nn.RNN}
KINDS = ("forward", "bidirectional", "latency_controlled")
PAST_FRAMES = 32  # encoder frames before the last chunk that a restarted stream can read again
# Settings that only affect training: checkpoints that differ in them have the same architecture.
TRAINING_ONLY = ("encoder.dropout", "encoder.whole", "encoder.chunk", "encoder.right")


@dataclass(frozen=True, slots=True)
class Context:
    """The operating point of a latency-controlled encoder: chunk size and right context.

    The encoder reads its frames in chunks on a grid that starts with the signal, each chunk together
    with the frames that follow it. More right context means higher latency and fewer errors.

    Attributes:
        chunk: Encoder frames per chunk, at least 1.
        right: Encoder frames of right context (look-ahead) after the chunk, at least 0.

    Example:
        >>> Context(chunk=16, right=8).frames
        24
    """

    chunk: int
    right: int = 0

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.right < 0:
            raise ConfigError(
                f"a chunk of {self.chunk} frames with {self.right} frames of right context is "
                "out of range; use a chunk of at least 1 frame and 0 or more frames after it"
            )

    @property
    def frames(self) -> int:
        """Encoder frames that must have arrived before a chunk can be read."""
        return self.chunk + self.right


@dataclass
class EncoderConfig:
    """The architecture of the encoder, a stack of recurrent layers.

    Attributes:
        kind: "forward" has one direction, whose state is carried from piece to piece: it streams.
            "bidirectional" has both, and every layer reads both directions of the layer below: it
            needs the whole recording. "latency_controlled" has both; forward layers read forward
            layers only and stream exactly, backward layers read a chunk and its right context (see
            `Context`), from one frame to the whole recording, with the same weights.
        cell: "lstm", or "rnn" for a plain tanh network as a baseline.
        layers: Number of layers.
        hidden: Memory cells per layer and direction.
        stack: Feature frames per encoder frame, placed side by side.
        projection: Width of a linear layer after each direction of a layer; 0 for none.
        layer_norm: Whether each direction of a layer ends with layer normalization.
        dropout: Dropout probability between layers.
        whole: Probability of training a latency-controlled encoder with full context in a step;
            the other steps draw a chunk size and a right context.
        chunk: Range of the drawn chunk sizes, two numbers of encoder frames.
        right: Range of the drawn right contexts, two numbers of encoder frames.

    Raises:
        ConfigError: If a value is out of range; the message names it.

    Example:
        >>> EncoderConfig(kind="forward", hidden=320).width
        320
    """

    kind: str = "latency_controlled"
    cell: str = "lstm"
    layers: int = 3
    hidden: int = 256
    stack: int = 4
    projection: int = 0
    layer_norm: bool = True
    dropout: float = 0.1
    whole: float = 0.5
    chunk: list[int] = field(default_factory=lambda: [4, 32])
    right: list[int] = field(default_factory=lambda: [0, 16])

    def __post_init__(self) -> None:
        for key, table in (("kind", KINDS), ("cell", tuple(CELLS))):
            if (value := getattr(self, key)) not in table:
                raise ConfigError(
                    f"encoder.{key} is {quote(value)}; it must be one of {', '.join(table)}"
                )
        check_number("encoder.layers", self.layers, 1, 1000, whole=True)
        check_number("encoder.hidden", self.hidden, 1, 100_000, whole=True)
        check_number("encoder.stack", self.stack, 1, 1000, whole=True)
        check_number("encoder.projection", self.projection, 0, 100_000, whole=True)
        check_number("encoder.dropout", self.dropout)
        check_number("encoder.whole", self.whole, 0, 1)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout is {self.dropout}; it must be in [0, 1)")
        for key, lowest in (("chunk", 1), ("right", 0)):
            for value in (span := list(getattr(self, key))):
                check_number(f"encoder.{key}", value, whole=True)
            if len(span) != 2 or not lowest <= span[0] <= span[1]:
                raise ConfigError(
                    f"encoder.{key} is {span}; it must be two numbers of frames, the smaller one "
                    f"first, each at least {lowest}"
                )

    @property
    def width(self) -> int:
        """Width H of the encoder's output."""
        return self.direction_width * (1 if self.kind == "forward" else 2)

    @property
    def direction_width(self) -> int:
        """Width D of one direction of a layer."""
        return self.projection or self.hidden


class Direction(nn.Module):
    """One direction of a layer: a recurrent network, then projection and layer normalization."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        hidden, projected = config.hidden, config.projection
        self.cell = CELLS[config.cell](inputs, hidden, batch_first=True)
        self.projection = nn.Linear(hidden, projected) if projected else nn.Identity()
        self.norm = nn.LayerNorm(config.direction_width) if config.layer_norm else nn.Identity()
        if isinstance(self.cell, nn.LSTM):
            open_forget_gates(self.cell)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run over x (B, T, I) from a state, zeros if None; returns (B, T, D) and the last state."""
        # Under autocast cuDNN runs recurrent layers in float16, whatever type is requested; the
        # trainer scales the loss to keep gradients in range. With a multiple of 8 rows cuDNN picks
        # its fastest kernel, which keeps the weights on the chip from frame to frame.
        half = x.is_cuda and torch.is_autocast_enabled("cuda")
        rows, spare = len(x), -len(x) % 8 if half else 0
        x = nn.functional.pad(x, (0, 0, 0, 0, 0, spare)) if half else x.float()
        initial: Tensor | State | None = None
        if state is not None:  # torch expects a leading layer axis
            state = tuple(nn.functional.pad(part, (0, 0, 0, spare))[None] for part in state)
            initial = state if len(state) > 1 else state[0]
        with torch.autocast(x.device.type, torch.float16, enabled=half):
            y, last = self.cell(x, initial)
        y = y[:rows]
        parts = last if isinstance(last, tuple) else (last,)
        return self.norm(self.projection(y)), tuple(part[0, :rows] for part in parts)

    def run_reversed(self, x: Tensor, order: Tensor) -> Tensor:
        """Run over x (B, T, I) backward in time, by `_reverse_order`'s `order`; returns (B, T, D).

        Two such passes avoid packing, which makes a bidirectional LSTM 2.3 times slower on a CPU.
        """
        y, _ = self(_gather_frames(x, order))
        return _gather_frames(y, order)

    def memory_cell(self) -> MemoryCell:
        """Return the recurrent layer in its readable form. Raises ConfigError for a plain RNN."""
        if not isinstance(self.cell, nn.LSTM):
            raise ConfigError("a plain recurrent network has no gates; choose an LSTM encoder")
        return MemoryCell.from_torch(self.cell)


class Layer(nn.Module):
    """A layer's directions: `ahead` in time and, except in a forward encoder, `back` in time."""

    def __init__(self, config: EncoderConfig, ahead: int, back: int) -> None:
        super().__init__()
        self.ahead = Direction(config, ahead)
        self.back = Direction(config, back) if config.kind != "forward" else None


class Encoder(nn.Module):
    """Features (B, T, F) -> encoder frames (B, T', H), T' = ceil(T / stack).

    The last, incomplete stack of an utterance is filled with zeros, the mean of normalized features.

    The forward directions of a latency-controlled encoder form a forward encoder of their own, whose
    outputs do not depend on where a chunk ends. A backward direction reads a chunk and its right
    context from the layer below, both directions of it. In the latency-controlled layers of Zhang
    et al. (2016), "Highway long short-term memory RNNs for distant speech recognition", forward
    directions read backward ones too, so the right context has to be computed twice.
    """

    def __init__(self, config: EncoderConfig, features: int) -> None:
        super().__init__()
        self.config = config
        self.features = features
        stacked, one = features * config.stack, config.direction_width
        both = 2 * one
        ahead = {"forward": one, "bidirectional": both, "latency_controlled": one}
        self.layers = nn.ModuleList(
            Layer(config, ahead[config.kind], both) if index else Layer(config, stacked, stacked)
            for index in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)

    def frames(self, feature_frames: int) -> int:
        """Return the number of encoder frames T' of `feature_frames` feature frames."""
        return -(-feature_frames // self.config.stack)

    def forward(
        self, features: Tensor, lengths: Tensor, context: Context | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode features (B, T, F), of which the first `lengths` (B,) frames are valid.

        `context` applies to latency-controlled encoders; None stands for whole recordings. Returns
        frames (B, T', H) and their lengths (B,). Raises ConfigError if a bidirectional encoder is
        given a context.
        """
        if context is not None:
            self.require_streaming()
        x, lengths = self._stack(features, lengths)
        if x.shape[1] == 0:
            return x.new_zeros(len(x), 0, self.config.width), lengths
        if self.config.kind == "bidirectional":
            return self._run_bidirectional(x, _reverse_order(lengths, x.shape[1])), lengths
        activations, _ = self.run_forward(x)
        if self.config.kind == "forward":
            return activations[-1], lengths
        if context is None or context.chunk > x.shape[1]:
            context = Context(x.shape[1])
        back = self.run_backward(activations, lengths, context)  # (B, >= T', D)
        return torch.cat([activations[-1], back[:, : x.shape[1]]], dim=-1), lengths

    def draw_context(self, generator: torch.Generator) -> Context | None:
        """Draw a training step's context, its chunk log-uniformly; None for whole recordings."""
        config = self.config
        if config.kind != "latency_controlled":
            return None
        draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if draw[0] < config.whole:
            return None
        (small, large), (least, most) = config.chunk, config.right
        chunk = small * ((large + 1) / small) ** draw[1]
        return Context(min(large, int(chunk)), least + int(draw[2] * (most - least + 1)))

    def require_streaming(self) -> None:
        """Raise ConfigError if the encoder needs the whole recording before its first output."""
        if self.config.kind == "bidirectional":
            raise ConfigError(
                "this encoder is bidirectional: it needs the whole recording and cannot stream; "
                "transcribe the file whole, or train with encoder=latency_controlled (or forward)"
            )

    def run_forward(
        self, x: Tensor, states: list[State] | None = None
    ) -> tuple[list[Tensor], list[State]]:
        """Run the forward directions over stacked features x (B, T', stack · F).

        Every layer starts from its state in `states`, or from zeros. Returns the input of each layer
        and, last, the top layer's output (B, T', D); and every layer's state after the last frame.
        """
        activations, last_states = [x], []
        for index, layer in enumerate(self._layers):
            if index:
                activations[-1] = self.dropout(activations[-1])
            y, state = layer.ahead(activations[-1], states[index] if states else None)
            activations.append(y)
            last_states.append(state)
        return activations, last_states

    def run_backward(self, activations: list[Tensor], lengths: Tensor, context: Context) -> Tensor:
        """Run the backward directions over every chunk and its right context.

        `activations` are those of `run_forward`, each (B, T', ·); `lengths` (B,) counts the valid
        frames. Returns the top layer's output (B, K · chunk, D), K = ceil(T' / chunk) chunks.
        """
        batch, frames, _ = activations[0].shape
        chunks = -(-frames // context.chunk)
        starts = context.chunk * torch.arange(chunks, device=lengths.device)  # (K,)
        sizes = (lengths[:, None] - starts).clamp(0, context.frames).reshape(-1)  # (B · K,)
        order = _reverse_order(sizes, context.frames)
        y: Tensor | None = None
        for layer, inputs in zip(self._layers, activations, strict=False):
            x = _unfold_chunks(inputs, context, chunks)  # (B · K, chunk + right, ·)
            if y is not None:
                x = torch.cat([x, self.dropout(y)], dim=-1)
            assert layer.back is not None
            y = layer.back.run_reversed(x, order)
        assert y is not None
        return y[:, : context.chunk].reshape(batch, chunks * context.chunk, -1)

    def stream(self, context: Context) -> "EncoderStream":
        """Start a signal that arrives in pieces. Raises ConfigError for a bidirectional encoder."""
        self.require_streaming()
        return EncoderStream(self, context)

    @torch.no_grad()
    def cell_activations(self, features: Tensor) -> list[dict[str, CellActivations]]:
        """Compute every layer's gates and memories for features (B, T, F) without padding.

        A layer has the direction "ahead" and possibly "back", in its own reversed time; every field
        is (B, T', hidden). Raises ConfigError for a plain RNN.
        """
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
        x, lengths = self._stack(features, lengths)
        order = _reverse_order(lengths, x.shape[1])
        ahead = back = x
        found = []
        for layer in self._layers:
            directions = {"ahead": layer.ahead.memory_cell()(ahead)}
            y, _ = layer.ahead(ahead)
            if layer.back is not None:
                directions["back"] = layer.back.memory_cell()(_gather_frames(back, order))
                back = torch.cat([y, layer.back.run_reversed(back, order)], dim=-1)
            ahead = back if self.config.kind == "bidirectional" else y
            found.append(directions)
        return found

    @property
    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _run_bidirectional(self, x: Tensor, order: Tensor) -> Tensor:
        """Run both directions layer by layer: (B, T', stack · F) -> (B, T', H)."""
        for index, layer in enumerate(self._layers):
            if index:
                x = self.dropout(x)
            assert layer.back is not None
            x = torch.cat([layer.ahead(x)[0], layer.back.run_reversed(x, order)], dim=-1)
        return x

    def _stack(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) -> (B, T', stack · F), with zeros after each utterance's end."""
        batch, frames, bins = features.shape
        stack = self.config.stack
        x = nn.functional.pad(features, (0, 0, 0, -frames % stack))
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, T)
        x = x * valid[..., None]
        lengths = torch.div(lengths + stack - 1, stack, rounding_mode="floor")
        return x.reshape(batch, -1, stack * bins), lengths  # (B, T', stack · F)


class EncoderStream:
    """One signal whose features arrive in pieces; `advance_encoders` reads its chunks.

    It keeps an incomplete stack of features, the state of each forward layer, and the forward layers'
    activations after the last chunk.
    """

    def __init__(self, encoder: Encoder, context: Context) -> None:
        self.encoder = encoder
        # A forward encoder makes no use of right context, so it does not wait for any.
        self.context = Context(context.chunk) if encoder.config.kind == "forward" else context
        weight = next(encoder.parameters())
        self._features = weight.new_zeros(0, encoder.features)  # the incomplete stack
        self._waiting = weight.new_zeros(0, encoder.config.stack * encoder.features)
        self._past = self._waiting  # stacked frames up to the end of the last chunk
        self._activations: list[Tensor] = []  # of the frames after it, from `run_forward`
        self._states: list[State] | None = None
        self._ended = False

    def accept(self, features: Tensor) -> None:
        """Take the next features (T, F)."""
        features = torch.cat([self._features, features])
        stacks = len(features) // self.encoder.config.stack
        complete = features[: stacks * self.encoder.config.stack]
        self._features = features[len(complete) :]
        self._waiting = torch.cat([self._waiting, complete.reshape(stacks, self._waiting.shape[1])])

    def end(self) -> None:
        """End the signal; the last, incomplete stack is filled with zeros."""
        if len(self._features):
            missing = self.encoder.config.stack - len(self._features)
            self.accept(self._features.new_zeros(missing, self.encoder.features))
        self._ended = True

    @property
    def ready(self) -> bool:
        """Whether the next chunk can be read."""
        return not self.missing_frames or (self._ended and not self.is_empty)

    @property
    def missing_frames(self) -> int:
        """Encoder frames that the next chunk and its right context still lack."""
        return max(0, self.context.frames - self._processed - len(self._waiting))

    @property
    def is_empty(self) -> bool:
        """Whether there is no frame after the last chunk."""
        return self._processed + len(self._waiting) == 0

    def restart(self, frames: int) -> None:
        """Start a new signal with the last `frames` encoder frames up to the last chunk's end.

        The stream keeps that chunk and up to PAST_FRAMES before it; ValueError for more frames.
        """
        if frames > len(self._past):
            raise ValueError(f"{frames} frames are to be read again, {len(self._past)} are kept")
        again = self._past[len(self._past) - frames :]
        self._waiting = torch.cat([again, *self._activations[:1], self._waiting])
        self._past = self._past[:0]
        self._activations, self._states = [], None

    @property
    def _processed(self) -> int:
        """Frames after the last chunk that the forward layers have processed."""
        return len(self._activations[0]) if self._activations else 0

    @property
    def _unprocessed(self) -> int:
        """Frames that the forward layers have to process before the next chunk is read."""
        return min(self.context.frames - self._processed, len(self._waiting))


def advance_encoders(streams: Sequence[EncoderStream]) -> list[Tensor]:
    """Read the next chunk of every stream that is ready: (n, H) for each, n = 0 if it is not ready.

    The streams share one encoder and context; those at the same position are computed together.
    """
    found = [stream._waiting.new_zeros(0, stream.encoder.config.width) for stream in streams]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, stream in enumerate(streams):
        if stream.ready:
            groups.setdefault((stream._processed, stream._unprocessed), []).append(index)
    for members in groups.values():
        frames = _advance_group([streams[index] for index in members])  # (B, n, H)
        for index, row in zip(members, frames, strict=True):
            found[index] = row
    return found


def _advance_group(streams: list[EncoderStream]) -> Tensor:
    """Read the next chunk (B, n, H) of streams that are at the same position."""
    encoder, context = streams[0].encoder, streams[0].context
    unprocessed = streams[0]._unprocessed
    kept = zip(*(stream._activations for stream in streams), strict=True)
    activations = [torch.stack(rows) for rows in kept]
    states = _stack_states(streams)
    if unprocessed:  # 0 if the signal has ended and everything was processed with an earlier chunk
        x = torch.stack([stream._waiting[:unprocessed] for stream in streams])  # (B, ·, stack · F)
        fresh, states = encoder.run_forward(x, states)
        pairs = zip(activations, fresh, strict=True) if activations else ((part,) for part in fresh)
        activations = [torch.cat(parts, dim=1) for parts in pairs]  # (B, <= context.frames, ·)
    chunk = min(context.chunk, activations[0].shape[1])
    frames = activations[-1][:, :chunk]
    if encoder.config.kind == "latency_controlled":
        block = [part[:, : context.frames] for part in activations]
        size = block[0].shape[1]
        lengths = torch.full((len(streams),), size, device=frames.device)
        # As a single chunk: with `context`, the right context would be read as one more chunk.
        back = encoder.run_backward(block, lengths, Context(size))[:, :chunk]
        frames = torch.cat([frames, back], dim=-1)
    has_rest = activations[0].shape[1] > chunk
    for index, stream in enumerate(streams):
        stream._waiting = stream._waiting[unprocessed:]
        stream._past = torch.cat([stream._past[-PAST_FRAMES:], activations[0][index, :chunk]])
        stream._activations = [part[index, chunk:] for part in activations] if has_rest else []
        stream._states = [tuple(part[index] for part in parts) for parts in states]
    return frames


def _stack_states(streams: list[EncoderStream]) -> list[State]:
    """Each layer's state for several streams, (B, ·) per part; zeros if a signal begins."""
    encoder = streams[0].encoder
    weight = next(encoder.parameters())
    parts = 2 if encoder.config.cell == "lstm" else 1
    zeros = [(weight.new_zeros(encoder.config.hidden),) * parts] * encoder.config.layers
    states = [stream._states or zeros for stream in streams]
    return [
        tuple(torch.stack(rows) for rows in zip(*layer, strict=True))
        for layer in zip(*states, strict=True)
    ]


def _reverse_order(lengths: Tensor, frames: int) -> Tensor:
    """Indices (B, T) that reverse each row's valid frames and leave its padding in place."""
    t = torch.arange(frames, device=lengths.device)
    return torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)


def _gather_frames(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the frames of x (B, T, I) by the indices `order` (B, T)."""
    batch, frames, width = x.shape
    rows = order + frames * torch.arange(batch, device=order.device)[:, None]  # into (B · T, I)
    return x.reshape(-1, width).index_select(0, rows.flatten()).view(batch, frames, width)


def _unfold_chunks(x: Tensor, context: Context, chunks: int) -> Tensor:
    """Cut x (B, T', I) into overlapping blocks (B · chunks, context.frames, I), zeros at the end."""
    needed = (chunks - 1) * context.chunk + context.frames
    x = nn.functional.pad(x, (0, 0, 0, max(0, needed - x.shape[1])))
    blocks = x.unfold(1, context.frames, context.chunk)[:, :chunks]  # (B, chunks, I, frames)
    return blocks.flatten(0, 1).transpose(1, 2)
