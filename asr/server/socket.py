"""The plain WebSocket /stream: samples in, the JSON lines of `asr stream` out."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.datastructures import QueryParams
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from asr.endpoint import EndpointConfig
from asr.errors import AsrError, quote
from asr.formats import final_record, segment_record
from asr.server.config import ServerConfig
from asr.server.engine import Engine
from asr.server.errors import RequestError, to_request_error
from asr.server.files import choose_recognizer
from asr.server.live import LiveStream

DEFAULT_RATE = 16_000
PARAMETERS = ("rate", "encoding", "latency_ms", "pause", "hotwords", "decoder")
CLOSED, REFUSED, FAILED, BUSY = 1000, 1008, 1011, 1013  # codes of WebSocket


def decode_mulaw(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Samples (N,) of 8-bit mu-law codes (ITU-T G.711).

    Example:
        >>> decode_mulaw(np.array([0xFF, 0x00, 0x80], np.uint8)).tolist()
        [0, -32124, 32124]
    """
    inverted = ~codes
    exponent = (inverted >> 4) & 7
    magnitude = ((((inverted & 15).astype(np.int32) << 3) + 132) << exponent) - 132
    return np.where(inverted & 128, -magnitude, magnitude).astype(np.int16)


def decode_alaw(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Samples (N,) of 8-bit A-law codes (ITU-T G.711).

    Example:
        >>> decode_alaw(np.array([0xD5, 0x2A, 0xAA], np.uint8)).tolist()
        [8, -32256, 32256]
    """
    toggled = codes ^ 0x55
    exponent = ((toggled >> 4) & 7).astype(np.int32)
    mantissa = ((toggled & 15).astype(np.int32) << 4) + 8
    magnitude = np.where(exponent > 0, (mantissa + 256) << np.maximum(exponent - 1, 0), mantissa)
    return np.where(toggled & 128, magnitude, -magnitude).astype(np.int16)


ENCODINGS: dict[str, tuple[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]] = {
    "s16le": ("<i2", lambda samples: samples.astype(np.int16)),
    "f32le": ("<f4", lambda samples: samples.astype(np.float32)),
    "mulaw": ("u1", decode_mulaw),
    "alaw": ("u1", decode_alaw),
}


class SampleReader:
    """Turns bytes that are cut anywhere into samples.

    Args:
        encoding: One of `ENCODINGS`.

    Example:
        >>> reader = SampleReader("s16le")
        >>> [reader.read(b"\\x01").tolist(), reader.read(b"\\x00\\x02\\x00").tolist()]
        [[], [1, 2]]
    """

    def __init__(self, encoding: str) -> None:
        kind, self._convert = ENCODINGS[encoding]
        self._kind = np.dtype(kind)
        self.rest = b""

    def read(self, data: bytes) -> npt.NDArray[Any]:
        """The samples (N,) that are complete with `data`."""
        data = self.rest + data if self.rest else data
        count = len(data) // self._kind.itemsize
        self.rest = data[count * self._kind.itemsize :]
        return self._convert(np.frombuffer(data, self._kind, count))


async def stream(websocket: WebSocket) -> None:
    """WebSocket /stream."""
    engine, config = websocket.app.state.engine, websocket.app.state.config
    names = websocket.scope.get("subprotocols", [])
    await websocket.accept("asr" if "asr" in names else None)
    try:
        live, reader = await open_stream(websocket.query_params, engine, config)
    except AsrError as error:  # browsers could not read the reason if the connection were refused
        await refuse(websocket, error)
        return
    try:
        await serve(websocket, live, reader, config)
    finally:
        live.close()
        websocket.scope["state"]["note"] = {"audio_seconds": round(live.stream.seconds, 3)}


async def open_stream(
    query: QueryParams, engine: Engine, config: ServerConfig
) -> tuple[LiveStream, SampleReader]:
    """The stream that the parameters of an address describe. Raises RequestError."""
    check_parameters(query, PARAMETERS)
    encoding = query.get("encoding", "s16le")
    if encoding not in ENCODINGS:
        raise RequestError(
            f"encoding is {quote(encoding)}; it must be one of {', '.join(ENCODINGS)}",
            param="encoding",
        )
    decoder = query.get("decoder")
    if decoder not in (None, "greedy", "beam"):
        raise RequestError(
            f"decoder is {quote(decoder)}; it must be greedy or beam", param="decoder"
        )
    rate = parse_number(query, "rate", DEFAULT_RATE)
    if rate != int(rate):
        raise RequestError(f"rate is {rate:g}; it must be a whole number", param="rate")
    latency = parse_number(query, "latency_ms", config.latency_ms)
    endpoint = config.endpoint
    if "pause" in query:
        pause = parse_number(query, "pause", 0.0)
        if pause < 0:
            raise RequestError(f"pause is {pause:g}; it must be 0 or more", param="pause")
        endpoint = EndpointConfig(silence=pause) if pause else None
    recognizer = await choose_recognizer(engine, decoder, query.get("hotwords"), "hotwords")
    return engine.open(recognizer, int(rate), latency, endpoint), SampleReader(encoding)


def check_parameters(query: QueryParams, known: Sequence[str]) -> None:
    """Raise RequestError if an address has other parameters than the `known` ones."""
    for name in query:
        if name not in known:
            raise RequestError(
                f"the parameter {quote(name)} is unknown; use only {', '.join(known)}",
                param=name[:80],
                code="unknown_parameter",
            )


def parse_number(query: QueryParams, name: str, default: float) -> float:
    """A finite number of the address. Raises RequestError."""
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:  # catches NaN too
        raise RequestError(f"{name} is {quote(text)}; it must be a number", param=name)
    return value


async def serve(
    websocket: WebSocket, live: LiveStream, reader: SampleReader, config: ServerConfig
) -> None:
    """Receive samples and send results until the stream ends."""
    receiving = asyncio.create_task(receive(websocket, live, reader, config))
    sending = asyncio.create_task(send(websocket, live))
    try:
        await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            receiving.result()
            await sending
        else:
            sending.result()
        await close(websocket, CLOSED)
    except WebSocketDisconnect:
        pass
    except AsrError as error:
        await refuse(websocket, error)
    finally:
        for task in (receiving, sending):
            task.cancel()
        await asyncio.gather(receiving, sending, return_exceptions=True)


async def receive(
    websocket: WebSocket, live: LiveStream, reader: SampleReader, config: ServerConfig
) -> None:
    """Pass samples on until the client ends the stream. Raises AsrError for what is no sample."""
    while True:
        message = await receive_message(websocket, config)
        if (data := message.get("bytes")) is not None:
            await live.send(reader.read(data))
        elif is_end(message.get("text")):
            break
    if reader.rest:
        raise RequestError("the stream ends within a sample; send whole samples")
    live.finish()


async def receive_message(websocket: WebSocket, config: ServerConfig) -> dict[str, Any]:
    """The next message of a client.

    Raises:
        RequestError: If none arrives for too long.
        WebSocketDisconnect: If the client has closed the connection.
    """
    try:
        message = await asyncio.wait_for(websocket.receive(), config.idle_seconds)
    except TimeoutError:
        raise RequestError(
            f"nothing arrived for {config.idle_seconds:g} s; send silence while nobody speaks",
            408,
            code="request_timeout",
        ) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", CLOSED))
    return dict(message)


def is_end(text: str | None) -> bool:
    """Whether a text message ends the stream. Raises RequestError if it means nothing."""
    with suppress(ValueError, RecursionError):
        document = json.loads(text or "")
        if isinstance(document, dict) and document.get("end") is True:
            return True
    raise RequestError(
        f"the text message {quote(text)} is not understood; send samples as binary messages, and "
        '{"end": true} after the last one'
    )


async def send(websocket: WebSocket, live: LiveStream) -> None:
    """Send the results as JSON until the stream has ended. Raises AsrError if it fails."""
    async for update in live.updates():
        if update.error is not None:
            raise update.error
        records = [segment_record(segment) for segment in update.segments if segment.text]
        if update.final is not None:
            records.append(final_record(update.final))
        elif update.partial and (update.partial.text or not update.segments):
            records.append(update.partial.to_dict())
        for record in records:
            await websocket.send_text(json.dumps(record, ensure_ascii=False))


async def refuse(websocket: WebSocket, error: AsrError) -> None:
    """Send an error and close the connection, if the client has not."""
    refusal = to_request_error(error)
    with suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send_text(json.dumps(refusal.to_dict(), ensure_ascii=False))
        await close(websocket, code_of(refusal))


def code_of(refusal: RequestError) -> int:
    """The code that closes a refused connection."""
    if refusal.status in (429, 503):
        return BUSY
    return FAILED if refusal.status >= 500 else REFUSED


async def close(websocket: WebSocket, code: int) -> None:
    """Close the connection, if the client has not."""
    if websocket.client_state is WebSocketState.CONNECTED:
        with suppress(RuntimeError):
            await websocket.close(code)
