"""Random sources: their distributions, their independence, and what a fork must not repeat."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from privet import randomness
from privet.randomness import Source, seeded, system

N = 100_000
both = pytest.mark.parametrize("rng", [seeded(5), system()], ids=["seeded", "system"])


def fits(sample: torch.Tensor | np.ndarray, law: Any) -> bool:
    """Whether a Kolmogorov-Smirnov test lets a law pass; it fails a right one once in a million runs."""
    return bool(stats.kstest(np.asarray(sample, dtype=np.float64).ravel(), law).pvalue > 1e-6)


@both
class TestDistributions:
    def test_uniform(self, rng: Source) -> None:
        sample = rng.uniform((N,))
        assert sample.dtype == torch.float64
        assert 0 < sample.min().item() < 1e-3
        assert 1 - 1e-3 < sample.max().item() <= 1
        assert fits(sample, "uniform")

    def test_normal(self, rng: Source) -> None:
        sample = rng.normal((N // 4, 4))
        assert (sample.dtype, sample.shape) == (torch.float32, (N // 4, 4))
        assert fits(sample, "norm")
        assert abs(np.corrcoef(sample.T.numpy())[0, 1]) < 0.04

    def test_laplace(self, rng: Source) -> None:
        sample = rng.laplace((N,))
        assert sample.dtype == torch.float32
        assert fits(sample, "laplace")
        assert abs((sample > 0).double().mean().item() - 0.5) < 0.01

    def test_integers(self, rng: Source) -> None:
        sample = rng.integers(7, N)
        counts = np.bincount(sample, minlength=7)
        assert len(counts) == 7
        assert stats.chisquare(counts).pvalue > 1e-6

    def test_permutation(self, rng: Source) -> None:
        orders = [rng.permutation(3) for _ in range(3000)]
        assert all(order.sort().values.tolist() == [0, 1, 2] for order in orders)
        _, counts = np.unique([tuple(order.tolist()) for order in orders], axis=0, return_counts=True)
        assert len(counts) == 6
        assert stats.chisquare(counts).pvalue > 1e-6

    def test_generators(self, rng: Source) -> None:
        assert fits(rng.numpy().random(N), "uniform")
        assert fits(torch.rand(N, generator=rng.generator()), "uniform")

    def test_no_and_odd_shapes(self, rng: Source) -> None:
        assert rng.uniform((0,)).shape == rng.normal((0, 3)).reshape(0).shape == (0,)
        assert rng.normal((3, 3)).shape == rng.laplace((3, 3)).shape == (3, 3)
        assert rng.normal(()).shape == ()

    def test_draws_differ(self, rng: Source) -> None:
        assert not torch.equal(rng.normal((8,)), rng.normal((8,)))
        assert rng.numpy().random() != rng.numpy().random()


class TestLaplaceEnds:
    @pytest.mark.parametrize(
        ("uniform", "expected"), [(0.5, 0.0), (1.0, 36.7368), (2.0**-53, -36.0437), (0.25, -0.6931)]
    )
    def test_it_is_finite_at_the_ends(self, monkeypatch: pytest.MonkeyPatch, uniform: float, expected: float) -> None:
        rng = seeded(1)
        monkeypatch.setattr(rng, "uniform", lambda shape: torch.full(shape, uniform, dtype=torch.float64))
        assert rng.laplace((1,)).item() == pytest.approx(expected, abs=1e-3)


class TestSeeded:
    def test_the_same_seed_gives_the_same_stream(self) -> None:
        for draw in ("uniform", "normal", "laplace"):
            assert torch.equal(getattr(seeded(3), draw)((9,)), getattr(seeded(3), draw)((9,)))
        assert seeded(3).reproducible

    def test_the_stream_of_a_seed_does_not_change_between_versions(self) -> None:
        assert seeded(1, "golden").integers(1000, 4).tolist() == [377, 201, 74, 527]
        assert seeded(1, "golden").numpy().integers(1000, size=4).tolist() == [251, 911, 860, 679]

    def test_paths_name_independent_streams(self) -> None:
        streams = [
            seeded(1), seeded(2), seeded(1, "a"), seeded(1, "b"), seeded(1, "a", "b"), seeded(1, "ab"), seeded(1, 1),
            seeded(1, "1"), seeded(1, "a", 1), seeded(1, "a1"), seeded(1).child("a").child("b").child("c"),
        ]  # fmt: skip
        assert len({stream.uniform((1,)).item() for stream in streams}) == len(streams)

    def test_a_child_does_not_depend_on_what_its_parent_drew(self) -> None:
        parent = seeded(1)
        before = parent.child("x", 2).normal((3,))
        parent.normal((100,))
        assert torch.equal(parent.child("x", 2).normal((3,)), before)


class TestSystem:
    def test_no_two_streams_are_alike(self) -> None:
        assert not system().reproducible
        streams = [system(), system(), system().child("a"), system().child("a")]
        assert len({stream.uniform((1,)).item() for stream in streams}) == 4

    def test_long_draws_do_not_repeat(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(randomness, "_CHUNK", bytes(64))
        assert len(system().uniform((1000,)).unique()) == 1000

    def test_a_forked_worker_does_not_repeat_its_parent(self) -> None:
        rng = system()
        rng.uniform((1,))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, rng.uniform((4,)).numpy().tobytes())
            os._exit(0)
        os.waitpid(child, 0)
        theirs = np.frombuffer(os.read(read, 32))
        ours = rng.uniform((4,)).numpy()
        os.close(read)
        os.close(write)
        assert len(theirs) == 4
        assert not set(theirs) & set(ours)
