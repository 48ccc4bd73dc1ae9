"""Detects blank collapse and divergence in the metrics of a training run."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

COLLAPSE_EPOCHS = 3  # in earlier epochs every model emits little but blanks
COLLAPSE_RATIO = 0.999  # a larger share of blank frames in the dev set is a collapse
PROGRESS = 0.01  # smallest relative fall of the dev loss that counts as progress
# A loss rises if it exceeds the lowest one by this factor and by this many nats per character.
RISE = 1.2
RISE_NATS = 0.05
EXPLOSION = 10.0  # a mean gradient norm that exceeds the lowest one by this factor explodes


def diagnose(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe what is wrong with a training run, given the metrics of its epochs; [] if all is well.

    Blank collapse: from the third epoch on, more than 99.9 % of the dev set's frames are blank or all
    its transcriptions are empty, and the dev loss has not fallen by 1 %.
    Divergence: in two consecutive epochs the training loss was 20 % (and 0.05 nats per character)
    above the lowest, or it rises while the mean gradient norm is ten times the lowest.
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
            f"{100 * last['empty_ratio']:.0f} % of its transcriptions are empty, and its loss no "
            "longer falls. Likely causes: training.learning_rate is too high, utterances are too "
            "long for the first epochs, masks and noise (augment) are too strong for the amount of "
            "data, or transcripts are wrong."
        )
    losses = [row["train_loss"] for row in epochs]
    # Old checkpoints have no gradient norm per epoch.
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
