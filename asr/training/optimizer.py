"""AdamW without the start of PyTorch's compiler."""

from inspect import unwrap

import torch
from torch.optim import Adam, Optimizer


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, which starts two seconds sooner.

    The methods of PyTorch's optimizers are wrapped to cooperate with `torch.compile`, and the first
    call of any of them imports the whole compiler, in every process that trains. Nothing here is
    compiled, so this class takes the functions beneath the wrappers; the arithmetic is the same.

    Args:
        params: Parameters, or dictionaries of parameters and their options.
        lr: Learning rate.
        fused: Whether all weights are updated by one fused kernel.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    state_dict = unwrap(Optimizer.state_dict)
    step = torch.no_grad()(unwrap(Adam.step))
    zero_grad = unwrap(Optimizer.zero_grad)
