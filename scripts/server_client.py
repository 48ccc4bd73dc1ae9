"""Live clients of a server's /stream in one light process, for benchmarks and fault tests.

    python scripts/server_client.py PORT ORDER.json

The order names the streams, the seconds, the file with 16-bit samples that all share, and after how
many pieces each chunk is complete. The answer is JSON on stdout: for each new partial the time at which
the piece arrived that completed its last chunk, and its latency; and the CPU seconds of this process.

The WebSocket protocol (RFC 6455) is written out by hand, because a client library takes as much CPU
time as the server: the frames of the samples are built once, with a mask of zeros, and answers are
searched for the one number that is needed.
"""

import asyncio
import json
import re
import sys
import time
from bisect import bisect_right
from pathlib import Path

PIECE_SECONDS = 0.1
HELLO = (
    "GET /stream?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PARTIAL = re.compile(rb'\{"seconds": ([\d.]+), "stable"')


def frame(payload: bytes, is_text: bool = False) -> bytes:
    """A masked frame whose mask is zero, so that the payload stays as it is."""
    first = 0x81 if is_text else 0x82
    if len(payload) < 126:
        head = bytes([first, 0x80 | len(payload)])
    else:
        head = bytes([first, 0x80 | 126]) + len(payload).to_bytes(2, "big")
    return head + bytes(4) + payload


class Client(asyncio.Protocol):
    """One connection; notes the latency of each new partial."""

    def __init__(self, query: str, completing: list[int], begin: float) -> None:
        self.found: list[tuple[float, float]] = []
        self.open = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.begin = begin  # when the first piece is sent
        self._query, self._completing = query, completing
        self._seen = 0  # chunks whose partial has arrived
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(HELLO.format(query=self._query).encode())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self.open.done():
            self._buffer += data
            if b"\r\n\r\n" not in self._buffer:
                return
            head, _, data = self._buffer.partition(b"\r\n\r\n")
            self._buffer = b""
            if not head.startswith(b"HTTP/1.1 101"):
                self.open.set_exception(ConnectionError(head.decode(errors="replace")[:200]))
                return
            self.open.set_result(None)
        for match in PARTIAL.finditer(data):
            pieces = round(float(match[1]) / PIECE_SECONDS)
            chunks = bisect_right(self._completing, pieces)
            if chunks > self._seen:
                self._seen = chunks
                arrival = self.begin + self._completing[chunks - 1] * PIECE_SECONDS
                self.found.append((arrival, now - arrival))

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.open, self.ended):
            if not future.done():
                future.set_result(None)


async def talk(port: int, order: dict) -> list[tuple[float, float]]:
    """Serve all streams in real time; returns (arrival, latency) of their partials."""
    loop = asyncio.get_running_loop()
    samples = Path(order["samples"]).read_bytes()
    size = 2 * round(16_000 * PIECE_SECONDS)
    pieces = [frame(samples[at : at + size]) for at in range(0, len(samples) - size, size)]
    count = order["streams"]
    clients = []
    for _ in range(count):
        make = lambda: Client(order["query"], order["completing"], 0.0)  # noqa: E731
        _, client = await loop.create_connection(make, "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.open for client in clients))
    start = time.monotonic() + 0.3
    for number, client in enumerate(clients):  # spread over the time of a chunk
        client.begin = start + order["chunk_seconds"] * number / count
    given = [0] * count
    places = [number * len(pieces) // count for number in range(count)]
    end = start + order["seconds"]
    while (now := time.monotonic()) < end:
        for number, client in enumerate(clients):
            # The piece that is complete after `given + 1` times its duration.
            while client.begin + (given[number] + 1) * PIECE_SECONDS <= now:
                client.transport.write(pieces[(places[number] + given[number]) % len(pieces)])
                given[number] += 1
        await asyncio.sleep(0.01)
    for client in clients:
        client.transport.write(frame(b'{"end": true}', is_text=True))
    await asyncio.wait([client.ended for client in clients], timeout=10)
    return [(at - start, latency) for client in clients for at, latency in client.found]


def main() -> None:
    port, order = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    before = time.process_time()
    found = asyncio.run(talk(port, order))
    print(json.dumps({"found": found, "cpu_seconds": time.process_time() - before}))


if __name__ == "__main__":
    main()
