"""Named tensors: round trips, a digest that names contents, and files that are never pickles."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privet import tensors
from privet.errors import InputError, RunError

STATE = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor(7, dtype=torch.int64),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}


def same(one: tensors.State, other: tensors.State) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


class TestVectors:
    def test_flatten_goes_by_name(self) -> None:
        assert tensors.flatten(STATE).tolist() == [7, 0, 1, 2, 3, 4, 5, 1, 1]
        assert tensors.flatten({}).shape == (0,)

    @settings(max_examples=25, derandomize=True)
    @given(st.dictionaries(st.sampled_from(["a", "a.b", "B", ""]), st.lists(st.integers(0, 3), max_size=3), max_size=4))
    def test_unflatten_undoes_flatten(self, shapes: dict[str, list[int]]) -> None:
        state = {name: torch.randn(shape) for name, shape in shapes.items()}
        assert same(tensors.unflatten(tensors.flatten(state), state), state)

    def test_clone_is_independent_and_detached(self) -> None:
        source = {"a": torch.randn(3, 2, requires_grad=True), "t": torch.randn(3, 2).T}
        copy = tensors.clone(source)
        assert same(copy, source)
        copy["a"].zero_()
        assert source["a"].abs().sum() > 0
        assert not copy["a"].requires_grad
        assert copy["t"].is_contiguous()

    def test_size(self) -> None:
        assert tensors.size_in_bytes(STATE.values()) == 24 + 8 + 4


class TestDigest:
    def test_it_does_not_depend_on_the_order_of_names(self) -> None:
        assert tensors.digest(STATE) == tensors.digest(dict(reversed(STATE.items())))

    def test_it_does_not_depend_on_the_layout_in_memory(self) -> None:
        value = torch.randn(4, 3, 2, 2)
        there = value.to(memory_format=torch.channels_last)
        assert tensors.digest({"x": value}) == tensors.digest({"x": there})

    def test_it_is_the_sha256_that_the_docstring_says(self) -> None:
        value = torch.tensor([1.0, -2.0])
        expected = hashlib.sha256(b"x:torch.float32:(2,):" + bytes.fromhex("0000803f000000c0")).hexdigest()
        assert tensors.digest({"x": value}) == expected

    def test_names_dtypes_shapes_and_values_all_count(self) -> None:
        states = [
            {"x": torch.zeros(4)}, {"y": torch.zeros(4)}, {"x": torch.zeros(2, 2)},
            {"x": torch.tensor([0, 0, 0, 1e-9])}, {"x": torch.zeros(4, dtype=torch.int32)},
            {"x": torch.zeros(2), "y": torch.zeros(2)},
            {"x": torch.zeros(4, dtype=torch.bfloat16)}, {"x": torch.tensor([-0.0, 0, 0, 0])}, {},
        ]  # fmt: skip
        assert len({tensors.digest(state) for state in states}) == len(states)


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        tensors.save(STATE, path)
        assert same(tensors.load(path), STATE)
        assert same(tensors.from_bytes(tensors.to_bytes(STATE)), STATE)
        assert list(tmp_path.iterdir()) == [path]

    def test_views_are_saved_by_value(self) -> None:
        whole = torch.arange(6.0).reshape(2, 3)
        state = {"row": whole[1], "turned": whole.T}
        assert same(tensors.from_bytes(tensors.to_bytes(state)), state)

    def test_a_failed_save_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "model.safetensors"
        tensors.save(STATE, path)

        def full(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(tensors.os, "fsync", full)
        with pytest.raises(OSError, match="disk full"):
            tensors.save({"a": torch.zeros(1)}, path)
        assert same(tensors.load(path), STATE)

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        torch.save(STATE, path)
        with pytest.raises(RunError, match="never opens pickles"):
            tensors.load(path)
        with pytest.raises(RunError, match="not a safetensors file"):
            tensors.from_bytes(pickle.dumps([1, 2, 3]))

    @pytest.mark.parametrize("cut", [0, 1, 7, 8, 40, -1])
    def test_damaged_files_are_refused(self, cut: int) -> None:
        with pytest.raises(RunError, match="not a safetensors file"):
            tensors.from_bytes(tensors.to_bytes(STATE)[:cut])

    def test_missing_files_folders_and_links_are_refused(self, tmp_path: Path) -> None:
        real, link = tmp_path / "real", tmp_path / "link"
        tensors.save(STATE, real)
        link.symlink_to(real)
        for path in (tmp_path / "none", tmp_path, link):
            with pytest.raises(RunError, match="is not a file"):
                tensors.load(path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"0.bias": None}, "0.bias has no values; allowed: shape \\(2,\\); take the weights"),
        ({"0.weight": torch.zeros(2, 4)}, "0.weight has values of shape \\(2, 4\\); allowed: shape \\(2, 3\\)"),
        ({"0.bias": torch.tensor([0.0, float("nan")])}, "0.bias has values that are infinite or no numbers; train"),
        ({"1.bias": torch.zeros(2)}, "1.bias has values of shape \\(2,\\); allowed: no such name"),
    ],
)
def test_values_of_another_network_change_nothing(changed, says) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    before = tensors.clone(network.state_dict())
    zeros = {name: torch.zeros_like(value) for name, value in before.items()} | changed
    with pytest.raises(InputError, match=says):
        tensors.fill(network, {name: value for name, value in zeros.items() if value is not None})
    assert same(network.state_dict(), before)
    tensors.fill(network, {"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)})
    assert not network(torch.ones(1, 3)).any()
