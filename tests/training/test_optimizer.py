"""The optimizer takes the steps of torch.optim.AdamW."""

import pytest
import torch

from asr.training.optimizer import AdamW


def train(kind: type[torch.optim.AdamW]) -> tuple[list[torch.Tensor], dict]:
    """Ten steps, of which one is skipped, with the state saved and loaded in the middle."""
    torch.manual_seed(0)
    parameters = [torch.randn(4, 3, requires_grad=True), torch.randn(3, requires_grad=True)]

    def make() -> torch.optim.AdamW:
        groups = [
            {"params": parameters[:1], "weight_decay": 0.1},
            {"params": parameters[1:], "weight_decay": 0.0},
        ]
        return kind(groups, lr=0.01, fused=True)

    optimizer = make()
    for step in range(10):
        if step == 5:
            state = optimizer.state_dict()
            optimizer = make()
            optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
        ((parameters[0] @ parameters[1]).sin().sum() * step).backward()
        optimizer.found_inf = torch.tensor(float(step == 3))
        optimizer.step()
    return parameters, optimizer.state_dict()


def test_its_steps_are_those_of_torch() -> None:
    (ours, our_state), (theirs, their_state) = train(AdamW), train(torch.optim.AdamW)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert our_state["param_groups"] == their_state["param_groups"]
    for number, moments in their_state["state"].items():
        for name, values in moments.items():
            assert torch.equal(our_state["state"][number][name], values)


def test_hooks_are_called() -> None:
    parameter = torch.ones(1, requires_grad=True)
    optimizer = AdamW([parameter], lr=0.1)
    steps: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: steps.append("before"))
    optimizer.register_step_post_hook(lambda *_: steps.append("after"))
    parameter.sum().backward()
    optimizer.step()
    assert steps == ["before", "after"]
    assert parameter.item() == pytest.approx(0.9, abs=1e-2)
