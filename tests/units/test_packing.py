"""Packing loses nothing, saves bytes where it can, and takes nothing on trust; rounding keeps its error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privet.engines.packing import BLOCK, exponents_of, off_grid, on_grid, pack, unpack
from privet.errors import RunError
from privet.tensors import size_in_bytes
from privet.training.protocols.int8_sgd import Int8Sgd

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def size(vector: torch.Tensor) -> int:
    return size_in_bytes(pack(vector).values())


@given(arrays("float32", st.integers(0, 600), elements=FLOATS))
@settings(max_examples=60)
def test_every_bit_comes_back(values: object) -> None:
    vector = torch.tensor(values)
    back = unpack(pack(vector), len(vector))
    assert torch.equal(vector.view(torch.int32), back.view(torch.int32))


@given(arrays("float32", st.integers(1, 600), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(max_examples=60)
def test_rounding_is_off_by_half_a_step_at_most_and_again_by_nothing(values: object) -> None:
    vector = torch.tensor(values)
    exponents = exponents_of(vector)
    rounded = off_grid(on_grid(vector, exponents), exponents)
    steps = torch.ldexp(torch.ones(exponents.shape), exponents.int()).repeat_interleave(BLOCK)[: len(vector)]
    assert ((vector - rounded).abs() <= steps / 2).all()
    again = exponents_of(rounded)
    assert torch.equal(off_grid(on_grid(rounded, again), again), rounded)


def test_the_bytes_that_are_saved() -> None:
    dense = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    exponents = exponents_of(dense)
    rounded = off_grid(on_grid(dense, exponents), exponents)
    assert size(dense) == 40_000
    assert size(rounded) == 10_000 + 40
    sparse = torch.zeros(10_000)
    sparse[::10] = dense[::10]
    assert size(sparse) == 1000 * 8 + 8
    kept = dense[::10]
    sparse[::10] = off_grid(on_grid(kept, exponents_of(kept)), exponents_of(kept))
    assert size(sparse) <= 1000 * 5 + 4 + 8
    assert torch.equal(unpack(pack(sparse), 10_000), sparse)


@pytest.mark.parametrize(("share", "sent"), [(1.0, 1000 + 4), (0.1, 100 * 5 + 1)])
def test_what_rounding_loses_comes_with_later_updates(share: float, sent: int) -> None:
    protocol, updates = Int8Sgd(share=share), torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)) + 0.3
    arrived, memory = torch.zeros(1000), {}
    for update in updates:
        lesson = SimpleNamespace(memory=memory, kept={})
        arrives, carried = protocol.upload(protocol.reply(update, lesson), lesson)
        assert size_in_bytes(carried.values()) == sent
        assert size(arrives) <= sent + 8
        arrived += arrives
        memory = lesson.kept
    # What is still owed is what the device holds back, and it does not grow with the rounds.
    assert torch.allclose(arrived + memory["rest"], updates.sum(0), atol=1e-3)
    assert memory["rest"].abs().max() < (0.05 if share == 1 else 20)


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"bytes": torch.zeros(3, dtype=torch.int8)},
        {"values": torch.ones(2), "places": torch.tensor([0, 9]), "length": torch.tensor([3])},
        {"values": torch.ones(2), "places": torch.tensor([-1, 1]), "length": torch.tensor([3])},
        {"values": torch.ones(2), "places": torch.tensor([1, 1]), "length": torch.tensor([3])},
        {"values": torch.ones(1), "places": torch.tensor([0, 1]), "length": torch.tensor([3])},
        {"values": torch.ones(1), "places": torch.tensor([0]), "length": torch.tensor([10**12])},
        {"values": torch.ones(1), "places": torch.tensor([0]), "length": torch.tensor([1, 2])},
        {"values": torch.ones(1), "places": torch.tensor([0])},
    ],
)
def test_what_is_no_packed_vector_is_refused(packed: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RunError, match="no packed vector"):
        unpack(packed, 100)


def test_what_is_no_float32_vector_stays_as_it_is() -> None:
    for vector in (torch.zeros(9, dtype=torch.float64), torch.zeros(3, 3), torch.tensor([-0.0, 0.0])):
        assert list(pack(vector)) == ["vector"]
