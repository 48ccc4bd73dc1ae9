"""Live streams: who is served when, and what slow clients get."""

import asyncio

import numpy as np
import pytest
from signals import make_model, make_talk

from asr.recognizer import Recognizer
from asr.server import live
from asr.server.engine import Engine
from asr.text import Vocabulary

RATE = 16_000
TALK = np.clip(make_talk(4.0, RATE) * 20_000, -32_768, 32_767).astype(np.int16)


@pytest.fixture(scope="module")
def engine():
    engine = Engine(Recognizer(make_model("latency_controlled"), Vocabulary.english()), threads=1)
    yield engine
    engine.stop()


def open_stream(engine: Engine) -> live.LiveStream:
    return engine.open(engine.recognizer, RATE, 640, None)


class Sender:
    """A live stream of which so many seconds wait."""

    has_samples = True

    def __init__(self, waiting_seconds: float) -> None:
        self.waiting_seconds = waiting_seconds


def test_fast_senders_share_what_speech_leaves() -> None:
    """Thirty clients send recordings at once while two speak: these have their turn every time."""
    lane = live.Lane.__new__(live.Lane)
    speakers, senders = [Sender(0.1), Sender(0.4)], [Sender(3.0 + n / 10) for n in range(30)]
    lane.streams = [senders[0], *speakers, *senders[1:]]
    served: set[Sender] = set()
    for _ in range(-(-len(senders) // live.BEHIND)):
        turn = lane._choose(list(lane.streams))
        assert {*speakers} <= {*turn}
        assert len(turn) == len(speakers) + live.BEHIND
        served |= {*turn}
    assert served == {*speakers, *senders}  # each of them in its turn


def test_without_speech_all_senders_have_every_turn() -> None:
    lane = live.Lane.__new__(live.Lane)
    lane.streams = [Sender(3.0) for _ in range(30)]
    assert lane._choose(list(lane.streams)) == lane.streams


def test_a_slow_reader_gets_fewer_partials_and_every_segment(engine) -> None:
    async def run() -> tuple[list[live.Update], str]:
        stream = open_stream(engine)
        for place in range(0, len(TALK), 1_600):
            await stream.send(TALK[place : place + 1_600])
        stream.finish()
        while engine.streams:  # everything is computed before anything is read
            await asyncio.sleep(0.01)
        updates = [update async for update in stream.updates()]
        return updates, updates[-1].final.text

    updates, text = asyncio.run(run())
    assert len(updates) <= 2
    expected = engine.recognizer.stream(640)
    expected.accept(TALK, RATE)
    assert text == expected.finish().text != ""


def test_a_client_that_is_too_fast_waits(engine, monkeypatch) -> None:
    monkeypatch.setattr(live, "AHEAD_SECONDS", 1.0)

    async def run() -> float:
        stream = open_stream(engine)
        most = 0.0
        for _ in range(8):
            await stream.send(TALK)
            most = max(most, stream.waiting_seconds)
        stream.close()
        return most

    assert asyncio.run(run()) <= 2 * 4.0 + 1.0
