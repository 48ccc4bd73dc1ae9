"""Attacks a server with broken requests and clients that vanish, and looks at what it does.

    python scripts/server_faults.py [--seed 0] [--clients 1000] [--requests 10000] [--uploads 50]

A server of its own serves the bundled model. While some live streams send speech in real time,

- clients connect, send some samples and vanish at random moments,
- requests and WebSocket messages that are mutated from a seed arrive, headers of 1 MB, bodies that
  lie about their length, and readers that never read,
- many recordings are uploaded at once.

It reports the latency of the live streams before and meanwhile, and the memory. The exit code is 1 if
the server answers with status 500, writes a traceback, leaves a file in its temporary folder, ends,
or does not give its memory back.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles

import numpy as np
import soundfile
import soxr
import websockets

from asr.errors import SOME_FAILED
from asr.progress import Bar, say
from asr.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[1]
ANSWER_SECONDS = 20.0  # after which a request has hung
LATENCY_MS = 640
PIECE_SAMPLES = 1_600  # a tenth of a second
TURN_SECONDS = 8  # of the live streams, which then begin anew
LEAK_MB = 30.0
PATHS = ("/", "/v1/audio/transcriptions", "/v1/models", "/stream", "/v1/realtime", "/metrics", "/x")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "G\x00T", "")


def draw_request(draw: random.Random) -> bytes:
    """A request that is wrong in one or several ways."""
    boundary = "".join(draw.choices("abc-\"'", k=draw.randint(0, 20)))
    body = draw.randbytes(draw.choice((0, 1, 100, 5_000)))
    if draw.random() < 0.6:
        field = draw.choice(("file", "model", "stream", "prompt", "x" * 3000, "\x00", "file[]"))
        part = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="a.wav"'
        body = part.encode() + b"\r\n\r\n" + body + f"\r\n--{boundary}--\r\n".encode()
    length = draw.choice((len(body), 0, len(body) + 10_000, -1, "many", 10**30))
    lines = [
        f"{draw.choice(METHODS)} {draw.choice(PATHS)}{draw.choice(('', '?a=%ff', '?rate=' + '9' * 50))}"
        f" HTTP/{draw.choice(('1.1', '1.0', '9.9', ''))}",
        "Host: localhost",
        f"Content-Length: {length}",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        *draw.choices(
            (
                "Transfer-Encoding: chunked",
                "Connection: upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Key: x",
                "Sec-WebSocket-Version: 13",
                "Authorization: Bearer \xff",
                "X-Request-Id: \x1b[2J",
                "X-Long: " + "y" * draw.choice((10, 70_000, 1_000_000)),
                "no colon",
            ),
            k=draw.randint(0, 3),
        ),
    ]
    request = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    if draw.random() < 0.3:  # cut short or damaged
        place = draw.randrange(len(request))
        request = request[:place] + draw.choice((b"", draw.randbytes(9) + request[place:]))
    return request


def ask(port: int, request: bytes) -> str | None:
    """Send a request and return what is wrong with the answer, if anything; none is right."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(ANSWER_SECONDS)
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                answer += data
        except TimeoutError:
            return f"no answer within {ANSWER_SECONDS:g} s to {request[:200]!r}"
        except OSError:
            pass  # the server has closed the connection
    status = answer[:12].split(b" ")[-1]
    if status == b"500" or b"Traceback" in answer:
        return f"{answer[:200]!r} to {request[:200]!r}"
    return None


def draw_frame(draw: random.Random) -> bytes:
    """A frame of WebSocket that is wrong in one or several ways."""
    payload = draw.randbytes(draw.choice((0, 1, 125, 2_000)))
    if draw.random() < 0.3:
        payload = draw.choice((b'{"end": 1}', b"[", b'{"type": "session.update"}', b"\xff\xfe"))
    first = draw.choice((0x81, 0x82, 0x80, 0x01, 0x88, 0x89, 0x8F, 0xF2))
    length = draw.choice((min(len(payload), 126), 126, 127, draw.randrange(128)))
    head = bytes([first, length | draw.choice((0x80, 0x80, 0x80, 0))])
    return head + draw.randbytes(draw.choice((4, 4, 2, 8, 12))) + payload


def attack_stream(port: int, draw: random.Random) -> str | None:
    """Open /stream by hand, send wrong frames, and return what is wrong, if anything."""
    path = draw.choice(("/stream", "/v1/realtime?intent=transcription"))
    hello = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    frames = b"".join(draw_frame(draw) for _ in range(draw.randint(1, 5)))
    return ask(port, hello.encode() + frames)


def attack(port: int, seed: int, requests: int, frames: int) -> list[str]:
    """Send wrong requests and frames; returns what is wrong with the answers."""
    draw = random.Random(seed)
    found = [ask(port, draw_request(draw)) for _ in range(requests)]
    found += [attack_stream(port, draw) for _ in range(frames)]
    return [problem for problem in found if problem]


class Server:
    """`asr serve` in a process of its own, with a temporary folder of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.errors = (folder / "errors").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asr", "serve", "--port=0", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
        )
        while " at http://" not in self.said():
            if self.process.poll() is not None:
                raise SystemExit(self.said())
            time.sleep(0.1)
        self.port = int(self.said().split("/ (stop")[0].rpartition(":")[2])

    def said(self) -> str:
        """What it has written to stderr."""
        self.errors.seek(0)
        return self.errors.read()

    def memory(self) -> float:
        """Its resident memory in MB."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE") / 1e6


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """A server, stopped at the end."""
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), *arguments)
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait(60)


def talk(port: int, order: Path) -> list[float]:
    """Let live clients in another process speak in real time; returns the latencies of partials."""
    command = [sys.executable, str(ROOT / "scripts/server_client.py"), str(port), str(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [latency for _, latency in json.loads(done.stdout)["found"]]


def write_order(folder: Path, samples: bytes, streams: int) -> Path:
    """Write what the live clients shall do; see `server_client.py`."""
    sys.path.append(str(ROOT / "scripts/benchmarks"))
    from streaming import complete_chunks

    model = Recognizer.default().model
    context = model.context(LATENCY_MS)
    (folder / "samples").write_bytes(samples)
    order = {
        "samples": str(folder / "samples"),
        "streams": streams,
        "seconds": TURN_SECONDS,
        "query": f"latency_ms={LATENCY_MS}&pause=0",
        "chunk_seconds": context.chunk * model.frame_seconds,
        "completing": complete_chunks(model, LATENCY_MS, PIECE_SAMPLES, TURN_SECONDS),
    }
    (folder / "order.json").write_text(json.dumps(order))
    return folder / "order.json"


async def vanish(port: int, samples: bytes, draw: random.Random) -> None:
    """Connect, send some samples, and abort the connection without a word."""
    with suppress(OSError, websockets.WebSocketException):
        connection = await websockets.connect(f"ws://127.0.0.1:{port}/stream")
        for _ in range(draw.randint(0, 5)):
            await connection.send(samples[: draw.randrange(2, 30_000)])
            await asyncio.sleep(draw.random() / 20)
        connection.transport.abort()


def upload(port: int, content: bytes) -> str | None:
    """Upload a recording as a client would; returns what is wrong, if anything."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + content
    body = head + b"\r\n--x--\r\n"
    request = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(300)
        connection.sendall(request.encode() + body)
        answer = b""
        with suppress(OSError):
            while data := connection.recv(65_536):
                answer += data
    return None if answer.startswith(b"HTTP/1.1 200") else f"an upload got {answer[:200]!r}"


def disturb(
    connection: Connection, port: int, options: argparse.Namespace, samples: bytes, wav: bytes
) -> None:
    """Do all that to the server, in a process of its own, and send what went wrong.

    It has the lowest priority, because its own work is not what is measured.
    """
    os.nice(19)
    connection.send(asyncio.run(_disturb(port, options, samples, wav)))


async def _disturb(
    port: int, options: argparse.Namespace, samples: bytes, wav: bytes
) -> list[str | None]:
    draw = random.Random(options.seed)
    problems: list[str | None] = []
    with Bar("clients that vanish", options.clients, "clients") as bar:
        for number in range(0, options.clients, 20):
            count = min(20, options.clients - number)
            await asyncio.gather(*(vanish(port, samples, draw) for _ in range(count)))
            bar.advance(count)
    with Bar("broken requests", options.requests, "requests") as bar:
        for number in range(0, options.requests, 50):
            count = min(50, options.requests - number)
            half = count // 2
            problems += await asyncio.to_thread(
                attack, port, options.seed + number, half, count - half
            )
            bar.advance(count)
    with Bar("uploads at once", None, "uploads") as bar:
        uploads = [asyncio.to_thread(upload, port, wav) for _ in range(options.uploads)]
        problems += await asyncio.gather(*uploads)
        bar.advance(options.uploads)
    return problems


def stress(server: Server, options: argparse.Namespace, samples: bytes, wav: bytes) -> list[str]:
    """Measure live streams while another process disturbs; returns what went wrong."""
    order = write_order(server.folder, samples, options.streams)
    before = talk(server.port, order)
    memory = server.memory()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=disturb, args=(theirs, server.port, options, samples, wav))
    process.start()
    theirs.close()
    meanwhile: list[float] = []
    while not ours.poll() and process.is_alive():
        meanwhile += talk(server.port, order)
    problems: list[str | None] = ours.recv()
    process.join()
    time.sleep(2)
    grown = server.memory() - memory
    p99 = [1000 * quantiles(each, n=100)[98] for each in (before, meanwhile)]
    say(f"latency of a partial, p99: {p99[0]:.0f} ms before, {p99[1]:.0f} ms meanwhile")
    say(f"memory: {memory:.0f} MB before, {memory + grown:.0f} MB afterwards")
    if grown > LEAK_MB:
        problems.append(f"the memory grew by {grown:.0f} MB")
    return [problem for problem in problems if problem]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=1000, help="clients that vanish")
    parser.add_argument("--requests", type=int, default=10_000, help="broken requests and frames")
    parser.add_argument(
        "--uploads", type=int, default=50, help="recordings that are uploaded at once"
    )
    parser.add_argument("--streams", type=int, default=8, help="live streams that are measured")
    options = parser.parse_args()
    sound, rate = soundfile.read(ROOT / "docs/sample.flac", dtype="float32")
    samples = (soxr.resample(sound, rate, 16_000) * 32_767).astype(np.int16).tobytes()
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        soundfile.write(file.name, sound, rate)
        wav = Path(file.name).read_bytes()
    with serving() as server:
        with ThreadPoolExecutor(options.uploads) as pool:  # everything is loaded and allocated
            list(pool.map(partial(upload, server.port), [wav] * options.uploads))
        problems = stress(server, options, samples, wav)
        left = [path for path in server.temporary.rglob("*") if path.is_file()]
        problems += [f"{path} is left" for path in left]
        if server.process.poll() is not None:
            problems.append(f"the server ended with {server.process.returncode}")
        server.process.terminate()
        code = server.process.wait(60)
        if code:
            problems.append(f"after SIGTERM the server exited with {code}")
        if "Traceback" in (said := server.said()):
            problems.append(f"the server wrote a traceback: {said[-2000:]}")
    for problem in problems[:20]:
        say(problem)
    say(f"{len(problems)} problems")
    return SOME_FAILED if problems else 0


if __name__ == "__main__":
    sys.exit(main())
