"""The WebSocket /v1/realtime?intent=transcription: OpenAI's Realtime transcription sessions.

With turn detection each segment of speech is an item; without, an item is what arrives between two
commits. An item's deltas are its stable words, so none is ever taken back.

Source: https://platform.openai.com/docs/api-reference/realtime
"""

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError, quote
from asr.server.config import ServerConfig
from asr.server.engine import Engine
from asr.server.errors import RequestError, to_request_error
from asr.server.files import check_model, choose_recognizer, to_logprobs
from asr.server.live import GrowingText, LiveStream
from asr.server.session import INPUT, SessionSettings, default_settings, update_settings
from asr.server.socket import SampleReader, check_parameters, close, code_of, receive_message

PARAMETERS = ("intent", "model")
TRANSCRIPTION = "conversation.item.input_audio_transcription"


def new_id(kind: str) -> str:
    """A new id of a session, an item or an event."""
    return f"{kind}_{secrets.token_hex(12)}"


@dataclass
class Item:
    """A user message that is being spoken.

    Attributes:
        begin: Where it begins in its turn, in seconds.
        text: What is known of it.
    """

    begin: float
    id: str = field(default_factory=lambda: new_id("item"))
    text: GrowingText = field(default_factory=GrowingText)


@dataclass
class Turn:
    """A live stream of a session: from one commit, or change of the settings, to the next.

    Attributes:
        begin: Seconds of the session that came before it.
        detects: Whether the pauses of the speaker end items.
        samples: Samples that were sent to it.
        committed: Whether a commit has ended it.
        item: The item that is being spoken.
    """

    live: LiveStream
    reader: SampleReader
    begin: float
    detects: bool
    samples: int = 0
    committed: bool = False
    item: Item | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def seconds(self) -> float:
        """Seconds of samples that were sent to it."""
        return self.samples / self.live.sample_rate


async def realtime(websocket: WebSocket) -> None:
    """WebSocket /v1/realtime."""
    engine, config = websocket.app.state.engine, websocket.app.state.config
    names = websocket.scope.get("subprotocols", [])
    known = [name for name in ("realtime", "asr") if name in names]
    await websocket.accept(known[0] if known else None)
    session = Session(websocket, engine, config)
    try:
        check_address(websocket, config)
        await session.open()
    except AsrError as error:  # browsers could not read the reason if the connection were refused
        await session.end(to_request_error(error))
        return
    try:
        await session.serve()
    finally:
        session.turn.live.close()
        websocket.scope["state"]["note"] = session.describe()


def check_address(websocket: WebSocket, config: ServerConfig) -> None:
    """Raise RequestError unless the address asks for a transcription session."""
    query = websocket.query_params
    check_parameters(query, PARAMETERS)
    if query.get("intent") != "transcription":
        raise RequestError(
            "this server only transcribes; connect to /v1/realtime?intent=transcription",
            param="intent",
        )
    check_model(query.get("model"), config)


class Session:
    """One client: its settings, its current turn, and the events for it.

    Args:
        websocket: The connection.
        engine: What recognizes.
        config: The server's settings.
    """

    def __init__(self, websocket: WebSocket, engine: Engine, config: ServerConfig) -> None:
        self.websocket, self.engine, self.config = websocket, engine, config
        self.id = new_id("sess")
        self.settings = default_settings(config)
        self.turn: Turn
        self._previous: str | None = None  # id of the last item that was committed
        self._texts: list[str] = []  # for the log
        self._tasks: asyncio.TaskGroup

    async def open(self) -> None:
        """Reserve a live stream. Raises AsrError if there is none."""
        self.turn = await self._open(self.settings, keeps_place=False)

    async def serve(self) -> None:
        """Handle events until the client leaves, or says nothing for too long."""
        try:
            await self._send("session.created", session=self.settings.to_dict(self.id, self.config))
            async with asyncio.TaskGroup() as self._tasks:
                self._begin(self.turn)
                while True:
                    await self._handle(await receive_message(self.websocket, self.config))
        except* WebSocketDisconnect:
            pass
        except* RequestError as errors:
            await self.end(_first(errors))

    async def end(self, error: RequestError) -> None:
        """Send an error and close the connection, if the client has not."""
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._send_error(error, None)
            await close(self.websocket, code_of(error))

    def describe(self) -> dict[str, Any]:
        """What the log and the metrics say about the session."""
        note: dict[str, Any] = {"audio_seconds": round(self.turn.begin + self.turn.seconds, 3)}
        if self.config.log_texts:
            note["text"] = " ".join(text for text in self._texts if text)
        return note

    # Events of the client

    async def _handle(self, message: dict[str, Any]) -> None:
        """Handle an event, or tell the client why not."""
        identity = None
        try:
            event = parse_event(message)
            if isinstance(event.get("event_id"), str):
                identity = event["event_id"][:200]
            handler, fields = _find_handler(event)
            for name in event.keys() - {"type", "event_id", *fields}:
                raise RequestError(
                    f"the parameter {quote(name)} of {event['type']} is not supported; leave it out",
                    param=name[:80],
                    code="unknown_parameter",
                )
            await handler(self, event)
        except AsrError as error:
            await self._send_error(to_request_error(error), identity)

    async def update(self, event: dict[str, Any]) -> None:
        """session.update: change the settings, which ends the current turn if it must."""
        settings = update_settings(event.get("session"), self.settings, self.config)
        if settings.needs_new_stream(self.settings):
            if self.turn.samples and not self.turn.detects:
                raise RequestError(
                    "the audio buffer is not empty; commit or clear it before the settings change",
                    param="session",
                )
            await self._replace_turn(await self._open(settings), committed=False)
        self.settings = settings
        await self._send("session.updated", session=settings.to_dict(self.id, self.config))

    async def append(self, event: dict[str, Any]) -> None:
        """input_audio_buffer.append: more samples, cut anywhere."""
        audio = event.get("audio")
        try:
            data = base64.b64decode(audio if isinstance(audio, str) else "?", validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(
                "audio is not base64; encode the samples in base64",
                param="audio",
                code="invalid_value",
            ) from None
        await self._renew()
        samples = self.turn.reader.read(data)
        self.turn.samples += len(samples)
        await self.turn.live.send(samples)

    async def commit(self, event: dict[str, Any]) -> None:  # noqa: ARG002
        """input_audio_buffer.commit: what was sent is an item."""
        await self._renew()
        if not self.turn.samples:
            raise RequestError(
                "the audio buffer is empty; append samples before the commit",
                code="input_audio_buffer_commit_empty",
            )
        if self.turn.reader.rest:
            raise RequestError("the audio buffer ends within a sample; append the rest of it")
        await self._replace_turn(await self._open(self.settings), committed=True)

    async def clear(self, event: dict[str, Any]) -> None:  # noqa: ARG002
        """input_audio_buffer.clear: forget what was sent since the last item."""
        turn = await self._open(self.settings)
        self._give_up(self.turn)
        self._begin(turn)
        await self._send("input_audio_buffer.cleared")

    # Turns

    async def _open(self, settings: SessionSettings, keeps_place: bool = True) -> Turn:
        recognizer = await choose_recognizer(
            self.engine, None, settings.hotwords, f"{INPUT}.transcription.prompt"
        )
        live = self.engine.open(
            recognizer,
            settings.rate,
            self.config.latency_ms,
            settings.endpoint(self.config),
            keeps_place,
        )
        reader = SampleReader(settings.encoding)
        return Turn(live, reader, 0.0, settings.silence_ms is not None)

    def _begin(self, turn: Turn) -> None:
        """Make a turn the current one."""
        if turn is not self.turn:
            turn.begin = self.turn.begin + self.turn.seconds
        self.turn = turn
        turn.task = self._tasks.create_task(self._follow(turn))

    async def _replace_turn(self, turn: Turn, committed: bool) -> None:
        """End the current turn, wait for its items, and begin another one."""
        old = self.turn
        if old.samples and old.task:
            old.committed = committed
            old.live.finish()
            try:
                await asyncio.wait({old.task})
            except asyncio.CancelledError:
                turn.live.close()
                raise
        self._give_up(old)
        self._begin(turn)

    async def _renew(self) -> None:
        """Begin another turn if the current one has failed."""
        if self.turn.live.closed:
            self._begin(await self._open(self.settings))

    def _give_up(self, turn: Turn) -> None:
        turn.live.close()
        if turn.task:
            turn.task.cancel()

    async def _follow(self, turn: Turn) -> None:
        """Send the events of a turn's items until it ends."""
        async for update in turn.live.updates():
            if update.error is not None:
                await self._fail(turn, update.error)
                return
            for segment in update.segments:
                await self._end_segment(turn, segment, is_last=False)
            if update.final is not None:
                await self._end_segment(turn, update.final, is_last=True)
            elif update.partial is not None and update.partial.text:
                item = await self._require_item(turn, update.partial.begin)
                await self._send_delta(item, item.text.grow(update.partial.stable))

    async def _end_segment(self, turn: Turn, segment: Hypothesis, is_last: bool) -> None:
        by_commit = is_last and turn.committed
        if not (segment.text or turn.item or by_commit):
            return
        begin, end = segment.span or (turn.seconds, turn.seconds)
        item = await self._require_item(turn, begin if turn.detects else 0.0)
        delta = item.text.end(segment)
        if turn.detects or is_last:
            end = min(end, turn.seconds) if turn.detects else turn.seconds
            if turn.detects and not by_commit:
                milliseconds = round(1000 * (turn.begin + end))
                await self._send(
                    "input_audio_buffer.speech_stopped",
                    audio_end_ms=milliseconds,
                    item_id=item.id,
                )
            await self._commit_item(turn, item)
            await self._send_delta(item, delta)
            await self._complete(turn, item, max(0.0, end - item.begin))
        else:
            await self._send_delta(item, delta)

    # Events of the server

    async def _require_item(self, turn: Turn, begin: float) -> Item:
        """The turn's item that is being spoken; it begins at `begin` if there is none."""
        if turn.item is None:
            turn.item = Item(begin)
            if turn.detects:
                await self._send(
                    "input_audio_buffer.speech_started",
                    audio_start_ms=round(1000 * (turn.begin + begin)),
                    item_id=turn.item.id,
                )
        return turn.item

    async def _commit_item(self, turn: Turn, item: Item) -> None:
        turn.item = None
        previous, self._previous = self._previous, item.id
        message = {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        for name in ("conversation.item.added", "conversation.item.done"):
            await self._send(name, previous_item_id=previous, item=message)

    async def _send_delta(self, item: Item, delta: str) -> None:
        if delta:
            await self._send(
                f"{TRANSCRIPTION}.delta",
                item_id=item.id,
                content_index=0,
                delta=delta,
                logprobs=None,
            )

    async def _complete(self, turn: Turn, item: Item, seconds: float) -> None:
        """Send an item's transcript, and its words with times from the start of the session."""
        hypothesis = item.text.hypothesis
        self._texts += [hypothesis.text] if self.config.log_texts else []
        await self._send(
            f"{TRANSCRIPTION}.completed",
            item_id=item.id,
            content_index=0,
            transcript=hypothesis.text,
            logprobs=to_logprobs(hypothesis) if self.settings.logprobs else None,
            usage={"type": "duration", "seconds": round(seconds, 3)},
            words=[
                {
                    "word": word.text,
                    "start": round(turn.begin + word.start, 3),
                    "end": round(turn.begin + word.end, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in hypothesis.words
            ],
        )

    async def _fail(self, turn: Turn, error: AsrError) -> None:
        """Tell the client that a turn cannot go on; the next samples begin another one."""
        turn.live.close()
        refusal = to_request_error(error)
        item = turn.item or (Item(0.0) if turn.committed else None)
        if item is None:
            await self._send_error(refusal, None)
            return
        await self._commit_item(turn, item)
        await self._send(
            f"{TRANSCRIPTION}.failed",
            item_id=item.id,
            content_index=0,
            error=refusal.to_dict()["error"],
        )

    async def _send_error(self, error: RequestError, identity: str | None) -> None:
        """Send an error that was caused by an event with the id `identity`."""
        await self._send("error", error={**error.to_dict()["error"], "event_id": identity})

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": new_id("event"), **fields}
        await self.websocket.send_text(json.dumps(event, ensure_ascii=False))


Handler = Callable[[Session, dict[str, Any]], Awaitable[None]]

HANDLERS: dict[str, tuple[Handler, tuple[str, ...]]] = {
    "session.update": (Session.update, ("session",)),
    "input_audio_buffer.append": (Session.append, ("audio",)),
    "input_audio_buffer.commit": (Session.commit, ()),
    "input_audio_buffer.clear": (Session.clear, ()),
}
"""What handles each type of event, and the fields that it may have."""


def parse_event(message: dict[str, Any]) -> dict[str, Any]:
    """The event in a message of a WebSocket. Raises RequestError if there is none."""
    with suppress(ValueError, RecursionError):
        event = json.loads(message.get("text") or "")
        if isinstance(event, dict):
            return event
    raise RequestError(
        "the message is not an event; send text messages with a JSON object each",
        code="invalid_event",
    )


def _find_handler(event: dict[str, Any]) -> tuple[Handler, tuple[str, ...]]:
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in HANDLERS:
        raise RequestError(
            f"events of type {quote(str(kind))} are not supported; a transcription session accepts "
            f"{', '.join(HANDLERS)}",
            param="type",
            code="unknown_event_type",
        )
    return HANDLERS[kind]


def _first(errors: BaseExceptionGroup[RequestError]) -> RequestError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RequestError)
    return error
