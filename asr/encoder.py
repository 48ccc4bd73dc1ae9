"""The encoder: a stack of LSTM layers, forward, bidirectional or latency-controlled."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from asr.errors import ConfigError
from asr.lstm import Memory, MemoryCell, State, open_forget_gates

CELLS: dict[str, type[nn.LSTM] | type[nn.RNN]] = {"lstm": nn.LSTM, "rnn": nn.RNN}
KINDS = ("forward", "bidirectional", "latency_controlled")
PAST_FRAMES = 32  # encoder frames before a chunk that a stream can read again

TRAINING_ONLY = ("encoder.dropout", "encoder.whole", "encoder.chunk", "encoder.right")
"""How layers are trained, which is not what they are."""


@dataclass(frozen=True, slots=True)
class Context:
    """How far a latency-controlled encoder sees: the operating point, in encoder frames.

    Frames are read in chunks on a grid that begins with the signal; nothing is said of a chunk
    before `right` more frames have come. A longer wait sees more of the future, and errs less.
    """

    chunk: int
    right: int = 0

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.right < 0:
            raise ConfigError(
                f"A chunk of {self.chunk} frames with {self.right} frames after it is impossible; "
                "a chunk is at least 1 frame and is followed by 0 or more."
            )

    @property
    def frames(self) -> int:
        """Frames that must have come before a chunk is read."""
        return self.chunk + self.right


@dataclass
class EncoderConfig:
    """A stack of recurrent layers. An encoder frame is `stack` feature frames side by side.

    forward             one direction; its memory is carried from piece to piece: streams
    bidirectional       both, and every layer reads both of the layer below: the whole recording
    latency_controlled  both; the forward layers read only forward ones and so stream exactly; the
                        backward ones read chunks with some frames after them (`Context`), anything
                        from one frame to the whole recording, by the same weights
    """

    kind: str = "latency_controlled"
    cell: str = "lstm"  # "lstm", or "rnn": the plain tanh network, as a baseline
    layers: int = 3
    hidden: int = 256  # memory cells per layer and direction
    stack: int = 4  # feature frames per encoder frame; the encoder's frame rate is divided by it
    projection: int = 0  # width of a linear layer after each direction of a layer; 0: none
    layer_norm: bool = True
    dropout: float = 0.1  # between layers
    # What a latency-controlled encoder is trained on: at each step the whole recording, or else a
    # chunk and right context drawn between two numbers of encoder frames.
    whole: float = 0.5  # probability
    chunk: list[int] = field(default_factory=lambda: [4, 32])
    right: list[int] = field(default_factory=lambda: [0, 16])

    def __post_init__(self) -> None:
        for key, table in (("kind", KINDS), ("cell", tuple(CELLS))):
            if getattr(self, key) not in table:
                raise ConfigError(
                    f"encoder.{key} is {getattr(self, key)!r}; it must be one of "
                    f"{', '.join(table)}."
                )
        for key in ("layers", "hidden", "stack"):
            if getattr(self, key) < 1:
                raise ConfigError(f"encoder.{key} is {getattr(self, key)}; it must be at least 1.")
        if self.projection < 0:
            raise ConfigError(f"encoder.projection is {self.projection}; it must be 0 or more.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout is {self.dropout}; it must be in [0, 1).")
        if not 0 <= self.whole <= 1:
            raise ConfigError(f"encoder.whole is {self.whole}; it must be from 0 to 1.")
        for key, least in (("chunk", 1), ("right", 0)):
            span = getattr(self, key)
            if len(span) != 2 or not least <= span[0] <= span[1]:
                raise ConfigError(
                    f"encoder.{key} is {span}; it must be two numbers of frames, the smaller one "
                    f"first, from {least} on."
                )

    @property
    def width(self) -> int:
        """Width of the encoder's output, H in the shapes."""
        return self.strand * (1 if self.kind == "forward" else 2)

    @property
    def strand(self) -> int:
        """Width of one direction of a layer."""
        return self.projection or self.hidden


class Direction(nn.Module):
    """One direction of a recurrent layer, then projection and layer norm."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.cell = CELLS[config.cell](inputs, config.hidden, batch_first=True)
        self.projection = (
            nn.Linear(config.hidden, config.projection) if config.projection else nn.Identity()
        )
        self.norm = nn.LayerNorm(config.strand) if config.layer_norm else nn.Identity()
        if isinstance(self.cell, nn.LSTM):
            open_forget_gates(self.cell)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (B, T, I) and the state to begin with -> (B, T, strand), the state after frame T."""
        # Under autocast cuDNN's recurrent layers run in float16, whatever it was asked for: training
        # keeps their gradients in its range. A multiple of 8 rows lets cuDNN take its fastest kernel,
        # which holds the weights on the chip from frame to frame.
        half = x.is_cuda and torch.is_autocast_enabled("cuda")
        rows, spare = len(x), -len(x) % 8 if half else 0
        x = nn.functional.pad(x, (0, 0, 0, 0, 0, spare)) if half else x.float()
        begin: Tensor | State | None = None
        if state is not None:  # torch keeps a leading layer axis
            state = tuple(nn.functional.pad(part, (0, 0, 0, spare))[None] for part in state)
            begin = state if len(state) > 1 else state[0]
        with torch.autocast(x.device.type, torch.float16, enabled=half):
            y, after = self.cell(x, begin)
        y = y[:rows]
        parts = after if isinstance(after, tuple) else (after,)
        return self.norm(self.projection(y)), tuple(part[0, :rows] for part in parts)

    def mirrored(self, x: Tensor, mirror: Tensor) -> Tensor:
        """x (B, T, I) read from each row's last valid frame to its first, as `_mirror` has it.

        Two forward passes are a bidirectional layer that is exact on ragged batches without
        packing, which makes an LSTM 2.3 times slower on a CPU.
        """
        y, _ = self(_take(x, mirror))
        return _take(y, mirror)

    def memory_cell(self) -> MemoryCell:
        """The strand's recurrent layer as its equations; ConfigError for a plain RNN."""
        if not isinstance(self.cell, nn.LSTM):
            raise ConfigError("A plain recurrent network has no gates to look at.")
        return MemoryCell.from_torch(self.cell)


class Layer(nn.Module):
    """A layer's strands: ahead and, unless the encoder is a forward one, back."""

    def __init__(self, config: EncoderConfig, ahead: int, back: int) -> None:
        super().__init__()
        self.ahead = Direction(config, ahead)
        self.back = Direction(config, back) if config.kind != "forward" else None


class Encoder(nn.Module):
    """Features (B, T, F) -> encoder frames (B, T', H), T' = ceil(T / stack).

    The last, incomplete stack of an utterance is filled with zeros: normalized features' mean.

    Of a latency-controlled encoder's layers, the forward strands make up a forward encoder of their
    own, whose outputs are the same wherever a chunk ends. A backward strand reads, in one chunk and
    the frames after it, the strands of the layer below: forward and backward (after the
    latency-controlled layers of Zhang et al. 2016, "Highway long short-term memory RNNs for distant
    speech recognition", where the forward strands read the backward ones as well and so have to be
    computed twice in the frames after a chunk).
    """

    def __init__(self, config: EncoderConfig, features: int) -> None:
        super().__init__()
        self.config = config
        self.features = features
        first, strand = features * config.stack, config.strand
        both = 2 * strand
        ahead = {"forward": strand, "bidirectional": both, "latency_controlled": strand}
        self.layers = nn.ModuleList(
            Layer(config, first, first) if not index else Layer(config, ahead[config.kind], both)
            for index in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)

    def frames(self, frames: int) -> int:
        """How many encoder frames `frames` feature frames give."""
        return -(-frames // self.config.stack)

    def forward(
        self, features: Tensor, lengths: Tensor, context: Context | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode features (B, T, F) of which the first `lengths` (B,) frames are valid.

        Returns frames (B, T', H) and their lengths (B,). A `context` holds for latency-controlled
        encoders, None is the whole recording; a forward encoder needs none. ConfigError: a
        bidirectional one was given one.
        """
        if context is not None:
            self.require_streaming()
        x, lengths = self._stack(features, lengths)
        if x.shape[1] == 0:
            return x.new_zeros(len(x), 0, self.config.width), lengths
        if self.config.kind == "bidirectional":
            return self._read_both(x, _mirror(lengths, x.shape[1])), lengths
        strands, _ = self.look_ahead(x)
        if self.config.kind == "forward":
            return strands[-1], lengths
        if context is None or context.chunk > x.shape[1]:
            context = Context(x.shape[1])
        back = self.look_back(strands, lengths, context)  # (B, >= T', strand)
        return torch.cat([strands[-1], back[:, : x.shape[1]]], dim=-1), lengths

    def draw_context(self, generator: torch.Generator) -> Context | None:
        """What a training step sees: whole recordings (None), or chunks drawn log-uniformly."""
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
        """Raise ConfigError where the encoder needs the whole recording before its first output."""
        if self.config.kind == "bidirectional":
            raise ConfigError(
                "This encoder is bidirectional: it needs the whole recording and cannot stream; "
                "transcribe the file whole, or train with encoder=latency_controlled (or forward)."
            )

    def look_ahead(
        self, x: Tensor, state: list[State] | None = None
    ) -> tuple[list[Tensor], list[State]]:
        """The forward strands of stacked frames x (B, T', stack · F), from a state on.

        Returns what each layer reads and, last, what comes out (B, T', strand), and every layer's
        state after frame T'.
        """
        strands, after = [x], []
        for index, layer in enumerate(self._layers):
            if index:
                strands[-1] = self.dropout(strands[-1])
            y, layer_state = layer.ahead(strands[-1], state[index] if state else None)
            strands.append(y)
            after.append(layer_state)
        return strands, after

    def look_back(self, strands: list[Tensor], lengths: Tensor, context: Context) -> Tensor:
        """The backward strands (B, K · chunk, strand) of K = ceil(T' / chunk) chunks.

        `strands` as from `look_ahead`, each (B, T', ·); lengths (B,).
        """
        batch, frames, _ = strands[0].shape
        chunks = -(-frames // context.chunk)
        inside = context.chunk * torch.arange(chunks, device=lengths.device)  # (K,)
        sizes = (lengths[:, None] - inside).clamp(0, context.frames).reshape(-1)  # (B · K,)
        mirror = _mirror(sizes, context.frames)
        y: Tensor | None = None
        for layer, strand in zip(self._layers, strands, strict=False):
            x = _cut(strand, context, chunks)  # (B · K, chunk + right, ·)
            if y is not None:
                x = torch.cat([x, self.dropout(y)], dim=-1)
            assert layer.back is not None
            y = layer.back.mirrored(x, mirror)
        assert y is not None
        return y[:, : context.chunk].reshape(batch, chunks * context.chunk, -1)

    def stream(self, context: Context) -> "EncoderStream":
        """The same frames from features that arrive in pieces; ConfigError: bidirectional."""
        self.require_streaming()
        return EncoderStream(self, context)

    @torch.no_grad()
    def memories(self, features: Tensor) -> list[dict[str, Memory]]:
        """Every gate's activation of every layer for features (B, T, F) of equal lengths.

        Per layer the directions "ahead" and, if any, "back" (in its own, reversed time); each
        field of `Memory` is (B, T', H). Computed by `MemoryCell`; ConfigError for a plain RNN.
        """
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
        x, lengths = self._stack(features, lengths)
        mirror = _mirror(lengths, x.shape[1])
        ahead = back = x
        found = []
        for layer in self._layers:
            memories = {"ahead": layer.ahead.memory_cell()(ahead)}
            y, _ = layer.ahead(ahead)
            if layer.back is not None:
                memories["back"] = layer.back.memory_cell()(_take(back, mirror))
                back = torch.cat([y, layer.back.mirrored(back, mirror)], dim=-1)
            ahead = back if self.config.kind == "bidirectional" else y
            found.append(memories)
        return found

    @property
    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _read_both(self, x: Tensor, mirror: Tensor) -> Tensor:
        """Every layer in both directions, one layer after the other: (B, T', H)."""
        for index, layer in enumerate(self._layers):
            if index:
                x = self.dropout(x)
            assert layer.back is not None
            x = torch.cat([layer.ahead(x)[0], layer.back.mirrored(x, mirror)], dim=-1)
        return x

    def _stack(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) -> (B, T', stack · F), zeros after each utterance's last frame."""
        batch, frames, bins = features.shape
        stack = self.config.stack
        x = nn.functional.pad(features, (0, 0, 0, -frames % stack))
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, T)
        x = x * valid[..., None]
        lengths = torch.div(lengths + stack - 1, stack, rounding_mode="floor")
        return x.reshape(batch, -1, stack * bins), lengths  # (B, T', stack · F)


class EncoderStream:
    """One signal whose features arrive in pieces; `advance` encodes any number of them together.

    What is carried: feature frames of an incomplete stack, each forward layer's memory, and what
    the forward strands gave for the frames after the last chunk.
    """

    def __init__(self, encoder: Encoder, context: Context) -> None:
        self.encoder = encoder
        # Nothing is gained by a forward encoder's waiting.
        self.context = Context(context.chunk) if encoder.config.kind == "forward" else context
        weight = next(encoder.parameters())
        self._features = weight.new_zeros(0, encoder.features)
        self._waiting = weight.new_zeros(0, encoder.config.stack * encoder.features)
        self._past = self._waiting  # the frames up to the end of the chunk that was read last
        self._strands: list[Tensor] = []  # of the frames after it, as `Encoder.look_ahead` has them
        self._state: list[State] | None = None
        self._ended = False

    def accept(self, features: Tensor) -> None:
        """Take the next features (T, F)."""
        features = torch.cat([self._features, features])
        stacks = len(features) // self.encoder.config.stack
        complete = features[: stacks * self.encoder.config.stack]
        self._features = features[len(complete) :]
        self._waiting = torch.cat([self._waiting, complete.reshape(stacks, self._waiting.shape[1])])

    def end(self) -> None:
        """Nothing follows: the last, incomplete stack is filled with zeros."""
        if len(self._features):
            missing = self.encoder.config.stack - len(self._features)
            self.accept(self._features.new_zeros(missing, self.encoder.features))
        self._ended = True

    @property
    def ready(self) -> bool:
        """Whether the next chunk can be read."""
        return not self.missing or (self._ended and not self.is_empty)

    @property
    def missing(self) -> int:
        """Encoder frames that have to come before the next chunk and its right context are there."""
        return max(0, self.context.frames - self._ahead - len(self._waiting))

    @property
    def is_empty(self) -> bool:
        """Whether there is no frame beyond the last chunk."""
        return self._ahead + len(self._waiting) == 0

    def restart(self, frames: int) -> None:
        """Forget everything, and read the `frames` frames up to the last chunk's end as new ones.

        They may be all that were read since the last start, as far as the last chunk and PAST_FRAMES
        before it reach; ValueError for more.
        """
        if frames > len(self._past):
            raise ValueError(f"{frames} frames are to be read again, {len(self._past)} are kept")
        again = self._past[len(self._past) - frames :]
        self._waiting = torch.cat([again, *self._strands[:1], self._waiting])
        self._past = self._past[:0]
        self._strands, self._state = [], None

    @property
    def _ahead(self) -> int:
        """Frames that the forward strands have read beyond the last chunk."""
        return len(self._strands[0]) if self._strands else 0

    @property
    def _unread(self) -> int:
        """Frames that they have to read before the next chunk."""
        return min(self.context.frames - self._ahead, len(self._waiting))


def advance(streams: Sequence[EncoderStream]) -> list[Tensor]:
    """Read the next chunk of each stream that is ready: its frames (n, H), n = 0 where none is.

    The streams, of one encoder and context, go through the layers together, as far as they are at
    the same place in their chunks.
    """
    found = [stream._waiting.new_zeros(0, stream.encoder.config.width) for stream in streams]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, stream in enumerate(streams):
        if stream.ready:
            groups.setdefault((stream._ahead, stream._unread), []).append(index)
    for members in groups.values():
        frames = _advance_alike([streams[index] for index in members])  # (B, n, H)
        for index, row in zip(members, frames, strict=True):
            found[index] = row
    return found


def _advance_alike(streams: list[EncoderStream]) -> Tensor:
    """The next chunk (B, n, H) of streams that wait at the same place."""
    encoder, context = streams[0].encoder, streams[0].context
    unread = streams[0]._unread
    strands = [torch.stack(rows) for rows in zip(*(s._strands for s in streams), strict=True)]
    state = _join_states(streams)
    if unread:  # else the signal has ended, and all of it was read before
        x = torch.stack([stream._waiting[:unread] for stream in streams])  # (B, unread, stack · F)
        fresh, state = encoder.look_ahead(x, state)
        pairs = zip(strands, fresh, strict=True) if strands else ((strand,) for strand in fresh)
        strands = [torch.cat(parts, dim=1) for parts in pairs]
    chunk = min(context.chunk, strands[0].shape[1])
    frames = strands[-1][:, :chunk]
    if encoder.config.kind == "latency_controlled":
        block = [strand[:, : context.frames] for strand in strands]
        size = block[0].shape[1]
        lengths = torch.full((len(streams),), size, device=frames.device)
        # The block is given as one chunk: cut by `context`, its right part would be read once more.
        back = encoder.look_back(block, lengths, Context(size))[:, :chunk]
        frames = torch.cat([frames, back], dim=-1)
    for index, stream in enumerate(streams):
        stream._waiting = stream._waiting[unread:]
        read = strands[0][index, :chunk]
        stream._past = torch.cat([stream._past[-PAST_FRAMES:], read])
        stream._strands = [s[index, chunk:] for s in strands] if strands[0].shape[1] > chunk else []
        stream._state = [tuple(part[index] for part in parts) for parts in state]
    return frames


def _join_states(streams: list[EncoderStream]) -> list[State]:
    """The layers' states of several streams, (B, H) each; zeros where a signal begins."""
    encoder = streams[0].encoder
    weight = next(encoder.parameters())
    parts = 2 if encoder.config.cell == "lstm" else 1
    begin = [(weight.new_zeros(encoder.config.hidden),) * parts] * encoder.config.layers
    states = [stream._state or begin for stream in streams]
    return [
        tuple(torch.stack(rows) for rows in zip(*layer, strict=True))
        for layer in zip(*states, strict=True)
    ]


def _mirror(lengths: Tensor, frames: int) -> Tensor:
    """Indices (B, T) that reverse each utterance's valid frames and leave its padding in place."""
    t = torch.arange(frames, device=lengths.device)
    return torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """The frames of x (B, T, H) in the order of index (B, T)."""
    batch, frames, width = x.shape
    rows = index + frames * torch.arange(batch, device=index.device)[:, None]  # of x as (B · T, H)
    return x.reshape(-1, width).index_select(0, rows.flatten()).view(batch, frames, width)


def _cut(x: Tensor, context: Context, chunks: int) -> Tensor:
    """x (B, T, H) as overlapping blocks (B · chunks, context.frames, H); beyond T, zeros."""
    needed = (chunks - 1) * context.chunk + context.frames
    x = nn.functional.pad(x, (0, 0, 0, max(0, needed - x.shape[1])))
    blocks = x.unfold(1, context.frames, context.chunk)[:, :chunks]  # (B, chunks, H, frames)
    return blocks.flatten(0, 1).transpose(1, 2)
