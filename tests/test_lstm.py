"""The memory cell against torch's, and the fast encoder against the memory cell."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr.errors import ConfigError
from asr.lstm import Encoder, EncoderConfig, MemoryCell


def config(**values) -> EncoderConfig:
    return EncoderConfig(
        **{"layers": 2, "hidden": 6, "stack": 3, "dropout": 0.0, "bidirectional": False, **values}
    )


def encoder(seed: int = 0, **values) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(config(**values), features=5).eval()


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


def test_forget_gates_begin_open() -> None:
    biases = dict(encoder().layers[0].ahead.named_parameters())
    total = biases["bias_ih_l0"] + biases["bias_hh_l0"]
    assert torch.equal(total[6:12], torch.ones(6))


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projection", [0, 4])
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=12)
def test_alone_and_in_a_ragged_batch_are_the_same(
    cell: str, bidirectional: bool, projection: int, lengths: list[int], seed: int
) -> None:
    net = encoder(seed, cell=cell, bidirectional=bidirectional, projection=projection)
    frames = torch.tensor(lengths)
    x = random(len(lengths), max(lengths), 5, seed=seed)  # padding holds garbage on purpose
    together, steps, _ = net(x, frames)
    assert together.shape == (len(lengths), -(-max(lengths) // 3), net.config.width)
    for i, length in enumerate(lengths):
        alone, _, _ = net(x[i : i + 1, :length], frames[i : i + 1])
        assert steps[i] == alone.shape[1] == net.frames(length)
        torch.testing.assert_close(together[i, : steps[i]], alone[0], atol=5e-6, rtol=1e-5)


def test_bidirectional_layer_equals_torchs_packed_one() -> None:
    """The oracle for two forward layers instead of packing."""
    net = encoder(bidirectional=True, layers=1, layer_norm=False, stack=1)
    layer = net.layers[0]
    theirs = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    theirs.load_state_dict(
        dict(layer.ahead.state_dict())
        | {f"{name}_reverse": value for name, value in layer.back.state_dict().items()}
    )
    lengths = torch.tensor([9, 4, 7])
    x = random(3, 9, 5)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    ours, _, _ = net(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[i, :length], expected[i, :length])


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@given(cuts=st.lists(st.integers(0, 10), max_size=6))
@settings(deadline=None, max_examples=25)
def test_carried_state_goes_on_where_it_stopped(cell: str, cuts: list[int]) -> None:
    net = encoder(cell=cell)
    x = random(2, 30, 5)
    whole, _, _ = net(x, torch.tensor([30, 30]))
    pieces, state = [], None
    for a, b in pairwise([0, *sorted(3 * cut for cut in cuts), 30]):
        y, _, state = net(x[:, a:b], torch.tensor([b - a, b - a]), state or None)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)


def test_dropout_acts_between_layers_in_training_only() -> None:
    net = encoder(dropout=0.5)
    x, lengths = random(2, 12, 5), torch.tensor([12, 12])
    assert torch.equal(net(x, lengths)[0], net(x, lengths)[0])
    net.train()
    assert not torch.equal(net(x, lengths)[0], net(x, lengths)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_memories_of_the_encoder_are_those_of_its_layers(bidirectional: bool) -> None:
    net = encoder(bidirectional=bidirectional, layer_norm=False)
    x = random(2, 12, 5)
    found = net.memories(x)
    y, _, _ = net(x, torch.tensor([12, 12]))
    assert len(found) == 2
    top = found[-1]
    ours = top["ahead"].hidden
    if bidirectional:
        ours = torch.cat([ours, top["back"].hidden.flip(1)], dim=-1)
    torch.testing.assert_close(ours, y, atol=1e-5, rtol=1e-4)


def test_a_plain_network_has_no_gates() -> None:
    with pytest.raises(ConfigError, match="no gates"):
        encoder(cell="rnn").memories(random(1, 3, 5))


def test_bidirectional_cannot_go_on_from_a_state() -> None:
    net = encoder(bidirectional=True)
    with pytest.raises(ConfigError, match=r"encoder\.bidirectional=false"):
        net(random(1, 3, 5), torch.tensor([3]), [])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cell": "gru"}, "encoder.cell"),
        ({"layers": 0}, "encoder.layers"),
        ({"dropout": 1.0}, "encoder.dropout"),
        ({"projection": -1}, "encoder.projection"),
    ],
)
def test_impossible_values_are_named(values, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**values)
