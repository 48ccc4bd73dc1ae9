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

from typing import NamedTuple

import torch
from torch import Tensor, nn

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


def open_forget_gates(lstm: nn.LSTM) -> None:
    """Begin with forget gates open: bias 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
    weights = dict(lstm.named_parameters())
    forget = slice(lstm.hidden_size, 2 * lstm.hidden_size)
    with torch.no_grad():
        weights["bias_ih_l0"][forget] = 1.0
        weights["bias_hh_l0"][forget] = 0.0
