"""The LSTM: the memory cell written out gate by gate, and the fast stacked encoder.

A memory cell keeps a vector `c`. At every frame three gates, each between 0 and 1, look at the new
input x and at the last output h, and decide (Hochreiter & Schmidhuber 1997; the forget gate is
Gers, Schmidhuber & Cummins 2000):

    i = σ(W_i x + U_i h + b_i)        input gate:   how much of the candidate is written
    f = σ(W_f x + U_f h + b_f)        forget gate:  how much of the old memory is kept
    o = σ(W_o x + U_o h + b_o)        output gate:  how much of the memory is read
    g = tanh(W_g x + U_g h + b_g)     candidate:    what would be written
    c = f ∘ c + i ∘ g                 the memory: scaled and added to, never squashed
    h = o ∘ tanh(c)                   the output

Along the memory's own path, the gradient of c with respect to an earlier c is a product of forget
gates alone: while they stay near 1, it does not vanish over hundreds of frames. In a plain recurrent
network, h = tanh(W x + U h + b), every path is a product of matrices, which vanishes or explodes.
`recipes/digits/compare.py` measures what of the input reaches the last output of either.

`MemoryCell` is these lines as code. `Encoder` computes the same through torch's fused kernels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.errors import ConfigError

State = tuple[Tensor, ...]  # (h, c) of an LSTM layer, (h,) of a plain recurrent layer; each (B, H)


class Memory(NamedTuple):
    """What a memory cell did at one frame, or, stacked along time, at every frame."""

    input: Tensor  # i, in (0, 1); each field is (B, H), or (B, T, H) over time
    forget: Tensor  # f, in (0, 1)
    output: Tensor  # o, in (0, 1)
    candidate: Tensor  # g, in (-1, 1)
    cell: Tensor  # c
    hidden: Tensor  # h, in (-1, 1)


class MemoryCell(nn.Module):
    """One LSTM layer as its equations: the readable reference, equal to `torch.nn.LSTM` and slow.

    The four blocks of `from_input` (W and b) and `from_hidden` (U) are i, f, g, o: torch's order.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(inputs, 4 * hidden)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)

    @classmethod
    def from_torch(cls, lstm: nn.LSTM) -> "MemoryCell":
        """The cell with the weights of a one-layer forward `torch.nn.LSTM`."""
        weights = dict(lstm.named_parameters())
        cell = cls(lstm.input_size, lstm.hidden_size).to(weights["weight_ih_l0"])
        with torch.no_grad():
            cell.from_input.weight.copy_(weights["weight_ih_l0"])
            cell.from_hidden.weight.copy_(weights["weight_hh_l0"])
            cell.from_input.bias.copy_(weights["bias_ih_l0"] + weights["bias_hh_l0"])
        return cell

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> Memory:
        """One frame: input x (B, I), last output h (B, H) and memory c (B, H)."""
        i, f, g, o = (self.from_input(x) + self.from_hidden(h)).chunk(4, dim=-1)
        i, f, o, g = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return Memory(input=i, forget=f, output=o, candidate=g, cell=c, hidden=h)

    def forward(self, x: Tensor, state: State | None = None) -> Memory:
        """Every frame: x (B, T, I) and the state (h, c) to begin with -> `Memory` of (B, T, H)."""
        zeros = x.new_zeros(len(x), self.from_hidden.in_features)
        h, c = state if state is not None else (zeros, zeros)
        steps = []
        for t in range(x.shape[1]):
            memory = self.step(x[:, t], h, c)
            h, c = memory.hidden, memory.cell
            steps.append(memory)
        return Memory(*(torch.stack(field, dim=1) for field in zip(*steps, strict=True)))


CELLS: dict[str, type[nn.LSTM] | type[nn.RNN]] = {"lstm": nn.LSTM, "rnn": nn.RNN}


@dataclass
class EncoderConfig:
    """A stack of recurrent layers. An encoder frame is `stack` feature frames side by side."""

    cell: str = "lstm"  # "lstm", or "rnn": the plain tanh network, as a baseline
    layers: int = 3
    hidden: int = 256  # memory cells per layer and direction
    bidirectional: bool = True
    stack: int = 4  # feature frames per encoder frame; the encoder's frame rate is divided by it
    projection: int = 0  # width of a linear layer after each recurrent layer; 0: none
    layer_norm: bool = True
    dropout: float = 0.1  # between layers

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ConfigError(
                f"encoder.cell is {self.cell!r}; it must be one of {', '.join(CELLS)}."
            )
        for key in ("layers", "hidden", "stack"):
            if getattr(self, key) < 1:
                raise ConfigError(f"encoder.{key} is {getattr(self, key)}; it must be at least 1.")
        if self.projection < 0:
            raise ConfigError(f"encoder.projection is {self.projection}; it must be 0 or more.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout is {self.dropout}; it must be in [0, 1).")

    @property
    def width(self) -> int:
        """Width of the encoder's output, H in the shapes."""
        return self.projection or self.hidden * (2 if self.bidirectional else 1)


class RecurrentLayer(nn.Module):
    """One recurrent layer in one or both directions, then projection and layer norm."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        cell = CELLS[config.cell]
        self.ahead = cell(inputs, config.hidden, batch_first=True)
        # A bidirectional layer is two forward layers, the second on the utterance read backwards:
        # exact on ragged batches without packing, which makes an LSTM 2.3 times slower on a CPU.
        self.back = cell(inputs, config.hidden, batch_first=True) if config.bidirectional else None
        both = config.hidden * (2 if config.bidirectional else 1)
        self.projection = nn.Linear(both, config.projection) if config.projection else nn.Identity()
        self.norm = nn.LayerNorm(config.width) if config.layer_norm else nn.Identity()
        for recurrent in (self.ahead, self.back):
            if isinstance(recurrent, nn.LSTM):
                remember_at_first(recurrent)

    def forward(
        self, x: Tensor, reversal: Tensor | None, state: State | None
    ) -> tuple[Tensor, State]:
        """x (B, T, I) -> (B, T, width) and the forward direction's state after the last frame.

        `reversal` (B, T) holds, for each frame, the index of its mirror frame; None where there is
        no backward direction.
        """
        # Autocast would run cuDNN's recurrent layers in float16, whatever it was asked for, and
        # gradients of a loss per character vanish in float16.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if state is not None:  # torch keeps a leading layer axis
                state = tuple(part[None] for part in state)
                y, after = self.ahead(x, state if len(state) > 1 else state[0])
            else:
                y, after = self.ahead(x)
            if self.back is not None:
                assert reversal is not None
                back, _ = self.back(_take(x, reversal))
                y = torch.cat([y, _take(back, reversal)], dim=-1)
        y = self.norm(self.projection(y))
        parts = after if isinstance(after, tuple) else (after,)
        return y, tuple(part[0] for part in parts)


class Encoder(nn.Module):
    """Features (B, T, F) -> encoder frames (B, T', H), T' = ceil(T / stack).

    The last, incomplete stack of an utterance is filled with zeros: normalised features' mean.
    """

    def __init__(self, config: EncoderConfig, features: int) -> None:
        super().__init__()
        self.config = config
        widths = [features * config.stack] + [config.width] * (config.layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(config, width) for width in widths)
        self.dropout = nn.Dropout(config.dropout)

    def frames(self, frames: int) -> int:
        """How many encoder frames `frames` feature frames give."""
        return -(-frames // self.config.stack)

    def forward(
        self, features: Tensor, lengths: Tensor, state: list[State] | None = None
    ) -> tuple[Tensor, Tensor, list[State]]:
        """Encode features (B, T, F) of which the first `lengths` (B,) frames are valid.

        Returns frames (B, T', H), their lengths (B,), and each layer's state after frame T', from
        which a next call can go on. The state is meant for utterances of equal length: padding
        moves it on. A bidirectional encoder cannot begin from a state: ConfigError.
        """
        if state is not None:
            self.require_forward()
        x, lengths = self._stack(features, lengths)
        if x.shape[1] == 0:
            return x.new_zeros(len(x), 0, self.config.width), lengths, state or []
        reversal = _mirror(lengths, x.shape[1]) if self.config.bidirectional else None
        after = []
        for index, layer in enumerate(self.layers):
            if index:
                x = self.dropout(x)
            x, layer_state = layer(x, reversal, state[index] if state else None)
            after.append(layer_state)
        return x, lengths, after

    def require_forward(self) -> None:
        """Raise ConfigError where the encoder needs the whole recording before its first output."""
        if self.config.bidirectional:
            raise ConfigError(
                "This encoder is bidirectional: it needs the whole recording and cannot stream; "
                "transcribe the file whole, or train with encoder.bidirectional=false."
            )

    @torch.no_grad()
    def memories(self, features: Tensor) -> list[dict[str, Memory]]:
        """Every gate's activation of every layer for features (B, T, F) of equal lengths.

        Per layer the directions "ahead" and, if any, "back" (in its own, reversed time); each
        field of `Memory` is (B, T', H). Computed by `MemoryCell`; ConfigError for a plain RNN.
        """
        if self.config.cell != "lstm":
            raise ConfigError(f"A network of cell {self.config.cell!r} has no gates to look at.")
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
        x, lengths = self._stack(features, lengths)
        reversal = _mirror(lengths, x.shape[1]) if self.config.bidirectional else None
        found = []
        for layer in self.layers:
            assert isinstance(layer, RecurrentLayer)
            assert isinstance(layer.ahead, nn.LSTM)
            memories = {"ahead": MemoryCell.from_torch(layer.ahead)(x)}
            if isinstance(layer.back, nn.LSTM) and reversal is not None:
                memories["back"] = MemoryCell.from_torch(layer.back)(_take(x, reversal))
            found.append(memories)
            x, _ = layer(x, reversal, None)
        return found

    def _stack(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) -> (B, T', stack · F), zeros after each utterance's last frame."""
        batch, frames, bins = features.shape
        stack = self.config.stack
        x = nn.functional.pad(features, (0, 0, 0, -frames % stack))
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, T)
        x = x * valid[..., None]
        lengths = torch.div(lengths + stack - 1, stack, rounding_mode="floor")
        return x.reshape(batch, -1, stack * bins), lengths  # (B, T', stack · F)


def remember_at_first(lstm: nn.LSTM) -> None:
    """Begin with forget gates open: bias 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
    weights = dict(lstm.named_parameters())
    forget = slice(lstm.hidden_size, 2 * lstm.hidden_size)
    with torch.no_grad():
        weights["bias_ih_l0"][forget] = 1.0
        weights["bias_hh_l0"][forget] = 0.0


def _mirror(lengths: Tensor, frames: int) -> Tensor:
    """Indices (B, T) that reverse each utterance's valid frames and leave its padding in place."""
    t = torch.arange(frames, device=lengths.device)
    return torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """The frames of x (B, T, H) in the order of index (B, T)."""
    return x.gather(1, index[..., None].expand_as(x))
