"""The plain WebSocket: the lines of `asr stream`, whatever the encoding and the cutting."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import websockets
from recordings import RATE
from signals import make_talk

from asr.endpoint import EndpointConfig
from asr.formats import final_record, segment_record
from asr.server.socket import ENCODINGS, SampleReader, decode_alaw, decode_mulaw

TALK = np.clip(make_talk(9.0, RATE) * 20_000, -32_768, 32_767).astype(np.int16)


async def converse(address: str, messages: list[bytes | str], **options: Any) -> list[dict]:
    """Send messages and collect all answers until the server closes the connection."""
    answers = []
    async with websockets.connect(address, **options) as connection:

        async def send() -> None:
            for message in messages:
                await connection.send(message)

        sending = asyncio.create_task(send())
        with suppress(websockets.ConnectionClosed):
            while text := await connection.recv():
                answers.append(json.loads(text))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        answers.append({"code": connection.close_code})
    return answers


def cut(data: bytes, seed: int) -> list[bytes]:
    """Divide bytes at random places."""
    places = np.sort(np.random.default_rng(seed).integers(0, len(data), 40))
    return [bytes(part) for part in np.split(np.frombuffer(data, np.uint8), places)]


def expect(server: Any, samples: np.ndarray, rate: int, pause: float = 0.6) -> list[dict]:
    """The segments and the last line of `asr stream`."""
    endpoint = EndpointConfig(silence=pause) if pause else None
    stream = server.recognizer.stream(640, endpoint)
    segments = list(stream.accept(samples, rate).segments)
    final = stream.finish()
    segments += stream.take_segments()
    return [segment_record(each) for each in segments if each.text] + [final_record(final)]


END = json.dumps({"end": True})


@pytest.mark.parametrize("seed", [1, 2])
def test_any_cutting_gives_the_lines_of_asr_stream(server, seed: int) -> None:
    address = f"{server.ws_url}/stream?pause=0.6"
    answers = asyncio.run(converse(address, [*cut(TALK.tobytes(), seed), END]))
    assert answers.pop() == {"code": 1000}
    lasting = [answer for answer in answers if "tail" not in answer]
    assert lasting == expect(server, TALK, RATE)
    assert len(lasting) > 2
    partials = [answer for answer in answers if "tail" in answer]
    assert partials
    assert all(partial.keys() == {"seconds", "stable", "tail"} for partial in partials)


def test_without_a_pause_the_signal_is_one_segment(server) -> None:
    address = f"{server.ws_url}/stream?pause=0"
    answers = asyncio.run(converse(address, [TALK.tobytes(), END]))
    assert [a for a in answers if "words" in a] == expect(server, TALK, RATE, pause=0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_and_rates(server, encoding: str) -> None:
    codes = np.random.default_rng(3).integers(100, 130, 16_000).astype(np.uint8)
    data = {
        "s16le": TALK[:16_000].tobytes(),
        "f32le": (TALK[:16_000] / np.float32(32_768)).tobytes(),
        "mulaw": codes.tobytes(),
        "alaw": codes.tobytes(),
    }[encoding]
    samples = SampleReader(encoding).read(data)
    address = f"{server.ws_url}/stream?rate=8000&encoding={encoding}&pause=0"
    answers = asyncio.run(converse(address, [*cut(data, 5), END]))
    assert answers[-2:] == [*expect(server, samples, 8_000, pause=0)[-1:], {"code": 1000}]


def test_g711_equals_ffmpegs_decoder() -> None:
    av = pytest.importorskip("av", reason="the extra lstm-asr[media] is not installed")
    codes = np.arange(256, dtype=np.uint8)
    for name, decode in (("pcm_mulaw", decode_mulaw), ("pcm_alaw", decode_alaw)):
        context = av.CodecContext.create(name, "r")
        context.sample_rate, context.layout = 8_000, "mono"
        [frame] = context.decode(av.Packet(codes.tobytes()))
        assert frame.to_ndarray()[0].tolist() == decode(codes).tolist()


def test_many_streams_at_once_give_what_each_gives_alone(server) -> None:
    rates = [8_000, 16_000, 22_050, 48_000]
    signals = [TALK[5_000 * n : 5_000 * n + 60_000] for n in range(12)]

    async def run() -> list[list[dict]]:
        tasks = [
            converse(
                f"{server.ws_url}/stream?pause=0.6&rate={rates[n % 4]}",
                [*cut(signal.tobytes(), n), END],
            )
            for n, signal in enumerate(signals)
        ]
        return await asyncio.gather(*tasks)

    for n, answers in enumerate(asyncio.run(run())):
        lasting = [answer for answer in answers if "words" in answer]
        assert lasting == expect(server, signals[n], rates[n % 4])
    assert server.engine.streams == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("rate=0", None),
        ("rate=many", "rate"),
        ("rate=8000.5", "rate"),
        ("encoding=mp3", "encoding"),
        ("latency_ms=1", None),
        ("latency_ms=inf", "latency_ms"),
        ("pause=-1", "pause"),
        ("decoder=magic", "decoder"),
        ("speed=2", "speed"),
        ("hotwords=%D0%B6", "hotwords"),
        ("hotwords=cat&decoder=greedy", "hotwords"),
    ],
)
def test_a_wrong_address_is_refused_in_a_sentence(server, query, param) -> None:
    """The connection is made first, because browsers cannot read why one was refused."""
    *_, answer, end = asyncio.run(converse(f"{server.ws_url}/stream?{query}", []))
    assert answer["error"]["param"] == param
    assert answer["error"]["message"].endswith(".")
    assert end == {"code": 1008}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([b"abc", END], "within a sample"),
        (["stop"], "not understood"),
        ([json.dumps({"end": False})], "not understood"),
        (["[" * 50_000], "not understood"),
    ],
)
def test_wrong_messages_end_the_stream_with_a_sentence(server, messages, words) -> None:
    answers = asyncio.run(converse(f"{server.ws_url}/stream", messages))
    assert words in answers[-2]["error"]["message"]
    assert answers[-1] == {"code": 1008}
    assert server.engine.streams == 0


def test_samples_that_are_no_numbers(server) -> None:
    data = np.array([0.0, np.nan], np.float32).tobytes()
    answers = asyncio.run(converse(f"{server.ws_url}/stream?encoding=f32le", [data, END]))
    assert "finite" in answers[-2]["error"]["message"]
    assert answers[-1] == {"code": 1008}


def test_a_client_that_leaves_gives_its_place_back(server) -> None:
    async def leave() -> None:
        connection = await websockets.connect(f"{server.ws_url}/stream")
        await connection.send(TALK.tobytes())
        connection.transport.abort()

    async def run() -> None:
        await asyncio.gather(*(leave() for _ in range(20)))
        while server.engine.streams:
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), 60))
