"""The CTC loss, the consistency loss, and the schedule of the weight average."""

import torch
from torch import Tensor, nn

from asr.data.loading import Batch


def average_decay(step: int, decay: float) -> float:
    """The decay of the weights' average at `step` (from 0): (1 + step) / (10 + step), up to `decay`.

    So the average reaches over about the last ninth of the steps until that is 1 / (1 - decay) steps:
    it forgets the random weights at once, and the poor early ones in time. (Averaging all steps
    alike until then, as Adam corrects its moments, would keep them.)
    """
    return min(decay, (1 + step) / (10 + step))


def ctc_losses(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Minus log P(targets | log_probs) of each utterance, (B,) (Graves et al. 2006).

    log_probs: (B, T', V), of which the first lengths (B,) frames are valid; lengths on the CPU.
    """
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1),  # (T', B, V)
        batch.targets.to(log_probs.device),  # (B, U)
        lengths,
        batch.target_lengths,
        reduction="none",
    )


def consistency_loss(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """How differently two log_probs (B, T', V) see the first lengths (B,) frames, in nats: (B,).

    The mean of the Kullback-Leibler divergences in both directions, summed over the frames; each view
    is drawn to the other one as that is, the other's gradient being held back (Yao et al. 2024,
    "CR-CTC: Consistency regularization on CTC for improved speech recognition").
    """
    frames = torch.arange(first.shape[1]) < lengths[:, None]  # (B, T')
    pairs = ((first, second), (second, first))
    found = [
        nn.functional.kl_div(view, other.detach(), reduction="none", log_target=True).sum(2)
        for view, other in pairs
    ]
    return (torch.stack(found).mean(0) * frames.to(first.device)).sum(1)
