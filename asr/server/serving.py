"""Runs the application: sockets, signals, and the end of the server."""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import State

from asr.errors import AsrError
from asr.progress import complain, say
from asr.server.app import make_app
from asr.server.config import ServerConfig
from asr.server.engine import Engine

log = logging.getLogger("asr.server")

BACKLOG = 2048
MOST_MESSAGE = 16_000_000  # bytes of a WebSocket message
POLL_SECONDS = 0.05


class Door(Protocol):
    """Serves a protocol other than HTTP and WebSocket.

    Attributes:
        listening: Its open port.
    """

    listening: socket.socket

    async def start(self, state: State) -> None:
        """Accept connections, with the state of the web application."""

    def close(self) -> None:
        """Accept no new connections."""

    async def stop(self) -> None:
        """Close all connections."""


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Open the port, so that a wrong address is known before the model is loaded.

    Args:
        host: Address to listen on.
        port: TCP port.
        option: What the user chooses the port with.

    Raises:
        AsrError: If the address is in use or cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise AsrError(
            f"the address {host} cannot be used ({error.strerror}); correct --host"
        ) from None
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise AsrError(
            f"port {port} of {host} cannot be opened ({error.strerror}); if another program uses it, "
            f"choose another port with {option}"
        ) from None


def configure(app: Starlette) -> uvicorn.Config:
    """The settings of uvicorn."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",  # the application logs what fails, and refused requests are no errors
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=MOST_MESSAGE,
        timeout_graceful_shutdown=1,
        backlog=BACKLOG,
    )


def serve(
    engine: Engine,
    config: ServerConfig,
    listening: socket.socket,
    door: Door | None = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code.

    Args:
        engine: What recognizes.
        config: The settings.
        listening: The open port of HTTP and WebSocket.
        door: What serves another protocol beside it, such as Wyoming.
    """
    handler = _Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    places = f"http://{show_address(listening)}/"
    if door:
        places += f" and tcp://{show_address(door.listening)}"
    complain(f"asr: serving {config.model} at {places} (stop with Ctrl-C).")
    try:
        server = Server(make_app(engine, config), config, door)
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        engine.stop()
        log.removeHandler(handler)
    return 0


class _Lines(logging.Handler):
    """Writes each message of the log as a line on stdout; a reader that is gone is no error."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            say(self.format(record), verbatim=True)


def show_address(listening: socket.socket) -> str:
    """The host and the port of an open port, as in a URL."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server(uvicorn.Server):
    """A server that finishes what runs before it stops.

    Args:
        app: The application.
        config: The settings.
        door: What serves another protocol beside it, such as Wyoming.
    """

    def __init__(self, app: Starlette, config: ServerConfig, door: Door | None = None) -> None:
        super().__init__(configure(app))
        self._state, self._config, self._door = app.state, config, door

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        if self._door:
            await self._door.start(self._state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections."""
        if self._door:
            await self._door.stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Refuse new requests at the first signal; stop at once at the second one."""
        if self._state.stopping:
            self.should_exit = True
            return
        self._state.stopping = True
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        for server in self.servers:
            server.close()  # no new connections; open ones go on
        if self._door:
            self._door.close()
        self._stopping = asyncio.create_task(self._wait_for_requests())

    async def _wait_for_requests(self) -> None:
        end = time.monotonic() + self._config.stop_seconds
        while self._state.metrics.open_requests and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)
        self.should_exit = True
