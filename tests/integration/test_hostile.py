"""Whole runs with hostile devices: what the rules stand, what is measured, what is remembered from round to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import privet
from privet.errors import DataError
from privet.study import robustness
from privet.study.experiment import prepare

TABLE: dict[str, Any] = {
    "name": "hostile",
    "reproducible": True,
    "data": {"name": "mnist-10k"},
    "fleet": {"devices": 12, "examples_per_device": 40},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"name": "fedsgd", "rounds": 4, "learning_rate": 0.5},
    "evidence": {"alone": False, "centralised": False},
}


def plan(aggregation: dict[str, Any], *hostile: dict[str, Any], **more: Any) -> privet.Plan:
    groups = [{"devices": 2, "behaviour": behaviour} for behaviour in hostile]
    return privet.Plan(**TABLE | {"aggregation": aggregation, "fleet": TABLE["fleet"] | {"hostile": groups}} | more)


@pytest.mark.parametrize("rule", [{"name": "foolsgold"}, {"name": "centred-clipping"}], ids=lambda rule: rule["name"])
def test_a_run_that_goes_on_remembers_what_its_rule_remembered(rule: dict[str, Any], tmp_path: Path) -> None:
    whole = privet.run(plan(rule, {"name": "slow-drift"}), out=tmp_path / "whole")

    def stop(event: str, **figures: Any) -> None:
        if event == "round" and figures["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        privet.run(plan(rule, {"name": "slow-drift"}), out=tmp_path / "stopped", progress=stop)
    resumed = privet.run(plan(rule, {"name": "slow-drift"}), resume=tmp_path / "stopped")
    assert resumed.metrics["digest"] == whole.metrics["digest"]
    assert resumed.metrics["rounds"][1]["accuracy"] == whole.metrics["rounds"][1]["accuracy"]


def test_colluding_devices_send_the_same_whatever_the_workers(tmp_path: Path) -> None:
    digests = set()
    for workers in (0, 2):
        one = plan({"name": "mean"}, {"name": "alie"}, {"name": "sybils"}, engine={"workers": workers})
        digests.add(privet.run(one, out=tmp_path / str(workers)).metrics["digest"])
    assert len(digests) == 1


def test_the_rows_that_the_coordinator_trusts_are_on_no_device() -> None:
    experiment = prepare(plan({"name": "fltrust", "examples": 50}))
    own = set(experiment.coordinator.trusted.shard.tolist())
    assert len(own) == 50
    assert all(own.isdisjoint(device.shard.tolist()) for device in experiment.devices)
    with pytest.raises(DataError, match="no rows left"):
        prepare(plan({"name": "fltrust", "examples": 8000}))


def test_a_backdoor_is_measured_beside_accuracy(tmp_path: Path) -> None:
    door = {"name": "backdoor", "boost": 6.0, "target": 7}
    run = privet.run(plan({"name": "mean"}, door, evidence={"alone": False}), out=tmp_path / "run")
    figures = run.metrics
    assert 0 <= figures["backdoor_floor"] < 0.3 < figures["backdoor_success"] <= 1
    assert [row["backdoor_success"] for row in figures["rounds"]][-1] == figures["backdoor_success"]
    assert "Backdoor success" in run.report.read_text()
    quiet = privet.run(plan({"name": "mean"}), out=tmp_path / "quiet").metrics
    assert quiet["backdoor_success"] is None


def test_the_default_rule_stands_every_attack() -> None:
    rows = list(robustness.matrix([robustness.DEFAULT], list(robustness.ATTACKS), ["by-label"], [1], rounds=30))
    assert {row["attack"] for row in rows} == set(robustness.ATTACKS)
    for row in rows:
        assert row["honest_accuracy"] - row["accuracy"] <= 0.1, row
        assert (row["backdoor_success"] or 0) <= 0.05, row
