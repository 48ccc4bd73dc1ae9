"""Forced alignment: when each word of a known transcript was said.

    hypothesis = align(log_probs, "what was said", vocabulary, frame_seconds=0.04)

Among all CTC paths that spell the text, the most probable one shows in which frames each symbol
lies (Viterbi; Kürzinger et al. 2020, "CTC-segmentation"). torchaudio finds this path; it is
imported only when `align` is called.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asr.decoder.config import BLANK_ID, check_log_probs
from asr.decoder.greedy import find_runs, to_posterior
from asr.decoder.hypothesis import Hypothesis, Word
from asr.errors import DecodeError
from asr.text import Vocabulary, min_ctc_frames

IMPOSSIBLE = -1e9
"""Log-probability that stands in for minus infinity during the search."""


def align(
    log_probs: Any,
    text: str,
    vocabulary: Vocabulary,
    frame_seconds: float,
    where: str = "the transcript",
) -> Hypothesis:
    """Align `text` with the frames of an utterance.

    Memory grows with T' times U: half an hour of speech was measured to take 1.8 GB.

    Args:
        log_probs: (T', V) array or tensor of normalized natural log-probabilities.
        text: Normalized transcript. White space around it is ignored; between words it counts as
            a single space.
        vocabulary: Symbols of the model; symbol 0 is the blank.
        frame_seconds: Duration of an encoder frame in seconds.
        where: Name of the transcript in error messages.

    Returns:
        A hypothesis with the words of `text`. Their times and confidence are defined as those of
        `GreedyDecoder`; the score is the log-probability of the best path that spells the text.

    Raises:
        TextError: If the text is empty or contains characters that the vocabulary lacks.
        DecodeError: If `log_probs` is not normalized, the text does not fit into
            T' frames or has probability 0 there, or torchaudio cannot be imported.

    Example:
        for word in align(log_probs, "what was said", vocabulary, frame_seconds=0.04).words:
            print(word.text, word.start, word.end)
    """
    words = text.split()
    ids = vocabulary.encode(" ".join(words), where)
    frames = check_log_probs(log_probs, len(vocabulary))  # (T', V)
    needed = min_ctc_frames(ids)
    if needed > len(frames):
        raise DecodeError(
            f"{where} needs {needed} frames ({needed * frame_seconds:.2f} s) for its {len(ids)} "
            f"characters and {needed - len(ids)} repeats, but the recording gives only "
            f"{len(frames)} ({len(frames) * frame_seconds:.2f} s); check that they belong together"
        )
    path = _find_path(frames, ids)  # (T',)

    best = frames[np.arange(len(path)), path].astype(np.float64)  # (T',)
    if np.isneginf(best).any():
        raise DecodeError(
            f"{where} has probability 0 under these log-probabilities; "
            "check that it belongs to the recording"
        )
    starts, ends, highest = find_runs(path, best)
    is_symbol = path[starts] != BLANK_ID
    starts, ends, highest = starts[is_symbol], ends[is_symbol], highest[is_symbol]  # (U,) each

    found, first = [], 0
    symbols = []  # log-probabilities of the symbols of each word
    for word in words:
        after = first + len(word)
        symbols.append(highest[first:after])
        start, end = int(starts[first]) * frame_seconds, int(ends[after - 1]) * frame_seconds
        found.append(Word(word, start, end, to_posterior(symbols[-1].mean())))
        first = after + 1  # skip the space
    confidence = to_posterior(np.concatenate(symbols).mean())
    return Hypothesis(" ".join(words), tuple(found), confidence, math.fsum(best))


def _find_path(frames: NDArray[np.float32], ids: list[int]) -> NDArray[np.int64]:
    """The best path (T',) through `frames` (T', V) that spells `ids`."""
    try:
        from torchaudio.functional import forced_align
    except (ImportError, OSError, RuntimeError) as error:  # the last two: built for another torch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DecodeError(
            f"forced alignment needs torchaudio, which cannot be imported here ({reason}); install "
            f"the release that fits torch {torch.__version__}"
        ) from error
    # float64, because over an hour of frames float32 sums are too coarse to compare paths.
    # Clamped, because torchaudio reads out of bounds when it meets minus infinity.
    log_probs = torch.from_numpy(frames).double().clamp(min=IMPOSSIBLE)
    labels, _ = forced_align(log_probs[None], torch.tensor([ids]), blank=BLANK_ID)
    return np.asarray(labels[0])
