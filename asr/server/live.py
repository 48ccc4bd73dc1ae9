"""Live streams: a thread advances many of them together, coroutines send and receive.

A lane is a thread with a share of the live streams. It takes what has arrived for all of them and
passes it to `advance_streams`, so that the encoder computes their next chunks in one batch.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asr.decoder.hypothesis import Hypothesis, join_hypotheses
from asr.encoder import Context
from asr.errors import AsrError
from asr.stream import Partial, Stream, advance_streams

log = logging.getLogger("asr.server")

AHEAD_SECONDS = 4.0
"""Seconds of samples that a live stream may have waiting before its client is made to wait."""

TURN_SECONDS = 0.5
"""Most seconds of one stream that are processed before it is the turn of the others."""

PROMPT_SECONDS = 1.0
"""A stream with at most this much unprocessed audio is served in every turn, ahead of clients that
send faster than real time."""

BEHIND = 4
"""A turn that serves prompt streams also serves as many others, and at least this many."""

GATHER_SECONDS = 0.02
"""How long a lane waits for the samples of more streams before it computes."""


class OverloadError(AsrError):
    """The server has no room for another stream or recording now."""


@dataclass
class Update:
    """What is new in a live stream.

    Attributes:
        segments: Segments that ended since the last update.
        partial: The text since the last endpoint; None if it did not change.
        final: The last hypothesis, once the stream is finished.
        error: Why the stream cannot go on.
    """

    segments: list[Hypothesis] = field(default_factory=list)
    partial: Partial | None = None
    final: Hypothesis | None = None
    error: AsrError | None = None


class GrowingText:
    """The text of consecutive segments as its words become certain.

    Attributes:
        segments: The segments that ended.

    Example:
        >>> text = GrowingText()
        >>> text.grow("the old"), text.grow("the old man")
        ('the old', ' man')
    """

    def __init__(self) -> None:
        self.segments: list[Hypothesis] = []
        self._shown = ""  # of the current segment

    def grow(self, stable: str) -> str:
        """What the certain words of the current segment add to the text."""
        added = stable[len(self._shown) :]
        if added and not self._shown and any(segment.text for segment in self.segments):
            added = f" {added}"
        self._shown = stable
        return added

    def end(self, segment: Hypothesis) -> str:
        """What the end of the current segment adds to the text."""
        added = self.grow(segment.text)
        self.segments.append(segment)
        self._shown = ""
        return added

    @property
    def hypothesis(self) -> Hypothesis:
        """All segments that ended, as one."""
        return join_hypotheses(self.segments)


class LiveStream:
    """One live signal; made by `Engine.open`, and to be closed with `close`.

    Its methods are for one coroutine that sends and one that receives.
    """

    def __init__(self, stream: Stream, lane: "Lane", sample_rate: int) -> None:
        self.stream = stream
        self.sample_rate = sample_rate
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[npt.NDArray[Any]] = deque()
        self._waiting = 0  # samples in `_pieces`
        self._update = Update()
        self._changed = asyncio.Event()  # there is an update
        self._room = asyncio.Event()  # another piece may be sent
        self._room.set()
        self.ending = self.ended = self.closed = False
        self.arrived = 0.0  # monotonic time at which the oldest piece that waits arrived
        self.shown: tuple[str, str] | None = ("", "")  # stable and tail of the last update

    async def send(self, samples: npt.NDArray[Any]) -> None:
        """Append samples (N,), float32 in -1..1 or int16; waits while too many are not processed.

        A stream that was closed ignores them.
        """
        if not len(samples):
            return
        await self._room.wait()
        if self.closed:
            return
        with self._lane.condition:
            if not self._pieces:
                self.arrived = time.monotonic()
            self._pieces.append(samples)
            self._waiting += len(samples)
            if self._waiting > AHEAD_SECONDS * self.sample_rate:
                self._room.clear()
            self._lane.condition.notify()

    def finish(self) -> None:
        """Say that there are no more samples; an update with `final` follows."""
        with self._lane.condition:
            self.ending = True
            self._lane.condition.notify()

    async def updates(self) -> AsyncIterator[Update]:
        """Yield what is new until the stream is finished or fails; slow readers get fewer partials."""
        while True:
            await self._changed.wait()
            with self._lane.condition:
                update, self._update = self._update, Update()
                self._changed.clear()
            yield update
            if update.final is not None or update.error is not None:
                return

    def close(self) -> None:
        """Give up the stream and its place in the engine; may be called twice."""
        self._lane.remove(self)
        self.closed = True
        self._room.set()

    @property
    def waiting_seconds(self) -> float:
        """Seconds of samples that wait."""
        return self._waiting / self.sample_rate

    def take(self) -> npt.NDArray[Any]:
        """The samples of the stream's next turn; for the lane, which holds the condition."""
        limit = int(TURN_SECONDS * self.sample_rate)
        taken: list[npt.NDArray[Any]] = []
        count = 0
        while self._pieces and count < limit:
            piece = self._pieces.popleft()
            if len(piece) > limit - count:
                self._pieces.appendleft(piece[limit - count :])
                piece = piece[: limit - count]
            taken.append(piece)
            count += len(piece)
        self._waiting -= count
        if self._waiting <= AHEAD_SECONDS * self.sample_rate / 2 and not self._room.is_set():
            self._call(self._room.set)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    @property
    def has_samples(self) -> bool:
        """Whether samples wait."""
        return bool(self._pieces)

    def deliver(self, result: Partial | Hypothesis | AsrError) -> None:
        """Add a result to the next update; for the lane, which does not hold the condition."""
        with self._lane.condition:
            update = self._update
            if isinstance(result, AsrError):
                update.error = result
            elif isinstance(result, Partial):
                update.segments += result.segments
                update.partial = result
            else:
                update.segments += self.stream.take_segments()
                update.final = result
        self._call(self._changed.set)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)


class Lane:
    """A thread that advances its live streams together."""

    def __init__(self, on_latency: Callable[[float], object]) -> None:
        self.condition = threading.Condition()
        self.streams: list[LiveStream] = []
        self.stopped = False
        self._on_latency = on_latency
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)
        self._thread.start()

    def add(self, live: LiveStream) -> None:
        """Serve another stream."""
        with self.condition:
            self.streams.append(live)

    def remove(self, live: LiveStream) -> None:
        """Forget a stream, if it is still served."""
        with self.condition, suppress(ValueError):
            self.streams.remove(live)

    def stop(self) -> None:
        """End the thread."""
        with self.condition:
            self.stopped = True
            self.condition.notify()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread
        while True:
            with self.condition:
                if not (ready := self._ready()):
                    if self.stopped:
                        return
                    self.condition.wait()
                    gather = True
                else:
                    turns = [(live, live.take()) for live in self._choose(ready)]
                    ending = [live for live in ready if live.ending and not live.has_samples]
                    gather = False
            if gather:
                time.sleep(GATHER_SECONDS)
            else:
                self._advance(turns)
                for live in ending:
                    self._finish(live)

    def _ready(self) -> list[LiveStream]:
        return [live for live in self.streams if live.has_samples or (live.ending > live.ended)]

    def _choose(self, ready: Sequence[LiveStream]) -> list[LiveStream]:
        """The streams of the next turn: all prompt ones, and some that send faster than speech."""
        waiting = [live for live in ready if live.has_samples]
        prompt = [live for live in waiting if live.waiting_seconds <= PROMPT_SECONDS]
        if not prompt:
            return waiting
        behind = [live for live in waiting if live.waiting_seconds > PROMPT_SECONDS]
        behind = behind[: max(BEHIND, len(prompt))]
        for live in behind:  # those after them come first the next time
            self.streams.remove(live)
            self.streams.append(live)
        return [*prompt, *behind]

    def _advance(self, turns: list[tuple[LiveStream, npt.NDArray[Any]]]) -> None:
        """Process the next samples of streams, those of one latency in one batch."""
        groups: dict[Context, list[tuple[LiveStream, npt.NDArray[Any]]]] = {}
        for live, samples in turns:
            groups.setdefault(live.stream.context, []).append((live, samples))
        for group in groups.values():
            streams, pieces = [live.stream for live, _ in group], [piece for _, piece in group]
            results: Sequence[Partial | AsrError]
            try:
                results = advance_streams(streams, pieces)
            except Exception:  # a bug, which must not end the lane
                log.exception("a batch of %d live streams failed", len(group))
                results = [AsrError("the server failed to process this stream")] * len(group)
            now = time.monotonic()
            for (live, _), result in zip(group, results, strict=True):
                self._on_latency(now - live.arrived)
                if isinstance(result, AsrError):
                    self.remove(live)
                    live.deliver(result)
                    continue
                shown = (result.stable, result.tail)
                if result.segments or shown != live.shown:
                    live.shown = shown
                    live.deliver(result)

    def _finish(self, live: LiveStream) -> None:
        live.ended = True
        self.remove(live)
        try:
            live.deliver(live.stream.finish())
        except AsrError as error:
            live.deliver(error)
        except Exception:  # a bug, which must not end the lane
            log.exception("the end of a live stream failed")
            live.deliver(AsrError("the server failed to process this stream"))
