"""Feature inversion's ways to recognise a record, its decoders, and the figures that come of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from privet.attacks import matchers
from privet.attacks.contract import Reconstruction
from privet.attacks.convolutional_inverse import ConvolutionalInverse
from privet.attacks.feature_inversion import FeatureInversion
from privet.attacks.linear_inverse import Pairs
from privet.attacks.neighbours import neighbours
from privet.attacks.principal import Principal
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import clopper_pearson, judge_reconstruction
from privet.models.fitting import Fitting
from privet.randomness import seeded

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noisy(clean: torch.Tensor, releases: int, kind: str, size: float, seed: int) -> torch.Tensor:
    draw = getattr(seeded(seed), kind)
    return clean[:, None] + size * draw((len(clean), releases, clean.shape[1]))


@pytest.mark.parametrize("kind", ["laplace", "normal"])
def test_likelihood_ranks_as_its_slow_twin(kind):
    clean, candidates = normal(300, 6), normal(15, 6, seed=1)
    own, seen = noisy(clean, 4, kind, 1.5, 2), noisy(candidates, 4, kind, 1.5, 3)
    scores = matchers.likelihood(own, clean, seen, candidates)
    noise = own - clean[:, None]
    shift = noise.mean((0, 1))
    noise = noise - shift
    for row in range(15):
        slow = []
        for other in range(15):
            left = seen[row] - shift - candidates[other]
            if kind == "laplace":
                slow.append(-float((left.abs() / noise.abs().mean((0, 1))).sum()))
            else:
                slow.append(-0.5 * float((left.square() / noise.square().mean((0, 1))).sum()))
        order = torch.tensor(slow).argsort(descending=True)
        assert torch.equal(scores[row].argsort(descending=True)[:5], order[:5])


def test_where_nothing_is_random_every_distinct_output_is_recognised():
    clean = normal(40, 3)
    candidates = normal(30, 3, seed=1)
    candidates[20:] = candidates[:10]  # ten outputs stand for two records each
    scores = matchers.likelihood(clean[:, None], clean, candidates[:, None], candidates)
    right = scores.gather(1, torch.arange(30)[:, None])[:, 0]
    assert torch.equal(right, scores.amax(1))
    assert (scores == scores.amax(1, keepdim=True)).sum(1).tolist() == [2] * 10 + [1] * 10 + [2] * 10


def test_under_laplace_noise_many_releases_recognise_what_one_does_not_and_a_shortlist_keeps_the_order():
    clean, candidates = normal(400, 20), normal(100, 20, seed=1)
    found = []
    for releases in (1, 16):
        own, seen = noisy(clean, releases, "laplace", 3.0, 2), noisy(candidates, releases, "laplace", 3.0, 3)
        scores = matchers.likelihood(own, clean, seen, candidates)
        assert torch.isfinite(scores).all()
        found.append(float((scores.argmax(1) == torch.arange(100)).double().mean()))
    assert found[0] < 0.6 < 0.9 < found[1]


def test_a_learned_matcher_recognises_what_it_was_not_told_how_to_compute():
    mixing = normal(12, 30, seed=5)
    own, theirs = normal(600, 12, seed=6), normal(80, 12, seed=7)

    def features(rows):
        return torch.tanh(rows @ mixing) + 0.05 * normal(len(rows), 30, seed=8)

    match = matchers.learned((features(own),), own, (features(theirs),), Fitting(30, 0.002, 64), seeded(0))
    scores = match(theirs)
    assert scores.shape == (80, 80)
    assert float((scores.argmax(1) == torch.arange(80)).double().mean()) > 0.6
    again = matchers.learned((features(own),), own, (features(theirs),), Fitting(30, 0.002, 64), seeded(0))
    assert torch.equal(scores, again(theirs))


def inversion(release: bool, labels: bool = True) -> tuple[View, torch.Tensor, torch.Tensor]:
    """Returns a view of a quantised, heavily noised release, which a decoder can hardly undo."""
    truth, own = normal(100, 8, seed=1), normal(300, 8, seed=2)
    mixing = normal(8, 40, seed=3)

    def clean(rows):
        return torch.sin(4 * rows @ mixing)

    view = View(
        party="edge-server",
        seen={"features": noisy(clean(truth), 2, "laplace", 0.3, 4)}
        | ({"labels": torch.arange(100) % 2} if labels else {}),
        knows={"inputs": own, "features": noisy(clean(own), 2, "laplace", 0.3, 5)}
        | ({"labels": torch.arange(300) % 2} if labels else {}),
        release=clean if release else None,
        shape=(8,),
        classes=2,
    )
    return view, truth, torch.arange(100) % 2


def test_the_worst_way_is_the_figure_and_its_interval_allows_for_the_choice():
    view, truth, labels = inversion(release=True)
    found = judge_reconstruction("x", view, FeatureInversion(epochs=2, width=16)(view, seeded(0)), truth, labels)
    ways = [found.metrics[f"reidentified_by_{way}"] for way in ("guess", "matcher", "likelihood")]
    assert found.metrics["reidentified"] == max(ways) == found.metrics["reidentified_by_likelihood"] > 0.95
    assert found.metrics["reidentified_by_guess"] < 0.3  # the learned inverse alone would have understated
    ends = clopper_pearson(round(100 * max(ways)), 100, 1 - 0.05 / 3)
    assert (found.metrics["reidentified_low"], found.metrics["reidentified_high"]) == ends
    assert found.floor["reidentified"] == 0.01
    assert found.floor["reidentified_label"] == found.floor["reidentified_by_likelihood_label"] == 0.02


def test_without_the_mechanism_nobody_computes_it_and_without_labels_there_is_no_floor_of_labels():
    view, truth, labels = inversion(release=False, labels=False)
    attack = FeatureInversion(epochs=2, width=16)
    found = judge_reconstruction("x", view, attack(view, seeded(0)), truth, labels)
    assert "reidentified_by_likelihood" not in found.metrics
    assert "reidentified_by_matcher" in found.metrics
    assert "reidentified_label" not in found.floor


def test_scores_of_another_shape_or_not_finite_are_refused_and_ties_are_broken_by_chance():
    view, truth, labels = inversion(release=False)
    for wrong in (torch.zeros(3, 3), torch.full((100, 100), torch.nan)):
        answer = Reconstruction(truth.clone(), matchers={"way": lambda candidates, wrong=wrong: wrong})
        with pytest.raises(InputError, match="one finite score"):
            judge_reconstruction("x", view, answer, truth, labels)
    tied = Reconstruction(0 * truth, matchers={"way": lambda candidates: torch.zeros(100, 100)})
    assert judge_reconstruction("x", view, tied, truth, labels).metrics["reidentified_by_way"] == 0.01


def test_neighbours_answer_with_the_inputs_of_the_nearest_pairs_of_the_label():
    pairs = Pairs(
        inputs=torch.tensor([[1.0], [2.0], [3.0], [4.0]]).double(),
        labels=torch.tensor([0, 0, 1, 1]),
        features=torch.tensor([[0.0], [10.0], [0.1], [10.1]]).double(),
        classes=2,
    )
    seen, labels = torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([0, 1, 1])
    assert neighbours(pairs, 1)(seen, labels).flatten().tolist() == [1.0, 3.0, 4.0]
    assert neighbours(pairs, 2)(seen, labels).flatten().tolist() == [1.5, 3.5, 3.5]
    assert neighbours(pairs, 99)(seen, labels).flatten().tolist() == [2.5, 2.5, 2.5]


def test_principal_directions_are_those_of_the_singular_values():
    rows = normal(200, 30) * 2.0 ** -torch.arange(30)
    found = Principal(rows, 4, seeded(0))(rows)
    _, _, turn = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    along = (rows - rows.mean(0)) @ turn[:4].T
    slow = along / along.std(0)
    torch.testing.assert_close(found.abs(), slow.abs(), atol=0.05, rtol=0.05)
    assert Principal(normal(3, 5), 9, seeded(0)).count == 3


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14)])
def test_the_convolutional_decoder_draws_images_of_any_size(shape):
    drawn = ConvolutionalInverse(6, shape)(normal(2, 6)).detach()
    assert drawn.shape == (2, shape[0] * shape[1] * shape[2])
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_several_decoders_are_tried_and_a_bent_release_is_not_left_to_the_linear_one():
    mixing = normal(6, 3, seed=1)

    def clean(rows):  # a code of a few possibilities: nothing linear undoes it, looking up does
        return torch.nn.functional.one_hot(((rows @ mixing) > 0).long() @ torch.tensor([1, 2, 4]), 8).float() @ normal(
            8, 5
        )

    truth, own = normal(150, 6, seed=2).sign(), normal(600, 6, seed=3).sign()
    view = View(
        "edge-server", {"features": clean(truth)}, {"inputs": own, "features": clean(own)}, shape=(6,), classes=1
    )
    labels = torch.zeros(150, dtype=torch.int64)
    found = judge_reconstruction("x", view, FeatureInversion()(view, seeded(0)), truth, labels).metrics
    blind = dataclasses.replace(view, seen={"features": clean(truth[torch.randperm(150)])})
    nothing = judge_reconstruction("x", blind, FeatureInversion()(blind, seeded(0)), truth, labels).metrics
    assert found["error_high"] < nothing["error_low"]
