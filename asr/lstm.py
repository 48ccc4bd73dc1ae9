"""The LSTM memory cell, written out gate by gate.

A recurrent network reads a sequence frame by frame and carries a state from each frame to the next.
The state of an LSTM has two parts: the memory c and the output h. At frame t, the input x[t] and the
previous output h[t-1] determine three gates, whose values lie between 0 and 1, and a candidate:

    i = σ(W_i x[t] + U_i h[t-1] + b_i)        input gate:   how much of the candidate to write
    f = σ(W_f x[t] + U_f h[t-1] + b_f)        forget gate:  how much of the old memory to keep
    g = tanh(W_g x[t] + U_g h[t-1] + b_g)     candidate:    what to write
    o = σ(W_o x[t] + U_o h[t-1] + b_o)        output gate:  how much of the memory to show

    c[t] = f ∘ c[t-1] + i ∘ g                 new memory
    h[t] = o ∘ tanh(c[t])                     new output

Here σ is the logistic function, σ(z) = 1 / (1 + exp(-z)), and ∘ the element-wise product.

From frame to frame the memory is only scaled and added to; no matrix and no tanh lies on its path.
The derivative of c[t] with respect to c[s] along this path is therefore f[t] ∘ ... ∘ f[s+1], which
survives hundreds of frames while the forget gates stay near 1. In a plain recurrent network,
h[t] = tanh(W x[t] + U h[t-1] + b), the derivative is a product of matrices, one per frame, and
vanishes or explodes (Bengio et al. 1994). `recipes/digits/compare.py` measures the difference.

Letters in shapes: B utterances, T frames, I inputs per frame, H memory cells (hidden units).

References:
    Hochreiter and Schmidhuber (1997), "Long short-term memory": the cell, without a forget gate.
    Gers, Schmidhuber and Cummins (2000), "Learning to forget: continual prediction with LSTM".
    Jozefowicz, Zaremba and Sutskever (2015), "An empirical exploration of recurrent network
        architectures": a forget gate that is open at the start of training.
    Bengio, Simard and Frasconi (1994), "Learning long-term dependencies with gradient descent is
        difficult".
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]  # (h, c) of an LSTM layer, (h,) of a plain recurrent layer; each (B, H)


class CellActivations(NamedTuple):
    """Gates, candidate, memory and output: (B, H) at one frame, or (B, T, H) at every frame."""

    input: Tensor  # i, in (0, 1)
    forget: Tensor  # f, in (0, 1)
    candidate: Tensor  # g, in (-1, 1)
    output: Tensor  # o, in (0, 1)
    cell: Tensor  # c, unbounded
    hidden: Tensor  # h, in (-1, 1)


class MemoryCell(nn.Module):
    """One LSTM layer computed from the equations: equal to `torch.nn.LSTM`, readable, and slow.

    `from_input` holds W and b, `from_hidden` holds U. Their 4 · H rows are the blocks of i, f, g and
    o, in torch's order.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(inputs, 4 * hidden)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)

    @classmethod
    def from_torch(cls, lstm: nn.LSTM) -> "MemoryCell":
        """Copy the weights of a one-layer, one-directional `torch.nn.LSTM`.

        Torch has two bias vectors, of which only the sum matters.
        """
        weights = dict(lstm.named_parameters())
        cell = cls(lstm.input_size, lstm.hidden_size).to(weights["weight_ih_l0"])
        with torch.no_grad():
            cell.from_input.weight.copy_(weights["weight_ih_l0"])
            cell.from_hidden.weight.copy_(weights["weight_hh_l0"])
            cell.from_input.bias.copy_(weights["bias_ih_l0"] + weights["bias_hh_l0"])
        return cell

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> CellActivations:
        """Compute one frame from its input x (B, I), the previous output h and memory c (B, H)."""
        i, f, g, o = (self.from_input(x) + self.from_hidden(h)).chunk(4, dim=-1)  # (B, H) each
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return CellActivations(input=i, forget=f, candidate=g, output=o, cell=c, hidden=h)

    def forward(self, x: Tensor, state: State | None = None) -> CellActivations:
        """Compute every frame, one after the other.

        Args:
            x: Inputs (B, T, I).
            state: (h, c) before the first frame, each (B, H); zeros if None.

        Returns:
            The activations at every frame, each (B, T, H).
        """
        zeros = x.new_zeros(len(x), self.from_hidden.in_features)  # (B, H)
        h, c = state if state is not None else (zeros, zeros)
        steps = []
        for t in range(x.shape[1]):
            activations = self.step(x[:, t], h, c)
            h, c = activations.hidden, activations.cell
            steps.append(activations)
        return CellActivations(*(torch.stack(field, dim=1) for field in zip(*steps, strict=True)))


def open_forget_gates(lstm: nn.LSTM) -> None:
    """Set the forget gates' bias to 1, so that an untrained cell keeps its memory.

    Gers et al. (2000); Jozefowicz et al. (2015).
    """
    weights = dict(lstm.named_parameters())
    forget = slice(lstm.hidden_size, 2 * lstm.hidden_size)  # the second of the blocks i, f, g, o
    with torch.no_grad():
        weights["bias_ih_l0"][forget] = 1.0
        weights["bias_hh_l0"][forget] = 0.0
