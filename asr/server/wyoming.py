"""The Wyoming protocol, by which Home Assistant and its satellites use speech recognition.

An event is a line of JSON, further JSON and a payload, whose sizes are given in the header.

Source: https://github.com/OHF-Voice/wyoming
"""

import asyncio
import json
import logging
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State
from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info
from wyoming.ping import Pong

from asr import __version__
from asr.errors import AsrError, TextError, quote
from asr.recognizer import Recognizer
from asr.server.config import ServerConfig
from asr.server.errors import RequestError, to_request_error
from asr.server.files import (
    CLIENT_CLOSED,
    MOST_HOTWORDS,
    check_language,
    check_model,
    parse_hotwords,
)
from asr.server.journal import write_record
from asr.server.live import GrowingText, LiveStream
from asr.text import Vocabulary, normalize

log = logging.getLogger("asr.server")

MOST_HEADER, MOST_DATA, MOST_PAYLOAD = 65_536, 1_000_000, 16_000_000  # bytes
MOST_CHANNELS = 16
LINGER_SECONDS = 1.0
FULL_SCALE = 32_768.0
PATH = "wyoming"  # in the log and the metrics


class PcmReader:
    """Turns bytes that are cut anywhere into samples of one channel.

    Args:
        width: Bytes of a sample: 1 (unsigned), 2, 3 or 4.
        channels: Channels, of which the mean is taken.

    Example:
        >>> reader = PcmReader(2, 1)
        >>> [reader.read(b"\\x01").tolist(), reader.read(b"\\x00\\x02\\x00").tolist()]
        [[], [1, 2]]
    """

    def __init__(self, width: int, channels: int) -> None:
        self._width, self._channels = width, channels
        self.rest = b""

    def read(self, data: bytes) -> npt.NDArray[Any]:
        """The samples (N,) that are complete with `data`: int16, or float32 in -1..1."""
        data = self.rest + data
        size = self._width * self._channels
        count = len(data) // size
        self.rest = data[count * size :]
        samples = self._convert(data[: count * size])
        if self._channels == 1:
            return samples
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / np.float32(FULL_SCALE)
        mean: npt.NDArray[Any] = samples.reshape(count, self._channels).mean(axis=1)
        return mean

    def _convert(self, data: bytes) -> npt.NDArray[Any]:
        if self._width == 2:
            return np.frombuffer(data, "<i2").astype(np.int16)
        if self._width == 1:
            return (np.frombuffer(data, np.uint8).astype(np.int16) - 128) * np.int16(256)
        if self._width == 3:
            padded = np.zeros((len(data) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            data = padded.tobytes()
        return (np.frombuffer(data, "<i4") / (FULL_SCALE * 65_536)).astype(np.float32)


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event of a client; None at the end.

    Raises:
        RequestError: If it is no event, or too large.
    """
    try:
        line = await reader.readline()
        if not line:
            return None
        header = json.loads(line)
        kind, data = header["type"], header.get("data") or {}
        sizes = [header.get(name) or 0 for name in ("data_length", "payload_length")]
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise TypeError
        for size, most in zip(sizes, (MOST_DATA, MOST_PAYLOAD), strict=True):
            if not 0 <= size <= most:
                raise RequestError(f"an event has more than {most:,} bytes; send shorter ones")
        if sizes[0]:
            data = data | json.loads(await reader.readexactly(sizes[0]))
        payload = await reader.readexactly(sizes[1]) if sizes[1] else None
    except asyncio.IncompleteReadError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise RequestError("this is not the Wyoming protocol; send events of it") from None
    return Event(kind, data, payload)


class WyomingDoor:
    """Serves the Wyoming protocol.

    Args:
        listening: The open port.
    """

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self._server: asyncio.Server
        self._state: State
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, state: State) -> None:
        """Accept connections, with the `state` of the web application."""
        self._state = state
        self._server = await asyncio.start_server(
            self._accept, sock=self.listening, limit=MOST_HEADER
        )

    def close(self) -> None:
        """Accept no new connections."""
        self._server.close()

    async def stop(self) -> None:
        """Close all connections."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(Connection(self._state, reader, writer).serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@dataclass
class Speech:
    """The audio of a client, from audio-start to the transcript.

    Attributes:
        live: What recognizes it.
        shape: Its rate, width and channels.
        task: Sends the text.
        scope: The stream for the log and the metrics.
        began: Monotonic time of its start.
    """

    live: LiveStream
    shape: tuple[int, int, int]
    reader: PcmReader
    scope: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    task: "asyncio.Task[str] | None" = None


class Connection:
    """One client.

    Args:
        state: The state of the web application.
        reader: Where its events come from.
        writer: Where the answers go.
    """

    def __init__(
        self, state: State, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._state, self._reader, self._writer = state, reader, writer
        self._config: ServerConfig = state.config
        self._hotwords: tuple[str, ...] = ()
        self._speech: Speech | None = None
        self._refused = False  # whether the audio is dropped until it stops

    async def serve(self) -> None:
        """Handle events until the client leaves, says nothing for too long, or was refused."""
        try:
            await self._handle_all()
            await self._hang_up()
        except OSError:  # the client is gone
            pass
        finally:
            await self._end(CLIENT_CLOSED)
            self._writer.close()

    async def _handle_all(self) -> None:
        try:
            while await self._handle_next():
                pass
        except RequestError as error:
            await self._refuse(error)
        except OSError:
            raise
        except Exception:  # a bug, which must not be silent
            log.exception("a Wyoming connection failed")
            await self._refuse(RequestError("the server failed; see its log", 500))

    async def _hang_up(self) -> None:
        """Wait a moment for the client to close, because unread data would revoke the last events."""
        self._writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._reader.read(MOST_HEADER):
                    pass

    async def _handle_next(self) -> bool:
        """Handle the next event; returns whether to go on. Raises RequestError if none can follow."""
        try:
            event = await asyncio.wait_for(read_event(self._reader), self._config.idle_seconds)
        except TimeoutError:
            if self._speech is None:
                return False
            raise RequestError(
                f"nothing arrived for {self._config.idle_seconds:g} s; send silence while nobody "
                "speaks",
                408,
                code="request_timeout",
            ) from None
        if event is None:
            return False
        if self._refused:
            return event.type != "audio-stop"
        try:
            await self._handle(event)
        except AsrError as error:
            await self._refuse(to_request_error(error))
            return event.type != "audio-stop"
        return True

    async def _handle(self, event: Event) -> None:
        """Handle an event; unknown ones are ignored, as the protocol demands."""
        if event.type == "describe":
            await self._send(describe(self._config))
        elif event.type == "ping":
            await self._send(Pong(event.data.get("text")))
        elif event.type == "transcribe":
            self._prepare(event.data)
        elif event.type == "audio-start":
            await self._start(read_shape(event.data))
        elif event.type == "audio-chunk":
            await self._listen(read_shape(event.data), event.payload or b"")
        elif event.type == "audio-stop":
            await self._stop()

    def _prepare(self, data: dict[str, Any]) -> None:
        """Check what a client wants to be transcribed."""
        for name in ("name", "language"):
            if not isinstance(data.get(name), str | None):
                raise RequestError(f"{name} must be text", param=name)
        check_model(data.get("name"), self._config)
        check_language(data.get("language"), self._config)
        texts: list[Any] = []
        for name in ("transcript_names", "transcript_terms"):
            if not isinstance(given := data.get(name) or [], list):
                raise RequestError(f"{name} must be a list", param=name)
            texts += given
        self._hotwords = choose_hotwords(texts, self._state.engine.recognizer.vocabulary)

    async def _start(self, shape: tuple[int, int, int]) -> None:
        if self._speech:
            raise RequestError("the audio has started already; send audio-stop first")
        if self._state.stopping:
            raise RequestError("the server is stopping; try again later", 503, code="stopping")
        rate, width, channels = shape
        engine, config = self._state.engine, self._config
        hotwords, self._hotwords = self._hotwords, ()
        recognizer: Recognizer = await run_in_threadpool(engine.variants.choose, None, hotwords)
        live = engine.open(recognizer, rate, config.latency_ms, config.endpoint)
        identity = uuid.uuid4().hex
        scope = {
            "path": PATH,
            "method": "WYOMING",
            "client": self._writer.get_extra_info("peername"),
            "state": {"id": identity, "note": {}},
        }
        self._state.metrics.begin()
        self._speech = Speech(live, shape, PcmReader(width, channels), scope)
        self._speech.task = asyncio.create_task(self._transcribe(live))

    async def _listen(self, shape: tuple[int, int, int], data: bytes) -> None:
        """Pass samples on."""
        speech = self._speech
        if speech is None:
            raise RequestError("the audio has not started; send audio-start first")
        if shape != speech.shape:
            raise RequestError(
                "the rate, width or channels of the audio have changed; send audio-stop and "
                "audio-start in between"
            )
        if speech.task and speech.task.done():
            speech.task.result()  # raises its error
        await speech.live.send(speech.reader.read(data))

    async def _stop(self) -> None:
        """Send the transcript."""
        speech = self._speech
        if speech is None or speech.task is None:
            raise RequestError("the audio has not started; send audio-start first")
        if speech.reader.rest:
            raise RequestError("the audio ends within a sample; send whole samples")
        speech.live.finish()
        text = await speech.task
        if self._config.log_texts:
            speech.scope["state"]["note"]["text"] = text
        await self._end(200)

    async def _transcribe(self, live: LiveStream) -> str:
        """Send the text as it grows, and return it. Raises AsrError if the stream fails."""
        text, language = GrowingText(), self._config.language
        await self._send(TranscriptStart(language=language))
        async for update in live.updates():
            if update.error is not None:
                live.close()
                raise update.error
            for segment in update.segments:
                await self._send_chunk(text.end(segment))
            if update.final is not None:
                await self._send_chunk(text.end(update.final))
            elif update.partial is not None:
                await self._send_chunk(text.grow(update.partial.stable))
        whole = text.hypothesis.text
        await self._send(Transcript(text=whole, language=language))
        await self._send(TranscriptStop())
        return whole

    async def _send_chunk(self, text: str) -> None:
        if text:
            await self._send(TranscriptChunk(text=text))

    async def _send(self, event: Eventable) -> None:
        await async_write_event(event.event(), self._writer)

    async def _refuse(self, error: RequestError) -> None:
        """Tell the client what is wrong; the rest of its audio is dropped."""
        self._refused = True
        await self._end(error.status)
        message = error.to_dict()["error"]
        with suppress(OSError):  # the client is gone
            await self._send(Error(text=message["message"], code=message["code"]))

    async def _end(self, status: int) -> None:
        """Give up the stream, if there is one, and count it."""
        speech, self._speech = self._speech, None
        if speech is None:
            return
        speech.live.close()
        if speech.task:
            speech.task.cancel()
            await asyncio.gather(speech.task, return_exceptions=True)
        seconds = time.monotonic() - speech.began
        speech.scope["state"]["note"]["audio_seconds"] = round(speech.live.stream.seconds, 3)
        self._state.metrics.end(speech.scope, status, seconds)
        write_record(speech.scope, status, seconds)


def read_shape(data: dict[str, Any]) -> tuple[int, int, int]:
    """The rate, width and channels of audio. Raises RequestError for what cannot be used."""
    for name, lowest, highest in (
        ("rate", 1, 10**9),
        ("width", 1, 4),
        ("channels", 1, MOST_CHANNELS),
    ):
        value = data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise RequestError(
                f"{name} is {quote(str(value))}; it must be a whole number from {lowest} to "
                f"{highest:,}",
                param=name,
            )
    return data["rate"], data["width"], data["channels"]


def choose_hotwords(texts: Sequence[Any], vocabulary: Vocabulary) -> tuple[str, ...]:
    """The words and phrases that the model can write, which are suggestions of the client only."""
    found: dict[str, None] = {}
    for text in texts:
        for phrase in parse_hotwords(text) if isinstance(text, str) else ():
            try:
                vocabulary.encode(normalize(phrase, "plain"))
            except TextError:
                continue
            found[phrase] = None
    return tuple(found)[:MOST_HOTWORDS]


def describe(config: ServerConfig) -> Info:
    """What the server can do."""
    nobody = Attribution(name="lstm-asr", url="")
    model = AsrModel(
        name=config.model,
        attribution=nobody,
        installed=True,
        description=f"LSTM and CTC model ({config.language})",
        version=__version__,
        languages=[config.language],
    )
    program = AsrProgram(
        name="asr",
        attribution=nobody,
        installed=True,
        description="Speech recognition with an LSTM acoustic model and CTC",
        version=__version__,
        models=[model],
        supports_transcript_streaming=True,
    )
    return Info(asr=[program])
