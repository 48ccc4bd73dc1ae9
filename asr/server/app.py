"""The web application: routes, keys, limits, request ids, errors and the log."""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from asr.errors import AsrError
from asr.server import files, realtime, socket
from asr.server.config import ServerConfig
from asr.server.engine import Engine
from asr.server.errors import RequestError, to_request_error
from asr.server.journal import write_record
from asr.server.metrics import Metrics

log = logging.getLogger("asr.server")

PAGE = Path(__file__).parent / "page"
OPEN_PATHS = ("/", "/healthz", "/readyz", "/favicon.ico")  # and /page/...; without a key
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
KEY_PROTOCOLS = ("asr-key.", "openai-insecure-api-key.")
SAFE_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",  # after an update the page asks for its new modules
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def make_app(engine: Engine, config: ServerConfig) -> Starlette:
    """The application that serves an engine; its state has `engine`, `config` and `metrics`."""
    routes = [
        Route("/", show_page),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/healthz", show_health),
        Route("/readyz", show_readiness),
        Route("/metrics", show_metrics),
        Route("/v1/models", files.list_models),
        Route("/v1/models/{name:path}", files.get_model),
        Route("/v1/audio/transcriptions", files.transcribe, methods=["POST"]),
        WebSocketRoute("/stream", socket.stream),
        WebSocketRoute("/v1/realtime", realtime.realtime),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: show_http_error})
    app.state.engine, app.state.config = engine, config
    app.state.metrics = Metrics(engine)
    app.state.stopping = False
    app.add_middleware(Guard, server=app)
    return app


async def show_page(_: Request) -> Response:
    """GET /: the page."""
    return FileResponse(PAGE / "index.html")


async def show_health(_: Request) -> Response:
    """GET /healthz: the process is alive."""
    return JSONResponse({"status": "ok"})


async def show_readiness(request: Request) -> Response:
    """GET /readyz: it accepts work."""
    if request.app.state.stopping:
        raise RequestError("the server is stopping; use another one", 503, code="stopping")
    return JSONResponse({"status": "ok"})


async def show_metrics(request: Request) -> Response:
    """GET /metrics: figures for Prometheus."""
    body, kind = request.app.state.metrics.render()
    return Response(body, headers={"Content-Type": kind})


async def show_http_error(request: Request, error: Exception) -> Response:
    """The response to an address or a method that does not exist."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    message, code = error.detail, None
    if error.status_code == 404:
        message, code = (
            f"{path} does not exist on this server; check the path",
            "not_found",
        )
    elif error.status_code == 405:
        message = f"{path} does not accept {request.method}"
    refusal = RequestError(message, error.status_code, code=code)
    return JSONResponse(refusal.to_dict(), refusal.status, error.headers)


class Guard:
    """Middleware around every request.

    It gives the request an id, checks the key and the size of the body, turns errors into responses
    in OpenAI's shape, counts the request and logs it as a line of JSON.

    Args:
        app: The application within.
        server: The Starlette application, whose state it reads.
    """

    def __init__(self, app: App, server: Starlette) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        identity = choose_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {}).update(id=identity, note={})
        answer = Answer(scope, send, identity)
        state = self.server.state
        state.metrics.begin()
        try:
            self._check(scope)
            body = Body(receive, state.config) if scope["type"] == "http" else None
            await self.app(scope, body or receive, answer)
        except ClientDisconnect:
            answer.status = answer.status or files.CLIENT_CLOSED
        except AsrError as error:
            await answer.refuse(to_request_error(error))
        except Exception:  # a bug: the client learns the id, the log has the rest
            log.exception("request %s failed", identity)
            await answer.refuse(
                RequestError(
                    f"internal server error; look for request {identity} in the server's log", 500
                )
            )
        finally:
            seconds = time.monotonic() - began
            state.metrics.end(scope, answer.status, seconds)
            write_record(scope, answer.status, seconds)

    def _check(self, scope: Scope) -> None:
        """Raise RequestError without a right key, and while the server stops."""
        state, path = self.server.state, scope["path"]
        if state.stopping and path not in OPEN_PATHS:
            raise RequestError("the server is stopping; try again later", 503, code="stopping")
        is_open = path in OPEN_PATHS or path.startswith("/page/")
        if state.config.keys and not is_open and not has_key(scope, state.config.keys):
            raise RequestError(
                "the key is missing or wrong; send the header Authorization: Bearer KEY",
                401,
                code="invalid_api_key",
            )


class Answer:
    """Sends the response of a request, with the headers that all have."""

    def __init__(self, scope: Scope, send: Send, identity: str) -> None:
        self.status = 0
        self._scope, self._send, self._id = scope, send, identity
        self._started = False

    async def __call__(self, message: Message) -> None:
        """Send a message of the application."""
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self._started = True
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", [])}
            extra = {b"x-request-id": self._id.encode(), **SAFE_HEADERS}
            headers = [pair for pair in extra.items() if pair[0] not in present]
            message["headers"] = [*message.get("headers", []), *headers]
        elif message["type"] == "websocket.accept":
            self._started = True
            self.status = 101
        elif message["type"] == "websocket.close":
            self._started = True
            self.status = message.get("code", 1000)
        with suppress(OSError):  # the client is gone
            await self._send(message)

    async def refuse(self, error: RequestError) -> None:
        """Respond with an error, unless a response has begun, which is then cut short."""
        if self._started:
            return
        response = JSONResponse(error.to_dict(), error.status, error.headers)
        if self._scope["type"] == "http":
            response.headers["connection"] = "close"  # the rest of the body is not read
        await response(self._scope, _no_more, self)


class Body:
    """Receives the body of a request, up to the limits of the server."""

    def __init__(self, receive: Receive, config: ServerConfig) -> None:
        self._receive, self._config = receive, config
        self._bytes = 0
        self._complete = False

    async def __call__(self) -> Message:
        """The next message. Raises RequestError if the body is too large or does not arrive."""
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._config.idle_seconds)
        except TimeoutError:
            raise RequestError(
                f"nothing arrived for {self._config.idle_seconds:g} s; send the body without a pause",
                408,
                code="request_timeout",
            ) from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._config.upload_mb * 1e6:
            raise RequestError(
                f"the body has more than {self._config.upload_mb:g} MB, the most that this server "
                "accepts; send a compressed recording, or cut it into parts",
                413,
                code="body_too_large",
            )
        self._complete = not message.get("more_body", False)
        return message


async def _no_more() -> Message:
    return {"type": "http.disconnect"}


def choose_id(proposed: str | None) -> str:
    """The id of a request: the client's own if it is short and plain, or a new one."""
    if proposed and re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", proposed):
        return proposed
    return uuid.uuid4().hex


def has_key(scope: Scope, keys: tuple[str, ...]) -> bool:
    """Whether a request presents one of the keys, compared in constant time.

    Browsers cannot add a header to a WebSocket; they send a subprotocol `asr-key.KEY`.
    """
    given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ").strip()
    names = scope.get("subprotocols", [])
    presented = [given, *(n.split(".", 1)[1] for n in names if n.startswith(KEY_PROTOCOLS))]
    found = False
    for text in presented:
        for key in keys:
            found |= hmac.compare_digest(text.encode(), key.encode())
    return found
