"""One model that serves live streams and recordings side by side.

The live streams are divided among lanes, see `asr.server.live`. Two further threads transcribe
recordings at a lower priority, so that these use only what the live streams leave. The doors of the
server, which are coroutines, talk to `Engine.open` and `Engine.transcribe`; the texts are those of
`Recognizer.stream` and `Recognizer.transcribe`.
"""

import asyncio
import ctypes
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import torch

from asr.audio.containers import open_recording
from asr.audio.recording import Recording
from asr.decoder.hypothesis import Hypothesis
from asr.endpoint import EndpointConfig
from asr.errors import AsrError
from asr.recognizer import OnSegment, OperatingPoint, Recognizer
from asr.runtime.device import count_cores
from asr.server.live import Lane, LiveStream, OverloadError
from asr.text import normalize

log = logging.getLogger("asr.server")

TOGETHER_BYTES = 2_000_000
"""Recordings below this size are transcribed in one batch with others that wait."""

TOGETHER = 32
"""Most recordings of a batch."""

_ARENA_MAX = -8  # M_ARENA_MAX of <malloc.h>
NICENESS = 10  # of the threads that transcribe recordings
WORKERS = 2  # threads that transcribe recordings; large ones use only one of them


class AbandonedError(AsrError):
    """Nobody waits for the recording any more."""


class TooLongError(AsrError):
    """The recording is longer than the server accepts."""


@dataclass(eq=False)
class Job:
    """A recording that is to be transcribed.

    Attributes:
        recognizer: The recognizer, which decides on decoder and hotwords.
        source: An open file, which nobody else uses.
        size: Its bytes.
        point: How it is read.
        most_seconds: Longest duration that is accepted.
        on_segment: Called with the hypothesis of each segment, in the thread that decodes.
        done: Its result.
        abandoned: Set when nobody waits for the result any more.
    """

    recognizer: Recognizer
    source: BinaryIO
    size: int
    point: OperatingPoint | None
    most_seconds: float
    on_segment: OnSegment | None
    done: "Future[Hypothesis]" = field(default_factory=Future)
    abandoned: bool = False
    seconds: float = 0.0  # processed so far

    @property
    def is_small(self) -> bool:
        """Whether it is transcribed together with others."""
        return self.size <= TOGETHER_BYTES and self.on_segment is None

    def advance(self, seconds: float) -> None:
        """Count processed seconds. Raises AsrError if the recording is not to be read further."""
        self.seconds += seconds
        if self.abandoned:
            raise AbandonedError("the client has disconnected")
        check_duration(self.seconds, self.most_seconds)


def check_duration(seconds: float | None, most_seconds: float) -> None:
    """Raise TooLongError if a recording is longer than the server accepts; None is unknown."""
    if seconds is not None and seconds > most_seconds:
        raise TooLongError(
            f"the recording lasts more than {most_seconds:g} s, the longest that this server accepts; "
            "cut it into parts"
        )


class Engine:
    """A recognizer, the lanes of its live streams, and the threads that transcribe recordings.

    Args:
        recognizer: The model and its default decoder.
        most_streams: Live streams that are served at a time.
        most_uploads: Recordings that wait or are transcribed at a time.
        threads: Lanes, and CPU threads for recordings; None: one per core.

    Example:
        >>> engine = Engine(Recognizer.default(), threads=1)
        >>> with open("docs/sample.flac", "rb") as file:
        ...     hypothesis = asyncio.run(engine.transcribe(file, engine.variants.choose()))
        >>> engine.stop()
        >>> hypothesis.text
        'the old man opened the door and looked out into the rain'
    """

    def __init__(
        self,
        recognizer: Recognizer,
        most_streams: int = 200,
        most_uploads: int = 64,
        threads: int | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.variants = Variants(recognizer)
        self.most_streams, self.most_uploads = most_streams, most_uploads
        self.on_latency: Callable[[float], object] = lambda _: None
        self._threads = threads or count_cores()
        self._lanes = [Lane(self._note_latency) for _ in range(self._threads)]
        self._queue: deque[Job] = deque()
        self._running: set[Job] = set()
        self._condition = threading.Condition()
        self._stopped = False
        self._workers = [
            threading.Thread(target=self._work, args=(number == 0,), name="recordings", daemon=True)
            for number in range(WORKERS)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def streams(self) -> int:
        """Live streams that are served now."""
        return sum(len(lane.streams) for lane in self._lanes)

    @property
    def uploads(self) -> int:
        """Recordings that wait or are transcribed now."""
        return len(self._queue) + len(self._running)

    @property
    def waiting(self) -> int:
        """Recordings that wait."""
        return len(self._queue)

    def open(
        self,
        recognizer: Recognizer,
        sample_rate: int,
        latency_ms: float,
        endpoint: EndpointConfig | None,
        keeps_place: bool = False,
    ) -> LiveStream:
        """Start a live stream; to be called in a coroutine.

        Args:
            recognizer: One of `variants`.
            sample_rate: Hertz of the samples that will arrive.
            latency_ms: See `Recognizer.stream`.
            endpoint: See `Recognizer.stream`.
            keeps_place: Whether the client is about to close another stream for this one, which
                therefore starts even if all are taken.

        Raises:
            OverloadError: If there are too many streams.
            AsrError: If the rate or the latency is not possible.
        """
        stream = recognizer.stream(latency_ms, endpoint)
        stream.accept(np.zeros(0, np.float32), sample_rate)
        if not keeps_place and self.streams >= self.most_streams:
            raise OverloadError(
                f"all {self.most_streams} live streams of this server are taken; try again later"
            )
        lane = min(self._lanes, key=lambda lane: len(lane.streams))
        live = LiveStream(stream, lane, sample_rate)
        lane.add(live)
        return live

    async def transcribe(
        self,
        source: BinaryIO,
        recognizer: Recognizer,
        point: OperatingPoint | None = None,
        most_seconds: float = float("inf"),
        on_segment: OnSegment | None = None,
    ) -> Hypothesis:
        """Transcribe a recording when it is its turn.

        Args:
            source: An open file in memory or on disk.
            recognizer: One of `variants`.
            point: See `Recognizer.transcribe`.
            most_seconds: Longest duration that is accepted.
            on_segment: Called in another thread with the hypothesis of each segment.

        Raises:
            OverloadError: If too many recordings wait.
            TooLongError: If the recording is longer than that.
            AsrError: If it cannot be transcribed.
        """
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        job = Job(recognizer, source, size, point, most_seconds, on_segment)
        with self._condition:
            if self._stopped or self.uploads >= self.most_uploads:
                raise OverloadError(
                    f"the server is already handling {self.most_uploads} recordings, the most that it "
                    "accepts; try again later"
                )
            self._queue.append(job)
            self._condition.notify_all()
        try:
            return await asyncio.wrap_future(job.done)
        finally:
            job.abandoned = True

    def stop(self) -> None:
        """End all threads; recordings that are running end first, those that wait are refused."""
        with self._condition:
            self._stopped = True
            waiting, self._queue = list(self._queue), deque()
            self._condition.notify_all()
        for job in waiting:
            job.done.set_exception(OverloadError("the server is shutting down; try again later"))
        for worker in self._workers:
            worker.join()
        for lane in self._lanes:
            lane.stop()

    def _note_latency(self, seconds: float) -> None:
        self.on_latency(seconds)

    def _work(self, takes_large: bool) -> None:
        """Transcribe recordings until the engine stops; one thread always stays free for small ones."""
        if hasattr(os, "PRIO_PROCESS"):  # on Linux a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._condition:
                while not (jobs := self._next(takes_large)):
                    if self._stopped:
                        return
                    self._condition.wait()
                threads = self._threads // WORKERS if self._running else self._threads
                self._running.update(jobs)
            torch.set_num_threads(max(1, threads))  # of this thread
            for job, result in self._transcribe(jobs):
                if not job.done.set_running_or_notify_cancel():
                    continue
                if isinstance(result, Exception):
                    job.done.set_exception(result)
                else:
                    job.done.set_result(result)
            with self._condition:
                self._running.difference_update(jobs)
                is_idle = not self._queue
            if is_idle:
                give_memory_back()

    def _next(self, takes_large: bool) -> list[Job]:
        """Take the next recording, or small ones that can be transcribed in one batch."""
        first = next((job for job in self._queue if takes_large or job.is_small), None)
        if first is None:
            return []
        jobs = [first]
        if first.is_small:
            jobs = [
                job
                for job in self._queue
                if job.is_small and (job.recognizer, job.point) == (first.recognizer, first.point)
            ][:TOGETHER]
        for job in jobs:
            self._queue.remove(job)
        return [job for job in jobs if not job.abandoned]

    def _transcribe(self, jobs: list[Job]) -> Iterator[tuple[Job, Hypothesis | Exception]]:
        try:
            yield from _transcribe(jobs)
        except Exception as error:  # a bug, which must not end the thread
            log.exception("%d recordings failed", len(jobs))
            yield from ((job, error) for job in jobs if not job.done.done())


def _transcribe(jobs: list[Job]) -> Iterator[tuple[Job, Hypothesis | AsrError]]:
    """Yield each recording with its result."""
    opened: list[tuple[Job, Recording]] = []
    with ExitStack() as stack:
        for job in jobs:
            try:
                recording = stack.enter_context(open_recording(job.source))
                check_duration(recording.seconds, job.most_seconds)
                opened.append((job, recording))
            except AsrError as error:
                yield job, error
        if not opened:
            return
        recognizer, point = jobs[0].recognizer, jobs[0].point
        if len(opened) == 1:
            [(job, recording)] = opened
            try:
                yield (
                    job,
                    recognizer.transcribe(recording, point, job.advance, on_segment=job.on_segment),
                )
            except AsrError as error:
                yield job, error
            return
        sources = [recording for _, recording in opened]
        for index, result in recognizer.transcribe_many(sources, operating_point=point):
            yield opened[index][0], result


def share_memory() -> None:
    """Limit glibc to two malloc arenas for all threads; by default it makes up to eight per core.

    To be called before the threads start.
    """
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def give_memory_back() -> None:
    """Let the C library return freed memory, which it would keep for each thread."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class Variants:
    """Recognizers with other decoders and hotwords; the most recent ones are kept."""

    def __init__(self, recognizer: Recognizer, most: int = 32) -> None:
        self._recognizer = recognizer
        self._lock = threading.Lock()
        self._make = lru_cache(most)(self._build)

    def choose(self, decoder: str | None = None, hotwords: tuple[str, ...] = ()) -> Recognizer:
        """The recognizer with a decoder and with more hotwords; this may take a second.

        Args:
            decoder: "greedy", "beam", or None for the server's own.
            hotwords: Words or phrases to expect.

        Raises:
            AsrError: If the decoder cannot use them.
        """
        if decoder is None and not hotwords:
            return self._recognizer
        with self._lock:
            return self._make(decoder, hotwords)

    def _build(self, decoder: str | None, hotwords: tuple[str, ...]) -> Recognizer:
        if decoder is None and self._recognizer.decoder_config.kind == "greedy":
            decoder = "beam"  # which hotwords need
        return self._recognizer.with_decoder(
            decoder, [normalize(text, "plain") for text in hotwords]
        )
