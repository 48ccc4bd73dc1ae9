"""Trouble that the metrics of a training show: blank collapse and divergence."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

COLLAPSE_EPOCHS = 3  # before that, every model says nothing but blanks
COLLAPSE_RATIO = 0.999  # of the dev set's frames
PROGRESS = 0.01  # relative fall of the dev loss that still is some
RISE = (
    1.2  # an epoch's loss over the lowest: that much, and so many nats per character, is no noise
)
RISE_NATS = 0.05
EXPLOSION = 10.0  # an epoch's mean gradient norm over the lowest


def diagnose(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with a training, by the rows of its epochs so far: lines for people, mostly none.

    Blank collapse: from the third epoch on, more than 99.9 % of the dev set's frames are blank or
    no utterance of it has a text, and the dev loss is not 1 % lower than in any epoch before.
    Divergence: the training loss was a fifth (and 0.05 nats per character) above the lowest in two
    epochs running, or it rises while the mean gradient norm is ten times the lowest.
    """
    lines: list[str] = []
    if not epochs:
        return lines
    last, before = epochs[-1], epochs[:-1]
    if (
        len(epochs) >= COLLAPSE_EPOCHS
        and (last["blank_ratio"] > COLLAPSE_RATIO or last["empty_ratio"] == 1)
        and last["dev_loss"] > (1 - PROGRESS) * min(row["dev_loss"] for row in before)
    ):
        lines.append(
            f"Blank collapse: {100 * last['blank_ratio']:.1f} % of the dev set's frames are blank, "
            f"{100 * last['empty_ratio']:.0f} % of its utterances have no text, and its loss no "
            "longer falls. Likely causes: training.learning_rate is too high, utterances are too "
            "long to begin with, masks and noise (augment) are too strong for so little data, or "
            "transcripts are wrong."
        )
    losses = [row["train_loss"] for row in epochs]
    # A checkpoint of before norms were written per epoch has none.
    norms = [row.get("gradient_norm", math.inf) for row in epochs]
    rises = [
        loss > max(RISE * lowest, lowest + RISE_NATS)
        for loss, lowest in zip(losses[1:], accumulate(losses, min), strict=False)
    ]
    if len(rises) >= 2 and rises[-1] and rises[-2]:
        symptom = f"the loss has been far above {min(losses):.3f}, the lowest, for two epochs"
    elif before and norms[-1] > EXPLOSION * min(norms[:-1]) and losses[-1] > min(losses[:-1]):
        symptom = (
            f"the loss rises, and the mean gradient norm, {norms[-1]:.1f}, is more than "
            f"{EXPLOSION:.0f} times the lowest, {min(norms[:-1]):.2f}"
        )
    else:
        return lines
    lines.append(
        f"Divergence: {symptom}. Likely causes: training.learning_rate is too high or "
        "training.warmup_steps too few, training.clip_norm is too high, or some transcripts are "
        "wrong."
    )
    return lines
