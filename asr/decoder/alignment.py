"""When was each word said? A known transcript laid over a recording's log-probabilities.

    hypothesis = align(log_probs, "what was said", vocabulary, frame_seconds=0.04)

Among all CTC paths that spell the text, the most probable one says in which frames each symbol is
(Viterbi; Kürzinger et al. 2020, "CTC-segmentation"). torchaudio finds it; it is loaded only here.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.decoder.config import BLANK_ID, check_log_probs
from asr.decoder.hypothesis import Hypothesis, Word
from asr.errors import DecodeError
from asr.text import Vocabulary, ctc_frames_needed

IMPOSSIBLE = -1e9  # in place of the log-probability of what cannot be


def align(
    log_probs: Any,
    text: str,
    vocabulary: Vocabulary,
    frame_seconds: float,
    where: str = "the transcript",
) -> Hypothesis:
    """The hypothesis whose words are those of `text`; times and confidence as `GreedyDecoder`'s.

    `log_probs`: (T', V) array or tensor of normalized natural log-probabilities. `text` is
    normalized already; white space around it and between its words counts as single spaces. The
    score is the log-probability of the best path that spells the text. `where` is named in errors.
    Memory grows with T' times U: half an hour of speech was measured to take 1.8 GB.

    Raises TextError for empty text or characters that the vocabulary lacks, DecodeError for
    log-probabilities that are none, for a text that does not fit into T' frames or is impossible in
    them, and where torchaudio cannot be loaded.
    """
    words = text.split()
    ids = vocabulary.encode(" ".join(words), where)
    frames = check_log_probs(log_probs, len(vocabulary))  # (T', V)
    _check_room(ids, len(frames), frame_seconds, where)
    path = _find_path(frames, ids)  # (T',)

    best = frames[np.arange(len(path)), path].astype(np.float64)  # (T',)
    if np.isneginf(best).any():
        raise DecodeError(
            f"{where} has probability 0 under these log-probabilities: align what was said"
        )
    starts = np.flatnonzero(np.diff(path, prepend=-1))  # (runs,)
    ends = np.append(starts[1:], len(path))
    highest = np.maximum.reduceat(best, starts)
    spoken = path[starts] != BLANK_ID
    starts, ends, highest = starts[spoken], ends[spoken], highest[spoken]  # (U,) each

    found = []
    letters = []  # the log-probabilities of each word's symbols
    first = 0
    for word in words:
        after = first + len(word)
        letters.append(highest[first:after])
        found.append(
            Word(
                text=word,
                start=int(starts[first]) * frame_seconds,
                end=int(ends[after - 1]) * frame_seconds,
                confidence=_posterior(letters[-1]),
            )
        )
        first = after + 1  # over the space
    return Hypothesis(
        text=" ".join(words),
        words=tuple(found),
        confidence=_posterior(np.concatenate(letters)),
        score=math.fsum(best),
    )


def _check_room(ids: list[int], frames: int, frame_seconds: float, where: str) -> None:
    needed = ctc_frames_needed(ids)
    if needed > frames:
        raise DecodeError(
            f"{where} needs {needed} frames ({needed * frame_seconds:.2f} s) for its {len(ids)} "
            f"characters and {needed - len(ids)} repeats, but the recording gives only {frames} "
            f"({frames * frame_seconds:.2f} s): check that they belong together"
        )


def _find_path(frames: NDArray[np.float32], ids: list[int]) -> NDArray[np.int64]:
    """The symbol of each frame (T',) on the best path through `frames` (T', V) that spells `ids`."""
    forced_align = _load_aligner()
    # In float64: the sum over an hour's frames leaves float32 too few digits to compare paths.
    # Bounded: where it meets -inf, the aligner leaves the trellis and reads foreign memory.
    log_probs = torch.from_numpy(frames).double().clamp(min=IMPOSSIBLE)
    labels, _ = forced_align(log_probs[None], torch.tensor([ids]), blank=BLANK_ID)
    path: NDArray[np.int64] = labels[0].numpy()
    return path


def _load_aligner() -> Callable[..., tuple[Tensor, Tensor]]:
    try:
        from torchaudio.functional import forced_align
    except (ImportError, OSError, RuntimeError) as error:  # the last two: built for another torch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DecodeError(
            f"forced alignment needs torchaudio, which cannot be loaded here ({reason}): install "
            f"the release that fits torch {torch.__version__}"
        ) from error
    aligner: Callable[..., tuple[Tensor, Tensor]] = forced_align
    return aligner


def _posterior(log_probs: NDArray[np.float64]) -> float:
    """The geometric mean of probabilities; rounding may leave one above 1."""
    return min(1.0, math.exp(log_probs.mean()))
