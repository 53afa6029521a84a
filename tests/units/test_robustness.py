"""The robustness matrix, its command, and the measure of backdoors."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from privet.apps.cli.main import privet
from privet.engines import Message
from privet.engines.colluding import Colluding
from privet.errors import InputError
from privet.fleet.behaviours.backdoor import Backdoor
from privet.fleet.behaviours.honest import Honest
from privet.fleet.behaviours.semantic_backdoor import SemanticBackdoor
from privet.study import robustness
from privet.study.at_once import AtOnce
from privet.study.backdoors import backdoor_success
from privet.study.experiment import prepare
from privet.training import LocalStep

ROW = {
    "aggregator",
    "attack",
    "partition",
    "seed",
    "accuracy",
    "honest_accuracy",
    "backdoor_success",
    "backdoor_floor",
}


def predict(inputs: torch.Tensor) -> torch.Tensor:
    """Answers 1 where the last value is 1, else 0."""
    return torch.nn.functional.one_hot((inputs[:, -1] == 1).long(), 3).float()


def test_backdoor_success_counts_rows_of_other_classes() -> None:
    inputs, labels = torch.zeros(4, 5), torch.tensor([0, 1, 2, 2])
    assert backdoor_success([Honest()], predict, inputs, labels) is None
    assert backdoor_success([Honest(), Backdoor(target=1, size=1)], predict, inputs, labels) == 1.0
    assert backdoor_success([Backdoor(target=2, size=1)], predict, inputs, labels) == 0.0
    assert backdoor_success([Backdoor(target=2, size=1), Backdoor(target=1)], predict, inputs, labels) == 1.0


def test_a_natural_trigger_counts_only_rows_that_carry_it() -> None:
    inputs, labels = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.8], [0.2, 1.0]]), torch.tensor([0, 0, 0, 1])
    assert backdoor_success([SemanticBackdoor(target=1, above=0.5)], predict, inputs, labels) == 0.5
    assert backdoor_success([SemanticBackdoor(target=1, above=5.0)], predict, inputs, labels) is None


def test_every_cell_is_a_sound_experiment() -> None:
    for attack in robustness.ATTACKS:
        experiment = prepare(robustness.plan_of("mean", attack, "by-label", 1, 1))
        hostile = [device for device in experiment.devices if device.behaviour.hostile]
        assert len(hostile) == (0 if attack == robustness.NOBODY else robustness.HOSTILE)
    for rule in robustness.AGGREGATORS:
        plan = robustness.plan_of(rule, robustness.NOBODY, "iid", 1, 1)
        assert plan.aggregator.minimum() <= robustness.DEVICES
        assert (plan.aggregator.trusts > 0) == ("fltrust" in rule)


@pytest.mark.parametrize("attack", ["none", "label-flip", "backdoor", "alie"])
def test_updates_computed_at_once_are_those_of_the_local_step(attack: str) -> None:
    experiment = prepare(robustness.plan_of("mean", attack, "by-label", 2, 1))
    task, state = experiment.task, experiment.task.network().state_dict()
    message = Message(3, state, "base")
    slow = {
        reply.device: reply for reply in experiment.coordinator.engine.ask(experiment.devices, LocalStep(task), message)
    }
    fast = list(Colluding(AtOnce(task), task.seed).ask(experiment.devices, LocalStep(task), message))
    assert {reply.device for reply in fast} == slow.keys()
    for reply in fast:
        assert (reply.round, reply.base) == (3, "base")
        torch.testing.assert_close(reply.tensors["update"], slow[reply.device].tensors["update"], rtol=1e-3, atol=1e-6)


def test_only_what_it_can_compute_is_computed_at_once() -> None:
    plan = robustness.plan_of("mean", "none", "iid", 1, 1)
    for setting in ("training.name=fedavg", "model.name=lenet", "model.hidden=[8, 8]"):
        with pytest.raises(InputError, match="one step of an MLP"):
            AtOnce(prepare(plan.with_settings([setting])).task)


def test_rows_compare_with_the_honest_run() -> None:
    rows = list(robustness.matrix(["mean"], ["sign-flip", "backdoor"], ["iid"], [1], rounds=3))
    assert [row["attack"] for row in rows] == ["sign-flip", "backdoor"]
    assert all(set(row) == ROW for row in rows)
    assert rows[0]["honest_accuracy"] == rows[1]["honest_accuracy"] > rows[0]["accuracy"]
    assert rows[0]["backdoor_success"] is None
    assert 0 <= rows[1]["backdoor_floor"] <= 1
    again = list(robustness.matrix(["mean"], ["sign-flip", "backdoor"], ["iid"], [1], rounds=3))
    assert rows == again


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"no row or column 'crumb'.*did you mean 'krum'"):
        next(robustness.matrix(["crumb"], ["none"], ["iid"], [1]))


def test_standing_is_the_mean_over_seeds_of_the_worst_attack() -> None:
    def row(attack: str, seed: int, accuracy: float, door: float | None = None) -> dict[str, object]:
        found = {"aggregator": "mean", "attack": attack, "partition": "iid", "seed": seed, "accuracy": accuracy}
        return found | {"honest_accuracy": 0.8 + seed / 10, "backdoor_success": door, "backdoor_floor": door and 0.01}

    rows = [row("none", 0, 0.8), row("none", 1, 0.9), row("a", 0, 0.5), row("a", 1, 0.7), row("b", 0, 0.8, 0.2)]
    (found,) = robustness.standing([*rows, row("b", 1, 0.8, 0.4)])
    assert found["honest_accuracy"] == pytest.approx(0.85)
    assert (found["worst_attack"], found["worst_accuracy"]) == ("a", pytest.approx(0.6))
    assert found["lost"] == pytest.approx(0.25)
    assert (found["backdoor_attack"], found["backdoor_success"]) == ("b", pytest.approx(0.3))
    assert found["backdoor_floor"] == pytest.approx(0.01)


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_a_row_a_cell(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "QUICK_ROUNDS", 2)
    words = ["bench", "robustness", "--quick", "--aggregator", "krum", "--attack", "none", "--attack", "quiet-backdoor"]
    done = CliRunner().invoke(privet, words + ["--json"] * as_json, catch_exceptions=False)
    assert done.exit_code == 0
    if as_json:
        said = json.loads(done.stdout)
        assert [row["attack"] for row in said] == ["none", "quiet-backdoor"]
        assert all(set(row) == ROW for row in said)
    else:
        assert "iid, seed 1: krum under quiet-backdoor: accuracy" in done.stdout
        assert "backdoor" in done.stdout.splitlines()[-2]
