"""What a run remembers besides the model is saved, checked and loaded again; devices' own accuracies."""

from __future__ import annotations

from pathlib import Path

import pytest

import privet
from privet import parts
from privet.errors import DataError, RunError
from privet.evidence.summary import plain_summary
from privet.evidence.wording import percent
from privet.ledger import Log
from privet.study.experiment import prepare
from privet.tensors import load, save

TABLE = {
    "name": "remembers",
    "seed": 5,
    "reproducible": True,
    "data": {"name": "digits"},
    "fleet": {"devices": 4, "partition": {"name": "by-label", "alpha": 0.3}, "examples_per_device": 60},
    "model": {"name": "mlp", "hidden": [16]},
    "evidence": {"alone": False, "centralised": False},
}


def plan_of(name: str, **more) -> privet.Plan:
    rounds = {} if name == "parallel-sgd" else {"rounds": 4}
    return privet.Plan.from_table(TABLE | {"training": {"name": name, "learning_rate": 0.1} | rounds} | more)


class PowerCutError(Exception):
    """Ends a run after a round, as a power cut would."""


def stop_after(number: int):
    def progress(event: str, **figures) -> None:
        if event == "round" and figures["round"] == number:
            raise PowerCutError

    return progress


@pytest.mark.parametrize("name", [name for name in parts.names("protocols") if name not in ("parallel-sgd",)])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, name: str) -> None:
    model = {"name": "smart-home-cnn", "normalisation": "none"}
    plan = plan_of(name, **({"model": model} if parts.find("protocols", name).cuts else {}))
    whole = privet.run(plan, out=tmp_path / "whole")
    with pytest.raises(PowerCutError):
        privet.run(plan, out=tmp_path / "cut", progress=stop_after(2))
    resumed = privet.run(plan, resume=tmp_path / "cut")
    for key in ("digest", "accuracy", "accuracy_personal"):
        assert resumed.metrics[key] == whole.metrics[key]
    remembered = [
        [record.body["memory"] for record in run.records if record.kind == "round"] for run in (whole, resumed)
    ]
    assert remembered[0] == remembered[1]
    kept = {path.name for path in (tmp_path / "whole").glob("memory-*")}
    assert kept == ({"memory-4.safetensors"} if remembered[0][-1] else set())


def test_a_memory_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    plan = plan_of("scaffold")
    with pytest.raises(PowerCutError):
        privet.run(plan, out=tmp_path / "run", progress=stop_after(2))
    path = tmp_path / "run" / "memory-2.safetensors"
    memory = load(path)
    memory["server.control"] += 1
    save(memory, path)
    with pytest.raises(RunError, match=r"memory-2 in .* is not what was recorded"):
        privet.run(plan, resume=tmp_path / "run")


def test_workers_carry_what_devices_keep(tmp_path: Path) -> None:
    digests = {
        privet.run(plan_of("ditto", engine={"workers": workers}), out=tmp_path / str(workers)).metrics["digest"]
        for workers in (0, 2)
    }
    assert len(digests) == 1


def test_own_models_fit_their_devices_better(tmp_path: Path) -> None:
    figures = {}
    for name in ("fedavg", "fine-tune", "ditto", "fedper"):
        figures[name] = privet.run(plan_of(name), out=tmp_path / name).metrics
    shared = figures["fedavg"]["accuracy_personal"]
    assert set(shared["devices"]) == {f"device-{k:03}" for k in range(4)}
    assert shared["worst"] == min(shared["devices"].values()) == shared["devices"][shared["worst_device"]]
    assert shared["worst"] <= shared["quartiles"][0] <= shared["quartiles"][1] <= shared["quartiles"][2]
    for name in ("fine-tune", "ditto", "fedper"):
        assert figures[name]["accuracy_personal"]["mean"] > shared["mean"], name


def test_cost_to_a_target_is_that_of_the_rounds_until_then(tmp_path: Path) -> None:
    plain = privet.run(plan_of("fedavg"), out=tmp_path / "plain").metrics
    assert plain["to_target"] is None
    target = max(row["accuracy"] for row in plain["rounds"])
    evidence = {"alone": False, "centralised": False, "target_accuracy": target}
    run = privet.run(plan_of("fedavg", evidence=evidence), out=tmp_path / "run")
    found = run.metrics["to_target"]
    rounds = Log(tmp_path / "run" / "records.jsonl").of("round")
    first = next(record.body for record in rounds if record.body["accuracy"] >= target)
    assert found["round"] == first["round"]
    until = [record.body for record in rounds if record.body["round"] <= first["round"]]
    assert found["seconds"] == pytest.approx(sum(body["modelled_seconds"] for body in until))
    ends = [body["parties"][f"device-{k:03}"] for body in until for k in range(4)]
    crossed = sum(end["sent"] + end["received"] for end in ends)
    assert found["bytes_per_device"] == crossed / 4
    assert found["joules_per_device"] > 0
    never = privet.run(plan_of("fedavg", evidence=evidence | {"target_accuracy": 0.999}), out=tmp_path / "never")
    assert never.metrics["to_target"]["round"] is None


def test_summary_and_report_tell_own_accuracies_and_the_cost_to_the_target(tmp_path: Path) -> None:
    evidence = {"alone": False, "centralised": False, "target_accuracy": 0.2}
    run = privet.run(plan_of("fine-tune", evidence=evidence), out=tmp_path / "run")
    own = run.metrics["accuracy_personal"]
    said = plain_summary(run.metrics)
    assert f"each device's own accuracy: mean {percent(own['mean'])}, worst {percent(own['worst'])}" in said
    assert "until each device's own accuracy was 20" in said
    page = run.report.read_text()
    assert "own accuracy" in page
    assert "Time to the target" in page


@pytest.mark.parametrize(
    "rule", [{"name": "fltrust", "examples": 40}, {"name": "foolsgold"}, {"name": "centred-clipping"}]
)
def test_what_a_rule_remembers_survives_a_power_cut(tmp_path: Path, rule: dict) -> None:
    plan = plan_of("fedavg", aggregation=rule, fleet=TABLE["fleet"] | {"examples_per_device": 120})
    whole = privet.run(plan, out=tmp_path / "whole")
    with pytest.raises(PowerCutError):
        privet.run(plan, out=tmp_path / "cut", progress=stop_after(2))
    assert privet.run(plan, resume=tmp_path / "cut").metrics["digest"] == whole.metrics["digest"]


def test_rows_that_the_coordinator_trusts_lie_on_no_device() -> None:
    experiment = prepare(plan_of("fedavg", aggregation={"name": "fltrust", "examples": 40}))
    trusted = experiment.coordinator.trusted
    assert trusted is not None
    assert trusted.examples == 40
    assert not any(set(trusted.shard) & set(device.shard) for device in experiment.devices)
    with pytest.raises(DataError, match="has no rows left"):
        prepare(plan_of("fedavg", aggregation={"name": "fltrust", "examples": 1437}))
