"""Judging attacks on updates, models, properties and attributes; the table of who could learn what."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from privet.attacks.contract import Reconstruction, Scores
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.exposure import exposures
from privet.evidence.verdicts import judge_attribute, judge_model, judge_property, judge_updates


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def updates_view() -> tuple[View, torch.Tensor, torch.Tensor]:
    truth, labels = normal(7, 4), torch.tensor([0, 1, 1, 2, 2, 0, 1])
    knows = {"inputs": normal(50, 4, seed=1), "labels": torch.arange(50) % 3}
    view = View(
        "coordinator", {"gradients": normal(2, 9), "counts": torch.tensor([3, 4])}, knows, shape=(4,), classes=3
    )
    return view, truth, labels


def test_updates_are_judged_in_whatever_order_the_attack_answers_but_not_across_devices():
    view, truth, labels = updates_view()
    shuffled = torch.tensor([2, 0, 1, 6, 5, 4, 3])
    answer = Reconstruction(truth[shuffled], labels[shuffled])
    found, ordered = judge_updates("x", view, answer, truth, labels)
    assert torch.equal(ordered, truth)
    assert found.metrics["error"] == 0
    assert found.metrics["reidentified"] == found.metrics["labels_found"] == 1
    across = Reconstruction(truth.flip(0), labels.flip(0))
    other, _ = judge_updates("x", view, across, truth, labels)
    assert other.metrics["error"] > 0
    # The first device's labels 0 1 1 met with 1 0 2, the second's 2 2 0 1 with 2 1 1 0.
    assert other.metrics["labels_found"] == pytest.approx((2 + 3) / 7)
    assert other.floor["labels_found_most_common"] == pytest.approx((1 + 1) / 7)


def test_matching_helps_a_blind_guess_and_the_floor_says_by_how_much():
    view, truth, labels = updates_view()
    found, _ = judge_updates("x", view, Reconstruction(truth.clone()), truth, labels)
    assert found.floor["reidentified"] == pytest.approx(1 / 7)
    assert found.floor["reidentified_own_rows"] > 1 / 7
    assert found.floor["error_own_rows"] > 0.5
    assert "labels_found" not in found.metrics


def test_updates_refuse_what_is_not_finite_or_of_another_shape():
    view, truth, labels = updates_view()
    for guess in (truth[:6], truth * torch.nan):
        with pytest.raises(InputError, match="the attack returned"):
            judge_updates("x", view, Reconstruction(guess), truth, labels)


def test_a_model_is_judged_on_the_classes_that_the_attacker_lacks():
    labels = torch.arange(40) % 4
    truth = torch.rand(40, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.2 + labels.view(-1, 1, 1, 1) / 5
    knows = {"inputs": truth[labels < 2], "labels": labels[labels < 2]}
    view = View("whoever has the global model", {}, knows, shape=(1, 12, 12), classes=4)
    means = torch.stack([truth[labels == label].mean(0) for label in range(4)])
    found, originals, drawn = judge_model("x", view, Reconstruction(means), truth, labels)
    torch.testing.assert_close(originals, means[2:])
    assert torch.equal(drawn, means[2:])
    assert found.metrics["ssim"] == pytest.approx(1, abs=1e-3)
    assert found.floor["ssim_other_class"] < 0.9
    everything = dataclasses.replace(view, knows={"inputs": truth, "labels": labels})
    with pytest.raises(InputError, match="every class"):
        judge_model("x", everything, Reconstruction(means), truth, labels)
    with pytest.raises(InputError, match="one finite input a class"):
        judge_model("x", view, Reconstruction(means[:3]), truth, labels)


def test_a_property_is_an_area_under_the_curve():
    truth = torch.tensor([True, False, True, False])
    view = View("coordinator", {})
    assert judge_property("x", view, Scores(torch.tensor([3.0, 1.0, 2.0, 0.0])), truth).metrics["auc"] == 1
    assert judge_property("x", view, Scores(torch.zeros(4)), truth).metrics["auc"] == 0.5


def attribute_view(count: int = 60) -> tuple[View, torch.Tensor]:
    rows = normal(count, 3)
    rows[:, 1] = (rows[:, 0] > 0).float()  # what the other columns give away needs no model
    own = normal(200, 3, seed=1)
    own[:, 1] = (own[:, 0] > 0).float()
    truth = rows[:, 1].long()
    seen = rows.clone()
    seen[:, 1] = 0
    knows = {"columns": torch.tensor([1]), "candidates": torch.tensor([[0.0], [1.0]]), "inputs": own}
    return View("anyone", {"inputs": seen, "labels": truth}, knows, shape=(3,), classes=2), truth


def test_an_attribute_is_judged_beside_what_the_other_columns_give_away():
    view, truth = attribute_view()
    right = torch.nn.functional.one_hot(truth, 2).double()
    found = judge_attribute("x", view, Scores(right), truth, (Scores(1 - right), truth))
    assert found.metrics["found"] == 1
    assert found.metrics["found_of_strangers"] == 0
    assert found.floor["found_nearest_record"] > 0.85
    assert 0.3 < found.floor["found_most_common"] < 0.7
    with pytest.raises(InputError, match="finite scores of shape"):
        judge_attribute("x", view, Scores(right[:, :1]), truth)


FINDINGS = [
    {"name": "weak", "view": "edge-server", "metrics": {"ssim": 0.3, "ssim_low": 0.2, "ssim_high": 0.4, "psnr": 9.0},
     "floor": {"ssim_mean": 0.25, "ssim_class_mean": 0.35}},
    {"name": "strong", "view": "edge-server", "metrics": {"ssim": 0.8, "ssim_low": 0.7, "ssim_high": 0.9},
     "floor": {"ssim_mean": 0.25, "ssim_class_mean": 0.35}},
    {"name": "tables", "view": "edge-server", "metrics": {"error": 0.5, "error_low": 0.4, "error_high": 0.6},
     "floor": {"error_mean": 1.0, "error_class_mean": 0.9}},
    {"name": "better-tables", "view": "edge-server", "metrics": {"error": 0.2, "error_low": 0.1, "error_high": 0.3},
     "floor": {"error_mean": 1.0}},
    {"name": "lira", "view": "whoever has the global model",
     "metrics": {"auc": 0.7, "auc_low": 0.65, "auc_high": 0.75, "tpr_at_1_percent_fpr": 0.1}, "floor": {"auc": 0.5}},
    {"name": "property", "view": "coordinator", "metrics": {"auc": 0.6, "auc_low": 0.4, "auc_high": 0.8},
     "floor": {"auc": 0.5}},
    {"name": "drawn", "view": "whoever has the global model", "metrics": {"ssim": 0.5, "reidentified": 1.0}},
    {"name": "strange", "view": None, "metrics": {"other": 1.0, "ssim": None}},
]  # fmt: skip


def test_the_worst_attacker_of_each_party_is_the_figure():
    rows = {(row.party, row.what): row for row in exposures(FINDINGS)}
    assert len(rows) == 5
    look = rows["edge-server", "what a record looks like"]
    assert (look.attack, look.figure, look.floor, look.beaten) == (
        "strong", "0.8 [0.7 to 0.9] (SSIM, 1 is equal)", "0.35", True,
    )  # fmt: skip
    assert rows["edge-server", "a record's values"].attack == "better-tables"
    assert rows["whoever has the global model", "whether a record was trained on"].attack == "lira"
    assert not rows["coordinator", "whether a device holds records of a kind"].beaten
    assert rows["whoever has the global model", "what records of a class have in common"].attack == "drawn"
    assert {row.attack: row for row in exposures(FINDINGS[::-1])} == {row.attack: row for row in exposures(FINDINGS)}
    assert exposures([]) == []


def test_the_floor_is_the_best_guess():
    (row,) = exposures([FINDINGS[2]])
    assert row.floor == "0.9"
