"""The memory cell: equal to torch's LSTM, and to its own equations."""

import pytest
import torch
from torch import nn

from asr.lstm import MemoryCell, open_forget_gates


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_memory_cell_equals_torch_lstm_and_its_gradients() -> None:
    torch.manual_seed(0)
    theirs = nn.LSTM(5, 7, batch_first=True)
    ours = MemoryCell.from_torch(theirs)
    x, h, c = random(3, 20, 5), random(3, 7, seed=1), random(3, 7, seed=2)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, (last_h, last_c) = theirs(x1, (h[None], c[None]))
    memory = ours(x2, (h, c))
    torch.testing.assert_close(memory.hidden, expected)
    torch.testing.assert_close(memory.hidden[:, -1], last_h[0])
    torch.testing.assert_close(memory.cell[:, -1], last_c[0])
    expected.square().sum().backward()
    memory.hidden.square().sum().backward()
    torch.testing.assert_close(x2.grad, x1.grad)
    torch.testing.assert_close(ours.from_hidden.weight.grad, theirs.weight_hh_l0.grad)


def test_gates_do_what_the_equations_say() -> None:
    torch.manual_seed(0)
    cell = MemoryCell.from_torch(nn.LSTM(5, 7, batch_first=True))
    m = cell(random(2, 9, 5))
    before = torch.cat([torch.zeros(2, 1, 7), m.cell[:, :-1]], dim=1)
    torch.testing.assert_close(m.cell, m.forget * before + m.input * m.candidate)
    torch.testing.assert_close(m.hidden, m.output * torch.tanh(m.cell))
    for gate in (m.input, m.forget, m.output):
        assert ((gate > 0) & (gate < 1)).all()


def test_an_open_forget_gate_keeps_the_memory_and_its_gradient() -> None:
    cell = MemoryCell(1, 1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.from_input.bias.copy_(torch.tensor([-20.0, 20.0, 0.0, 20.0]))  # i shut, f and o open
    start = torch.tensor([[0.5]], requires_grad=True)
    memory = cell(torch.zeros(1, 1000, 1), (torch.zeros(1, 1), start))
    torch.testing.assert_close(memory.cell[0, -1, 0].item(), 0.5, atol=1e-4, rtol=0)
    memory.cell[0, -1, 0].backward()
    assert start.grad.item() == pytest.approx(1.0, abs=1e-4)


def test_open_forget_gates_sets_their_bias_to_one() -> None:
    lstm = nn.LSTM(5, 6)
    open_forget_gates(lstm)
    biases = dict(lstm.named_parameters())
    total = biases["bias_ih_l0"] + biases["bias_hh_l0"]
    assert torch.equal(total[6:12], torch.ones(6))
