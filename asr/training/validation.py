"""Validation: the error rates and the loss of a model on the dev set."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from asr.data.manifest import Utterance
from asr.errors import TrainingError
from asr.evaluation import compute_emissions
from asr.recognizer import WHOLE, Recognizer
from asr.runtime.distributed import Process, gather
from asr.scoring import Report, score
from asr.text import min_ctc_frames
from asr.training.interruption import Interruption

SAMPLES = 3  # utterances of the dev set whose texts are shown in TensorBoard


@dataclass(frozen=True)
class Validation:
    """What a model achieves on the dev set."""

    report: Report
    loss: float  # CTC loss in nats per character
    blank_ratio: float  # share of the encoder frames whose best symbol is the blank
    empty_ratio: float  # share of the utterances whose transcription is empty
    samples: list[tuple[str, str, str]]  # id, reference and hypothesis of a few utterances


@dataclass
class _Totals:
    """What one process has found in its share of the dev set."""

    texts: dict[str, str] = field(default_factory=dict)
    loss: float = 0.0
    symbols: int = 0  # target symbols that the loss sums over
    frames: int = 0
    blanks: int = 0


def validate(
    recognizer: Recognizer,
    dev_set: Sequence[Utterance],
    process: Process,
    interruption: Interruption,
) -> Validation | None:
    """Transcribe the dev set, shared among all processes; None if that was interrupted.

    Raises TrainingError if the model gives NaN, and AudioError if a recording cannot be read.
    """
    own = _measure_share(recognizer, dev_set[process.rank :: process.world_size], interruption)
    interruption.agree()
    if interruption.agreed:
        return None
    shares = gather(own)
    texts = {name: text for share in shares for name, text in share.texts.items()}
    frames = sum(share.frames for share in shares)
    symbols = sum(share.symbols for share in shares)
    stride = -(-len(dev_set) // SAMPLES)
    return Validation(
        report=score({u.id: u.text for u in dev_set}, texts),
        loss=sum(share.loss for share in shares) / max(1, symbols),
        blank_ratio=sum(share.blanks for share in shares) / max(1, frames),
        empty_ratio=sum(not text for text in texts.values()) / len(texts),
        samples=[(u.id, u.text, texts[u.id]) for u in dev_set[::stride]],
    )


def _measure_share(
    recognizer: Recognizer, utterances: Sequence[Utterance], interruption: Interruption
) -> _Totals:
    """Transcribe utterances until the end, or until an interruption is requested."""
    totals = _Totals()
    # Utterances are not split at pauses: the loss needs every frame.
    for utterance, segments in compute_emissions(recognizer, utterances, WHOLE):
        if interruption.requested:
            break
        log_probs = np.concatenate([s.log_probs for s in segments])  # (T', V)
        if np.isnan(log_probs).any():
            raise TrainingError(
                f"the model gives no probabilities for {utterance.id}, because its weights have "
                "diverged; train in another folder with a lower training.learning_rate"
            )
        totals.frames += len(log_probs)
        totals.blanks += int((log_probs.argmax(axis=1) == 0).sum())
        totals.texts[utterance.id] = recognizer.decode(segments).text
        target = recognizer.vocabulary.encode(utterance.text, utterance.id)
        if len(log_probs) >= min_ctc_frames(target):
            totals.loss += nn.functional.ctc_loss(
                torch.from_numpy(log_probs),
                torch.tensor(target),
                torch.tensor(len(log_probs)),
                torch.tensor(len(target)),
                reduction="sum",
            ).item()
            totals.symbols += len(target)
    return totals
