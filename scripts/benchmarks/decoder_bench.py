"""The contestants of `decoder.py`, and the bench that lets them decode."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from decoder_rivals import Decode
from rivals import Worker

from asr import score
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.lm.model import LanguageModel
from asr.text import Vocabulary

OURS = "asr"
PACKAGES = {
    "pyctcdecode": ("pyctcdecode>=0.5", "kenlm", "numpy<2"),
    "flashlight": ("flashlight-text>=0.0.7", "kenlm", "numpy"),
    "fast-ctc-decode": ("fast-ctc-decode>=0.3.6", "numpy"),
}
# A fast decoder repeats its turn until it has used this many seconds of CPU time.
MIN_SECONDS = 0.5
WEIGHTS = ("alpha", "beta", "unknown", "token_floor")


@dataclass(frozen=True)
class Contestant:
    """One line of the table: a decoder with fixed settings.

    Attributes:
        name: label of the line.
        worker: the process that decodes.
        language_model: whether it uses the language model.
        fixed: settings that are never tuned.
        unknowns: range in which the weight of unknown words is tuned, as the decoder defines it.
    """

    name: str
    worker: str
    language_model: bool
    fixed: dict[str, Any] = field(default_factory=dict)
    unknowns: tuple[float, float] = (0.0, 0.0)

    @property
    def ours(self) -> bool:
        """Whether this is the decoder under test."""
        return self.worker == OURS


CONTESTANTS = (
    Contestant(OURS, OURS, True, {"language_model": True}, (-10.0, 0.0)),
    Contestant("pyctcdecode", "pyctcdecode", True, {}, (-12.0, 0.0)),
    # The library has no defaults for these limits. 25 is fairseq's threshold; a threshold as narrow
    # as pyctcdecode's and 8 symbols per frame are its fastest setting without loss of accuracy here.
    *(
        Contestant(
            f"flashlight, {tokens} tokens, threshold {threshold}",
            "flashlight",
            True,
            {"tokens": tokens, "threshold": float(threshold)},
            (-8.0, 2.0),
        )
        for tokens, threshold in ((29, 25), (8, 25), (8, 10))
    ),
    Contestant(f"{OURS}, no language model", OURS, False, {"language_model": False}),
    Contestant("fast-ctc-decode", "fast-ctc-decode", False, {"cut": False}),
    Contestant("fast-ctc-decode, token floor", "fast-ctc-decode", False, {"cut": True}),
)


class Ours:
    """The decoder under test, served like its rivals."""

    packages: Sequence[str] = ("numba", "numpy")

    def __init__(self, folder: Path) -> None:
        self.language_model = LanguageModel.read(folder / "lm.arpa")

    def prepare(self, log_probs: np.ndarray) -> np.ndarray:
        """Log-probabilities (T, V) need no preparation."""
        return log_probs

    def configure(self, settings: dict[str, Any]) -> Decode:
        """The function that decodes with these settings."""
        weights = tuple((name, settings[name]) for name in WEIGHTS if name in settings)
        decoder = self._decoder(settings["language_model"], settings["beam"], weights)
        if threads := settings.get("threads"):
            return lambda matrices: decoder.decode_many(matrices, threads=threads)
        return lambda matrices: [decoder.decode(matrix) for matrix in matrices]

    @lru_cache(maxsize=16)  # noqa: B019  # the only instance lives as long as its process
    def _decoder(self, language_model: bool, beam: int, weights: tuple[Any, ...]) -> BeamDecoder:
        return BeamDecoder(
            Vocabulary.english(),
            frame_seconds=1.0,  # the words' times are not used
            config=DecoderConfig(kind="beam", beam=beam, **dict(weights)),
            language_model=self.language_model if language_model else None,
        )

    def text(self, result: Hypothesis) -> str:
        """The words of a hypothesis."""
        return result.text


@dataclass(frozen=True)
class Bench:
    """The utterances, the decoders that decode them, and the weights if they are not tuned."""

    references: list[str]
    seconds: np.ndarray  # length of each utterance, (utterances,)
    workers: dict[str, Worker]
    weights: dict[str, float]

    @property
    def contestants(self) -> list[Contestant]:
        """The contestants whose worker runs."""
        return [c for c in CONTESTANTS if c.worker in self.workers]

    def rivals(self) -> Iterator[tuple[Contestant, Contestant]]:
        """Each rival, and ours with or without a language model, with which it is compared."""
        ours = {c.language_model: c for c in CONTESTANTS if c.ours}
        for contestant in self.contestants:
            if not contestant.ours:
                yield contestant, ours[contestant.language_model]

    def decode(
        self,
        contestant: Contestant,
        beam: int,
        utterances: Sequence[int],
        min_seconds: float = 0.0,
        **settings: Any,
    ) -> dict[str, Any]:
        """Let a worker decode, repeatedly until it has used `min_seconds` of CPU time.

        Returns:
            Its answer for a single pass, and CPU milliseconds per second of audio ("ms").
        """
        settings = {"beam": beam, **self.weights, **contestant.fixed, **settings}
        request = {
            "utterances": [int(index) for index in utterances],
            "settings": settings,
            "min_seconds": min_seconds,
        }
        answer = self.workers[contestant.worker].ask(request)
        seconds = float(self.seconds[utterances].sum())
        return {**answer, "ms": 1000 * answer["cpu_seconds"] / seconds}

    def errors(self, utterances: Sequence[int], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number of word errors and of reference words of each utterance."""
        names = [f"{index:06}" for index in utterances]
        references = [self.references[index] for index in utterances]
        report = score(
            dict(zip(names, references, strict=True)), dict(zip(names, texts, strict=True))
        )
        return (
            np.array([utterance.errors for utterance in report.utterances]),
            np.array([utterance.words for utterance in report.utterances]),
        )

    def wer(self, utterances: Sequence[int], texts: list[str]) -> float:
        """Word error rate in %."""
        errors, words = self.errors(utterances, texts)
        return 100 * float(errors.sum() / words.sum())
