"""The acoustic model: normalized log-probs, batch invariance (law 1) and streaming (law 2)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio.waveform import load_audio
from asr.encoder import Context, EncoderConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.model import AcousticModel, EmissionStream, advance_models


def model(seed: int = 0, **values) -> AcousticModel:
    torch.manual_seed(seed)
    encoder = EncoderConfig(**{"layers": 2, "hidden": 16, "stack": 4, **values})
    return AcousticModel(FeaturesConfig(mels=20), encoder, 29).eval()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def test_log_probs_are_normalized_float32_in_training_and_evaluation() -> None:
    net = model()
    features, lengths = torch.randn(2, 30, 20), torch.tensor([30, 17])
    for mode in (True, False):
        emissions = net.train(mode)(features, lengths)
        assert emissions.log_probs.dtype == torch.float32
        torch.testing.assert_close(emissions.log_probs.exp().sum(-1), torch.ones(2, 8))
        assert emissions.lengths.tolist() == [8, 5]


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("forward", None),
        ("bidirectional", None),
        ("latency_controlled", None),
        ("latency_controlled", Context(3, 2)),
    ],
)
@given(samples=st.lists(st.integers(0, 8000), min_size=1, max_size=5))
@settings(deadline=None, max_examples=20)
def test_an_utterance_alone_equals_it_in_a_batch(
    kind: str, context: Context | None, samples: list[int]
) -> None:
    net = model(kind=kind)
    waveforms = [noise(n, seed) for seed, n in enumerate(samples)]
    together = net.emit(waveforms, context)
    for i, waveform in enumerate(waveforms):
        alone = net.emit([waveform], context)
        frames = net.frames(len(waveform))
        assert together.lengths[i] == alone.lengths[0] == frames
        torch.testing.assert_close(
            together.log_probs[i, :frames], alone.log_probs[0], atol=1e-5, rtol=0
        )


def drain(stream: EmissionStream) -> list[np.ndarray]:
    found = []
    while stream.ready:
        found += advance_models([stream])
    return found


def stream_in_pieces(stream: EmissionStream, pieces: list[np.ndarray]) -> torch.Tensor:
    found = [np.zeros((0, 29), np.float32)]
    for piece in pieces:
        stream.accept(piece)
        found += drain(stream)
    stream.end()
    return torch.from_numpy(np.concatenate(found + drain(stream)))


@pytest.mark.parametrize("kind", ["forward", "latency_controlled"])
@given(
    context=st.builds(Context, st.integers(1, 6), st.integers(0, 6)),
    cuts=st.lists(st.integers(0, 12_000), max_size=20),
    length=st.integers(0, 12_000),
)
@settings(deadline=None, max_examples=40)
def test_any_pieces_give_the_log_probs_of_the_whole(
    kind: str, context: Context, cuts: list[int], length: int
) -> None:
    net = model(kind=kind)
    waveform = noise(length)
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    pieces = [waveform[a:b] for a, b in pairwise(edges)]
    whole = net.emit([waveform], context).log_probs[0]
    streamed = stream_in_pieces(net.stream(context), pieces)
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["forward", "latency_controlled"])
def test_real_speech_sample_by_sample_equals_the_whole(shared, kind: str) -> None:
    path = next((shared / "LibriSpeech" / "dev-mini").rglob("*.mp3"))
    waveform = load_audio(path)[:6000]
    net, context = model(kind=kind), Context(2, 1)
    pieces = [waveform[i : i + 1] for i in range(len(waveform))]
    whole = net.emit([waveform], context).log_probs[0]
    streamed = stream_in_pieces(net.stream(context), pieces)
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["forward", "latency_controlled"])
def test_streams_advanced_together_equal_each_one_alone(kind: str) -> None:
    net, context = model(kind=kind), Context(4, 2)
    waveforms = [noise(n, seed) for seed, n in enumerate((16_000, 15_000, 9000, 300))]
    streams = [net.stream(context) for _ in waveforms]
    for stream, waveform in zip(streams, waveforms, strict=True):
        stream.accept(waveform)
        stream.end()
    rows: list[list[np.ndarray]] = [[] for _ in waveforms]
    while any(stream.ready for stream in streams):
        for found, chunk in zip(rows, advance_models(streams), strict=True):
            found.append(chunk)
    for found, waveform in zip(rows, waveforms, strict=True):
        alone = net.emit([waveform], context).log_probs[0]
        torch.testing.assert_close(
            torch.from_numpy(np.concatenate(found)), alone, atol=1e-4, rtol=0
        )


def test_an_incomplete_last_frame_completes_the_context() -> None:
    net = model()
    stream = net.stream(Context(4, 2))
    features = 6 * net.encoder.config.stack - 1
    stream.accept(noise(net.features.config.window + (features - 1) * net.features.config.hop))
    assert not stream.ready
    stream.end()
    assert stream.ready
    assert stream.has_right_context
    [chunk] = advance_models([stream])
    assert len(chunk) == 4
    assert stream.ready
    assert not stream.has_right_context


def test_a_bidirectional_model_refuses_to_stream_and_names_the_alternative() -> None:
    with pytest.raises(ConfigError, match=r"cannot stream.*encoder=latency_controlled"):
        model(kind="bidirectional").stream(Context(4))


def test_frame_seconds_is_stack_times_hop() -> None:
    assert model().frame_seconds == pytest.approx(0.04)
