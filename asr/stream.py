"""Streaming: recognize speech incrementally and report which words are final.

    stream = recognizer.stream()
    partial = stream.accept(samples, 8_000)  # (N,), as often as samples arrive
    hypothesis = stream.finish()

Resampler, features, encoder and decoder all carry their state from piece to piece. The words and
their times do not depend on how the samples are cut; they are those of `Recognizer.transcribe` on
all samples at the same operating point.

An endpoint, if requested, resets everything: the decoder (beam, language model history, partial
hotwords) where a segment ends, and the encoder where the next segment begins, shortly before the
sound resumes. Every segment is thus processed like a signal of its own.

Shapes: N samples, T' encoder frames, V symbols.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.audio.waveform import Resampler, to_waveform
from asr.decoder.config import Decoder
from asr.decoder.hypothesis import Hypothesis
from asr.encoder import Context
from asr.endpoint import Endpointer
from asr.errors import AsrError, AudioError
from asr.model import AcousticModel, advance_models

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # hertz, as for files
LogProbs = npt.NDArray[np.float32]  # (T', V)
NewEndpointer = Callable[[], Endpointer]  # makes the endpointer of a segment


@dataclass(frozen=True, slots=True)
class Partial:
    """The text of a stream so far, since its last endpoint if there was one.

    Attributes:
        stable: The first words, which no later partial or hypothesis of the stream changes.
        tail: The words after them, which may still change.
        seconds: Seconds of the signal that have arrived.
        segments: The segments that ended since the last partial, with times from the start of the
            stream; their text may be empty.
        begin: Where the current segment begins, in seconds.
    """

    stable: str
    tail: str
    seconds: float
    segments: tuple[Hypothesis, ...] = ()
    begin: float = 0.0

    @property
    def text(self) -> str:
        """All words since the last endpoint."""
        return " ".join(part for part in (self.stable, self.tail) if part)

    def to_dict(self) -> dict[str, Any]:
        """The text as JSON data, without the segments."""
        return {"seconds": round(self.seconds, 3), "stable": self.stable, "tail": self.tail}


class Segment(NamedTuple):
    """Log-probs (T', V) of a segment or of a part of it, and the index of the segment's first frame."""

    first_frame: int
    log_probs: LogProbs


class SegmentStream:
    """The log-probs of a signal at the model's rate, cut into segments where speech pauses."""

    def __init__(
        self, model: AcousticModel, context: Context, new_endpointer: NewEndpointer | None
    ) -> None:
        self._new_endpointer = new_endpointer
        self._endpointer = new_endpointer() if new_endpointer else None
        self._next_frame = self._first_frame = 0  # the next frame, and the first of its segment
        self.emissions = model.stream(context)

    def cut(self, log_probs: LogProbs, is_last: bool) -> tuple[Segment, bool]:
        """The part of the chunk's log_probs (n, V) in the current segment, and whether that ends."""
        begin_of_chunk = self._next_frame
        self._next_frame += len(log_probs)
        first = self._first_frame
        is_only_chunk = is_last and not begin_of_chunk  # such a recording is one segment
        if not self._endpointer or not self._new_endpointer or is_only_chunk:
            return Segment(first, log_probs), False
        cut = self._endpointer.cut(log_probs)
        if cut.begin is not None:
            self.emissions.restart(len(log_probs) - cut.begin)
            self._next_frame = self._first_frame = begin_of_chunk + cut.begin
            self._endpointer = self._new_endpointer()
        return Segment(first, log_probs[: cut.kept]), cut.ends


def advance_segments(streams: Sequence[SegmentStream]) -> list[tuple[Segment, bool]]:
    """Compute the next log-probs (n, V) of each stream's segment, and whether it ends with them.

    The encoder processes a chunk of all streams that are ready in one batch; n = 0 for a stream that
    is not ready, and in the pauses between segments.
    """
    last = [not stream.emissions.has_right_context for stream in streams]
    chunks = advance_models([stream.emissions for stream in streams])
    return list(map(SegmentStream.cut, streams, chunks, last))


class Stream:
    """One signal that is recognized while it arrives; made by `Recognizer.stream`.

    Any number of streams may be open at once: they share the model and the decoder, not their state.
    Memory grows with the text since the last endpoint, not with the signal.

    Args:
        model: The acoustic model.
        decoder: The decoder, shared by all streams.
        context: Chunk size and right context in encoder frames.
        new_endpointer: Makes the rule that ends a segment; None: the signal is one segment.

    Raises:
        ConfigError: If the model's encoder is bidirectional.

    Example:
        >>> from asr.recognizer import Recognizer
        >>> stream = Recognizer.default().stream()
        >>> stream.accept(np.zeros(8_000, np.float32), sample_rate=16_000).seconds
        0.5
    """

    def __init__(
        self,
        model: AcousticModel,
        decoder: Decoder,
        context: Context,
        new_endpointer: NewEndpointer | None = None,
    ) -> None:
        self._model_rate = model.features.config.sample_rate
        self._frame_seconds = model.frame_seconds
        self.context = context
        self._segments = SegmentStream(model, context, new_endpointer)
        self._decoder = decoder
        self._state = decoder.start()
        self._first_frame = 0  # first frame of the current segment
        self._frames = 0  # decoded frames of the current segment
        self._in_pause = False  # whether the signal is between two segments
        self._rate: int | None = None  # sample rate; set by the first piece
        self._resampler = Resampler(self._model_rate, self._model_rate)
        self._samples = 0
        self._finished = False
        self._text = ("", "")  # the stable part and the tail
        self._ended: list[Hypothesis] = []  # segments that were not returned yet

    @property
    def seconds(self) -> float:
        """Seconds of the signal that have arrived."""
        return self._samples / (self._rate or self._model_rate)

    def accept(self, samples: npt.NDArray[Any], sample_rate: int | None = None) -> Partial:
        """Process the next samples.

        Args:
            samples: The samples (N,), float32 in -1..1 or int16; N may be 0.
            sample_rate: Sample rate in hertz; it must not change after the first piece. None means the
                rate of the first piece, or the model's rate for the first piece itself.

        Returns:
            The text so far.

        Raises:
            AudioError: If the piece cannot be used, in which case it is ignored, or if the stream
                has been finished.
        """
        [partial] = advance_streams([self], [samples], sample_rate)
        if isinstance(partial, AsrError):
            raise partial
        return partial

    def finish(self) -> Hypothesis:
        """End the stream and return its hypothesis since the last endpoint, empty without samples.

        Segments that end meanwhile are in `take_segments`. Raises AudioError if it is called twice.
        """
        self._require_open()
        self._finished = True
        self._segments.emissions.accept(self._resampler.finish())
        self._segments.emissions.end()
        errors: dict[int, AsrError] = {}
        _decode_ready([self], errors)
        if errors:
            raise errors[0]
        return self._best()

    def take_segments(self) -> tuple[Hypothesis, ...]:
        """Return the segments that ended and were in no partial yet, each of them once."""
        segments, self._ended = tuple(self._ended), []
        return segments

    def _take(self, samples: npt.NDArray[Any], sample_rate: int | None) -> None:
        """Check the next samples and append them. Raises AudioError."""
        self._require_open()
        rate = self._check_rate(sample_rate)
        name, advice = "the stream", "this piece is left out"
        waveform = to_waveform(samples, rate, self._samples, name, advice)  # (N,)
        if self._rate is None:
            self._rate = rate
            self._resampler = Resampler(rate, self._model_rate)
        self._samples += len(waveform)
        self._segments.emissions.accept(self._resampler.feed(waveform))

    def _decode(self, segment: Segment, ends: bool) -> None:
        """Decode the segment's next log-probs, the last ones if it `ends`."""
        self._first_frame = segment.first_frame
        self._frames += len(segment.log_probs)
        self._in_pause &= not len(segment.log_probs)
        self._decoder.advance(self._state, segment.log_probs)
        if ends:
            self._ended.append(self._best())
            self._state = self._decoder.start()
            self._frames = 0
            self._in_pause = True

    def _best(self) -> Hypothesis:
        if self._in_pause:
            return Hypothesis("", (), 1.0, 0.0)
        best = self._decoder.best(self._state)
        begin = self._begin
        if begin:
            best = best.shifted(begin)
        return replace(best, span=(begin, begin + self._frames * self._frame_seconds))

    @property
    def _begin(self) -> float:
        return self._first_frame * self._frame_seconds

    def _require_open(self) -> None:
        if self._finished:
            raise AudioError("this stream is finished; start another one for more samples")

    def _check_rate(self, rate: int | None) -> int:
        if rate is None:
            return self._rate or self._model_rate
        if not isinstance(rate, int | np.integer) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(
                f"a stream of {rate!r} samples per second is not supported; use a whole number from "
                f"{LOWEST_RATE:,} to {HIGHEST_RATE:,}"
            )
        if self._rate not in (None, rate):
            raise AudioError(
                f"the stream began with {self._rate:,} samples per second and cannot change to "
                f"{rate:,}; start another one"
            )
        return int(rate)


def advance_streams(
    streams: Sequence[Stream], pieces: Sequence[npt.NDArray[Any]], sample_rate: int | None = None
) -> list[Partial | AsrError]:
    """`Stream.accept` for many streams, of which the encoder processes all in one batch.

    The results are those of each stream alone.

    Args:
        streams: Different streams of one model with the same `context`; their decoders may differ.
        pieces: A piece of samples (N,) for each stream.
        sample_rate: The rate of all pieces, as in `Stream.accept`.

    Returns:
        For each stream its text so far, or the error of its piece, which does not affect the others.

    Raises:
        ValueError: If the numbers of streams and pieces differ.
    """
    if len(streams) != len(pieces):
        raise ValueError(f"{len(streams)} streams cannot take {len(pieces)} pieces")
    errors: dict[int, AsrError] = {}
    for index, (stream, piece) in enumerate(zip(streams, pieces, strict=True)):
        try:
            stream._take(piece, sample_rate)
        except AsrError as error:
            errors[index] = error
    _decode_ready(streams, errors)
    return [
        errors.get(index)
        or Partial(*stream._text, stream.seconds, stream.take_segments(), stream._begin)
        for index, stream in enumerate(streams)
    ]


def _decode_ready(streams: Sequence[Stream], errors: dict[int, AsrError]) -> None:
    """Decode all chunks that are ready, except in streams with one of the `errors`, by index.

    The error of a stream that fails is added to them.
    """
    segments = [stream._segments for stream in streams]
    advanced: set[int] = set()
    while ready := [i for i, s in enumerate(segments) if s.emissions.ready and i not in errors]:
        chunks = advance_segments([segments[index] for index in ready])
        for index, (segment, ends) in zip(ready, chunks, strict=True):
            advanced.add(index)
            try:
                streams[index]._decode(segment, ends)
            except AsrError as error:
                errors[index] = error
    for index in advanced - errors.keys():
        streams[index]._text = streams[index]._decoder.partial(streams[index]._state)
