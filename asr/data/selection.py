"""Which utterances a CTC model can be trained on."""

from bisect import bisect_left
from collections.abc import Callable, Iterable

import numpy as np

from asr.audio.containers import TOLERANCE_SECONDS
from asr.audio.waveform import SAMPLE_RATE
from asr.data.index import Index, index_utterances
from asr.data.manifest import Reject, Utterance
from asr.data.planning import Indices
from asr.text import Vocabulary


def select_trainable(
    utterances: Iterable[Utterance],
    vocabulary: Vocabulary,
    frames: Callable[[int], int],
    fastest: float = 1.0,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    sample_rate: int = SAMPLE_RATE,
) -> tuple[Index, list[Reject]]:
    """The utterances that can be trained on, with normalized text, and the others.

    Left out is what is empty, holds characters that the vocabulary lacks, lasts less than
    `min_seconds` or more than `max_seconds`, or has more to say than CTC can in its encoder frames:
    `frames` is a model's (samples -> T'), which more samples never lower, and T' must hold every
    symbol and a blank inside each repeat even when played `fastest` times as fast
    (`AugmentConfig.fastest`).
    """
    index = utterances if isinstance(utterances, Index) else index_utterances(utterances)
    known = frozenset(vocabulary.symbols[1:])
    seconds, needed = index.seconds, index.frames_needed

    # A recording may be shorter than its manifest says by what `load_audio` lets pass.
    surest = np.maximum(0.0, seconds - TOLERANCE_SECONDS)
    samples = np.rint(np.rint(surest * sample_rate) / fastest)
    short = samples < _fewest_samples(needed, frames, int(samples.max(initial=0)))
    outside = (seconds < min_seconds) | (seconds > max_seconds)
    suspects = (index.symbols == 0) | index.suspect(known) | outside | short

    chosen = np.ones(len(index), dtype=np.bool_)
    rejects: list[Reject] = []
    for number in np.flatnonzero(suspects).tolist():
        utterance = index[number]
        name, length = utterance.id, f"{utterance.seconds:.2f} s"
        if not utterance.text:
            reject = Reject(name, "empty text")
        elif unknown := set(utterance.text) - known:
            characters = " ".join(map(repr, sorted(unknown)))
            reject = Reject(name, "characters not in the vocabulary", characters)
        elif utterance.seconds < min_seconds:
            reject = Reject(name, f"shorter than {min_seconds:g} s", length)
        elif utterance.seconds > max_seconds:
            reject = Reject(name, f"longer than {max_seconds:g} s", length)
        elif short[number]:
            given = frames(int(samples[number]))
            detail = f"needs {needed[number]} encoder frames, has {given} at speed {fastest:g}"
            reject = Reject(name, "too short for its text", detail)
        else:
            continue
        rejects.append(reject)
        chosen[number] = False
    return (index.select(chosen) if rejects else index), rejects


def _fewest_samples(needed: Indices, frames: Callable[[int], int], most: int) -> Indices:
    """For each number of encoder frames the fewest samples that give them; `most` + 1 where none."""
    counts = np.bincount(needed)
    fewest = np.zeros(len(counts), dtype=np.int64)
    for number in np.flatnonzero(counts).tolist():
        fewest[number] = bisect_left(range(most + 1), number, key=frames)
    return fewest[needed]
