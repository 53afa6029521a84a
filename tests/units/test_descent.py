"""Flat gradient descent against torch's own, and batches against their promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from privet.models.smart_home_cnn import SmartHomeCnn
from privet.randomness import seeded
from privet.training.descent import Descent, batches


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_steps_as_torch_sgd(momentum: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours = SmartHomeCnn().build((1, 8, 8), 3).to(memory_format=layout)
    theirs = SmartHomeCnn().build((1, 8, 8), 3)
    theirs.load_state_dict(ours.state_dict())
    descent, sgd = Descent(ours.parameters()), torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum)
    inputs, labels = torch.rand(16, 1, 8, 8), torch.randint(0, 3, (16,))
    for _ in range(4):
        nn.functional.cross_entropy(ours(inputs), labels).backward()
        descent.step(0.1, momentum)
        sgd.zero_grad()
        nn.functional.cross_entropy(theirs(inputs), labels).backward()
        sgd.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_reset_forgets_momentum() -> None:
    network = nn.Linear(2, 1)
    descent = Descent(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    descent.step(0.1, 0.9)
    descent.reset()
    before = descent.values.clone()
    descent.step(0.1, 0.9)
    assert torch.equal(descent.values, before)


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 129, 1000])
def test_batches_are_near_equal_and_cover_all(rows: int) -> None:
    parts = batches(rows, 64, seeded(1, rows))
    assert sorted(torch.cat(parts).tolist()) == list(range(rows))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat(batches(rows, 64)), torch.arange(rows))
