"""Speech that arrives in pieces: what is said so far, and which of its words are certain.

    stream = recognizer.stream()
    partial = stream.accept(samples, 8_000)  # (N,), as often as samples arrive
    hypothesis = stream.finish()

Resampler, features, encoder and decoder all carry their state from piece to piece. However the
samples are cut, the hypothesis is that of `Recognizer.transcribe` on all of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.audio import Resampler
from asr.decode import Decoder, Hypothesis
from asr.errors import AudioError
from asr.model import AcousticModel

LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # hertz; as for files


@dataclass(frozen=True, slots=True)
class Partial:
    """What is said in the first `seconds` of a stream.

    `stable` are the first words, which no later partial or hypothesis of the stream takes back;
    `tail` are the words after them, which may still change.
    """

    stable: str
    tail: str
    seconds: float

    @property
    def text(self) -> str:
        """All words."""
        return " ".join(part for part in (self.stable, self.tail) if part)


class Stream:
    """One signal that is recognised while it arrives; made by `Recognizer.stream`.

    Any number of them may be open at once: they share the model and the decoder, not their state.
    What is kept grows with the text, not with the signal.
    """

    def __init__(self, model: AcousticModel, decoder: Decoder) -> None:
        """Raises ConfigError where the model's encoder is bidirectional."""
        self._model_rate = model.features.config.sample_rate
        self._emissions = model.stream()
        self._decoder = decoder
        self._state = decoder.start()
        self._rate: int | None = None  # of what arrives; the first piece decides
        self._resampler = Resampler(self._model_rate, self._model_rate)
        self._samples = 0
        self._finished = False
        self._stable = self._tail = ""

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
        self._require_open()
        rate = self._check_rate(sample_rate)
        waveform = self._check_samples(samples, rate)  # (N,)
        if self._rate is None:
            self._rate = rate
            self._resampler = Resampler(rate, self._model_rate)
        self._samples += len(waveform)
        self._listen(self._resampler.feed(waveform))
        return Partial(self._stable, self._tail, self.seconds)

    def finish(self) -> Hypothesis:
        """What was said; nothing can follow. Empty where no samples came."""
        self._require_open()
        self._finished = True
        self._listen(self._resampler.finish())
        self._decoder.advance(self._state, self._emissions.finish())
        return self._decoder.best(self._state)

    def _listen(self, waveform: npt.NDArray[np.float32]) -> None:
        """Read the next samples (n,) at the model's rate."""
        if not len(waveform):
            return
        log_probs = self._emissions.accept(waveform)  # (T', V)
        if not len(log_probs):
            return
        self._decoder.advance(self._state, log_probs)
        self._stable, self._tail = self._decoder.partial(self._state)

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

    def _check_samples(self, samples: npt.NDArray[Any], rate: int) -> npt.NDArray[np.float32]:
        """The samples as float32 in memory of their own, which the caller may not change."""
        if not isinstance(samples, np.ndarray) or samples.dtype not in (np.float32, np.int16):
            kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
            raise AudioError(f"a stream takes NumPy arrays of float32 or int16, not {kind}")
        if samples.ndim != 1:
            raise AudioError(
                f"samples of shape {samples.shape} are not one channel: give the stream an array "
                "of shape (N,)"
            )
        waveform = np.array(samples, np.float32)
        if samples.dtype == np.int16:
            waveform /= 32_768
        finite = np.isfinite(waveform)
        if not finite.all():
            seconds = (self._samples + int(finite.argmin())) / rate
            raise AudioError(
                f"the stream holds samples that are not finite numbers, the first at {seconds:.3f} "
                "s; this piece is left out"
            )
        return waveform
