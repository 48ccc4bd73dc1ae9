"""The acoustic model: normalised log-probs, batch invariance (law 1), streaming (law 2)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import load_audio
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.lstm import EncoderConfig
from asr.model import AcousticModel


def model(seed: int = 0, **values) -> AcousticModel:
    torch.manual_seed(seed)
    encoder = EncoderConfig(**{"layers": 2, "hidden": 16, "stack": 4, **values})
    return AcousticModel(FeaturesConfig(mels=20), encoder, 29).eval()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def test_log_probs_are_normalised_float32_in_training_and_evaluation() -> None:
    net = model()
    features, lengths = torch.randn(2, 30, 20), torch.tensor([30, 17])
    for mode in (True, False):
        emissions = net.train(mode)(features, lengths)
        assert emissions.log_probs.dtype == torch.float32
        torch.testing.assert_close(emissions.log_probs.exp().sum(-1), torch.ones(2, 8))
        assert emissions.lengths.tolist() == [8, 5]


@pytest.mark.parametrize("bidirectional", [False, True])
@given(samples=st.lists(st.integers(0, 8000), min_size=1, max_size=5))
@settings(deadline=None, max_examples=20)
def test_alone_and_in_a_batch_are_the_same(bidirectional: bool, samples: list[int]) -> None:
    net = model(bidirectional=bidirectional)
    waveforms = [noise(n, seed) for seed, n in enumerate(samples)]
    together = net.emit(waveforms)
    for i, waveform in enumerate(waveforms):
        alone = net.emit([waveform])
        frames = net.frames(len(waveform))
        assert together.lengths[i] == alone.lengths[0] == frames
        torch.testing.assert_close(
            together.log_probs[i, :frames], alone.log_probs[0], atol=1e-5, rtol=0
        )


@given(cuts=st.lists(st.integers(0, 12_000), max_size=20), length=st.integers(0, 12_000))
@settings(deadline=None, max_examples=40)
def test_any_pieces_give_the_log_probs_of_the_whole(cuts: list[int], length: int) -> None:
    net = model(bidirectional=False)
    waveform = noise(length)
    stream = net.stream()
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    pieces = [stream.accept(waveform[a:b]) for a, b in pairwise(edges)]
    pieces.append(stream.finish())
    whole = net.emit([waveform]).log_probs[0]
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=0)


def test_real_speech_sample_by_sample(shared) -> None:
    path = next((shared / "LibriSpeech" / "dev-mini").rglob("*.mp3"))
    waveform = load_audio(path)[:6000]
    net = model(bidirectional=False)
    stream = net.stream()
    pieces = [stream.accept(waveform[i : i + 1]) for i in range(len(waveform))]
    pieces.append(stream.finish())
    whole = net.emit([waveform]).log_probs[0]
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=0)


def test_bidirectional_refuses_to_stream_and_names_the_alternative() -> None:
    with pytest.raises(ConfigError, match=r"cannot stream.*encoder\.bidirectional=false"):
        model(bidirectional=True).stream()


def test_frame_seconds_is_stack_times_hop() -> None:
    assert model().frame_seconds == pytest.approx(0.04)
