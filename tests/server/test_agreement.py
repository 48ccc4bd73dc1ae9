"""Law 4: every door of the server gives the words of the library, however the samples are cut."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clients
import numpy as np
import pytest
from running import running
from signals import make_talk, to_wav

from asr import load_audio
from asr.decoder.hypothesis import Hypothesis, join_hypotheses
from asr.endpoint import EndpointConfig
from asr.recognizer import OperatingPoint, Recognizer

RATE = 16_000
LATENCY_MS = 640.0
ENDPOINT = EndpointConfig()
RECORDINGS = 20
LONGEST = 4.0  # seconds of a recording


@pytest.fixture(scope="module")
def english() -> Iterator[Any]:
    """A server of the bundled model, with the endpoints of `asr serve`."""
    with running(Recognizer.default(), latency_ms=LATENCY_MS, endpoint=ENDPOINT) as server:
        yield server


def find_recordings(shared: Path) -> Iterator[np.ndarray]:
    """Real speech of many speakers as 16-bit samples; two recordings in a row have a pause between."""
    books = sorted((shared / "LibriSpeech" / "dev-mini").rglob("*.mp3"))
    clips = sorted((shared / "CommonVoice" / "en" / "clips").glob("*.mp3"))
    half = RECORDINGS // 2
    paths = [*books[:: len(books) // half][:half], *clips[:: len(clips) // half][:half]]
    for number, path in enumerate(paths):
        waveform = load_audio(path)[: round(LONGEST * RATE)]
        if number % 4 == 0:  # two segments
            again = load_audio(paths[number - 1])[: 2 * RATE]
            waveform = np.concatenate([waveform[: 3 * RATE], np.zeros(RATE, np.float32), again])
        yield np.clip(np.round(waveform * 32_767), -32_768, 32_767).astype(np.int16)


def to_answer(hypothesis: Hypothesis) -> clients.Answer:
    """The text and the words, with times as the server rounds them."""
    words = [(w.text, round(w.start, 3), round(w.end, 3)) for w in hypothesis.words]
    return hypothesis.text, words


def stream(recognizer: Recognizer, samples: np.ndarray, endpoint: EndpointConfig) -> Hypothesis:
    """`Recognizer.stream` of all samples at once."""
    stream = recognizer.stream(LATENCY_MS, endpoint)
    segments = [*stream.accept(samples, RATE).segments]
    final = stream.finish()
    return join_hypotheses([*segments, *stream.take_segments(), final])


async def ask(server: Any, samples: np.ndarray, endpoint: EndpointConfig, seed: int) -> list[Any]:
    """What all doors say at the same time, each with other cuts."""
    cuts = [clients.divide(samples.tobytes(), 3 + 20 * n, seed + n) for n in range(3)]
    silence = round(1000 * endpoint.silence)
    # Without turn detection a session has the server's endpoints, within one item.
    detection = {"type": "server_vad", "silence_duration_ms": silence} if seed % 2 else None
    return await asyncio.gather(
        clients.upload(server, to_wav(samples, RATE), latency_ms=str(LATENCY_MS)),
        clients.stream(server, cuts[0], RATE),
        clients.realtime(server, cuts[1], RATE, turn_detection=detection),
        clients.wyoming(server, cuts[2], RATE),
    )


def check(server: Any, samples: np.ndarray, endpoint: EndpointConfig, seed: int) -> Hypothesis:
    """Compare all doors with the library."""
    streamed = stream(server.recognizer, samples, endpoint)
    expected = to_answer(streamed)
    uploaded, *live, wyoming = asyncio.run(ask(server, samples, endpoint, seed))
    point = OperatingPoint(LATENCY_MS)  # of uploads with a latency
    if endpoint == point.endpoint:
        assert uploaded == expected
    else:
        whole = server.recognizer.transcribe(to_wav(samples, RATE), point)
        assert uploaded == to_answer(whole)
    assert live == [expected] * 2
    assert wyoming == expected[0]
    return streamed


def test_doors_agree_on_real_speech(shared: Path, english) -> None:
    texts = [
        check(english, samples, ENDPOINT, seed).text
        for seed, samples in enumerate(find_recordings(shared))
    ]
    assert len(texts) == RECORDINGS
    assert sum(len(text.split()) for text in texts) > 100


def test_doors_agree_on_many_segments() -> None:
    """Without real speech: a small model, and pauses."""
    endpoint = EndpointConfig(silence=0.3)
    samples = np.clip(make_talk(9.0, RATE) * 20_000, -32_768, 32_767).astype(np.int16)
    with running(latency_ms=LATENCY_MS, endpoint=endpoint) as server:
        for seed in range(4):
            assert len(check(server, samples, endpoint, seed).words) > 20
