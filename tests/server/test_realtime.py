"""Realtime sessions of transcription: OpenAI's events, and the texts of `Recognizer.stream`."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import websockets
from running import running
from signals import PAUSED, SPOKEN, make_model, make_talk

from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.endpoint import EndpointConfig
from asr.errors import AsrError
from asr.recognizer import Recognizer
from asr.server.socket import decode_alaw, decode_mulaw
from asr.stream import Partial
from asr.text import Vocabulary

RATE = 24_000
PAUSE = EndpointConfig(silence=0.3)
TALK = np.clip(make_talk(6.0, RATE) * 20_000, -32_768, 32_767).astype(np.int16)
COMMIT, CLEAR = {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}
TRANSCRIPTION = "conversation.item.input_audio_transcription"
KEY = "0123456789abcdef0123"


def update(include: list[str] | None = None, **settings: Any) -> dict[str, Any]:
    """The event that changes settings of the input."""
    session = {"type": "transcription", "audio": {"input": settings}}
    return {
        "type": "session.update",
        "session": session | ({"include": include} if include else {}),
    }


def detect(milliseconds: int = 300, **more: Any) -> dict[str, Any]:
    return {"type": "server_vad", "silence_duration_ms": milliseconds, **more}


def append(samples: np.ndarray | bytes, seed: int = 0) -> list[dict[str, Any]]:
    """The events that send samples, cut at random places."""
    data = np.frombuffer(samples if isinstance(samples, bytes) else samples.tobytes(), np.uint8)
    places = np.sort(np.random.default_rng(seed).integers(0, len(data), 25))
    return [
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(part.tobytes()).decode()}
        for part in np.split(data, places)
    ]


async def converse(server: Any, *events: Any, query: str = "?intent=transcription") -> list[dict]:
    """Send events, or texts or bytes, and return the answers to all of them."""
    address = f"{server.ws_url}/v1/realtime{query}"
    answers: list[dict] = []
    async with websockets.connect(address) as connection:

        async def send() -> None:
            for event in [*events, CLEAR]:
                await connection.send(json.dumps(event) if isinstance(event, dict) else event)

        sending = asyncio.create_task(send())
        while len(of_type(answers, ".cleared")) <= events.count(CLEAR):
            answers.append(json.loads(await asyncio.wait_for(connection.recv(), 120)))
        await sending
    return answers[:-1]


def talk(server: Any, *events: Any) -> list[dict]:
    """The answers to events, after the one to the new connection."""
    created, *answers = asyncio.run(converse(server, *events))
    assert created["type"] == "session.created"
    return answers


def of_type(events: list[dict], name: str) -> list[dict]:
    return [event for event in events if event["type"].endswith(name)]


def stream(
    recognizer: Recognizer, samples: np.ndarray, rate: int, endpoint: EndpointConfig | None
) -> list[Hypothesis]:
    """The segments of `Recognizer.stream` that have a text."""
    stream = recognizer.stream(640, endpoint)
    segments = [*stream.accept(samples, rate).segments]
    final = stream.finish()
    return [s for s in (*segments, *stream.take_segments(), final) if s.text]


def words(hypothesis: Hypothesis, begin: float = 0.0) -> list[dict[str, Any]]:
    return [
        {
            "word": word.text,
            "start": pytest.approx(begin + word.start, abs=6e-4),
            "end": pytest.approx(begin + word.end, abs=6e-4),
            "confidence": pytest.approx(word.confidence, abs=2e-4),
        }
        for word in hypothesis.words
    ]


class TestItems:
    def test_each_segment_is_an_item_with_turn_detection(self, server) -> None:
        events = talk(server, update(turn_detection=detect()), *append(TALK), COMMIT)
        expected = stream(server.recognizer, TALK, RATE, PAUSE)
        done = of_type(events, ".completed")
        assert [event["transcript"] for event in done] == [s.text for s in expected]
        assert [event["words"] for event in done] == [words(s) for s in expected]
        assert len(done) == 3

    def test_events_of_an_item_come_in_the_order_of_openai(self, server) -> None:
        events = talk(server, update(turn_detection=detect()), *append(TALK), COMMIT)
        previous = None
        for number, item in enumerate(e["item_id"] for e in of_type(events, ".completed")):
            mine = [e for e in events if item in (e.get("item_id"), e.get("item", {}).get("id"))]
            names = [e["type"] for e in mine if not e["type"].endswith(".delta")]
            stopped = number < 2  # the commit ends the last one
            assert names == [
                "input_audio_buffer.speech_started",
                *["input_audio_buffer.speech_stopped"] * stopped,
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                f"{TRANSCRIPTION}.completed",
            ]
            following = [e["previous_item_id"] for e in mine if "previous_item_id" in e]
            assert following == [previous] * 3
            previous = item

    def test_deltas_are_the_transcript_and_come_early(self, server) -> None:
        events = talk(server, update(turn_detection=detect()), *append(TALK), COMMIT)
        for done in of_type(events, ".completed"):
            deltas = [
                e["delta"] for e in of_type(events, ".delta") if e["item_id"] == done["item_id"]
            ]
            assert "".join(deltas) == done["transcript"]
        kinds = [event["type"].rpartition(".")[2] for event in events]
        assert kinds.index("delta") < kinds.index("speech_stopped")

    def test_deltas_are_never_taken_back(self) -> None:
        """A beam changes its mind about the last words, if it is asked after every piece."""
        beam = DecoderConfig("beam", beam=16)
        guided = Recognizer(make_model("latency_controlled"), Vocabulary.english(), beam)
        pieces = np.split(TALK, 60)
        stream = guided.stream(640, PAUSE)
        shown = [stream.accept(piece, RATE) for piece in pieces]
        ended = [segment.text for partial in shown for segment in partial.segments]
        ended.append(stream.finish().text)
        assert any(not any(text.startswith(p.text) for text in ended) for p in shown)

        async def run(server: Any) -> list[dict]:
            answers = []
            address = f"{server.ws_url}/v1/realtime?intent=transcription"
            async with websockets.connect(address) as connection:
                await connection.send(json.dumps(update(turn_detection=detect())))
                while not of_type(answers, "session.updated"):
                    answers.append(json.loads(await connection.recv()))
                [live] = [live for lane in server.engine._lanes for live in lane.streams]
                for number, piece in enumerate(pieces, start=1):
                    audio = base64.b64encode(piece.tobytes()).decode()
                    event = {"type": "input_audio_buffer.append", "audio": audio}
                    await connection.send(json.dumps(event))
                    while live.stream.seconds < 0.0999 * number or live._changed.is_set():
                        await asyncio.sleep(0.001)
                await connection.send(json.dumps(COMMIT))
                while len(of_type(answers, ".completed")) < 3:
                    answers.append(json.loads(await asyncio.wait_for(connection.recv(), 120)))
            return answers

        with running(guided) as server:
            events = asyncio.run(run(server))
        assert len(of_type(events, ".delta")) > len(ended)
        assert [event["transcript"] for event in of_type(events, ".completed")] == ended
        for done in of_type(events, ".completed"):
            mine = [e for e in of_type(events, ".delta") if e["item_id"] == done["item_id"]]
            assert "".join(event["delta"] for event in mine) == done["transcript"]

    def test_speech_starts_and_stops_around_the_words(self, server) -> None:
        events = talk(server, update(turn_detection=detect()), *append(TALK), COMMIT)
        started = [event["audio_start_ms"] / 1000 for event in of_type(events, "speech_started")]
        stopped = [event["audio_end_ms"] / 1000 for event in of_type(events, "speech_stopped")]
        done = of_type(events, ".completed")
        cycle = SPOKEN + PAUSED
        begins = [0, cycle - PAUSE.margin, 2 * cycle - PAUSE.margin]
        ends = [SPOKEN + PAUSE.silence, cycle + SPOKEN + PAUSE.silence]
        assert started == pytest.approx(begins, abs=0.15)  # a few frames
        assert stopped == pytest.approx(ends, abs=0.15)
        for begin, end, event in zip(started, stopped, done, strict=False):
            assert begin <= event["words"][0]["start"]
            assert event["words"][-1]["end"] <= end
            assert event["usage"] == {"type": "duration", "seconds": pytest.approx(end - begin)}

    def test_without_turn_detection_a_commit_ends_the_item(self, server) -> None:
        parts = np.split(TALK, [round(2.7 * RATE)])
        events = talk(server, *append(parts[0]), COMMIT, *append(parts[1]), COMMIT)
        expected = [stream(server.recognizer, part, RATE, None) for part in parts]
        done = of_type(events, ".completed")
        assert [event["transcript"] for event in done] == [s.text for [s] in expected]
        assert done[1]["words"] == words(expected[1][0], begin=2.7)
        assert done[1]["usage"]["seconds"] == pytest.approx(3.3)
        assert not of_type(events, "speech_started")
        assert not of_type(events, "speech_stopped")
        for event in done:
            deltas = [
                e["delta"] for e in of_type(events, ".delta") if e["item_id"] == event["item_id"]
            ]
            assert "".join(deltas) == event["transcript"]

    def test_without_turn_detection_the_server_still_uses_its_endpoints(self) -> None:
        with running(endpoint=PAUSE) as server:
            events = talk(server, update(turn_detection=None), *append(TALK), COMMIT)
            segments = stream(server.recognizer, TALK, RATE, PAUSE)
            [done] = of_type(events, ".completed")
            assert done["transcript"] == " ".join(segment.text for segment in segments)
            assert "".join(e["delta"] for e in of_type(events, ".delta")) == done["transcript"]
            [created] = asyncio.run(converse(server))
            shown = created["session"]["audio"]["input"]["turn_detection"]
            assert shown["silence_duration_ms"] == 300

    def test_clear_forgets_what_was_sent(self, server) -> None:
        more = TALK[: 2 * RATE]
        events = talk(server, *append(TALK), CLEAR, *append(more), COMMIT)
        [done] = of_type(events, ".completed")
        [expected] = stream(server.recognizer, more, RATE, None)
        assert done["transcript"] == expected.text
        assert done["words"] == words(expected, begin=6.0)

    def test_silence_is_no_item_unless_it_is_committed(self, server) -> None:
        silence = append(np.zeros(2 * RATE, np.int16))
        events = talk(server, update(turn_detection=detect()), *silence)
        assert [event["type"] for event in events] == ["session.updated"]
        events = talk(server, *silence, COMMIT)
        [done] = of_type(events, ".completed")
        assert (done["transcript"], done["words"]) == ("", [])

    def test_ids_are_unique(self, server) -> None:
        events = talk(server, update(turn_detection=detect()), *append(TALK), COMMIT)
        assert len({event["event_id"] for event in events}) == len(events)
        assert len({event["item_id"] for event in of_type(events, ".completed")}) == 3


class TestSettings:
    @pytest.mark.parametrize(
        ("kind", "rate", "decode"),
        [
            ({"type": "audio/pcmu"}, 8_000, decode_mulaw),
            ({"type": "audio/pcma"}, 8_000, decode_alaw),
            ({"type": "audio/pcm", "rate": 16_000}, 16_000, lambda codes: codes.view(np.int16)),
        ],
    )
    def test_formats(self, server, kind, rate, decode) -> None:
        codes = np.random.default_rng(3).integers(100, 130, 2 * rate).astype(np.uint8)
        events = talk(server, update(format=kind), *append(codes), COMMIT)
        assert events[0]["session"]["audio"]["input"]["format"] == kind
        [done] = of_type(events, ".completed")
        segments = stream(server.recognizer, decode(codes), rate, None)
        assert done["transcript"] == " ".join(segment.text for segment in segments)
        assert done["usage"]["seconds"] == pytest.approx(len(decode(codes)) / rate)

    def test_only_what_an_update_has_is_changed(self, server) -> None:
        first, second, third = talk(
            server,
            update(transcription={"model": "whisper-1", "prompt": "zq", "keywords": ["jz"]}),
            update([f"{TRANSCRIPTION}.logprobs".replace("conversation.", "")]),
            update(turn_detection=detect(500), transcription={"language": "en"}),
        )
        transcription = {
            "model": "whisper-1",
            "language": "en",
            "prompt": "zq",
            "keywords": ["jz"],
        }
        for event in (first, second, third):
            assert event["type"] == "session.updated"
            assert event["session"]["audio"]["input"]["transcription"] == transcription
        assert third["session"]["include"] == ["item.input_audio_transcription.logprobs"]
        assert third["session"]["audio"]["input"]["turn_detection"] == {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
        }

    def test_prompt_and_keywords_are_hotwords(self, server) -> None:
        transcription = {"prompt": "zq, jz", "keywords": ["kz"]}
        events = talk(server, update(transcription=transcription), *append(TALK), COMMIT)
        [done] = of_type(events, ".completed")
        guided = server.engine.variants.choose(None, ("zq", "jz", "kz"))
        [expected] = stream(guided, TALK, RATE, None)
        assert done["transcript"] == expected.text
        assert done["transcript"] != stream(server.recognizer, TALK, RATE, None)[0].text

    def test_log_probabilities(self, server) -> None:
        include = ["item.input_audio_transcription.logprobs"]
        events = talk(server, update(include), *append(TALK), COMMIT)
        [done] = of_type(events, ".completed")
        assert "".join(each["token"] for each in done["logprobs"]) == done["transcript"]
        assert np.exp([each["logprob"] for each in done["logprobs"]]) == pytest.approx(
            [word["confidence"] for word in done["words"]], abs=1e-3
        )
        [done] = of_type(talk(server, *append(TALK), COMMIT), ".completed")
        assert done["logprobs"] is None

    def test_a_change_during_speech_ends_the_item(self, server) -> None:
        half = np.split(TALK, [round(1.2 * RATE)])
        detection = update(turn_detection=detect())
        events = talk(
            server,
            detection,
            *append(half[0]),
            update(turn_detection=None),
            *append(half[1]),
            COMMIT,
        )
        expected = [stream(server.recognizer, half[0], RATE, PAUSE)[0]]
        expected += stream(server.recognizer, half[1], RATE, None)
        done = of_type(events, ".completed")
        assert [event["transcript"] for event in done] == [s.text for s in expected]
        assert done[1]["words"] == words(expected[1], begin=1.2)

    def test_a_change_without_turn_detection_needs_an_empty_buffer(self, server) -> None:
        change = update(format={"type": "audio/pcmu"})
        events = talk(server, *append(TALK), change, COMMIT)
        [error] = of_type(events, "error")
        assert error["error"]["param"] == "session"
        [done] = of_type(events, ".completed")
        assert done["transcript"] == stream(server.recognizer, TALK, RATE, None)[0].text


INPUT = "session.audio.input"
REFUSED: dict[str, tuple[Any, str | None]] = {
    "no session": ({"type": "session.update"}, "session"),
    "realtime": ({"type": "session.update", "session": {"type": "realtime"}}, "session.type"),
    "unknown field": (update(volume=3), f"{INPUT}.volume"),
    "noise": (update(noise_reduction={"type": "near_field"}), f"{INPUT}.noise_reduction"),
    "format": (update(format={"type": "audio/opus"}), f"{INPUT}.format.type"),
    "format as text": (update(format="pcm16"), f"{INPUT}.format"),
    "rate": (update(format={"type": "audio/pcm", "rate": 1.5}), f"{INPUT}.format.rate"),
    "low rate": (update(format={"type": "audio/pcm", "rate": 10}), f"{INPUT}.format.rate"),
    "model": (update(transcription={"model": "other"}), f"{INPUT}.transcription.model"),
    "language": (update(transcription={"language": "de"}), f"{INPUT}.transcription.language"),
    "languages": (
        update(transcription={"languages": ["en", "de"]}),
        f"{INPUT}.transcription.language",
    ),
    "off": (update(transcription=None), f"{INPUT}.transcription"),
    "prompt": (update(transcription={"prompt": 3}), f"{INPUT}.transcription.prompt"),
    "letters": (update(transcription={"prompt": "日本"}), f"{INPUT}.transcription.prompt"),
    "keywords": (update(transcription={"keywords": "zq"}), f"{INPUT}.transcription.keywords"),
    "delay": (update(transcription={"delay": "low"}), f"{INPUT}.transcription.delay"),
    "semantic": (update(turn_detection={"type": "semantic_vad"}), f"{INPUT}.turn_detection.type"),
    "threshold": (
        update(turn_detection=detect(threshold=0.9)),
        f"{INPUT}.turn_detection.threshold",
    ),
    "padding": (
        update(turn_detection=detect(prefix_padding_ms=0)),
        f"{INPUT}.turn_detection.prefix_padding_ms",
    ),
    "response": (
        update(turn_detection=detect(create_response=True)),
        f"{INPUT}.turn_detection.create_response",
    ),
    "silence": (update(turn_detection=detect(0)), f"{INPUT}.turn_detection.silence_duration_ms"),
    "include": (update(["item.everything"]), "session.include"),
    "event": ({"type": "response.create"}, "type"),
    "old event": ({"type": "transcription_session.update"}, "type"),
    "field": (COMMIT | {"audio": ""}, "audio"),
    "audio": ({"type": "input_audio_buffer.append", "audio": "???"}, "audio"),
    "no audio": ({"type": "input_audio_buffer.append"}, "audio"),
    "empty": (COMMIT, None),
    "no event": ("[1]", None),
    "no json": ("hello", None),
    "deep": ("[" * 100_000, None),
    "bytes": (b"\x00\x01", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_act_is_refused_and_the_session_goes_on(server, name: str) -> None:
    event, param = REFUSED[name]
    if isinstance(event, dict):
        event = event | {"event_id": "mine"}
    refusal, *events = talk(server, event, *append(TALK), COMMIT)
    assert refusal["type"] == "error"
    error = refusal["error"]
    assert error.keys() == {"type", "code", "message", "param", "event_id"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].endswith(".")
    assert error["event_id"] == ("mine" if isinstance(event, dict) else None)
    [done] = of_type(events, ".completed")
    assert done["transcript"] == stream(server.recognizer, TALK, RATE, None)[0].text


def test_a_commit_within_a_sample_is_refused_until_the_rest_arrives(server) -> None:
    data = TALK.tobytes()
    events = talk(server, *append(data[:-1]), COMMIT, *append(data[-1:]), COMMIT)
    [error] = of_type(events, "error")
    assert "within a sample" in error["error"]["message"]
    [done] = of_type(events, ".completed")
    assert done["transcript"] == stream(server.recognizer, TALK, RATE, None)[0].text


def test_a_stream_that_fails_is_told_and_the_next_one_works(server, monkeypatch) -> None:
    def fail(streams: list, pieces: list) -> list[Partial | AsrError]:
        monkeypatch.undo()
        return [AsrError("the decoder has failed")] * len(streams)

    monkeypatch.setattr("asr.server.live.advance_streams", fail)

    async def run() -> list[dict]:
        answers = []
        address = f"{server.ws_url}/v1/realtime?intent=transcription"
        async with websockets.connect(address) as connection:
            for events in (append(TALK)[:3], [*append(TALK), COMMIT]):
                for event in events:
                    await connection.send(json.dumps(event))
                while not answers or not answers[-1]["type"].endswith(("error", ".completed")):
                    answers.append(json.loads(await asyncio.wait_for(connection.recv(), 120)))
                answers.append({"type": "between"})
        return answers

    events = asyncio.run(run())
    [error] = of_type(events, "error")
    assert error["error"]["message"] == "the decoder has failed."
    [done] = of_type(events, ".completed")
    assert done["transcript"] == stream(server.recognizer, TALK, RATE, None)[0].text


def test_an_item_that_fails_is_named(server, monkeypatch) -> None:
    def fail(self) -> Hypothesis:
        raise AsrError("the decoder has failed")

    monkeypatch.setattr("asr.stream.Stream.finish", fail)
    events = talk(server, *append(TALK), COMMIT)
    [failed] = of_type(events, ".failed")
    assert failed["item_id"] == of_type(events, ".committed")[0]["item_id"]
    assert failed["error"]["message"] == "the decoder has failed."


async def greet(server: Any, query: str = "?intent=transcription") -> tuple[dict, int | None]:
    """The last event of a server that closes the connection, and the code."""
    answers = []
    async with websockets.connect(f"{server.ws_url}/v1/realtime{query}") as connection:
        with suppress(websockets.ConnectionClosed):
            while True:
                answers.append(json.loads(await connection.recv()))
    return answers[-1], connection.close_code


class TestConnection:
    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ("", "intent"),
            ("?model=whisper-1", "intent"),
            ("?intent=transcription&model=other", "model"),
            ("?intent=transcription&voice=x", "voice"),
        ],
    )
    def test_addresses_that_are_refused(self, server, query, param) -> None:
        answer, code = asyncio.run(greet(server, query))
        assert (answer["error"]["param"], code) == (param, 1008)

    def test_keys(self, caplog) -> None:
        with running(keys=(KEY,)) as server:
            address = f"{server.ws_url}/v1/realtime?intent=transcription"

            async def begin(**options: Any) -> str | None:
                async with websockets.connect(address, **options) as connection:
                    assert json.loads(await connection.recv())["type"] == "session.created"
                    return connection.subprotocol

            with pytest.raises(websockets.InvalidStatus, match="401"):
                asyncio.run(begin())
            headers = {"Authorization": f"Bearer {KEY}"}
            assert asyncio.run(begin(additional_headers=headers)) is None
            names = ["realtime", f"openai-insecure-api-key.{KEY}"]
            assert asyncio.run(begin(subprotocols=names)) == "realtime"
        assert not [record for record in caplog.records if record.name.startswith("uvicorn")]

    def test_a_session_keeps_its_place_among_others(self) -> None:
        """The only place of the server, through commits, a change and a clear."""
        with running(streams=1) as server:
            detection = update(turn_detection=detect())
            events = [*append(TALK), COMMIT, detection, *append(TALK), COMMIT]

            async def run() -> list[dict]:
                answers = []
                address = f"{server.ws_url}/v1/realtime?intent=transcription"
                async with websockets.connect(address) as connection:
                    await connection.recv()
                    refusal, code = await greet(server)
                    assert (refusal["error"]["code"], code) == ("rate_limit_exceeded", 1013)
                    for event in events:
                        await connection.send(json.dumps(event))
                    while len(of_type(answers, ".completed")) < 4:
                        answers.append(json.loads(await asyncio.wait_for(connection.recv(), 120)))
                return answers

            assert not of_type(asyncio.run(run()), "error")

    def test_a_silent_client_is_disconnected(self) -> None:
        with running(idle_seconds=0.3) as server:
            answer, code = asyncio.run(greet(server))
            assert (answer["error"]["code"], code) == ("request_timeout", 1008)

    def test_the_end_of_a_client_frees_its_place(self, server) -> None:
        async def run() -> None:
            address = f"{server.ws_url}/v1/realtime?intent=transcription"
            connection = await websockets.connect(address)
            for event in append(TALK)[:5]:
                await connection.send(json.dumps(event))
            connection.transport.abort()
            async with asyncio.timeout(10):
                while server.engine.streams:
                    await asyncio.sleep(0.01)

        asyncio.run(run())


class TestOfficialClient:
    """What a program that was written for OpenAI sees."""

    @pytest.fixture
    def openai(self) -> Iterator[SimpleNamespace]:
        return pytest.importorskip("openai", reason="the official client is not installed")

    def test_a_session(self, server, openai) -> None:
        from openai.types import realtime

        async def run() -> list[Any]:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any")
            events = []
            async with client.realtime.connect(extra_query={"intent": "transcription"}) as session:
                await session.session.update(
                    session={
                        "type": "transcription",
                        "audio": {"input": {"turn_detection": detect()}},
                        "include": ["item.input_audio_transcription.logprobs"],
                    }
                )
                for event in append(TALK):
                    await session.input_audio_buffer.append(audio=event["audio"])
                await session.input_audio_buffer.commit()
                await session.input_audio_buffer.append(audio="???")
                await session.input_audio_buffer.clear()
                async for event in session:
                    events.append(event)
                    if event.type == "input_audio_buffer.cleared":
                        break
            await client.close()
            return events

        events = asyncio.run(run())
        kinds = {
            realtime.SessionCreatedEvent,
            realtime.SessionUpdatedEvent,
            realtime.InputAudioBufferSpeechStartedEvent,
            realtime.InputAudioBufferSpeechStoppedEvent,
            realtime.InputAudioBufferCommittedEvent,
            realtime.InputAudioBufferClearedEvent,
            realtime.ConversationItemAdded,
            realtime.ConversationItemDone,
            realtime.ConversationItemInputAudioTranscriptionDeltaEvent,
            realtime.ConversationItemInputAudioTranscriptionCompletedEvent,
            realtime.RealtimeErrorEvent,
        }
        assert {type(event) for event in events} == kinds
        for event in events:  # strictly: the client itself builds events without validation
            type(event).model_validate(event.to_dict(), strict=True)
        session = events[1].session
        realtime.RealtimeTranscriptionSessionCreateRequest.model_validate(session.to_dict())
        expected = stream(server.recognizer, TALK, RATE, PAUSE)
        texts = [e.transcript for e in events if e.type == f"{TRANSCRIPTION}.completed"]
        assert texts == [segment.text for segment in expected]
