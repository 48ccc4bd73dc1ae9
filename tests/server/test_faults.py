"""Limits, keys, overload, broken clients, and the end of the server."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import websockets
from commands import one_sentence
from recordings import RATE
from running import running
from server_faults import attack
from signals import make_model, make_signal, to_wav

from asr.checkpoint import save_model
from asr.errors import ConfigError
from asr.server.config import read_keys
from asr.text import Vocabulary

KEY = "0123456789abcdef0123"
SPEECH = to_wav(make_signal(2.0, RATE), RATE)


def post(server: SimpleNamespace, content: bytes = SPEECH, **options: Any) -> httpx.Response:
    files = {"file": ("speech.wav", content)}
    return httpx.post(f"{server.url}/v1/audio/transcriptions", files=files, timeout=60, **options)


def refusal(response: httpx.Response) -> tuple[int, str | None]:
    error = response.json()["error"]
    assert error["message"].endswith(".")
    return response.status_code, error["code"]


@pytest.fixture(scope="module")
def guarded() -> Iterator[SimpleNamespace]:
    with running(keys=("another-key-of-someone", KEY)) as server:
        yield server


@pytest.fixture(scope="module")
def small() -> Iterator[SimpleNamespace]:
    with running(
        upload_mb=0.2, upload_seconds=3.0, idle_seconds=0.5, streams=2, uploads=2
    ) as server:
        yield server


class TestKeys:
    def test_a_key_opens_every_door(self, guarded) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert post(guarded, headers=headers).status_code == 200
        assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200
        assert httpx.get(f"{guarded.url}/metrics", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "value", ["", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer é"]
    )
    def test_without_it_they_stay_closed(self, guarded, value) -> None:
        headers = {"Authorization": value.encode()}
        for path in ("/v1/models", "/metrics", "/v2"):
            answer = httpx.get(f"{guarded.url}{path}", headers=headers)
            assert refusal(answer) == (401, "invalid_api_key")
        assert refusal(post(guarded, headers=headers)) == (401, "invalid_api_key")

    def test_page_and_health_need_none(self, guarded) -> None:
        for path in ("/", "/healthz", "/readyz"):
            assert httpx.get(f"{guarded.url}{path}").status_code == 200

    def test_a_browser_sends_it_as_a_subprotocol(self, guarded) -> None:
        async def connect(*names: str) -> str | None:
            async with websockets.connect(f"{guarded.ws_url}/stream", subprotocols=names) as found:
                return found.subprotocol

        assert asyncio.run(connect("asr", f"asr-key.{KEY}")) == "asr"
        with pytest.raises(websockets.InvalidStatus) as caught:
            asyncio.run(connect("asr", "asr-key.wrong"))
        assert caught.value.response.status_code == 401

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"# nobody\n\n", "no key"),
            (b"short\n", "key 1"),
            (b"\xff\xfe", "UTF-8"),
            (None, "cannot be read"),
        ],
    )
    def test_a_wrong_file_of_keys(self, tmp_path, content, words) -> None:
        if content is not None:
            (tmp_path / "keys").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            read_keys(tmp_path / "keys")


class TestLimits:
    def test_a_large_body(self, small) -> None:
        assert refusal(post(small, bytes(300_000))) == (413, "body_too_large")

    def test_a_large_body_of_unknown_length(self, small) -> None:
        def parts() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield bytes(10_000)

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        address = f"{small.url}/v1/audio/transcriptions"
        try:
            answer = httpx.post(address, content=parts(), headers=headers)
        except httpx.TransportError:
            return  # the server has closed the connection while the client was sending
        assert refusal(answer) == (413, "body_too_large")

    def test_a_long_recording(self, small) -> None:
        content = to_wav((make_signal(5.0, RATE) * 20_000).astype(np.int16), RATE)
        assert refusal(post(small, content)) == (413, "recording_too_long")

    def test_a_body_that_does_not_arrive(self, small) -> None:
        with socket.create_connection(("127.0.0.1", small.port)) as connection:
            connection.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            connection.settimeout(30)
            assert connection.recv(100).startswith(b"HTTP/1.1 408")

    def test_a_stream_without_samples(self, small) -> None:
        async def wait() -> tuple[dict, int | None]:
            async with websockets.connect(f"{small.ws_url}/stream") as connection:
                return json.loads(await connection.recv()), connection.close_code

        message, _ = asyncio.run(wait())
        assert message["error"]["code"] == "request_timeout"

    def test_more_streams_than_places(self, small) -> None:
        async def crowd() -> tuple[dict, int | None]:
            address = f"{small.ws_url}/stream"
            async with websockets.connect(address) as one, websockets.connect(address) as two:
                await asyncio.gather(one.send(bytes(320)), two.send(bytes(320)))
                while small.engine.streams < 2:
                    await asyncio.sleep(0.01)
                async with websockets.connect(address) as third:
                    answer = json.loads(await third.recv())
                    await third.wait_closed()
            return answer, third.close_code

        answer, code = asyncio.run(crowd())
        assert answer["error"]["code"] == "rate_limit_exceeded"
        assert code == 1013  # try again later

    def test_more_recordings_than_places(self, small, monkeypatch) -> None:
        monkeypatch.setattr(type(small.engine), "uploads", 2)
        answer = post(small)
        assert refusal(answer) == (429, "rate_limit_exceeded")
        assert int(answer.headers["Retry-After"]) > 0

    def test_it_serves_on_after_all_this(self, small) -> None:
        assert post(small).status_code == 200


def test_broken_requests_never_end_it(server, tmp_path, monkeypatch) -> None:
    """Bytes from a seed: no answer but a refusal, and nothing left in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert attack(server.port, seed=1, requests=150, frames=60) == []
    assert post(server).status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_a_wav_that_claims_more_than_it_has(server) -> None:
    content = bytearray(SPEECH)
    at = content.index(b"data") + 4
    content[at : at + 4] = (4_000_000_000).to_bytes(4, "little")
    status, _ = refusal(post(server, bytes(content)))
    assert status == 400


async def is_open(address: str) -> bool:
    """Whether a server accepts another stream."""
    try:
        async with websockets.connect(address):
            return True
    except (OSError, websockets.InvalidHandshake):
        return False


class TestProgram:
    """`asr serve` as a process of its own."""

    @contextmanager
    def start(
        self, checkpoint: Path, *arguments: str
    ) -> Iterator[tuple[subprocess.Popen[str], str]]:
        command = [sys.executable, "-m", "asr", "serve", "--checkpoint", str(checkpoint)]
        process = subprocess.Popen(
            [*command, "--port=0", "--threads=1", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stderr.readline()
            assert " at http://" in line, line + process.stderr.read()
            yield process, line.split(" at ")[1].split("/ ")[0]
        finally:
            process.kill()
            process.communicate()

    def test_sigterm_finishes_what_runs_and_exits_with_0(self, checkpoint: Path) -> None:
        with self.start(checkpoint, "--log-texts") as (process, url):

            async def talk() -> list[dict]:
                address = url.replace("http", "ws") + "/stream"
                async with websockets.connect(address) as connection:
                    await connection.send(bytes(32_000))
                    process.send_signal(signal.SIGTERM)
                    while await is_open(address):  # until the signal has arrived
                        await asyncio.sleep(0.01)
                    await connection.send(json.dumps({"end": True}))
                    return [json.loads(text) async for text in connection]

            assert asyncio.run(talk())[-1]["final"]
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
            assert err == ""
            records = [json.loads(line) for line in out.splitlines()]
            assert {record["status"] for record in records} <= {1000, 503}
            assert all(record["client"] == "127.0.0.1" for record in records)

    def test_two_servers_on_one_port(self, checkpoint: Path, run_asr) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            code, out, err = run_asr("serve", f"--port={port}", "--checkpoint", checkpoint)
        assert (code, out) == (2, "")
        assert "in use" in one_sentence(err)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--host=0.0.0.0"], "--keys"),
            (["--host=nowhere.invalid", "--public"], "correct --host"),
            (["--keys=missing.txt"], "missing.txt"),
            (["--latency=1"], "latency"),
            (["--upload-mb=-1"], "upload_mb"),
            (["--decoder=greedy", "--beam=4"], "--beam"),
        ],
    )
    def test_wrong_options(self, checkpoint: Path, run_asr, arguments, words) -> None:
        code, out, err = run_asr("serve", "--port=0", "--checkpoint", checkpoint, *arguments)
        assert (code, out) == (2, "")
        assert words in one_sentence(err)

    def test_without_the_extra(self, run_asr, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        monkeypatch.delitem(sys.modules, "asr.server.serving", raising=False)
        code, _, err = run_asr("serve")
        assert code == 2
        assert "pip install 'lstm-asr[serve]'" in one_sentence(err)

    def test_a_bidirectional_model_is_refused(self, tmp_path: Path, run_asr) -> None:
        path = tmp_path / "model.pt"
        save_model(path, make_model("bidirectional"), Vocabulary.english(), {"epoch": 1})
        code, _, err = run_asr("serve", "--port=0", "--checkpoint", path)
        assert code == 2
        assert "bidirectional" in one_sentence(err)
