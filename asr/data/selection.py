"""Which utterances a CTC model can be trained on."""

from bisect import bisect_left
from collections.abc import Callable, Iterable

import numpy as np

from asr.audio.recording import TOLERANCE_SECONDS
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
    """Split utterances into those that a CTC model can be trained on, and the rest.

    An utterance is rejected if its text is empty or has characters outside the vocabulary, if it is
    too short or too long, or if its encoder frames cannot hold its text: CTC needs one frame for
    each symbol and one more between equal neighbors, even at the fastest speed.

    Args:
        utterances: An Index, or any utterances, whose texts are normalized.
        vocabulary: The model's symbols.
        frames: The model's number of encoder frames T' for a number of samples; non-decreasing.
        fastest: The largest speed-up in training, `AugmentConfig.fastest`.
        min_seconds: Minimum length of a recording.
        max_seconds: Maximum length of a recording.
        sample_rate: The model's sample rate, in Hz.

    Returns:
        The trainable utterances as an Index, and the rejects with their reasons.

    Example:
        >>> utterances = [Utterance("a", "a.wav", 1.0, "Yes"), Utterance("b", "b.wav", 0.1, "no")]
        >>> index, rejects = select_trainable(
        ...     utterances, Vocabulary.english(), lambda samples: samples // 640, min_seconds=0.5
        ... )
        >>> [utterance.id for utterance in index], rejects[0].reason
        (['a'], 'shorter than 0.5 s')
    """
    index = utterances if isinstance(utterances, Index) else index_utterances(utterances)
    known = frozenset(vocabulary.symbols[1:])
    seconds, needed = index.seconds, index.frames_needed

    # A recording may be shorter than its manifest states by the tolerance of `load_audio`.
    shortest = np.maximum(0.0, seconds - TOLERANCE_SECONDS)
    samples = np.rint(np.rint(shortest * sample_rate) / fastest)
    short = samples < _fewest_samples(needed, frames, int(samples.max(initial=0)))
    outside = (seconds < min_seconds) | (seconds > max_seconds)
    # Only these utterances are read; `may_hold_unknown` can include a few that prove to be fine.
    candidates = (index.symbols == 0) | index.may_hold_unknown(known) | outside | short

    chosen = np.ones(len(index), dtype=np.bool_)
    rejects: list[Reject] = []
    for number in np.flatnonzero(candidates).tolist():
        utterance = index[number]
        reject = _find_reason(utterance, known, min_seconds, max_seconds)
        if reject is None and short[number]:
            given = frames(int(samples[number]))
            detail = f"needs {needed[number]} encoder frames, has {given} at speed {fastest:g}"
            reject = Reject(utterance.id, "too short for its text", detail)
        if reject is not None:
            rejects.append(reject)
            chosen[number] = False
    return (index.select(chosen) if rejects else index), rejects


def _find_reason(
    utterance: Utterance, known: frozenset[str], min_seconds: float, max_seconds: float
) -> Reject | None:
    """Why the text or the length of an utterance is rejected; None if both are acceptable."""
    name, length = utterance.id, f"{utterance.seconds:.2f} s"
    if not utterance.text:
        return Reject(name, "empty text")
    if unknown := set(utterance.text) - known:
        characters = " ".join(map(repr, sorted(unknown)))
        return Reject(name, "characters not in the vocabulary", characters)
    if utterance.seconds < min_seconds:
        return Reject(name, f"shorter than {min_seconds:g} s", length)
    if utterance.seconds > max_seconds:
        return Reject(name, f"longer than {max_seconds:g} s", length)
    return None


def _fewest_samples(needed: Indices, frames: Callable[[int], int], most: int) -> Indices:
    """The fewest samples that give each number of encoder frames; `most` + 1 if none do."""
    counts = np.bincount(needed)
    fewest = np.zeros(len(counts), dtype=np.int64)
    for number in np.flatnonzero(counts).tolist():
        fewest[number] = bisect_left(range(most + 1), number, key=frames)
    return fewest[needed]
