"""The Wyoming protocol: its events, the texts of `Recognizer.stream`, and what is refused."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import RunAsr, one_sentence
from running import running
from signals import make_talk

from asr.endpoint import EndpointConfig

pytest.importorskip("wyoming", reason="the package wyoming is not installed")
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event, Eventable
from wyoming.info import Describe, Info
from wyoming.ping import Ping

from asr.recognizer import Recognizer
from asr.server.wyoming import PcmReader, choose_hotwords
from asr.text import Vocabulary

RATE = 16_000
TALK = np.clip(make_talk(6.0, RATE) * 20_000, -32_768, 32_767).astype(np.int16)
FORMAT = {"rate": RATE, "width": 2, "channels": 1}
PAUSE = EndpointConfig(silence=0.3)


@pytest.fixture(scope="module")
def pausing() -> Iterator[Any]:
    """A server with endpoints."""
    with running(endpoint=PAUSE) as server:
        yield server


def speak(data: bytes, seed: int = 0, **changes: int) -> list[Eventable]:
    """The events of a recording, cut at random places."""
    shape = FORMAT | changes
    whole = np.frombuffer(data, np.uint8)
    places = np.sort(np.random.default_rng(seed).integers(0, len(data), 25))
    chunks = [AudioChunk(**shape, audio=p.tobytes()) for p in np.split(whole, places)]
    return [AudioStart(**shape), *chunks, AudioStop()]


async def converse(server: Any, *events: Eventable | bytes) -> list[Event]:
    """Send events, or raw bytes, and return all answers until the server is silent or closes."""
    answers: list[Event] = []
    async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
        for event in events:
            if isinstance(event, bytes):
                client._writer.write(event)
            else:
                await client.write_event(event.event())
        await client.write_event(Ping("the end").event())
        try:
            while event := await asyncio.wait_for(client.read_event(), 120):
                if event.type == "pong":
                    break
                answers.append(event)
        except OSError:  # the server has closed the connection
            pass
    return answers


def talk(server: Any, *events: Eventable | bytes) -> list[Event]:
    return asyncio.run(converse(server, *events))


def texts(events: list[Event]) -> list[str]:
    return [event.data["text"] for event in events if event.type == "transcript"]


def stream(recognizer: Recognizer, samples: np.ndarray, rate: int, endpoint: Any = None) -> str:
    """The text of `Recognizer.stream`."""
    stream = recognizer.stream(640, endpoint)
    segments = [*stream.accept(samples, rate).segments]
    final = stream.finish()
    return " ".join(s.text for s in (*segments, *stream.take_segments(), final) if s.text)


def test_description(server) -> None:
    [event] = talk(server, Describe())
    [program] = Info.from_event(event).asr
    [model] = program.models
    assert (model.name, model.languages) == ("asr-english", ["en"])
    assert program.installed
    assert model.installed
    assert program.supports_transcript_streaming


@pytest.mark.parametrize("seed", [1, 2])
def test_any_cutting_gives_the_text_of_a_stream(pausing, seed: int) -> None:
    events = talk(pausing, Transcribe(language="en"), *speak(TALK.tobytes(), seed))
    expected = stream(pausing.recognizer, TALK, RATE, PAUSE)
    assert len(expected.split()) > 10
    assert texts(events) == [expected]
    kinds = [event.type for event in events]
    assert kinds[0] == "transcript-start"
    assert kinds[-2:] == ["transcript", "transcript-stop"]
    chunks = [event.data["text"] for event in events if event.type == "transcript-chunk"]
    assert "".join(chunks) == expected
    assert len(chunks) > 1


def test_a_connection_may_have_many_recordings(server) -> None:
    parts = np.split(TALK, 3)
    events = talk(server, *(event for part in parts for event in speak(part.tobytes())))
    assert texts(events) == [stream(server.recognizer, part, RATE) for part in parts]


def test_no_samples_have_no_text(server) -> None:
    events = talk(server, AudioStart(**FORMAT), AudioStop())
    assert texts(events) == [""]


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_rates(server, rate: int) -> None:
    samples = np.clip(make_talk(3.0, rate) * 20_000, -32_768, 32_767).astype(np.int16)
    [text] = texts(talk(server, *speak(samples.tobytes(), rate=rate)))
    assert text == stream(server.recognizer, samples, rate) != ""


def widen(samples: np.ndarray, width: int, channels: int) -> bytes:
    """16-bit samples in another format, the same in all channels."""
    columns = np.repeat(samples[:, None], channels, axis=1).ravel()
    if width == 1:
        return ((columns >> 8) + 128).astype(np.uint8).tobytes()
    if width == 3:
        parts = (columns.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)
        return parts[:, :3].tobytes()
    return (columns.astype("<i4") << 16).tobytes() if width == 4 else columns.tobytes()


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 2), (3, 1), (3, 2), (4, 1)])
def test_widths_and_channels(server, width: int, channels: int) -> None:
    samples = TALK[: 3 * RATE]
    data = widen(samples, width, channels)
    [text] = texts(talk(server, *speak(data, width=width, channels=channels)))
    kept = (samples >> 8) << 8 if width == 1 else samples
    assert text == stream(server.recognizer, kept, RATE) != ""
    read = PcmReader(width, channels).read(data)
    scaled = read if read.dtype == np.int16 else read * 32_768
    np.testing.assert_allclose(scaled, kept, atol=1e-3)


def test_channels_are_averaged() -> None:
    assert PcmReader(2, 2).read(np.array([100, 300, -5, 5], "<i2").tobytes()) * 32_768 == (
        pytest.approx([200, 0])
    )


def test_names_and_terms_are_hotwords(server) -> None:
    request = Transcribe(transcript_names=["zq", "Küche 日"], transcript_terms=["jz"])
    [text] = texts(talk(server, request, *speak(TALK.tobytes())))
    assert text == stream(server.engine.variants.choose(None, ("zq", "jz")), TALK, RATE)
    assert text != stream(server.recognizer, TALK, RATE)


def test_hotwords_that_the_model_cannot_write_are_left_out() -> None:
    vocabulary = Vocabulary.english()
    assert choose_hotwords(["Lamp", "日本", 3, "tv, radio"], vocabulary) == ("Lamp", "tv", "radio")
    assert len(choose_hotwords([f"a{'b' * n}" for n in range(1_500)], vocabulary)) == 1_000


REFUSED: dict[str, tuple[list[Eventable | bytes], str]] = {
    "language": ([Transcribe(language="de"), *speak(TALK.tobytes())], "knows only 'en'"),
    "names": ([Transcribe(transcript_names="lamp"), *speak(TALK.tobytes())], "must be a list"),
    "number": ([Transcribe(name=3), *speak(TALK.tobytes())], "must be text"),
    "model": ([Transcribe(name="other"), *speak(TALK.tobytes())], "has no model"),
    "width": (speak(TALK.tobytes(), width=5), "width is '5'"),
    "channels": (speak(TALK.tobytes(), channels=0), "channels is '0'"),
    "rate": (speak(TALK.tobytes(), rate=10), "10 samples per second"),
    "half a sample": (speak(TALK.tobytes()[:-1]), "within a sample"),
    "no start": (speak(TALK.tobytes())[1:], "has not started"),
    "two starts": ([AudioStart(**FORMAT), AudioStart(**FORMAT), AudioStop()], "started already"),
    "another rate": (
        [AudioStart(**FORMAT), AudioChunk(8_000, 2, 1, b"12"), AudioStop()],
        "have changed",
    ),
    "http": ([b"GET / HTTP/1.1\r\n\r\n"], "not the Wyoming protocol"),
    "no object": ([b"[1]\n"], "not the Wyoming protocol"),
    "no type": ([b"{}\n"], "not the Wyoming protocol"),
    "no shape": ([b'{"type": "audio-start"}\n', AudioStop()], "rate is 'None'"),
    "data": ([b'{"type": "ping", "data_length": 3}\n[1]'], "not the Wyoming protocol"),
    "size": ([b'{"type": "ping", "payload_length": "x"}\n'], "not the Wyoming protocol"),
    "large": ([b'{"type": "ping", "payload_length": 99999999999}\n'], "16,000,000 bytes"),
    "long": ([b"[" * 200_000 + b"\n"], "not the Wyoming protocol"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_told_in_one_sentence(server, name: str) -> None:
    events, message = REFUSED[name]
    *_, answer = talk(server, *events)
    assert answer.type == "error"
    assert message in answer.data["text"]
    assert answer.data["text"].endswith(".")
    assert "\n" not in answer.data["text"]
    assert texts(talk(server, *speak(TALK[:RATE].tobytes()))) != []  # the next client is served


def test_after_an_error_the_connection_closes_when_the_audio_has_ended(server) -> None:
    """Home Assistant waits for a transcript or for the end of the connection."""

    async def run() -> list[str]:
        kinds = []
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
            for event in [Transcribe(language="de"), *speak(TALK.tobytes())]:
                await client.write_event(event.event())
            while event := await asyncio.wait_for(client.read_event(), 30):
                kinds.append(event.type)
        return kinds

    assert asyncio.run(run()) == ["error"]


def test_unknown_events_are_ignored(server) -> None:
    assert talk(server, b'{"type": "select-program", "data": {"name": "asr"}}\n') == []


def test_a_client_that_leaves_frees_its_place(server) -> None:
    async def run() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.wyoming_port)
        writer.write(json.dumps({"type": "audio-start", "data": FORMAT}).encode() + b"\n")
        async with asyncio.timeout(10):
            while not server.engine.streams:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            while server.engine.streams:
                await asyncio.sleep(0.01)

    asyncio.run(run())


class TestLimits:
    def test_a_silent_client_is_disconnected(self) -> None:
        with running(idle_seconds=0.3) as server:

            async def run(*events: Eventable) -> list[Event | None]:
                async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
                    for event in events:
                        await client.write_event(event.event())
                    answers = []
                    while event := await asyncio.wait_for(client.read_event(), 30):
                        answers.append(event)
                return answers

            assert asyncio.run(run()) == []
            *_, answer = asyncio.run(run(AudioStart(**FORMAT)))
            assert answer.data["code"] == "request_timeout"

    def test_too_many_streams(self) -> None:
        with running(streams=1) as server:

            async def run() -> list[Event]:
                async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
                    await client.write_event(AudioStart(**FORMAT).event())
                    await client.read_event()  # transcript-start
                    return await converse(server, *speak(TALK.tobytes()))

            [answer] = asyncio.run(run())
            assert (answer.type, answer.data["code"]) == ("error", "rate_limit_exceeded")

    def test_a_server_that_stops_finishes_what_has_begun(self) -> None:
        with running() as server:

            async def run() -> tuple[Event, list[str]]:
                begin, end = speak(TALK.tobytes())[:9], speak(TALK.tobytes())[9:]
                async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
                    for event in begin:
                        await client.write_event(event.event())
                    await client.read_event()
                    server.app.state.stopping = True
                    [refused] = await converse(server, *speak(TALK.tobytes()))
                    for event in end:
                        await client.write_event(event.event())
                    kinds = []
                    while "transcript-stop" not in kinds:
                        kinds.append((await client.read_event()).type)
                return refused, kinds

            refused, kinds = asyncio.run(run())
            assert refused.data["code"] == "stopping"
            assert "transcript" in kinds


def test_streams_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asr.server")
    with running(log_texts=True) as server:
        good = talk(server, *speak(TALK.tobytes()))
        talk(server, *speak(TALK.tobytes()[:-1]))
        figures = server.app.state.metrics.render()[0].decode()
        assert server.app.state.metrics.open_requests == 0
    assert 'asr_requests_total{path="wyoming",status="200"} 1.0' in figures
    assert 'asr_requests_total{path="wyoming",status="400"} 1.0' in figures
    assert 'asr_errors_total{path="wyoming"} 1.0' in figures
    records = [json.loads(record.message) for record in caplog.records]
    assert [record["status"] for record in records] == [200, 400]
    assert records[0]["text"] == texts(good)[0]
    for record in records:
        assert (record["path"], record["method"]) == ("wyoming", "WYOMING")
        assert record["client"] == "127.0.0.1"
    assert records[0]["audio_seconds"] == pytest.approx(6.0, abs=1e-3)
    total = sum(record["audio_seconds"] for record in records)
    assert f'asr_audio_seconds_total{{path="wyoming"}} {total}' in figures


class TestCommand:
    def test_a_process_serves_wyoming_until_it_is_stopped(self, checkpoint: Path) -> None:
        """Although a client keeps its connection."""
        command = [sys.executable, "-m", "asr", "serve", "--checkpoint", str(checkpoint)]
        process = subprocess.Popen(
            [*command, "--port=0", "--wyoming=0", "--threads=1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        async def run(port: int) -> None:
            async with AsyncTcpClient("127.0.0.1", port) as client:
                for event in speak(TALK.tobytes()):
                    await client.write_event(event.event())
                while (await client.read_event()).type != "transcript-stop":
                    pass
                process.terminate()
                while await client.read_event():
                    pass

        try:
            line = process.stderr.readline()
            assert " and tcp://127.0.0.1:" in line, line + process.stderr.read()
            asyncio.run(run(int(line.split("tcp://127.0.0.1:")[1].split()[0])))
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)["path"] == "wyoming"

    def test_a_port_in_use(self, run_asr: RunAsr) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            code, _, err = run_asr("serve", "--port", "0", "--wyoming", number)
        assert code == 2
        assert f"port {number} of 127.0.0.1" in one_sentence(err)
        assert "--wyoming" in err

    def test_keys_do_not_protect_wyoming(self, run_asr: RunAsr, tmp_path) -> None:
        keys = tmp_path / "keys"
        keys.write_text("0123456789abcdef0123\n")
        words = ("serve", "--host", "0.0.0.0", "--keys", keys, "--wyoming", "--port", "0")
        code, _, err = run_asr(*words)
        assert code == 2
        assert "Wyoming has no keys" in one_sentence(err)

    def test_a_missing_package(self, run_asr: RunAsr, monkeypatch) -> None:
        for name in ("asr.server.wyoming", "wyoming.asr"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, "wyoming.asr", None)
        code, _, err = run_asr("serve", "--port", "0", "--wyoming", "0")
        assert code == 2
        assert "pip install 'lstm-asr[wyoming]'" in one_sentence(err)
