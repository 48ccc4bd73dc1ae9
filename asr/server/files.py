"""Recordings that are uploaded, through OpenAI's interface of transcriptions.

Source: https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

import asyncio
import json
import logging
import math
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from asr.decoder.hypothesis import Hypothesis
from asr.endpoint import EndpointConfig
from asr.errors import AsrError, quote
from asr.formats import to_srt, to_vtt
from asr.recognizer import OnSegment, OperatingPoint, Recognizer
from asr.server.config import ServerConfig
from asr.server.engine import Engine
from asr.server.errors import RequestError, to_request_error

log = logging.getLogger("asr.server")

ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
"""Names of models that clients request by default; they mean the server's model."""

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("word", "segment")
LISTS = ("timestamp_granularities", "include")
FIELDS = (
    "model language prompt response_format temperature stream chunking_strategy latency_ms decoder "
    "timestamp_granularities include"
).split()
LANGUAGES = {"en": "english"}  # names in verbose_json
MOST_HOTWORDS = 1_000
CLIENT_CLOSED = 499  # nobody sees this status, except in the log


@dataclass(frozen=True)
class Order:
    """What a client wants to know about its recording.

    Attributes:
        recognizer: The recognizer with the decoder and the hotwords that were requested.
        point: How the recording is read.
        response_format: One of `FORMATS`.
        granularities: Which times are wanted in verbose_json.
        logprobs: Whether log-probabilities of words are wanted.
        stream: Whether the text is sent while it is recognized.
    """

    recognizer: Recognizer
    point: OperatingPoint | None
    response_format: str
    granularities: tuple[str, ...]
    logprobs: bool
    stream: bool


class Fields:
    """The fields of a form, checked as they are read."""

    def __init__(self, form: FormData) -> None:
        self._values: dict[str, list[str]] = {}
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if name == "file":
                continue
            if name not in FIELDS:
                raise RequestError(
                    f"the parameter {quote(key)} is not supported; leave it out",
                    param=key[:80],
                    code="unknown_parameter",
                )
            if not isinstance(value, str):
                raise RequestError(
                    f"the parameter {quote(key)} must be text, not a file", param=name
                )
            self._values.setdefault(name, []).append(value)
        for name, values in self._values.items():
            if len(values) > 1 and name not in LISTS:
                raise RequestError(f"the parameter {quote(name)} is given twice", param=name)

    def text(self, name: str) -> str | None:
        """The value of a field; None if it is missing or empty."""
        return self._values.get(name, [""])[0].strip() or None

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str | None:
        """A value that must be one of `choices`."""
        value = self.text(name) or default
        if value is not None and value not in choices:
            raise RequestError(
                f"{name} is {quote(value)}; it must be one of {', '.join(choices)}", param=name
            )
        return value

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self.text(name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise RequestError(f"{name} is {quote(value)}; it must be a number", param=name)
        return number

    def each(self, name: str, choices: Sequence[str]) -> tuple[str, ...]:
        """The values of a list, each one of `choices`."""
        values = tuple(self._values.get(name, []))
        for value in values:
            if value not in choices:
                raise RequestError(
                    f"{name}[] contains {quote(value)}; it may contain {', '.join(choices)}",
                    param=name,
                )
        return values


def check_model(name: str | None, config: ServerConfig) -> None:
    """Raise RequestError unless a client's `model` is this server's, or missing."""
    if name is not None and name not in (config.model, *ALIASES):
        raise RequestError(
            f"this server has no model {quote(name)}; use {quote(config.model)}, or leave out model",
            404,
            "model",
            "model_not_found",
        )


def check_language(language: str | None, config: ServerConfig) -> None:
    """Raise RequestError unless a client's `language` is that of the model, or missing."""
    if language is not None and language.lower() != config.language:
        raise RequestError(
            f"language is {quote(language)}, but the model knows only {quote(config.language)}; leave "
            "it out",
            param="language",
        )


def parse_hotwords(prompt: str | None, param: str = "prompt") -> tuple[str, ...]:
    """The words and phrases of a prompt, which commas, semicolons, periods or new lines separate."""
    phrases = re.split(r"[,;.\n]", prompt or "")
    hotwords = tuple(dict.fromkeys(phrase.strip() for phrase in phrases if phrase.strip()))
    if len(hotwords) > MOST_HOTWORDS:
        raise RequestError(
            f"{param} has {len(hotwords):,} phrases; shorten it to at most {MOST_HOTWORDS:,}",
            param=param,
        )
    return hotwords


async def choose_recognizer(
    engine: Engine, decoder: str | None, prompt: str | None, param: str = "prompt"
) -> Recognizer:
    """The recognizer for a decoder and a prompt. Raises RequestError."""
    hotwords = parse_hotwords(prompt, param)
    if hotwords and decoder == "greedy":
        raise RequestError(
            f"the greedy decoder cannot use {param}; choose the beam decoder", param=param
        )
    try:
        return await run_in_threadpool(engine.variants.choose, decoder, hotwords)
    except AsrError as error:
        raise RequestError(str(error), param=param) from None


async def parse_order(form: FormData, engine: Engine, config: ServerConfig) -> Order:
    """Check the fields of a form. Raises RequestError for what cannot be done."""
    fields = Fields(form)
    check_model(fields.text("model"), config)
    check_language(fields.text("language"), config)
    if fields.number("temperature"):
        raise RequestError(
            "temperature must be 0, because decoding is deterministic; leave it out",
            param="temperature",
        )
    fields.choice("chunking_strategy", ["auto"])
    response_format = cast(str, fields.choice("response_format", FORMATS, "json"))
    stream = fields.choice("stream", ["true", "false", "True", "False"], "false") in (
        "true",
        "True",
    )
    if stream and response_format in ("srt", "vtt"):
        raise RequestError(
            f"{response_format} cannot be streamed; leave out stream", param="response_format"
        )
    granularities = fields.each("timestamp_granularities", GRANULARITIES)
    if granularities and response_format != "verbose_json":
        raise RequestError(
            "timestamp_granularities[] requires response_format=verbose_json; add it",
            param="timestamp_granularities",
        )
    logprobs = bool(fields.each("include", ["logprobs"]))
    if logprobs and response_format != "json":
        raise RequestError(
            "include[]=logprobs requires response_format=json; leave one of them out",
            param="include",
        )
    latency = fields.number("latency_ms")
    point = None if latency is None else OperatingPoint(latency, EndpointConfig())
    decoder = fields.choice("decoder", ["greedy", "beam"])
    recognizer = await choose_recognizer(engine, decoder, fields.text("prompt"))
    if point:
        try:
            recognizer.check_operating_point(point)
        except AsrError as error:
            raise RequestError(str(error), param="latency_ms") from None
    return Order(
        recognizer, point, response_format, granularities or ("segment",), logprobs, stream
    )


async def transcribe(request: Request) -> Response:
    """POST /v1/audio/transcriptions."""
    form = await read_form(request)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(form.close)
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError(
                "the recording is missing; send it in the form field `file`", param="file"
            )
        order = await parse_order(form, request.app.state.engine, request.app.state.config)
        if not order.stream:
            return await answer(request, file, order)
        events = make_events(request, file, order)
        first = await anext(events)  # an error before the first event has a status of its own
        later = stack.pop_all()  # the form stays open until the last event
    return StreamingResponse(go_on(first, events, later), media_type="text/event-stream")


async def list_models(request: Request) -> Response:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [describe_model(request)]})


async def get_model(request: Request) -> Response:
    """GET /v1/models/NAME."""
    check_model(request.path_params["name"], request.app.state.config)
    return JSONResponse(describe_model(request))


def describe_model(request: Request) -> dict[str, Any]:
    """OpenAI's description of the server's model, with fields of our own for the page."""
    config: ServerConfig = request.app.state.config
    recognizer: Recognizer = request.app.state.engine.recognizer
    return {
        "id": config.model,
        "object": "model",
        "created": 0,
        "owned_by": "asr",
        "language": config.language,
        "sample_rate": recognizer.sample_rate,
        "streaming": recognizer.model.encoder.config.kind != "bidirectional",
        "latency_ms": config.latency_ms,
        "language_model": bool(recognizer.decoder_config.language_model),
        "card": config.card,
    }


async def read_form(request: Request) -> FormData:
    """The form of a request. Raises RequestError if it is not a valid one."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError("send the recording and its parameters as multipart/form-data")
    try:
        return await request.form(max_files=1, max_fields=100, max_part_size=1_000_000)
    except HTTPException as error:
        raise RequestError(f"the form cannot be read ({error.detail}); correct it") from None


class Upload:
    """The file of a client, called "the recording" in error messages."""

    name = "the recording"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


async def answer(request: Request, file: UploadFile, order: Order) -> Response:
    """Transcribe a recording and respond once."""
    config: ServerConfig = request.app.state.config
    segments: list[Hypothesis] = []
    on_segment = segments.append if order.response_format == "verbose_json" else None
    task = asyncio.create_task(start(request, file, order, on_segment))
    gone = asyncio.create_task(wait_for_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return Response(status_code=CLIENT_CLOSED)
        hypothesis = task.result()
    finally:
        task.cancel()
        gone.cancel()
    if order.response_format == "text":
        return PlainTextResponse(f"{hypothesis.text}\n")
    if order.response_format == "srt":
        return PlainTextResponse(to_srt(hypothesis))
    if order.response_format == "vtt":
        return PlainTextResponse(to_vtt(hypothesis), media_type="text/vtt")
    if order.response_format == "verbose_json":
        return JSONResponse(to_verbose(order, config, hypothesis, segments))
    return JSONResponse(to_short(order, hypothesis))


async def start(
    request: Request, file: UploadFile, order: Order, on_segment: OnSegment | None
) -> Hypothesis:
    """Transcribe a recording and note it for the log."""
    config: ServerConfig = request.app.state.config
    hypothesis: Hypothesis = await request.app.state.engine.transcribe(
        Upload(file.file), order.recognizer, order.point, config.upload_seconds, on_segment
    )
    request.state.note = {"audio_seconds": round(hypothesis.seconds or 0.0, 3)}
    if config.log_texts:
        request.state.note["text"] = hypothesis.text
    return hypothesis


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def make_events(
    request: Request, file: UploadFile, order: Order
) -> AsyncGenerator[dict[str, Any], None]:
    """Transcribe a recording and yield OpenAI's events: its segments, then the whole text."""
    config: ServerConfig = request.app.state.config
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Hypothesis | None] = asyncio.Queue()
    segments: list[Hypothesis] = []

    def keep(segment: Hypothesis) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, segment)

    task = asyncio.create_task(start(request, file, order, keep))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (segment := await queue.get()) is not None:
            segments.append(segment)
            if segment.text:
                delta = f" {segment.text}" if any(s.text for s in segments[:-1]) else segment.text
                event: dict[str, Any] = {"type": "transcript.text.delta", "delta": delta}
                if order.logprobs:
                    event["logprobs"] = to_logprobs(segment)
                yield event
        hypothesis = task.result()
        done = to_short(order, hypothesis)
        if order.response_format == "verbose_json":
            done |= to_verbose(order, config, hypothesis, segments)
        yield {"type": "transcript.text.done", **done}
    finally:
        task.cancel()


async def go_on(
    first: dict[str, Any], events: AsyncGenerator[dict[str, Any], None], later: AsyncExitStack
) -> AsyncIterator[str]:
    """Server-sent events; an error that comes later is an event too."""
    async with later, aclosing(events):
        yield to_event(first)
        try:
            async for event in events:
                yield to_event(event)
        except AsrError as error:
            yield to_event(to_request_error(error).to_dict())
        except Exception:  # a bug
            log.exception("a stream of events failed")
            yield to_event(RequestError("the server failed; see its log", 500).to_dict())


def to_event(document: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def to_short(order: Order, hypothesis: Hypothesis) -> dict[str, Any]:
    """OpenAI's json."""
    document: dict[str, Any] = {"text": hypothesis.text}
    if order.logprobs:
        document["logprobs"] = to_logprobs(hypothesis)
    document["usage"] = {"type": "duration", "seconds": math.ceil(hypothesis.seconds or 0.0)}
    return document | _describe_damage(hypothesis)


def to_logprobs(hypothesis: Hypothesis) -> list[dict[str, Any]]:
    """The words as tokens, each with the logarithm of its confidence."""
    tokens = []
    for number, word in enumerate(hypothesis.words):
        token = f" {word.text}" if number else word.text
        logprob = math.log(max(word.confidence, 1e-10))
        tokens.append({"token": token, "logprob": round(logprob, 4), "bytes": list(token.encode())})
    return tokens


def to_verbose(
    order: Order, config: ServerConfig, hypothesis: Hypothesis, segments: Sequence[Hypothesis]
) -> dict[str, Any]:
    """OpenAI's verbose_json; words have a confidence as well."""
    document: dict[str, Any] = {
        "task": "transcribe",
        "language": LANGUAGES.get(config.language, config.language),
        "duration": round(hypothesis.seconds or 0.0, 3),
        "text": hypothesis.text,
    }
    if "segment" in order.granularities:
        spoken = [segment for segment in segments if segment.words]
        document["segments"] = [to_segment(*pair) for pair in enumerate(spoken)]
    if "word" in order.granularities:
        document["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in hypothesis.words
        ]
    usage = {"type": "duration", "seconds": math.ceil(hypothesis.seconds or 0.0)}
    return document | {"usage": usage} | _describe_damage(hypothesis)


def to_segment(number: int, segment: Hypothesis) -> dict[str, Any]:
    """A segment of verbose_json.

    The model has no tokens and no probability of silence of its own, so the one list is empty and the
    other is 0.
    """
    text = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.words[0].start, 3),
        "end": round(segment.words[-1].end, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(segment.confidence, 1e-10)), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }


def _describe_damage(hypothesis: Hypothesis) -> dict[str, Any]:
    """What is wrong with the recording, if anything."""
    document: dict[str, Any] = {}
    if hypothesis.gaps:
        document["gaps"] = [[round(start, 3), round(end, 3)] for start, end in hypothesis.gaps]
    if hypothesis.warnings:
        document["warnings"] = list(hypothesis.warnings)
    return document
