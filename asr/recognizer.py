"""THE inference path: load a model once, then transcribe recordings, or speech as it arrives.

Training's validation, `asr evaluate` and `asr transcribe` all come through here, so that they
agree on every text.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from asr.audio import AudioSource, load_audio
from asr.checkpoint import load_model
from asr.decode import Decoder, DecoderConfig, GreedyDecoder, Hypothesis
from asr.errors import AsrError, ConfigError
from asr.model import AcousticModel
from asr.stream import Stream
from asr.text import Vocabulary

Waveform = npt.NDArray[np.float32]
LogProbs = npt.NDArray[np.float32]
Source = AudioSource | tuple[AudioSource, float]
"""A recording, or a recording and the seconds that it must last (within 50 ms)."""

BATCH_SECONDS = 120.0
"""Padded seconds in a batch, where the caller does not say."""

_READERS = 2  # threads that read while the model works
_AHEAD = 4  # recordings read before they are needed; an hour is 230 MB

T = TypeVar("T")


class Recognizer:
    """A model, its vocabulary and a decoder. The model is put into evaluation mode.

    The texts do not depend on what else is in a batch, on the batch size, or on the call.
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

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        decoder: DecoderConfig | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> "Recognizer":
        """The recogniser of a checkpoint, on "cpu", "cuda", "cuda:1", or "auto": a GPU if any.

        `threads` is torch's number of CPU threads, for the whole process; None leaves it alone.
        `decoder` and `hotwords` as in `load_decoder`; None decodes greedily. The numbers for a beam
        that suit the model are in its checkpoint: `asr.checkpoint.load_decoder_config`.
        Raises CheckpointError for a file that is no good, ConfigError for a device that is not here.
        """
        name = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        model, vocabulary = load_model(path, name)
        return cls(model, vocabulary, decoder, hotwords)

    @property
    def sample_rate(self) -> int:
        """Hertz of the waveforms that the model listens to."""
        return self.model.features.config.sample_rate

    def transcribe(self, source: AudioSource) -> Hypothesis:
        """What is said in a recording; empty where it is silent or shorter than a window.

        Raises AudioError where it cannot be read.
        """
        waveform = load_audio(source, self.sample_rate)  # (N,)
        emissions = self.model.emit([waveform])  # (1, T', V)
        return self.decoder.decode(emissions.log_probs[0])

    def transcribe_many(
        self, sources: Iterable[Source], batch_seconds: float = BATCH_SECONDS
    ) -> Iterator[tuple[int, Hypothesis | AsrError]]:
        """What is said in each recording, with its place in `sources`, in their order.

        A recording that cannot be read gives its error and does not stop the others.
        """
        for index, log_probs in self.emissions(sources, batch_seconds):
            if isinstance(log_probs, AsrError):
                yield index, log_probs
            else:
                yield index, self.decoder.decode(log_probs)

    def emissions(
        self, sources: Iterable[Source], batch_seconds: float = BATCH_SECONDS
    ) -> Iterator[tuple[int, LogProbs | AsrError]]:
        """The model's log-probs (T', V) of each recording, as `transcribe_many` gives texts.

        Neighbours go through the model together, in batches of at most `batch_seconds`, padding
        counted: sources sorted by their length are the fastest. They are drawn as they are needed.
        """
        read = self._read(sources)
        items = ((seconds, (index, audio)) for index, (seconds, audio) in enumerate(read))
        for batch in group_by_seconds(items, batch_seconds):
            waveforms = [audio for _, audio in batch if not isinstance(audio, AsrError)]
            log_probs = iter(self._emit(waveforms))
            for index, audio in batch:
                yield index, audio if isinstance(audio, AsrError) else next(log_probs)

    def stream(self) -> Stream:
        """What is said in a signal while it arrives; ConfigError: the encoder is bidirectional."""
        return Stream(self.model, self.decoder)

    def _emit(self, waveforms: Sequence[Waveform]) -> list[LogProbs]:
        """The log-probs (T', V) of each waveform (N,), computed as one batch."""
        if not waveforms:
            return []
        emissions = self.model.emit(waveforms)
        log_probs = emissions.log_probs.cpu().numpy()  # (B, T', V)
        lengths = emissions.lengths.tolist()
        return [rows[:length] for rows, length in zip(log_probs, lengths, strict=True)]

    def _read(self, sources: Iterable[Source]) -> Iterator[tuple[float, Waveform | AsrError]]:
        """The seconds and the waveform (N,) of each recording, or why it cannot be read."""
        pool = ThreadPoolExecutor(_READERS, thread_name_prefix="audio")
        pending: deque[Future[tuple[float, Waveform | AsrError]]] = deque()
        try:
            for source in sources:
                pending.append(pool.submit(self._load, source))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, source: Source) -> tuple[float, Waveform | AsrError]:
        # Where the length is known beforehand, that is what the recording counts for in its batch:
        # a recording that cannot be read then leaves the other batches as they are.
        source, expected = source if isinstance(source, tuple) else (source, None)
        try:
            waveform = load_audio(source, self.sample_rate, expected_seconds=expected)
        except AsrError as error:
            return expected or 0.0, error
        return expected or len(waveform) / self.sample_rate, waveform


def load_decoder(
    config: DecoderConfig,
    vocabulary: Vocabulary,
    frame_seconds: float,
    hotwords: Mapping[str, float] | None = None,
) -> Decoder:
    """The decoder that `config` describes, its files read, with `hotwords` and their weights.

    Raises LanguageError for a language model, DataError for another file that cannot be used,
    ConfigError for what does not go together.
    """
    if config.kind == "greedy":
        if hotwords:
            raise ConfigError("the greedy decoder knows no hotwords: choose decoder.kind 'beam'")
        return GreedyDecoder(vocabulary, frame_seconds)
    from asr.beam import BeamDecoder  # not needed, and not loaded, for greedy decoding
    from asr.language import LanguageModel
    from asr.lexicon import read_hotwords, read_words

    found = read_hotwords(config.hotwords, config.hotword_weight) if config.hotwords else {}
    return BeamDecoder(
        vocabulary,
        frame_seconds,
        config,
        LanguageModel.read(config.language_model) if config.language_model else None,
        read_words(config.lexicon) if config.lexicon else None,
        {**found, **(hotwords or {})},
    )


def group_by_seconds(items: Iterable[tuple[float, T]], batch_seconds: float) -> Iterator[list[T]]:
    """Batches of neighbours, each given with its seconds, so that none pads to over `batch_seconds`.

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


def choose_device(name: str) -> str:
    """A device that torch can use: `name`, or for "auto" the first GPU, else the CPU.

    Raises ConfigError where there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (number and not number.isdecimal())):
        raise ConfigError(f"There is no device {name!r}; choose auto, cpu, cuda or cuda:0.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"Device {name!r} was asked for, but torch finds {torch.cuda.device_count()} GPUs here; "
            "choose auto or cpu."
        )
    return name
