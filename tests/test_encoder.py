"""The encoder, compared with memory cells: batches, streams, operating points."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr.encoder import Context, Encoder, EncoderConfig, EncoderStream, advance_encoders
from asr.errors import ConfigError
from asr.lstm import MemoryCell

KINDS = ("forward", "bidirectional", "latency_controlled")


def config(**values) -> EncoderConfig:
    return EncoderConfig(
        **{"layers": 2, "hidden": 6, "stack": 3, "dropout": 0.0, "kind": "forward", **values}
    )


def encoder(seed: int = 0, **values) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(config(**values), features=5).eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_forget_gates_of_an_untrained_encoder_are_open() -> None:
    biases = dict(encoder().layers[0].ahead.cell.named_parameters())
    total = biases["bias_ih_l0"] + biases["bias_hh_l0"]
    assert torch.equal(total[6:12], torch.ones(6))


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", [0, 4])
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=12)
def test_an_utterance_alone_equals_it_in_a_ragged_batch(
    cell: str, kind: str, projection: int, lengths: list[int], seed: int
) -> None:
    net = encoder(seed, cell=cell, kind=kind, projection=projection)
    frames = torch.tensor(lengths)
    x = random(len(lengths), max(lengths), 5, seed=seed)  # the padding is not zero on purpose
    together, steps = net(x, frames)
    assert together.shape == (len(lengths), -(-max(lengths) // 3), net.config.width)
    for i, length in enumerate(lengths):
        alone, _ = net(x[i : i + 1, :length], frames[i : i + 1])
        assert steps[i] == alone.shape[1] == net.frames(length)
        torch.testing.assert_close(together[i, : steps[i]], alone[0], atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bidirectional", "latency_controlled"])
def test_both_directions_equal_torchs_packed_layer(kind: str) -> None:
    """Two forward passes replace a bidirectional layer on a packed sequence."""
    net = encoder(kind=kind, layers=1, layer_norm=False, stack=1)
    layer = net.layers[0]
    theirs = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    theirs.load_state_dict(
        dict(layer.ahead.cell.state_dict())
        | {f"{name}_reverse": value for name, value in layer.back.cell.state_dict().items()}
    )
    lengths = torch.tensor([9, 4, 7])
    x = random(3, 9, 5)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    ours, _ = net(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[i, :length], expected[i, :length])


CONTEXTS = st.builds(Context, st.integers(1, 12), st.integers(0, 12))


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize("kind", ["forward", "latency_controlled"])
@given(
    context=CONTEXTS,
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 25), min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=40)
def test_streams_advanced_together_equal_the_whole(
    cell: str, kind: str, context: Context, lengths: list[int], steps: list[int]
) -> None:
    net = encoder(cell=cell, kind=kind, stack=2)
    x = random(len(lengths), max(1, *lengths), 5)
    whole, frames = net(x, torch.tensor(lengths), context)
    streams = [net.stream(context) for _ in lengths]
    found = drain(streams, x, lengths, steps)
    for i, count in enumerate(frames.tolist()):
        torch.testing.assert_close(torch.cat(found[i]), whole[i, :count], atol=1e-5, rtol=1e-5)


def drain(
    streams: list[EncoderStream], x: torch.Tensor, lengths: list[int], steps: list[int]
) -> list[list[torch.Tensor]]:
    """The output of each stream for pieces of the given sizes, which arrive at different times."""
    found = [[x.new_zeros(0, streams[0].encoder.config.width)] for _ in streams]
    positions, turn = [0] * len(streams), 0
    while turn < 500 and not all(stream._ended and not stream.ready for stream in streams):
        for i, stream in enumerate(streams):
            step = steps[(turn + i) % len(steps)] + (turn > 50)
            if positions[i] < lengths[i]:
                piece = x[i, positions[i] : min(positions[i] + step, lengths[i])]
                stream.accept(piece)
                positions[i] += len(piece)
            else:
                stream.end()
        for row, frames in zip(found, advance_encoders(streams), strict=True):
            row.append(frames)
        turn += 1
    assert turn < 500
    return found


@given(context=CONTEXTS, length=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_a_latency_controlled_encoder_equals_memory_cells_chunk_by_chunk(
    context: Context, length: int
) -> None:
    """The reference runs memory cells over one chunk after the other and shares no computation."""
    net = encoder(kind="latency_controlled", stack=1, layers=3, seed=3)
    x = random(1, length, 5)
    ours, _ = net(x, torch.tensor([length]), context)
    ahead = [x]
    for layer in net.layers:
        hidden = MemoryCell.from_torch(layer.ahead.cell)(ahead[-1]).hidden
        ahead.append(layer.ahead.norm(hidden))
    for begin in range(0, length, context.chunk):
        end = min(begin + context.chunk + context.right, length)
        back = None
        for layer, inputs in zip(net.layers, ahead, strict=False):
            inputs = inputs[:, begin:end]
            if back is not None:
                inputs = torch.cat([inputs, back], dim=-1)
            hidden = MemoryCell.from_torch(layer.back.cell)(inputs.flip(1)).hidden
            back = layer.back.norm(hidden.flip(1))
        chunk = slice(begin, min(begin + context.chunk, length))
        expected = torch.cat([ahead[-1][:, chunk], back[:, : chunk.stop - begin]], dim=-1)
        torch.testing.assert_close(ours[:, chunk], expected, atol=1e-5, rtol=1e-5)


def test_one_chunk_of_everything_equals_the_whole() -> None:
    net = encoder(kind="latency_controlled")
    x, lengths = random(2, 30, 5), torch.tensor([30, 21])
    whole, _ = net(x, lengths)
    torch.testing.assert_close(net(x, lengths, Context(10, 5))[0], whole)
    assert not torch.allclose(net(x, lengths, Context(5, 1))[0], whole)


@given(context=CONTEXTS, changed=st.integers(0, 59))
@settings(deadline=None, max_examples=30)
def test_frames_after_the_right_context_change_nothing(context: Context, changed: int) -> None:
    net = encoder(kind="latency_controlled", stack=1)
    x = random(1, 60, 5)
    before, _ = net(x, torch.tensor([60]), context)
    x[:, changed] += 1.0
    after, _ = net(x, torch.tensor([60]), context)
    chunks = [frame // context.chunk for frame in range(60)]
    visible = [changed < chunk * context.chunk + context.frames for chunk in chunks]
    moved = (before != after).any(-1)[0].tolist()
    assert not any(m and not v for m, v in zip(moved, visible, strict=True))
    assert moved[changed]


@pytest.mark.parametrize("kind", ["forward", "latency_controlled"])
@pytest.mark.parametrize("chunk", [4, 40])
@pytest.mark.parametrize("again", [0, 1, 4, 36])
def test_a_restarted_stream_equals_a_new_signal(kind: str, chunk: int, again: int) -> None:
    net, context = encoder(kind=kind, stack=1), Context(chunk, 3)
    read = 80 // chunk * chunk
    x = random(1, 100, 5)
    stream = net.stream(context)
    stream.accept(x[0, : read + 3])
    for _ in range(80 // chunk):
        advance_encoders([stream])
    stream.restart(again)
    stream.accept(x[0, read + 3 :])
    stream.end()
    rest = []
    while stream.ready:
        rest += advance_encoders([stream])
    own, _ = net(x[:, read - again :], torch.tensor([100 - read + again]), context)
    torch.testing.assert_close(torch.cat(rest), own[0], atol=1e-5, rtol=1e-5)


def test_frames_that_are_no_longer_kept_cannot_be_read_again() -> None:
    stream = encoder(kind="forward", stack=1).stream(Context(4))
    stream.accept(random(80, 5))
    while stream.ready:
        advance_encoders([stream])
    with pytest.raises(ValueError, match="37 frames are to be read again, 36 are kept"):
        stream.restart(37)


def test_training_draws_every_operating_point() -> None:
    net = encoder(kind="latency_controlled", whole=0.25, chunk=[2, 9], right=[1, 3])
    drawn = [net.draw_context(torch.Generator().manual_seed(seed)) for seed in range(600)]
    assert 100 < drawn.count(None) < 200
    chunks = [context for context in drawn if context is not None]
    assert {context.chunk for context in chunks} == set(range(2, 10))
    assert {context.right for context in chunks} == {1, 2, 3}
    assert encoder(kind="forward").draw_context(torch.Generator()) is None


def test_dropout_acts_between_layers_in_training_only() -> None:
    net = encoder(dropout=0.5)
    x, lengths = random(2, 12, 5), torch.tensor([12, 12])
    assert torch.equal(net(x, lengths)[0], net(x, lengths)[0])
    net.train()
    assert not torch.equal(net(x, lengths)[0], net(x, lengths)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_cell_activations_are_those_of_the_layers(kind: str) -> None:
    net = encoder(kind=kind, layer_norm=False)
    x = random(2, 12, 5)
    found = net.cell_activations(x)
    y, _ = net(x, torch.tensor([12, 12]))
    assert len(found) == 2
    top = found[-1]
    ours = top["ahead"].hidden
    if kind != "forward":
        ours = torch.cat([ours, top["back"].hidden.flip(1)], dim=-1)
    torch.testing.assert_close(ours, y, atol=1e-5, rtol=1e-4)


def test_a_plain_network_has_no_gates() -> None:
    with pytest.raises(ConfigError, match="no gates"):
        encoder(cell="rnn").cell_activations(random(1, 3, 5))


def test_a_bidirectional_encoder_names_the_alternative() -> None:
    net = encoder(kind="bidirectional")
    with pytest.raises(ConfigError, match="encoder=latency_controlled"):
        net(random(1, 3, 5), torch.tensor([3]), Context(1))
    with pytest.raises(ConfigError, match="encoder=latency_controlled"):
        net.stream(Context(1))


@pytest.mark.parametrize("frames", [(0, 1), (1, -1)])
def test_impossible_contexts_raise_an_error(frames: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Context(*frames)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cell": "gru"}, "encoder.cell"),
        ({"layers": 0}, "encoder.layers"),
        ({"dropout": 1.0}, "encoder.dropout"),
        ({"projection": -1}, "encoder.projection"),
        ({"kind": "backward"}, "encoder.kind"),
        ({"whole": 1.5}, "encoder.whole"),
        ({"chunk": [0, 3]}, "encoder.chunk"),
        ({"chunk": [3]}, "encoder.chunk"),
        ({"right": [4, 3]}, "encoder.right"),
    ],
)
def test_impossible_values_raise_an_error_that_names_them(values, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**values)
