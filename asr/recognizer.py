"""The one path of inference: load a model once, then transcribe recordings, or speech as it arrives.

Training's validation, `asr evaluate` and `asr transcribe` all go through it, so they agree on every
text. Shapes: B utterances, N samples, T' encoder frames, V symbols.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from os import PathLike, fspath
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from asr.audio.containers import AudioSource
from asr.audio.prefetch import Source, read_ahead
from asr.audio.waveform import Condition
from asr.checkpoint import Checkpoint
from asr.decoder.alignment import align
from asr.decoder.build import load_decoder
from asr.decoder.config import Decoder, DecoderConfig
from asr.decoder.hypothesis import Hypothesis, join_hypotheses
from asr.defaults import STREAM_LATENCY_MS, WHOLE_SECONDS
from asr.encoder import Context
from asr.endpoint import EndpointConfig, Endpointer
from asr.errors import AsrError, ConfigError
from asr.model import AcousticModel, group_by_seconds
from asr.release import RELEASED
from asr.runtime.device import check_count, choose_device
from asr.stream import NewEndpointer, Segment, SegmentStream, Stream, advance_segments
from asr.text import Vocabulary, normalize

Waveform = npt.NDArray[np.float32]  # (N,)
LogProbs = npt.NDArray[np.float32]  # (T', V)
OnProgress = Callable[[float], object]
"""Called with the seconds of a recording that were just processed."""
OnSegment = Callable[[Hypothesis], object]
"""Called with the hypothesis of a segment of a recording that was just decoded."""

BATCH_SECONDS = 120.0
"""Default of the seconds in a batch, padding included."""

CHUNK_SECONDS, RIGHT_SECONDS = 2.0, 1.0
"""Without a latency, long recordings are read with this chunk and right context."""

T = TypeVar("T")

# The threads of a parent that has computed do not exist in a forked child, which would wait for
# them forever; with one thread it needs none.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@dataclass(frozen=True)
class OperatingPoint:
    """The context of the encoder, and the endpoints at which it is reset.

    `Recognizer.transcribe` gives the words of `Recognizer.stream` with the same latency and endpoint.

    Attributes:
        latency_ms: Latency of the equivalent stream. None: a recording of less than 12 s is read
            whole, which no stream can do; a longer one in chunks of 2 s with 1 s of right context.
        endpoint: The rule that cuts a recording into segments in its pauses; None: one segment.
        context: The encoder's chunk and right context, instead of a latency.

    Raises:
        ConfigError: If both a latency and a context are given.

    Example:
        >>> OperatingPoint(latency_ms=1000).endpoint.silence > 0
        True
    """

    latency_ms: float | None = None
    endpoint: EndpointConfig | None = field(default_factory=EndpointConfig)
    context: Context | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None and self.context is not None:
            raise ConfigError("an operating point has a latency or a context; leave out one")


WHOLE = OperatingPoint(endpoint=None)
"""Without endpoints: every recording is one segment, and every frame is kept."""


class Recognizer:
    """A model in evaluation mode, its vocabulary and a decoder; `load` makes one from a file.

    The texts do not depend on what else is in a batch or on the batch size. A long recording is read
    chunk by chunk and cut in pauses, in constant memory; see `OperatingPoint`. A bidirectional
    encoder reads every recording whole.

    Args:
        model: The acoustic model.
        vocabulary: Its symbols.
        decoder: The decoder's settings; None decodes greedily.
        hotwords: Words or phrases to expect with their bonuses, besides those of the decoder's file.

    Example:
        >>> Recognizer.default().transcribe("docs/sample.flac").text
        'the old man opened the door and looked out into the rain'
    """

    def __init__(
        self,
        model: AcousticModel,
        vocabulary: Vocabulary,
        decoder: DecoderConfig | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.decoder_config = decoder or DecoderConfig()
        self.hotwords = dict(hotwords or {})
        self.decoder = load_decoder(
            self.decoder_config, vocabulary, model.frame_seconds, self.hotwords
        )
        # A forward encoder sees nothing beyond its chunk.
        right = 0.0 if model.encoder.config.kind == "forward" else RIGHT_SECONDS
        frame = model.frame_seconds
        self.long_context = Context(max(1, round(CHUNK_SECONDS / frame)), round(right / frame))

    @classmethod
    def load(
        cls,
        checkpoint: str | PathLike[str] | Checkpoint,
        device: str = "cpu",
        threads: int | None = None,
        decoder: DecoderConfig | None = None,
        hotwords: Mapping[str, float] | None = None,
        language_model: str | PathLike[str] | None = None,
    ) -> "Recognizer":
        """Load a trained model.

        Args:
            checkpoint: Path of a checkpoint or a released model, or one that has been read.
            device: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is any.
            threads: Torch's number of CPU threads, for the whole process; None leaves it alone.
            decoder: The decoder's settings. None: those in the checkpoint if there is a language
                model, which a released model brings along; else greedy.
            hotwords: Words or phrases to expect, each with its bonus in nats; needs the beam.
            language_model: A file of `asr lm` or ARPA: decode by beam search with it.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            ConfigError: If there is no such device, or the number of threads is below 1.
            LanguageError: If the language model cannot be read.
        """
        device = choose_device(device)
        if threads is not None:
            check_count("threads", threads, 1)
            torch.set_num_threads(threads)
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint.read(checkpoint)
        if language_model is not None:
            decoder = replace(
                decoder or checkpoint.decoder, kind="beam", language_model=fspath(language_model)
            )
        elif decoder is None and checkpoint.decoder.language_model:
            decoder = checkpoint.decoder
        return cls(checkpoint.model(device), checkpoint.vocabulary, decoder, hotwords)

    @classmethod
    def default(cls, device: str = "cpu", threads: int | None = None) -> "Recognizer":
        """Load the English model that comes with asr, with its language model; see `load`."""
        return cls.load(RELEASED, device, threads)

    @property
    def sample_rate(self) -> int:
        """Hertz of the waveforms that the model takes."""
        return self.model.features.config.sample_rate

    def transcribe(
        self,
        source: AudioSource,
        operating_point: OperatingPoint | None = None,
        on_progress: OnProgress | None = None,
        on_segment: OnSegment | None = None,
    ) -> Hypothesis:
        """Transcribe one recording.

        Args:
            source: A path, the bytes of a file, a binary file, or samples (N,) at `sample_rate`,
                float32 in -1..1 or int16.
            operating_point: How the recording is read; None for the default one.
            on_progress: Called with the seconds of the recording that were just processed.
            on_segment: Called with the hypothesis of each segment, as soon as it is decoded.

        Returns:
            The text and its words with their times in seconds; empty if the recording is silent or
            shorter than a window.

        Raises:
            AudioError: If the recording cannot be read.
            ConfigError: If the model cannot work at this operating point.
        """
        results = self.transcribe_many(
            [source], BATCH_SECONDS, operating_point, on_progress, on_segment
        )
        [(_, result)] = results
        if isinstance(result, AsrError):
            raise result
        return result

    def transcribe_many(
        self,
        sources: Iterable[Source],
        batch_seconds: float = BATCH_SECONDS,
        operating_point: OperatingPoint | None = None,
        on_progress: OnProgress | None = None,
        on_segment: OnSegment | None = None,
    ) -> Iterator[tuple[int, Hypothesis | AsrError]]:
        """Transcribe recordings, in their order; arguments as in `transcribe` and `emissions`.

        Yields each recording's index in `sources` with its hypothesis, or with its error if it
        cannot be read, which does not stop the others. Raises ConfigError, before anything is read,
        if the model cannot work at the operating point.
        """
        conditions: dict[int, Condition] = {}
        point = self._resolve(operating_point)
        found = self._emit_all(sources, batch_seconds, point, on_progress, conditions)

        def finish(index: int, segments: Iterable[Segment]) -> Hypothesis:
            hypothesis = self.decode(segments, on_segment=on_segment)
            return _describe(hypothesis, conditions.pop(index))

        return _finish_each(found, finish)

    def emissions(
        self,
        sources: Iterable[Source],
        batch_seconds: float = BATCH_SECONDS,
        operating_point: OperatingPoint | None = None,
    ) -> Iterator[tuple[int, list[Segment] | AsrError]]:
        """Compute the model's log-probs of recordings, as `transcribe_many` computes texts.

        They come as segments for `decode`, mostly a single one per recording. Neighbors go through
        the model together, in batches of at most `batch_seconds`, padding included: sources sorted
        by length are processed fastest. Sources are consumed lazily.
        """
        found = self._emit_all(sources, batch_seconds, self._resolve(operating_point), None, {})
        return _finish_each(found, lambda _, segments: list(segments))

    def decode(
        self,
        segments: Iterable[Segment],
        decoder: Decoder | None = None,
        on_segment: OnSegment | None = None,
    ) -> Hypothesis:
        """Decode a recording's segments of log-probs, as `emissions` gives them.

        `decoder` replaces the recognizer's own one; `on_segment` as in `transcribe`.
        """
        decoder = decoder or self.decoder
        parts = []
        for first_frame, log_probs in segments:
            part = decoder.decode(log_probs).shifted(first_frame * self.model.frame_seconds)
            parts.append(part)
            if on_segment:
                on_segment(part)
        return join_hypotheses(parts)

    def with_decoder(self, kind: str | None = None, hotwords: Iterable[str] = ()) -> "Recognizer":
        """The same model with another decoder, which reads its files anew.

        Args:
            kind: "greedy", "beam", or None for the same one.
            hotwords: Words or phrases to expect besides its own, which need the beam.

        Raises:
            ConfigError: If the kind is unknown, or the greedy decoder is to expect hotwords.
            TextError: If a hotword contains characters that the vocabulary lacks.
        """
        config, weights = self.decoder_config, self.hotwords
        if kind == "greedy":
            config, weights = DecoderConfig(), {}
        elif kind is not None:
            config = replace(config, kind=kind)
        weights = weights | dict.fromkeys(hotwords, config.hotword_weight)
        return Recognizer(self.model, self.vocabulary, config, weights)

    def align(
        self,
        source: AudioSource,
        transcript: str,
        profile: str = "english",
        where: str = "the transcript",
    ) -> Hypothesis:
        """Find out when each word of a known transcript is said in a recording.

            recognizer.align("x.wav", "call five oh two").words

        Args:
            source: The recording, as in `transcribe`.
            transcript: What is said in it.
            profile: How the transcript is normalized first; see `asr.text.PROFILES`.
            where: The transcript's name in error messages.

        Returns:
            The normalized transcript and its words with their times in seconds.

        Raises:
            AudioError: If the recording cannot be read.
            TextError: If the transcript is empty or contains characters without a symbol.
            DecodeError: If the transcript does not fit into the recording, or torchaudio is missing.
        """
        text = normalize(transcript, profile)
        conditions: dict[int, Condition] = {}
        [(_, segments)] = self._emit_all([source], BATCH_SECONDS, WHOLE, None, conditions)
        if isinstance(segments, AsrError):
            raise segments
        [(_, log_probs)] = segments  # (T', V)
        hypothesis = align(log_probs, text, self.vocabulary, self.model.frame_seconds, where)
        return _describe(hypothesis, conditions[0])

    def stream(
        self, latency_ms: float = STREAM_LATENCY_MS, endpoint: EndpointConfig | None = None
    ) -> Stream:
        """Start to recognize a signal while it arrives.

        Args:
            latency_ms: By how much the text may lag behind the signal, apart from computing time;
                see `AcousticModel.latency_seconds`.
            endpoint: The rule that ends segments in pauses; None: the signal is one segment.

        Raises:
            ConfigError: If the encoder is bidirectional or needs more time.
        """
        self.model.encoder.require_streaming()
        context = self.model.context(latency_ms)
        return Stream(self.model, self.decoder, context, self._new_endpointer(endpoint))

    def check_operating_point(self, operating_point: OperatingPoint) -> None:
        """Raise ConfigError if the encoder is bidirectional, or cannot work at this point."""
        self.model.encoder.require_streaming()
        self._resolve(operating_point)

    def _resolve(self, operating_point: OperatingPoint | None) -> OperatingPoint:
        """The operating point with a context for its latency; without either, short recordings are
        read whole. Raises ConfigError if the model cannot work there.
        """
        point = operating_point or OperatingPoint()
        if point.latency_ms is not None:
            context = self.model.context(point.latency_ms)
            point = OperatingPoint(endpoint=point.endpoint, context=context)
        if point.context is not None:
            self.model.encoder.require_streaming()
        return point

    def _emit_all(
        self,
        sources: Iterable[Source],
        batch_seconds: float,
        point: OperatingPoint,
        on_progress: OnProgress | None,
        conditions: dict[int, Condition],
    ) -> Iterator[tuple[int, Iterable[Segment] | AsrError]]:
        """Yield the segments of each recording; those of a long one are computed when drawn.

        `conditions` receives that of each recording once it has been read to its end.
        """
        whole_frames = self._whole_frames(point)
        read = read_ahead(
            sources,
            self.sample_rate,
            lambda samples: self.model.frames(samples) >= whole_frames,
            conditions,
        )
        items = ((seconds, (index, audio)) for index, (seconds, audio) in enumerate(read))
        for batch in group_by_seconds(items, batch_seconds):
            waveforms = [audio for _, audio in batch if isinstance(audio, np.ndarray)]
            log_probs = iter(self._emit_batch(waveforms, point.context))
            for index, audio in batch:
                if isinstance(audio, AsrError):
                    yield index, audio
                elif isinstance(audio, np.ndarray):
                    yield index, [Segment(0, next(log_probs))]
                    if on_progress:
                        on_progress(len(audio) / self.sample_rate)
                else:
                    yield index, self._emit_long(audio, point, on_progress)

    def _emit_batch(self, waveforms: Sequence[Waveform], context: Context | None) -> list[LogProbs]:
        """The log-probs (T', V) of each waveform (N,), computed as one batch."""
        if not waveforms:
            return []
        emissions = self.model.emit(waveforms, context)
        log_probs = emissions.log_probs.cpu().numpy()  # (B, T', V)
        lengths = emissions.lengths.tolist()
        return [rows[:length] for rows, length in zip(log_probs, lengths, strict=True)]

    def _emit_long(
        self, blocks: Iterable[Waveform], point: OperatingPoint, on_progress: OnProgress | None
    ) -> Iterator[Segment]:
        """Yield the segments of a recording that comes in blocks (n,)."""
        context = point.context or self.long_context
        stream = SegmentStream(self.model, context, self._new_endpointer(point.endpoint))
        rows: list[LogProbs] = []
        first_frame = 0
        for block in chain(blocks, [None]):
            if block is None:
                stream.emissions.end()
            else:
                stream.emissions.accept(block)
            while stream.emissions.ready:
                [((first_frame, log_probs), ends)] = advance_segments([stream])
                if len(log_probs):  # otherwise in a pause
                    rows.append(log_probs)
                if ends:
                    yield Segment(first_frame, np.concatenate(rows))
                    rows = []
            if on_progress and block is not None:
                on_progress(len(block) / self.sample_rate)
        if rows:
            yield Segment(first_frame, np.concatenate(rows))

    def _new_endpointer(self, config: EndpointConfig | None) -> NewEndpointer | None:
        settings = (self.vocabulary, self.model.frame_seconds)
        return partial(Endpointer, config, *settings) if config else None

    def _whole_frames(self, point: OperatingPoint) -> float:
        """The encoder frames above which a recording is read chunk by chunk, not in a batch."""
        if self.model.encoder.config.kind == "bidirectional":
            return math.inf
        if point.context is None:
            return WHOLE_SECONDS / self.model.frame_seconds
        if point.endpoint is not None:
            return point.context.frames
        return max(point.context.frames, BATCH_SECONDS / self.model.frame_seconds)


def _describe(hypothesis: Hypothesis, condition: Condition) -> Hypothesis:
    """The hypothesis with what is known about its recording."""
    return replace(
        hypothesis,
        seconds=condition.seconds,
        gaps=condition.gaps,
        warnings=condition.warnings,
    )


def _finish_each(
    found: Iterable[tuple[int, Iterable[Segment] | AsrError]],
    finish: Callable[[int, Iterable[Segment]], T],
) -> Iterator[tuple[int, T | AsrError]]:
    """Yield what `finish` makes of each recording's index and segments, or the error that it meets."""
    for index, segments in found:
        if isinstance(segments, AsrError):
            yield index, segments
            continue
        try:
            yield index, finish(index, segments)
        except AsrError as error:
            yield index, error


_default_recognizer = cache(Recognizer.default)


def transcribe(source: AudioSource, device: str = "cpu") -> Hypothesis:
    """Transcribe a recording with the bundled English model, which is loaded once per process.

    Args:
        source: A path, the bytes of a file, a binary file, or samples (N,) at 16 kHz, float32 in -1..1
            or int16.
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is any.

    Returns:
        The text, and the words with times in seconds and confidence.

    Raises:
        AudioError: If the recording cannot be read.
        ConfigError: If there is no such device.

    Example:
        >>> transcribe("docs/sample.flac").words[0].start < 1
        True
    """
    return _default_recognizer(device).transcribe(source)
