"""A finished run is attacked again from what its folder kept: one attack, all of them, and what can't be attacked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import privet
from privet import parts
from privet.errors import InputError, PartError, RunError
from privet.ledger import verify
from privet.study.intruder import attack_all, attack_run

COMMAND = [str(Path(sys.executable).with_name("privet"))]
PLAN = """
name = "meters"
seed = 2
reproducible = true
[data]
name = "csv"
path = "PATH"
target = "kind"
[fleet]
devices = 24
examples_per_device = 8
partition = { name = "by-label", alpha = 0.3, min_rows = 8 }
[model]
name = "mlp"
hidden = [24]
[training]
name = "split-federated"
rounds = 6
batch_size = 16
momentum = 0.0
learning_rate = 0.2
[views]
keep = ["edge-server", "coordinator"]
records = 120
[evidence]
alone = false
"""
NAMES = set(parts.names("attacks"))


def find_target(name: str) -> str:
    target: str = parts.find("attacks", name).target
    return target


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of meter readings: five numbers that go together, one of them yes or no, and what to predict."""
    path = tmp_path_factory.mktemp("data") / "meters.csv"
    mine = np.random.default_rng(0)
    hidden = mine.normal(size=(900, 3))
    rows = np.column_stack([hidden @ mine.normal(size=(3, 4)), hidden[:, 0] > 0, mine.integers(0, 2, 900)])
    kinds = np.digitize(hidden[:, 0] + rows[:, 5], [-0.5, 0.5, 1.5])
    lines = [",".join(f"{value:.4f}" for value in row) + f",k{kind}" for row, kind in zip(rows, kinds, strict=True)]
    path.write_text("a,b,c,d,yes,solar,kind\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = tmp_path_factory.mktemp("plan") / "plan.toml"
    plan.write_text(PLAN.replace("PATH", str(table)))
    return privet.run(privet.Plan.load(plan), out=plan.with_name("run")).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_every_attack_that_the_views_allow_runs_on_a_table_and_each_figure_has_a_floor(run: Path) -> None:
    done = subprocess.run([*COMMAND, "attack", str(run), "--all", "--json"], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert {entry["name"] for entry in said["attacks"]} | {entry["name"] for entry in said["not_run"]} == NAMES
    by_name = {entry["name"]: entry for entry in said["attacks"]}
    assert {"feature-inversion", "lira", "rmia", "attribute-inference", "property-inference"} <= set(by_name)
    for entry in said["attacks"]:
        assert entry["metrics"]
        assert entry["floor"]
        assert set(entry["interval"]) <= set(entry["metrics"])
    assert all(entry["why"] for entry in said["not_run"])
    inversion = by_name["feature-inversion"]
    assert inversion["view"] == "edge-server"
    assert inversion["interval"]["error"][1] < inversion["floor"]["error_class_mean"]
    assert inversion["metrics"]["reidentified_by_likelihood"] > 0.95
    assert inversion["metrics"]["reidentified"] >= inversion["metrics"]["reidentified_by_guess"]
    page = (run / "report.html").read_text()
    assert "Who could learn what" in page
    assert "a record&#39;s values" in page
    recorded = [record.body for record in verify(run / "records.jsonl") if record.kind == "attack"]
    assert [body["finding"]["name"] for body in recorded] == [entry["name"] for entry in said["attacks"]]


def test_one_attack_says_the_same_again_and_takes_the_place_of_what_it_said_before(run: Path) -> None:
    before = json.loads((run / "metrics.json").read_text())
    answers = []
    for _ in range(2):
        done = subprocess.run(
            [*COMMAND, "attack", str(run), "--name", "loss-threshold", "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert {"name", "view", "metrics", "floor", "interval"} <= set(answers[0])
    assert answers[0]["interval"]["auc"][0] <= answers[0]["metrics"]["auc"] <= answers[0]["interval"]["auc"][1]
    after = json.loads((run / "metrics.json").read_text())
    assert [attack["name"] for attack in after["attacks"]] == ["loss-threshold"]
    assert after["seconds"] == before["seconds"]
    assert len([record for record in verify(run / "records.jsonl") if record.kind == "attack"]) == 2


def test_one_partys_attacks_only(run: Path) -> None:
    outcomes = attack_all(run, party="edge-server")
    assert [each.name for each in outcomes] == [name for name in sorted(NAMES) if find_target(name) == "features"]
    ran = [each.name for each in outcomes if each.finding is not None]
    assert ran == ["contrastive", "feature-inversion", "fresh-inverse", "known-release", "repeats"]
    with pytest.raises(InputError, match="edge-server, coordinator, anyone"):
        attack_all(run, party="edge-sever")


def test_what_cannot_be_attacked_is_refused_in_one_line(run: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(PartError, match="feature-inversion"):
        attack_run(run, "feature-inversoin")
    with pytest.raises(RunError, match="no run at"):
        attack_run(tmp_path / "nowhere", "rmia")
    (run / "view-edge-server.safetensors").write_bytes((run / "view-coordinator.safetensors").read_bytes())
    with pytest.raises(RunError, match="not what was recorded"):
        attack_run(run, "feature-inversion")
    with (run / ".lock").open("a") as file:
        # A lock of this process would not keep it out: another process must hold it.
        holder = subprocess.Popen(
            [sys.executable, "-c", "import fcntl,sys; f=open(sys.argv[1],'a'); fcntl.lockf(f, fcntl.LOCK_EX);"
             "print('held', flush=True); sys.stdin.read()", file.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="at work"):
            attack_run(run, "rmia")
        holder.communicate()
    (run / "metrics.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        attack_run(run, "rmia")


def test_a_view_that_was_not_kept_names_the_plans_key(table: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("PATH", str(table)))
    few = ["views.keep=[]", "training.rounds=1", "evidence.centralised=false"]
    done = privet.run(privet.Plan.load(plan).with_settings(few), out=tmp_path / "run")
    for name, party in (("feature-inversion", "edge-server"), ("inverting-gradients", "coordinator")):
        with pytest.raises(RunError, match=f"add '{party}' to views.keep"):
            attack_run(done.path, name)
    command = [*COMMAND, "attack", str(done.path), "--name", "feature-inversion"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    attack_run(done.path, "loss-threshold")


@pytest.mark.parametrize("arguments", [[], ["--name", "rmia", "--all"], ["--name", "rmia", "--party", "anyone"]])
def test_either_one_attack_or_all(run: Path, arguments: list[str]) -> None:
    said = subprocess.run([*COMMAND, "attack", str(run), *arguments], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.startswith("privet: ")


def test_an_attack_of_the_plan_that_finds_nothing_to_attack_is_a_warning_not_the_end_of_the_run(
    table: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("PATH", str(table)) + '[[attacks]]\nname = "property-inference"\nlabel = 9\n')
    few = ["training.rounds=1", "evidence.centralised=false"]
    done = privet.run(privet.Plan.load(plan).with_settings(few), out=tmp_path / "run")
    assert done.metrics["attacks"] == []
    assert any("property-inference could not run: no device holds rows" in line for line in done.metrics["warnings"])
    assert "could not run" in done.report.read_text()
