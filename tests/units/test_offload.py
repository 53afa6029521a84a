"""Selective offload: only what the device is not sure of leaves, and the share is the one that was asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privet.errors import InputError
from privet.inference.offload import Offload, accuracies, sureness, threshold

pytestmark = pytest.mark.usefixtures("one_thread")


class Elsewhere:
    """Answers class 2, and remembers what came."""

    def __init__(self) -> None:
        self.came: list[Tensor] = []

    def __call__(self, samples: Tensor) -> Tensor:
        self.came.append(samples.clone())
        return torch.tensor([0.0, 0.0, 9.0]).expand(len(samples), -1)


def own(samples: Tensor) -> Tensor:
    """Is surer of class 0 the larger the sample's first value."""
    return torch.stack([samples[:, 0], torch.zeros(len(samples)), torch.zeros(len(samples))], 1)


def test_only_the_unsure_leave_and_the_sure_are_answered_here() -> None:
    there = Elsewhere()
    samples = torch.linspace(0, 9, 10)[:, None]
    told = Offload(own, there, float(sureness(own(samples))[3])).answer(samples)
    assert told.left.tolist() == [True] * 3 + [False] * 7
    (came,) = there.came
    assert torch.equal(came, samples[:3])
    assert told.logits.argmax(1).tolist() == [2] * 3 + [0] * 7
    assert torch.equal(told.logits[3:], own(samples)[3:])


def test_where_all_are_sure_nobody_is_asked_and_nothing_is_told() -> None:
    there = Elsewhere()
    told = Offload(own, there, 0.0).answer(torch.rand(5, 1))
    assert there.came == []
    assert not told.left.any()
    assert Offload(own, there, 0.0).answer(torch.rand(0, 1)).logits.shape == (0, 3)


@settings(max_examples=40)
@given(st.integers(1, 50), st.floats(0, 1), st.integers(0, 2**31))
def test_the_share_of_the_held_out_rows_leaves(count: int, share: float, seed: int) -> None:
    held_out = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    offload = Offload.calibrated(own, Elsewhere(), held_out, share)
    assert int(offload.answer(held_out).left.sum()) == round(share * count)


def test_what_the_own_model_has_no_number_for_leaves() -> None:
    own = torch.tensor([[9.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]])
    answered = Offload(lambda _: own, lambda asked: torch.ones(len(asked), 2), 0.9).answer(torch.zeros(3, 1))
    assert answered.left.tolist() == [False, True, True]
    assert answered.logits[1:].tolist() == [[1, 1], [1, 1]]


def test_rows_as_sure_as_the_threshold_stay() -> None:
    assert threshold(torch.tensor([0.5, 0.5, 0.5, 0.9]), 0.5) == 0.5  # none leaves rather than all three
    assert threshold(torch.tensor([0.5, 0.5]), 1.0) == math.inf


@pytest.mark.parametrize(("rows", "share"), [(0, 0.5), (3, -0.1), (3, 1.1), (3, math.nan)])
def test_a_share_is_a_share_of_some_rows(rows: int, share: float) -> None:
    with pytest.raises(InputError, match="share"):
        threshold(torch.rand(rows), share)


def test_the_line_of_the_figure_against_its_slow_twin() -> None:
    generator = torch.Generator().manual_seed(1)
    here, there = torch.randn(2, 40, 3, generator=generator)
    labels = torch.randint(3, (40,), generator=generator)
    shares = [0.0, 0.1, 0.25, 0.5, 1.0]
    for share, figure in zip(shares, accuracies(here, there, labels, shares), strict=True):
        order = sorted(range(40), key=lambda at: float(sureness(here)[at]))
        gone = set(order[: round(share * 40)])
        right = sum(int((there if at in gone else here)[at].argmax() == labels[at]) for at in range(40))
        assert figure == pytest.approx(right / 40)
    assert accuracies(here, there, labels, [0.0, 1.0]) == pytest.approx(
        [float((each.argmax(1) == labels).double().mean()) for each in (here, there)]
    )
