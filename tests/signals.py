"""Signals with speech-like parts and pauses, models that respond to them, and pieces of streams."""

import io
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from asr.decoder.hypothesis import Hypothesis
from asr.encoder import EncoderConfig
from asr.errors import AsrError
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.recognizer import OperatingPoint, Recognizer
from asr.stream import Partial, Segment

RATES = (8_000, 16_000, 44_100, 48_000)
# The smallest step of a 16-bit sample.
SAMPLE = 1 / 32_768
# Seconds of speech and of pause in each cycle of `make_talk`.
SPOKEN, PAUSED = 1.5, 0.9
ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
-0.7\tz\t-0.3
-0.9\tjz
-0.9\tlf

\\2-grams:
-0.3\t<s> z
-0.3\tz jz

\\end\\
"""


def make_model(
    kind: str = "forward", features: FeaturesConfig | None = None, hidden: int = 24
) -> AcousticModel:
    """A random model that emits many words for `make_signal`, and blanks for silence."""
    torch.manual_seed(7)
    encoder = EncoderConfig(kind, layers=1, hidden=hidden)
    model = AcousticModel(features or FeaturesConfig(mels=40), encoder, 29).eval()
    with torch.no_grad():
        model.features.mean.fill_(-6.0)
        model.features.std.fill_(3.0)
        model.head.weight.mul_(1.5)
        model.head.bias[1] += 2.5  # makes spaces more likely
        for name, weights in model.encoder.named_parameters():
            if "weight_" in name:
                weights.mul_(3)
        # The blank's weights detect the encoder's output for silence.
        quiet = model.features(torch.zeros(3 * model.features.config.sample_rate))[None]
        encoded, _ = model.encoder(quiet, torch.tensor([quiet.shape[1]]))
        silence = encoded[0, len(encoded[0]) // 4 :].mean(0)
        model.head.weight[0] += 30 * silence / (silence @ silence)
        model.head.bias[0] -= 0.65 * 30
    return model


def make_signal(seconds: float, rate: int) -> np.ndarray:
    """An intermittent tone of varying pitch plus swelling noise, both below 4 kHz; float32 (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    hertz = 500 + 400 * np.sin(7 * t) + 300 * np.sin(17 * t)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / rate) * (np.sin(5 * t) > 0)
    noise = np.random.default_rng(5).standard_normal(len(t)) * np.sin(25 * t) ** 4
    return np.clip(0.5 * (tone + 0.2 * noise), -1, 1 - SAMPLE).astype(np.float32)


def make_talk(seconds: float, rate: int) -> np.ndarray:
    """`make_signal` with pauses; float32 (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    is_spoken = t % (SPOKEN + PAUSED) < SPOKEN
    return make_signal(seconds, rate) * is_spoken.astype(np.float32)


def to_wav(samples: np.ndarray, rate: int) -> bytes:
    """The bytes of a WAV file."""
    file = io.BytesIO()
    subtype = "PCM_16" if samples.dtype == np.int16 else "FLOAT"
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def make_wav(samples: int, seed: int = 0, sample_rate: int = 16_000) -> bytes:
    """Noise that swells and fades, so that frames differ."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    swell = np.sin(np.arange(samples) * 25 / sample_rate) ** 8
    file = io.BytesIO()
    soundfile.write(file, 0.3 * swell * noise, sample_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def cut(samples: np.ndarray, longest: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Cut samples into pieces of random sizes from 0 to `longest`."""
    generator = np.random.default_rng(seed)
    place = 0
    while place < len(samples):
        size = int(generator.integers(0, longest + 1))
        yield samples[place : place + size]
        place += size


def words_of(text: str) -> list[str]:
    """The words of a text; none if it is empty."""
    return text.split(" ") if text else []


def check_stable(partials: list[Partial], final: str) -> None:
    """Check that the stable part of a stream is never revised."""
    segment: list[str] = []
    for partial in partials:
        assert words_of(partial.text) == words_of(partial.stable) + words_of(partial.tail)
        for ended in partial.segments:
            assert words_of(ended.text)[: len(segment)] == segment
            segment = []
        stable = words_of(partial.stable)
        assert stable[: len(segment)] == segment
        segment = stable
    assert words_of(final)[: len(segment)] == segment
    assert all(a.seconds <= b.seconds for a, b in pairwise(partials))


def check_same(streamed: Hypothesis, whole: Hypothesis) -> None:
    """Check that a stream and a whole recording have the same result."""
    assert streamed.text == whole.text
    assert [word[:3] for word in streamed.words] == [word[:3] for word in whole.words]
    assert streamed.score == pytest.approx(whole.score, abs=1e-4 * max(1, len(whole.words)))
    assert streamed.confidence == pytest.approx(whole.confidence, abs=1e-4)


def only(segments: list[Segment] | AsrError) -> np.ndarray:
    """The log-probs (T', V) of a recording of one segment."""
    assert isinstance(segments, list)
    [segment] = segments
    assert segment.first_frame == 0
    return segment.log_probs


def emit(
    recognizer: Recognizer, recording: bytes, point: OperatingPoint | None = None
) -> np.ndarray:
    """The log-probs (T', V) of a recording of one segment."""
    [(_, segments)] = recognizer.emissions([recording], operating_point=point)
    return only(segments)


def text_of(result: Hypothesis | AsrError) -> str:
    assert isinstance(result, Hypothesis)
    return result.text
