"""Intervals against published or slow twins, floors and the form of findings."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from privet.attacks.contract import Reconstruction, Scores
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import auc, clopper_pearson, judge_membership, judge_reconstruction, mean_interval


def tail(low_to_high: range, trials: int, rate: float) -> float:
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in low_to_high)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (1, 100), (57, 100)])
def test_clopper_pearson_solves_the_binomial_tails(hits, trials):
    low, high = clopper_pearson(hits, trials)
    if hits:
        assert tail(range(hits, trials + 1), trials, low) == pytest.approx(0.025)
    else:
        assert low == 0
    if hits < trials:
        assert tail(range(hits + 1), trials, high) == pytest.approx(0.025)
    else:
        assert high == 1


def test_clopper_pearson_of_none_in_ten_in_closed_form():
    assert clopper_pearson(0, 10) == (0, pytest.approx(1 - 0.025**0.1))
    assert clopper_pearson(10, 10, confidence=0.9) == (pytest.approx(0.05**0.1), 1)


@pytest.mark.parametrize(("hits", "trials", "confidence"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_clopper_pearson_refuses(hits, trials, confidence):
    with pytest.raises(InputError):
        clopper_pearson(hits, trials, confidence)


def test_mean_interval():
    low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    reach = 1.959964 * math.sqrt(5 / 3) / 2
    assert (low, high) == (pytest.approx(2.5 - reach), pytest.approx(2.5 + reach))
    assert mean_interval(torch.tensor([0.5])) == (0.5, 0.5)


def test_auc_and_delong_equal_their_slow_twins():
    mine = torch.Generator().manual_seed(0)
    members = torch.rand(60, generator=mine) < 0.4
    scores = ((torch.randn(60, generator=mine) + members) * 4).round()  # rounded, so that there are ties
    inside, outside = scores[members].tolist(), scores[~members].tolist()
    wins = torch.tensor([[1.0 if x > y else 0.5 if x == y else 0.0 for y in outside] for x in inside]).double()
    spread = wins.mean(1).var() / len(inside) + wins.mean(0).var() / len(outside)
    area, low, high = auc(scores, members)
    assert area == pytest.approx(roc_auc_score(members.numpy(), scores.numpy()))
    assert area == pytest.approx(wins.mean().item())
    assert high - area == pytest.approx(1.959964 * math.sqrt(spread), rel=1e-6)
    assert area - low == pytest.approx(high - area)


def test_delong_covers_the_truth_about_as_often_as_it_says():
    truth = 0.5 * (1 + math.erf(1 / 2))  # of N(1, 1) against N(0, 1)
    mine, hits = torch.Generator().manual_seed(0), 0
    members = torch.arange(200) < 100
    for _ in range(2000):
        _, low, high = auc(torch.randn(200, generator=mine) + members, members)
        hits += low <= truth <= high
    assert 0.93 < hits / 2000 < 0.97


def test_a_complete_separation_has_an_interval_that_says_how_few_there_were():
    scores, members = torch.arange(20.0), torch.arange(20) >= 10
    assert auc(scores, members) == (1, pytest.approx(0.025**0.1), 1)
    assert auc(-scores, members) == (0, 0, pytest.approx(1 - 0.025**0.1))
    assert auc(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))[1] == pytest.approx(0.025)


def view(**changes) -> View:
    return View(**({"party": "coordinator", "seen": {}} | changes))


def test_membership_finding_has_exactly_its_keys():
    mine = torch.Generator().manual_seed(0)
    members = torch.arange(400) % 2 == 0
    scores = torch.randn(400, generator=mine)
    scores[members][:5] = 9
    found = judge_membership("rmia", view(), Scores(scores), members).to_json()
    assert list(found) == ["name", "view", "metrics", "floor", "note"]
    assert (found["name"], found["view"]) == ("rmia", "coordinator")
    figures = ("auc", "tpr_at_1_percent_fpr")
    assert set(found["metrics"]) == {f"{key}{end}" for key, end in itertools.product(figures, ("", "_low", "_high"))}
    assert found["floor"] == {"auc": 0.5, "tpr_at_1_percent_fpr": 0.01}
    assert "proves no guarantee" in found["note"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_true_positive_rate_lets_at_most_one_percent_of_the_others_pass():
    outside = torch.arange(200.0)
    inside = torch.tensor([197.5, 198.0, 196.5, 500.0])  # the threshold is 197: two of 200 lie above
    scores, members = torch.cat((inside, outside)), torch.arange(204) < 4
    metrics = judge_membership("x", view(), Scores(scores), members).metrics
    assert metrics["tpr_at_1_percent_fpr"] == 0.75
    assert (metrics["tpr_at_1_percent_fpr_low"], metrics["tpr_at_1_percent_fpr_high"]) == clopper_pearson(3, 4)
    tied = judge_membership("x", view(), Scores(torch.zeros(204)), members).metrics
    assert tied["tpr_at_1_percent_fpr"] == 0
    assert tied["auc"] == 0.5


@pytest.mark.parametrize(
    ("scores", "members"),
    [
        (torch.zeros(3), torch.tensor([True, False])),
        (torch.zeros(2), torch.tensor([True, True])),
        (torch.zeros(2), torch.tensor([False, False])),
        (torch.tensor([0, torch.nan]), torch.tensor([True, False])),
        (torch.zeros(2), torch.tensor([1, 0])),
    ],
)
def test_membership_refuses_what_it_cannot_judge(scores, members):
    with pytest.raises(InputError):
        judge_membership("x", view(), Scores(scores), members)


def pictures():
    mine = torch.Generator().manual_seed(0)
    truth, labels = torch.rand(40, 1, 12, 12, generator=mine), torch.arange(40) % 2
    truth[labels == 1] *= 0.3
    return truth, labels, {"inputs": truth.flip(0).clone(), "labels": labels.flip(0)}


def bright(inputs):
    dark = inputs.flatten(1).mean(1) < 0.3
    return torch.stack((~dark, dark), 1).float()


def test_a_perfect_reconstruction_and_every_floor():
    truth, labels, knows = pictures()
    seen = view(seen={"labels": labels}, knows=knows, shape=(1, 12, 12), classes=2)
    found = judge_reconstruction("feature-inversion", seen, Reconstruction(truth.clone()), truth, labels, bright)
    assert found.metrics["ssim"] == pytest.approx(1)
    assert found.metrics["ssim_95th"] == pytest.approx(1)
    assert found.metrics["psnr"] == 100
    assert (found.metrics["reidentified"], found.metrics["label_accuracy"]) == (1, 1)
    assert (found.metrics["reidentified_low"], found.metrics["reidentified_high"]) == clopper_pearson(40, 40)
    assert found.floor["reidentified"] == 1 / 40
    assert found.floor["label_accuracy"] == 1 / 2
    assert found.floor["label_accuracy_class_mean"] == 1
    assert found.floor["reidentified_class_mean"] <= 2 / 40
    for kind in ("black", "mean", "class_mean"):
        assert {f"{key}_{kind}" for key in ("ssim", "psnr", "reidentified", "label_accuracy")} <= found.floor.keys()
        assert found.floor[f"ssim_{kind}"] < found.floor[f"ssim_95th_{kind}"] < 0.6
    assert found.floor["psnr_class_mean"] > found.floor["psnr_mean"] > found.floor["psnr_black"]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


def test_the_class_mean_is_no_fair_guess_where_labels_were_not_seen():
    truth, labels, knows = pictures()
    found = judge_reconstruction(
        "x", view(knows=knows, shape=(1, 12, 12), classes=2), Reconstruction(truth), truth, labels
    )
    assert {"ssim_black", "ssim_mean"} <= found.floor.keys()
    assert "ssim_class_mean" not in found.floor
    assert "label_accuracy" not in found.metrics


def test_guesses_of_other_records_reidentify_nobody():
    truth, labels, knows = pictures()
    moved = Reconstruction(truth.roll(1, 0))
    found = judge_reconstruction("x", view(knows=knows, shape=(1, 12, 12), classes=2), moved, truth, labels)
    assert found.metrics["reidentified"] == 0


def test_the_error_of_guessing_the_mean_of_vectors_is_one():
    mine = torch.Generator().manual_seed(0)
    truth = torch.randn(500, 3, generator=mine) * torch.tensor([1.0, 100.0, 0.0]) + 5
    seen = view(knows={"inputs": truth}, shape=(3,), classes=0)
    found = judge_reconstruction("x", seen, Reconstruction(truth.clone()), truth, torch.zeros(500))
    assert found.metrics["error"] == pytest.approx(0, abs=1e-6)
    assert found.metrics["correlation"] == pytest.approx(1)
    assert 0.8 < found.floor["error_mean"] <= 1
    assert found.floor["correlation_mean"] == pytest.approx(0, abs=1e-4)


def test_reconstruction_refuses_other_shapes_and_nan():
    truth, labels, knows = pictures()
    seen = view(knows=knows, shape=(1, 12, 12), classes=2)
    for guess in (truth[:-1], truth.flatten(1), truth + torch.nan):
        with pytest.raises(InputError):
            judge_reconstruction("x", seen, Reconstruction(guess), truth, labels)
