"""Speech that arrives in pieces: what is said so far, and which of its words are certain.

    stream = recognizer.stream()
    partial = stream.accept(samples, 8_000)  # (N,), as often as samples arrive
    hypothesis = stream.finish()

Resampler, features, encoder and decoder all carry their state from piece to piece. However the
samples are cut, the words and their times are the same, and they are those of
`Recognizer.transcribe` on all samples, where it works at the same operating point.

An endpoint, where one is asked for, forgets everything: the texts of the beam, the history of the
language model and begun hotwords where a segment ends, the encoder's memory where the next begins,
which is shortly before sound is heard again. It begins like a signal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # hertz; as for files
LogProbs = npt.NDArray[np.float32]  # (T', V)


@dataclass(frozen=True, slots=True)
class Partial:
    """What is said in the first `seconds` of a stream, or since its last endpoint.

    `stable` are the first words, which no later partial or hypothesis of the stream takes back;
    `tail` are the words after them, which may still change. `segments` are what endpoints ended
    since the last partial, with times from the start of the stream; they may be empty of words.
    """

    stable: str
    tail: str
    seconds: float
    segments: tuple[Hypothesis, ...] = ()

    @property
    def text(self) -> str:
        """All words since the last endpoint."""
        return " ".join(part for part in (self.stable, self.tail) if part)


class Segment(NamedTuple):
    """Log-probs (T', V) of a segment, or of a part of it, and its first frame's place."""

    first_frame: int
    log_probs: LogProbs


class SegmentStream:
    """The log-probs of a signal at the model's rate, cut into segments where speech pauses."""

    def __init__(
        self,
        model: AcousticModel,
        context: Context,
        new_endpointer: Callable[[], Endpointer] | None,
    ) -> None:
        self._new_endpointer = new_endpointer
        self._endpointer = new_endpointer() if new_endpointer else None
        self._next_frame = self._first_frame = 0  # of what comes, and of its segment
        self.emissions = model.stream(context)

    def accept(self, waveform: npt.NDArray[np.float32]) -> None:
        """Take the next samples (N,)."""
        self.emissions.accept(waveform)

    def end(self) -> None:
        """Nothing follows."""
        self.emissions.end()

    @property
    def ready(self) -> bool:
        """Whether log-probs can be read."""
        return self.emissions.ready

    def cut(self, log_probs: LogProbs, is_last: bool) -> tuple[Segment, bool]:
        """What of the chunk just read, log_probs (n, V), is of this segment, and if it ends."""
        begin_of_chunk = self._next_frame
        self._next_frame += len(log_probs)
        first = self._first_frame
        if not self._endpointer or not self._new_endpointer:
            return Segment(first, log_probs), False
        if is_last and not begin_of_chunk:  # a recording of one chunk is one segment
            return Segment(first, log_probs), False
        cut = self._endpointer.cut(log_probs)
        if cut.begin is not None:
            self.emissions.restart(len(log_probs) - cut.begin)
            self._next_frame = self._first_frame = begin_of_chunk + cut.begin
            self._endpointer = self._new_endpointer()
        return Segment(first, log_probs[: cut.kept]), cut.ends


def read_segments(streams: Sequence[SegmentStream]) -> list[tuple[Segment, bool]]:
    """What comes next of each stream's segment, log-probs (n, V), and whether it ends with them.

    The encoder reads a chunk of all those that are ready together; n = 0 where one is not, and in
    the pauses between segments.
    """
    last = [not stream.emissions.has_right_context for stream in streams]
    chunks = advance_models([stream.emissions for stream in streams])
    return [
        stream.cut(rows, is_last)
        for stream, rows, is_last in zip(streams, chunks, last, strict=True)
    ]


class Stream:
    """One signal that is recognized while it arrives; made by `Recognizer.stream`.

    Any number of them may be open at once: they share the model and the decoder, not their state.
    What is kept grows with the text since the last endpoint, not with the signal.
    """

    def __init__(
        self,
        model: AcousticModel,
        decoder: Decoder,
        context: Context,
        new_endpointer: Callable[[], Endpointer] | None = None,
    ) -> None:
        """Raises ConfigError where the model's encoder is bidirectional."""
        self._model_rate = model.features.config.sample_rate
        self._frame_seconds = model.frame_seconds
        self._segments = SegmentStream(model, context, new_endpointer)
        self._decoder = decoder
        self._state = decoder.start()
        self._first_frame = 0  # of the segment
        self._pauses = False  # between two segments
        self._rate: int | None = None  # of what arrives; the first piece decides
        self._resampler = Resampler(self._model_rate, self._model_rate)
        self._samples = 0
        self._finished = False
        self._stable = self._tail = ""
        self._ended: list[Hypothesis] = []  # segments that nobody has been told of

    @property
    def seconds(self) -> float:
        """Seconds of the signal that have arrived."""
        return self._samples / (self._rate or self._model_rate)

    def accept(self, samples: npt.NDArray[Any], sample_rate: int | None = None) -> Partial:
        """What is said so far, after the next samples (N,): float32 in -1..1, or int16; N >= 0.

        `sample_rate` in hertz is fixed by the first piece; None: as before, at first the model's.
        A piece that is no good raises AudioError and is left out, and the stream goes on as if it
        had not come. Raises AudioError too after `finish`.
        """
        [partial] = accept_many([self], [samples], sample_rate)
        if isinstance(partial, AsrError):
            raise partial
        return partial

    def finish(self) -> Hypothesis:
        """What was said, since the last endpoint if there was any; nothing can follow.

        Empty where no samples came. What endpoints ended meanwhile is in `take_segments`.
        """
        self._require_open()
        self._finished = True
        self._segments.accept(self._resampler.finish())
        self._segments.end()
        for error in _listen([self]).values():
            raise error
        return self._best()

    def take_segments(self) -> tuple[Hypothesis, ...]:
        """The segments that have ended and were in no partial yet, each given once."""
        segments, self._ended = tuple(self._ended), []
        return segments

    def _take(self, samples: npt.NDArray[Any], sample_rate: int | None) -> None:
        """Check and keep the next samples."""
        self._require_open()
        rate = self._check_rate(sample_rate)
        name, advice = "the stream", "this piece is left out"
        waveform = to_waveform(samples, rate, self._samples, name, advice)  # (N,)
        if self._rate is None:
            self._rate = rate
            self._resampler = Resampler(rate, self._model_rate)
        self._samples += len(waveform)
        self._segments.accept(self._resampler.feed(waveform))

    def _decode(self, segment: Segment, ends: bool) -> None:
        """Read the segment's next log-probs, its last ones if it `ends`."""
        self._first_frame = segment.first_frame
        self._pauses &= not len(segment.log_probs)
        self._decoder.advance(self._state, segment.log_probs)
        if ends:
            self._ended.append(self._best())
            self._state = self._decoder.start()
            self._pauses = True

    def _best(self) -> Hypothesis:
        if self._pauses:
            return Hypothesis("", (), 1.0, 0.0)
        best = self._decoder.best(self._state)
        return best.shifted(self._first_frame * self._frame_seconds) if self._first_frame else best

    def _show(self) -> None:
        self._stable, self._tail = self._decoder.partial(self._state)

    def _tell(self) -> Partial:
        return Partial(self._stable, self._tail, self.seconds, self.take_segments())

    def _require_open(self) -> None:
        if self._finished:
            raise AudioError("this stream is finished; begin another one for more samples")

    def _check_rate(self, rate: int | None) -> int:
        if rate is None:
            return self._rate or self._model_rate
        if not isinstance(rate, int | np.integer) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(
                f"a stream of {rate!r} samples per second is impossible; give a whole number from "
                f"{LOWEST_RATE:,} to {HIGHEST_RATE:,}"
            )
        if self._rate not in (None, rate):
            raise AudioError(
                f"the stream began with {self._rate:,} samples per second and cannot go on with "
                f"{rate:,}; begin another one"
            )
        return int(rate)


def accept_many(
    streams: Sequence[Stream],
    pieces: Sequence[npt.NDArray[Any]],
    sample_rate: int | None = None,
) -> list[Partial | AsrError]:
    """`Stream.accept` of a piece for each stream, the encoder reading all streams together.

    The streams are those of one recognizer and operating point, each named once. What comes out is
    what each would give alone. A piece that is no good gives its error and leaves the other streams
    alone. Raises ValueError where streams and pieces are not of the same number.
    """
    if len(streams) != len(pieces):
        raise ValueError(f"{len(streams)} streams cannot take {len(pieces)} pieces")
    found: dict[int, AsrError] = {}
    for index, (stream, piece) in enumerate(zip(streams, pieces, strict=True)):
        try:
            stream._take(piece, sample_rate)
        except AsrError as error:
            found[index] = error
    good = [index for index in range(len(streams)) if index not in found]
    errors = _listen([streams[index] for index in good])
    found.update({good[place]: error for place, error in errors.items()})
    return [found.get(index) or stream._tell() for index, stream in enumerate(streams)]


def _listen(streams: Sequence[Stream]) -> dict[int, AsrError]:
    """Read all that is ready; returns why a stream, by its place, could not be decoded."""
    errors: dict[int, AsrError] = {}
    heard: set[int] = set()
    while ready := [i for i, s in enumerate(streams) if s._segments.ready and i not in errors]:
        chunks = read_segments([streams[index]._segments for index in ready])
        for index, (segment, ends) in zip(ready, chunks, strict=True):
            heard.add(index)
            try:
                streams[index]._decode(segment, ends)
            except AsrError as error:
                errors[index] = error
    for index in heard - errors.keys():
        streams[index]._show()
    return errors
