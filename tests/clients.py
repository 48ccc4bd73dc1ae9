"""Clients of every door of the server: bytes of 16-bit samples in, a text and its words out."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import httpx2 as httpx
import numpy as np
import websockets

Answer = tuple[str, list[tuple[str, float, float]]]  # the text; its words with start and end
SECONDS = 120  # to wait for an answer; a kernel may have to be compiled


def divide(data: bytes, pieces: int, seed: int = 0) -> list[bytes]:
    """Cut bytes at random places, even within a sample."""
    places = np.sort(np.random.default_rng(seed).integers(0, len(data), pieces - 1))
    return [part.tobytes() for part in np.split(np.frombuffer(data, np.uint8), places)]


async def upload(server: Any, recording: bytes, **fields: str) -> Answer:
    """POST /v1/audio/transcriptions of a whole file."""
    data = {"response_format": "verbose_json", "timestamp_granularities[]": "word"} | fields
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        address = f"{server.url}/v1/audio/transcriptions"
        files = {"file": ("speech.wav", recording)}
        document = (await client.post(address, files=files, data=data)).json()
    return document["text"], [(w["word"], w["start"], w["end"]) for w in document["words"]]


async def stream(server: Any, pieces: Sequence[bytes], rate: int) -> Answer:
    """The WebSocket /stream."""
    texts, words = [], []
    async with websockets.connect(f"{server.ws_url}/stream?rate={rate}") as connection:
        sending = asyncio.create_task(_send(connection, [*pieces, json.dumps({"end": True})]))
        async for text in connection:
            message = json.loads(text)
            if "words" in message:
                texts.append(message["text"])
                words += [(w["text"], w["start"], w["end"]) for w in message["words"]]
        await sending
    return " ".join(filter(None, texts)), words


async def realtime(server: Any, pieces: Sequence[bytes], rate: int, **settings: Any) -> Answer:
    """The WebSocket /v1/realtime, with settings of the audio's input."""
    form = {"type": "audio/pcm", "rate": rate}
    session = {"type": "transcription", "audio": {"input": {"format": form, **settings}}}
    events = [{"type": "session.update", "session": session}]
    for piece in pieces:
        audio = base64.b64encode(piece).decode()
        events.append({"type": "input_audio_buffer.append", "audio": audio})
    events += [{"type": f"input_audio_buffer.{name}"} for name in ("commit", "clear")]
    texts, words = [], []
    address = f"{server.ws_url}/v1/realtime?intent=transcription"
    async with websockets.connect(address) as connection:
        sending = asyncio.create_task(_send(connection, map(json.dumps, events)))
        async for text in connection:
            event = json.loads(text)
            assert event["type"] != "error", event
            if event["type"].endswith(".completed"):
                texts.append(event["transcript"])
                words += [(w["word"], w["start"], w["end"]) for w in event["words"]]
            elif event["type"].endswith(".cleared"):
                break
        await sending
    return " ".join(filter(None, texts)), words


async def wyoming(server: Any, pieces: Sequence[bytes], rate: int) -> str:
    """The Wyoming protocol, which has no times of words."""
    from wyoming.asr import Transcribe, Transcript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient

    shape = {"rate": rate, "width": 2, "channels": 1}
    async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
        for event in (
            Transcribe(language="en"),
            AudioStart(**shape),
            *(AudioChunk(**shape, audio=piece) for piece in pieces),
            AudioStop(),
        ):
            await client.write_event(event.event())
        while event := await asyncio.wait_for(client.read_event(), SECONDS):
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    raise AssertionError("there was no transcript")


async def _send(connection: Any, messages: Any) -> None:
    for message in messages:
        await connection.send(message)
