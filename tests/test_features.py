"""Log-mel features: equal to librosa's and torchaudio's, and to themselves in pieces (law 2)."""

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio.waveform import load_audio
from asr.errors import AudioError, ConfigError
from asr.features import FeaturesConfig, LogMel, advance_features, mel_filters


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def aligned(log_mel: LogMel, waveform: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Features, and the padding on each side with which other libraries cut the same windows."""
    return log_mel(waveform), (log_mel.fft - log_mel.config.window) // 2


@pytest.mark.parametrize(
    "config",
    [
        FeaturesConfig(),
        FeaturesConfig(mels=40, high_hz=5600.0, window_ms=32.0, hop_ms=8.0),
        FeaturesConfig(sample_rate=8000, high_hz=4000.0, mels=40),
    ],
)
def test_features_equal_librosa(config: FeaturesConfig) -> None:
    import librosa

    waveform = noise(24_000)
    log_mel = LogMel(config)
    ours, margin = aligned(log_mel, waveform)
    theirs = librosa.feature.melspectrogram(
        y=np.pad(waveform.numpy(), margin),
        sr=config.sample_rate,
        n_fft=log_mel.fft,
        hop_length=config.hop,
        win_length=config.window,
        center=False,
        n_mels=config.mels,
        fmin=config.low_hz,
        fmax=config.high_hz,
    )
    theirs = np.log(theirs.T + config.floor)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)
    np.testing.assert_allclose(
        mel_filters(config, log_mel.fft),
        librosa.filters.mel(
            sr=config.sample_rate,
            n_fft=log_mel.fft,
            n_mels=config.mels,
            fmin=config.low_hz,
            fmax=config.high_hz,
        ),
        atol=1e-7,
    )


def test_features_equal_torchaudio() -> None:
    torchaudio = pytest.importorskip("torchaudio", exc_type=ImportError)
    config = FeaturesConfig()
    waveform = noise(24_000)
    log_mel = LogMel(config)
    ours, margin = aligned(log_mel, waveform)
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=log_mel.fft,
        win_length=config.window,
        hop_length=config.hop,
        center=False,
        f_min=config.low_hz,
        f_max=config.high_hz,
        n_mels=config.mels,
        norm="slaney",
        mel_scale="slaney",
    )
    padded = torch.nn.functional.pad(waveform, (margin, margin))
    theirs = torch.log(transform(padded).T + config.floor)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@given(samples=st.integers(0, 3000))
@settings(deadline=None)
def test_frames_is_the_length_of_the_features(samples: int) -> None:
    log_mel = LogMel(FeaturesConfig())
    assert log_mel(noise(samples)).shape == (log_mel.frames(samples), 80)


@given(cuts=st.lists(st.integers(0, 4000), max_size=30), seed=st.integers(0, 100))
@settings(deadline=None)
def test_any_pieces_give_the_features_of_the_whole(cuts: list[int], seed: int) -> None:
    log_mel = LogMel(FeaturesConfig())
    waveform = noise(4000, seed)
    edges = [0, *sorted(cuts), 4000]
    pieces = [waveform[a:b] for a, b in itertools.pairwise(edges)]
    found = read_in_pieces(log_mel, pieces)
    torch.testing.assert_close(found, log_mel(waveform), atol=1e-5, rtol=0)


def read_in_pieces(log_mel: LogMel, pieces: Iterable[torch.Tensor]) -> torch.Tensor:
    """The features of a waveform's pieces, each read as soon as it can be."""
    stream = log_mel.stream()
    found = []
    for piece in pieces:
        stream.accept(piece.numpy())
        found += advance_features([stream], [stream.frames])
    return torch.cat(found)


def test_streams_advanced_together_equal_each_one_alone() -> None:
    log_mel = LogMel(FeaturesConfig())
    waveforms = [noise(samples, seed) for seed, samples in enumerate((4000, 100, 3000, 400))]
    streams = [log_mel.stream() for _ in waveforms]
    for stream, waveform in zip(streams, waveforms, strict=True):
        stream.accept(waveform.numpy())
    first = advance_features(streams, [5, 0, 17, 1])
    assert [len(features) for features in first] == [5, 0, 17, 1]
    second = advance_features(streams, [stream.frames for stream in streams])
    for waveform, *parts in zip(waveforms, first, second, strict=True):
        torch.testing.assert_close(torch.cat(parts), log_mel(waveform), atol=1e-5, rtol=0)


def test_real_speech_sample_by_sample_equals_the_whole(shared) -> None:
    path = next((shared / "LibriSpeech" / "dev-mini").rglob("*.mp3"))
    waveform = torch.from_numpy(load_audio(path)[:4000])
    log_mel = LogMel(FeaturesConfig())
    found = read_in_pieces(log_mel, (sample[None] for sample in waveform))
    torch.testing.assert_close(found, log_mel(waveform), atol=1e-5, rtol=0)


def test_normalization_is_global_and_measured() -> None:
    log_mel = LogMel(FeaturesConfig())
    loud, soft = noise(16_000, 1), 0.01 * noise(8_000, 2)
    log_mel.fit_normalization([loud.numpy(), soft.numpy()])
    together = torch.cat([log_mel(loud), log_mel(soft)])
    torch.testing.assert_close(together.mean(dim=0), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(together.std(dim=0), torch.ones(80), atol=1e-2, rtol=0)
    assert log_mel(soft).mean() < -1  # a soft recording stays soft: it is not normalized alone


def test_a_constant_bin_keeps_its_scale() -> None:
    log_mel = LogMel(FeaturesConfig())
    log_mel.fit_normalization([np.zeros(16_000, np.float32)])
    assert torch.equal(log_mel.std, torch.ones(80))


def test_measuring_no_frame_raises_an_error() -> None:
    with pytest.raises(AudioError, match="as long as one feature window"):
        LogMel(FeaturesConfig()).fit_normalization([np.zeros(100, np.float32)])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"sample_rate": 0}, "features.sample_rate"),
        ({"hop_ms": 30.0}, "features.hop_ms"),
        ({"hop_ms": 0.01}, "features.hop_ms"),
        ({"high_hz": 9000.0}, "features.high_hz"),
        ({"mels": 0}, "features.mels"),
        ({"floor": 0.0}, "features.floor"),
        ({"mels": 300}, "features.mels"),
    ],
)
def test_impossible_values_raise_an_error_that_names_them(values, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LogMel(FeaturesConfig(**values))
