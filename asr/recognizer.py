"""THE inference path: load a model once, then transcribe recordings, or speech as it arrives.

Training's validation, `asr evaluate` and `asr transcribe` all come through here, so that they
agree on every text.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from os import PathLike
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from asr.audio.containers import AudioSource
from asr.audio.waveform import read_blocks
from asr.checkpoint import load_decoder_config, load_model
from asr.decoder.alignment import align
from asr.decoder.build import load_decoder
from asr.decoder.config import Decoder, DecoderConfig
from asr.decoder.hypothesis import Hypothesis, join
from asr.defaults import STREAM_LATENCY_MS, WHOLE_SECONDS
from asr.encoder import Context
from asr.endpoint import EndpointConfig, Endpointer
from asr.errors import AsrError
from asr.model import AcousticModel
from asr.release import RELEASED
from asr.runtime.device import check_count, choose_device
from asr.stream import Segment, SegmentStream, Stream, read_segments
from asr.text import Vocabulary, normalize

Waveform = npt.NDArray[np.float32]
LogProbs = npt.NDArray[np.float32]
Source = AudioSource | tuple[AudioSource, float]
"""A recording, or a recording and the seconds that it must last (within 50 ms)."""

BATCH_SECONDS = 120.0
"""Padded seconds in a batch, where the caller does not say."""

CHUNK_SECONDS, RIGHT_SECONDS = 2.0, 1.0
"""How the others are heard then."""

_READERS = 2  # threads that read while the model works
_AHEAD = 4  # recordings begun before they are needed

T = TypeVar("T")


class Recognizer:
    """A model, its vocabulary and a decoder. The model is put into evaluation mode.

    The texts do not depend on what else is in a batch, on the batch size, or on the call.

    A long recording is heard chunk by chunk, and cut where speech pauses, in constant memory. How
    far the encoder sees (`context`) and where it forgets (`endpoint`) make up the operating point;
    with the same one, `transcribe` and `stream` give the same words. Unless one is set, recordings
    of less than 12 s are heard whole, and no stream can do that. A bidirectional encoder hears all
    of them whole.
    """

    def __init__(
        self,
        model: AcousticModel,
        vocabulary: Vocabulary,
        decoder: DecoderConfig | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        """`hotwords` come on top of those in the decoder's file; see `load_decoder`."""
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.decoder = load_decoder(
            decoder or DecoderConfig(), vocabulary, model.frame_seconds, hotwords
        )
        self.context: Context | None = None  # short recordings whole, others at `long_context`
        self.long_context = self._seconds_to_context(CHUNK_SECONDS, RIGHT_SECONDS)
        self.endpoint: EndpointConfig | None = EndpointConfig()

    def set_operating_point(
        self, latency_ms: float | None, endpoint: EndpointConfig | None
    ) -> None:
        """Hear recordings as a stream of this latency and these endpoints does; see `stream`.

        None as latency leaves it as long as it is, and short recordings are still heard whole.
        Raises ConfigError where the model cannot be so fast, or cannot stream.
        """
        self.model.encoder.require_streaming()
        if latency_ms is not None:
            self.context = self.model.context(latency_ms)
        self.endpoint = endpoint

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        decoder: DecoderConfig | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> "Recognizer":
        """The recognizer of a checkpoint, on "cpu", "cuda", "cuda:1", or "auto": a GPU if any.

        `threads` is torch's number of CPU threads, for the whole process; None leaves it alone.
        `decoder` and `hotwords` as in `load_decoder`. None: with the language model of a released
        one, as the command line does, else greedily. The numbers for a beam that suit the model are
        in its checkpoint: `asr.checkpoint.load_decoder_config`.
        Raises CheckpointError for a file that is no good, ConfigError for a device that is not here
        and for an impossible number of threads.
        """
        name = choose_device(device)
        if threads is not None:
            check_count("threads", threads, 1)
            torch.set_num_threads(threads)
        model, vocabulary = load_model(path, name)
        if decoder is None and (own := load_decoder_config(path)).language_model:
            decoder = own
        return cls(model, vocabulary, decoder, hotwords)

    @classmethod
    def default(cls, device: str = "cpu", threads: int | None = None) -> "Recognizer":
        """The English model that comes with asr, with its language model; see `load`."""
        return cls.load(RELEASED, device, threads)

    @property
    def sample_rate(self) -> int:
        """Hertz of the waveforms that the model listens to."""
        return self.model.features.config.sample_rate

    def transcribe(
        self, source: AudioSource, on_progress: Callable[[float], object] | None = None
    ) -> Hypothesis:
        """What is said in a recording; empty where it is silent or shorter than a window.

        It is a path, the bytes of a file, a binary file, or samples (N,) at `sample_rate`, float32 in
        -1..1 or int16.
        `on_progress` is called with the seconds of the recording that were just read, as it goes on.
        Raises AudioError where it cannot be read.
        """
        [(_, result)] = self.transcribe_many([source], on_progress=on_progress)
        if isinstance(result, AsrError):
            raise result
        return result

    def transcribe_many(
        self,
        sources: Iterable[Source],
        batch_seconds: float = BATCH_SECONDS,
        on_progress: Callable[[float], object] | None = None,
    ) -> Iterator[tuple[int, Hypothesis | AsrError]]:
        """What is said in each recording, with its place in `sources`, in their order.

        A recording that cannot be read gives its error and does not stop the others. `on_progress`
        as in `transcribe`.
        """
        durations: dict[int, float] = {}  # seconds of each recording that was read to its end
        for index, segments in self._listen(sources, batch_seconds, on_progress, durations):
            if isinstance(segments, AsrError):
                yield index, segments
                continue
            try:
                hypothesis = self.decode(segments)
            except AsrError as error:
                yield index, error
                continue
            yield index, replace(hypothesis, seconds=durations.pop(index))

    def emissions(
        self, sources: Iterable[Source], batch_seconds: float = BATCH_SECONDS
    ) -> Iterator[tuple[int, list[Segment] | AsrError]]:
        """The model's log-probs of each recording, as `transcribe_many` gives texts.

        They come as segments, most often a single one: `decode` takes them.

        Neighbors go through the model together, in batches of at most `batch_seconds`, padding
        counted: sources sorted by their length are the fastest. They are drawn as they are needed.
        """
        for index, segments in self._listen(sources, batch_seconds):
            if isinstance(segments, AsrError):
                yield index, segments
                continue
            try:
                yield index, list(segments)
            except AsrError as error:
                yield index, error

    def decode(self, segments: Iterable[Segment], decoder: Decoder | None = None) -> Hypothesis:
        """What is said in a recording's segments of log-probs, as `emissions` gives them.

        By another decoder than the recognizer's, where one is given.
        """
        decoder = decoder or self.decoder
        return join(
            [
                decoder.decode(log_probs).shifted(first_frame * self.model.frame_seconds)
                for first_frame, log_probs in segments
            ]
        )

    def align(
        self,
        source: AudioSource,
        transcript: str,
        profile: str = "english",
        where: str = "the transcript",
    ) -> Hypothesis:
        """Find when each word of a known transcript is said in a recording.

        Args:
            source: The recording, as in `transcribe`.
            transcript: What is said in it.
            profile: How the transcript is normalized first; see `asr.text.PROFILES`.
            where: The transcript's name in error messages.

        Raises:
            AudioError: The recording cannot be read.
            TextError: The transcript is empty or holds characters without a symbol.
            DecodeError: The transcript does not fit into the recording.
        """
        text = normalize(transcript, profile)
        durations: dict[int, float] = {}
        endpoint, self.endpoint = self.endpoint, None  # a single segment
        try:
            [(_, segments)] = self._listen([source], BATCH_SECONDS, None, durations)
            if isinstance(segments, AsrError):
                raise segments
            [(_, log_probs)] = segments  # (T', V)
        finally:
            self.endpoint = endpoint
        hypothesis = align(log_probs, text, self.vocabulary, self.model.frame_seconds, where)
        return replace(hypothesis, seconds=durations[0])

    def stream(
        self, latency_ms: float = STREAM_LATENCY_MS, endpoint: EndpointConfig | None = None
    ) -> Stream:
        """What is said in a signal while it arrives, at most `latency_ms` behind it.

        That is the algorithm's own part of the wait, see `AcousticModel.latency_seconds`. Without
        `endpoint` the signal is one segment. What `set_operating_point` says is for recordings: give
        both here too. ConfigError: the encoder is bidirectional, or needs
        more time.
        """
        self.model.encoder.require_streaming()
        context = self.model.context(latency_ms)
        return Stream(self.model, self.decoder, context, self._new_endpointer(endpoint))

    def _listen(
        self,
        sources: Iterable[Source],
        batch_seconds: float,
        on_progress: Callable[[float], object] | None = None,
        durations: dict[int, float] | None = None,
    ) -> Iterator[tuple[int, Iterable[Segment] | AsrError]]:
        """The segments of each recording, computed while they are drawn where it is long.

        `durations` gets the seconds of each recording once it has been read to its end.
        """
        read = self._read(sources, {} if durations is None else durations)
        items = ((seconds, (index, audio)) for index, (seconds, audio) in enumerate(read))
        for batch in group_by_seconds(items, batch_seconds):
            waveforms = [audio for _, audio in batch if isinstance(audio, np.ndarray)]
            log_probs = iter(self._emit(waveforms))
            for index, audio in batch:
                if isinstance(audio, AsrError):
                    yield index, audio
                elif isinstance(audio, np.ndarray):
                    yield index, [Segment(0, next(log_probs))]
                    if on_progress:
                        on_progress(len(audio) / self.sample_rate)
                else:
                    yield index, self._cut(audio, on_progress)

    def _emit(self, waveforms: Sequence[Waveform]) -> list[LogProbs]:
        """The log-probs (T', V) of each waveform (N,), computed as one batch."""
        if not waveforms:
            return []
        emissions = self.model.emit(waveforms, self.context)
        log_probs = emissions.log_probs.cpu().numpy()  # (B, T', V)
        lengths = emissions.lengths.tolist()
        return [rows[:length] for rows, length in zip(log_probs, lengths, strict=True)]

    def _cut(
        self, blocks: Iterable[Waveform], on_progress: Callable[[float], object] | None
    ) -> Iterator[Segment]:
        """The segments of a recording that comes in blocks (n,)."""
        context = self.context or self.long_context
        endpointer = self._new_endpointer(self.endpoint)
        stream = SegmentStream(self.model, context, endpointer)
        rows: list[LogProbs] = []
        first_frame = 0
        for block in chain(blocks, [None]):
            if block is None:
                stream.end()
            else:
                stream.accept(block)
            while stream.ready:
                [((first_frame, log_probs), ends)] = read_segments([stream])
                if len(log_probs):  # else in a pause
                    rows.append(log_probs)
                if ends:
                    yield Segment(first_frame, np.concatenate(rows))
                    rows = []
            if on_progress and block is not None:
                on_progress(len(block) / self.sample_rate)
        if rows:
            yield Segment(first_frame, np.concatenate(rows))

    def _new_endpointer(self, config: EndpointConfig | None) -> Callable[[], Endpointer] | None:
        if config is None:
            return None
        return partial(Endpointer, config, self.vocabulary, self.model.frame_seconds)

    def _seconds_to_context(self, chunk: float, right: float) -> Context:
        frame = self.model.frame_seconds
        context = Context(max(1, round(chunk / frame)), round(right / frame))
        if self.model.encoder.config.kind == "forward":  # which sees nothing beyond its chunk
            return Context(context.frames)
        return context

    @property
    def _whole_frames(self) -> float:
        """Encoder frames from which on a recording is heard chunk by chunk, not in a batch."""
        if self.model.encoder.config.kind == "bidirectional":
            return math.inf
        if self.context is None:
            return WHOLE_SECONDS / self.model.frame_seconds
        if self.endpoint is not None:
            return self.context.frames
        return max(self.context.frames, BATCH_SECONDS / self.model.frame_seconds)

    def _read(
        self, sources: Iterable[Source], durations: dict[int, float]
    ) -> Iterator[tuple[float, Waveform | Iterator[Waveform] | AsrError]]:
        """The seconds and the waveform (N,) of each recording, or why it cannot be read.

        Of a long recording the blocks, as they are read.
        """
        pool = ThreadPoolExecutor(_READERS, thread_name_prefix="audio")
        pending: deque[Future[tuple[float, Waveform | Iterator[Waveform] | AsrError]]] = deque()
        try:
            for index, source in enumerate(sources):
                on_end = partial(durations.__setitem__, index)
                pending.append(pool.submit(self._load, source, on_end))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(
        self, source: Source, on_end: Callable[[float], object]
    ) -> tuple[float, Waveform | Iterator[Waveform] | AsrError]:
        # Where the length is known beforehand, that is what the recording counts for in its batch:
        # a recording that cannot be read then leaves the other batches as they are.
        source, expected = source if isinstance(source, tuple) else (source, None)
        blocks = read_blocks(source, self.sample_rate, expected_seconds=expected, on_end=on_end)
        begin: list[Waveform] = []
        samples = 0
        try:
            for block in blocks:
                begin.append(block)
                samples += len(block)
                if self.model.frames(samples) >= self._whole_frames:
                    return expected or samples / self.sample_rate, chain(begin, blocks)
        except AsrError as error:
            return expected or 0.0, error
        return expected or samples / self.sample_rate, np.concatenate(begin)


def group_by_seconds(items: Iterable[tuple[float, T]], batch_seconds: float) -> Iterator[list[T]]:
    """Batches of neighbors, each given with its seconds, so that none pads to over `batch_seconds`.

    An item that is longer by itself is a batch by itself. Beginning anew at the first item of any
    batch gives the same batches from there on, so processes can share them out.
    """
    batch: list[T] = []
    longest = 0.0
    for seconds, item in items:
        longest = max(longest, seconds)
        if batch and (len(batch) + 1) * longest > batch_seconds:
            yield batch
            batch, longest = [], seconds
        batch.append(item)
    if batch:
        yield batch
