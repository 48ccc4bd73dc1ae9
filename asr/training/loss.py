"""The CTC loss, the consistency loss, and the schedule of the weight average."""

import torch
from torch import Tensor, nn

from asr.data.loading import Batch


def average_decay(step: int, decay: float) -> float:
    """The decay of the weights' average at `step` (from 0): (1 + step) / (10 + step), up to `decay`.

    At first the average covers about the last ninth of the steps, and later 1 / (1 - decay) steps. It
    thus forgets the random initial weights at once, and the poor early ones soon. Equal weights for
    all steps, as in Adam's bias correction, would keep them.
    """
    return min(decay, (1 + step) / (10 + step))


def ctc_losses(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Minus log P(targets | log_probs) of each utterance (B,), from Graves et al. 2006.

    log_probs: (B, T', V), of which the first lengths (B,) frames are valid; lengths is on the CPU.
    """
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1),  # (T', B, V)
        batch.targets.to(log_probs.device),  # (B, U)
        lengths,
        batch.target_lengths,
        reduction="none",
    )


def consistency_loss(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """The divergence between two views' log_probs (B, T', V) over lengths (B,) frames, in nats (B,).

    It is the mean of the Kullback-Leibler divergences in both directions, summed over the frames. Each
    view is a fixed target for the other one: gradients do not flow through the target (Yao et al.
    2024, "CR-CTC: Consistency regularization on CTC for improved speech recognition").
    """
    frames = torch.arange(first.shape[1]) < lengths[:, None]  # (B, T')
    pairs = ((first, second), (second, first))
    divergences = [
        nn.functional.kl_div(view, other.detach(), reduction="none", log_target=True).sum(2)
        for view, other in pairs
    ]
    return (torch.stack(divergences).mean(0) * frames.to(first.device)).sum(1)
