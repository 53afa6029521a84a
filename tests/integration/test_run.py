"""Whole runs through the command and the library: figures, resuming after a kill, refusal of what was tampered with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import privet
from privet.errors import RefusedError, RunError
from privet.fleet import Data
from privet.inference.obfuscation import Trained
from privet.ledger import verify
from privet.tensors import digest, load, save

Call = Callable[..., tuple[int, str, str]]
COMMAND = [str(Path(sys.executable).with_name("privet"))]
PLAN = """
name = "small-home"
seed = 3
reproducible = true
[data]
name = "mnist-10k"
[fleet]
devices = 5
examples_per_device = 80
hostile = [{ devices = 1, behaviour = { name = "sign-flip", factor = 5.0 } }]
[model]
name = "smart-home-cnn"
normalisation = "batch"
[training]
name = "split-federated"
rounds = 3
local_epochs = 1
batch_size = 16
[mechanisms]
on_device = [{ name = "bounded-normalisation", over = "batch" }, { name = "laplace", epsilon_per_coordinate = 2.0 }]
[aggregation]
name = "multi-krum"
byzantine = 1
[views]
keep = ["edge-server"]
records = 40
"""
ATTACKS = '[[attacks]]\nname = "loss-threshold"\n[[attacks]]\nname = "feature-inversion"\nepochs = 2\n'
QUIET = ["evidence.alone=false", "evidence.centralised=false"]


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def small(*settings: str) -> privet.Plan:
    import tomllib

    return privet.Plan.from_table(tomllib.loads(PLAN)).with_settings([*QUIET, *settings])


def test_the_command_ends_with_one_json_object(tmp_path: Path, plan_file: Path) -> None:
    plan_file.write_text(PLAN + ATTACKS)
    out = tmp_path / "run"
    done = subprocess.run(
        [*COMMAND, "run", str(plan_file), "--json", "--out", str(out), "--set", "training.rounds=2"],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert said["run"] == str(out)
    assert said["digest"] == digest(load(out / "model.safetensors"))
    assert 0 <= said["accuracy"] <= 1
    assert 0 <= said["accuracy_alone_mean"] <= 1
    assert 0 <= said["accuracy_centralised"] <= 1
    assert said["seconds"] > 0
    assert said["bytes_per_device"] > 80 * 2 * 2 * 3920 * 4
    assert {entry["device"] for entry in said["rejected"]} == {"device-004"}
    assert all({"device", "round", "reason"} <= entry.keys() for entry in said["rejected"])
    fields = {"claim", "unit", "relation", "epsilon", "delta", "releases", "accountant"}
    assert all(fields <= entry.keys() for entry in said["guarantees"])
    assert [entry["epsilon"] for entry in said["guarantees"] if entry["unit"] == "coordinate"] == [2.0]
    assert {entry["name"] for entry in said["attacks"]} == {"loss-threshold", "feature-inversion"}
    assert all({"name", "view", "metrics", "floor"} <= entry.keys() for entry in said["attacks"])
    assert "round 2/2" in done.stderr
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "device-004" in page


def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, plan_file: Path) -> None:
    settings = [argument for setting in (*QUIET, "training.rounds=6") for argument in ("--set", setting)]
    run = [*COMMAND, "run", str(plan_file), *settings]
    out = tmp_path / "killed"
    process = subprocess.Popen([*run, "--out", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    records = out / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (records.is_file() and records.read_text().count('"kind": "round"') >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([*run, "--resume", str(out), "--json"], capture_output=True, text=True, check=True)
    whole = privet.run(small("training.rounds=6"), out=tmp_path / "whole")
    assert json.loads(done.stdout)["digest"] == whole.metrics["digest"]
    rounds = [record.body["round"] for record in verify(records) if record.kind == "round"]
    assert rounds == [1, 2, 3, 4, 5, 6]


def test_the_model_of_a_run_answers_elsewhere(tmp_path: Path, call: Call) -> None:
    table = {"name": "whole", "seed": 3, "data": {"name": "digits"}, "fleet": {"devices": 4}, "model": {"name": "mlp"}}
    plan = privet.Plan(**table, training={"name": "fedavg", "rounds": 2}).with_settings(QUIET)
    ran = privet.run(plan, out=tmp_path / "run")
    kept, data = Trained.load(tmp_path / "run"), plan.dataset.load()
    answers = kept.answer(torch.from_numpy(data.test_inputs)).argmax(1)
    assert float((answers == torch.from_numpy(data.test_labels)).double().mean()) == ran.metrics["accuracy"]
    status, said, _ = call("export", tmp_path / "run", "--out", tmp_path / "model.onnx", "--json")
    assert status == 0
    assert json.loads(said)["samples"] == 512  # random ones, and the data set's own
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_a_model_with_a_mechanism_in_its_middle_is_not_taken_for_whole(tmp_path: Path, call: Call) -> None:
    privet.run(small("training.rounds=1"), out=tmp_path / "run")
    status, _, said = call("export", tmp_path / "run", "--out", tmp_path / "model.onnx")
    assert status == 2
    assert "answers by itself" in said
    assert not (tmp_path / "model.onnx").exists()


def test_workers_change_no_bit(tmp_path: Path) -> None:
    digests = {
        workers: privet.run(small(f"engine.workers={workers}"), out=tmp_path / str(workers)).metrics["digest"]
        for workers in (0, 2)
    }
    assert digests[0] == digests[2]


def test_a_sign_flipper_harms_the_mean_and_not_multi_krum(tmp_path: Path) -> None:
    settings = ["fleet.examples_per_device=400", "training.rounds=4", "training.local_epochs=2"]
    robust = privet.run(small(*settings), out=tmp_path / "robust").metrics
    naive = privet.run(small(*settings, "aggregation.name=mean"), out=tmp_path / "naive").metrics
    assert robust["accuracy"] > naive["accuracy"] + 0.2
    assert not naive["rejected"]


def test_own_data_partition_and_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    inputs = (rng.normal(size=(120, 4)) + 3 * labels[:, None]).astype(np.float32)
    data = Data(inputs[:90], labels[:90], inputs[90:], labels[90:], 3, "blobs")
    plan = privet.Plan(
        name="own",
        data={"name": "digits"},
        fleet={"devices": 3},
        model={"name": "mlp"},
        training={"name": "fedavg", "rounds": 10, "local_epochs": 20, "learning_rate": 0.1},
    )
    shards = [np.arange(30), np.arange(30, 60), np.arange(60, 90)]
    made = []

    def network(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        made.append((shape, classes))
        return torch.nn.Linear(*shape, classes)

    done = privet.run(plan, out=tmp_path / "own", data=data, partition=shards, model=network)
    assert made[0] == ((4,), 3)
    assert done.metrics["accuracy"] > 0.8
    assert done.metrics["accuracy_centralised"] > 0.8
    assert "data, partition, model" in done.metrics["warnings"][-1]
    assert done.model["module.weight"].shape == (3, 4)
    assert done._repr_html_().startswith("<!")
    assert done.records[0].kind == "plan"


def test_absent_devices_are_named_and_the_run_goes_on(tmp_path: Path) -> None:
    settings = ["fleet.availability.name=random", "fleet.availability.participation=0.7", "aggregation.name=mean"]
    rounds = privet.run(small(*settings, "training.rounds=5"), out=tmp_path / "run").metrics["rounds"]
    assert any(entry["missing"] for entry in rounds)
    assert all(entry["replies"] + len(entry["missing"]) == 5 for entry in rounds)


def test_no_round_with_enough_replies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no round had enough sound replies"):
        privet.run(small("engine.deadline=0.001"), out=tmp_path / "run")


def test_nan_sender_is_left_out(tmp_path: Path) -> None:
    done = privet.run(
        small("fleet.hostile.0.behaviour.name=nan-sender", "aggregation.name=mean", "training.rounds=1"),
        out=tmp_path / "run",
    )
    assert "not finite" in done.metrics["rejected"][0]["reason"]
    assert all(value.isfinite().all() for value in done.model.values())


def test_resuming_refuses_other_plans_tampered_checkpoints_and_records(tmp_path: Path) -> None:
    out = tmp_path / "run"
    privet.run(small("training.rounds=1"), out=out)
    with pytest.raises(RunError, match="another plan"):
        privet.run(small("training.rounds=2"), resume=out)
    with pytest.raises(RunError, match="exists already"):
        privet.run(small(), out=out)
    with pytest.raises(RunError, match="no run to resume"):
        privet.run(small(), resume=tmp_path / "nowhere")
    state = privet.run(small("training.rounds=1"), resume=out).model
    save({name: value + 1 for name, value in state.items()}, out / "checkpoint-1.safetensors")
    with pytest.raises(RunError, match="is not what was recorded"):
        privet.run(small("training.rounds=1"), resume=out)
    text = (out / "records.jsonl").read_text()
    (out / "records.jsonl").write_text(text.replace('"accuracy": 0.', '"accuracy": 1.', 1))
    with pytest.raises(RunError, match="does not verify"):
        privet.run(small("training.rounds=1"), resume=out)


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(privet.errors.InputError, match="rows"):
        privet.run(small("fleet.examples_per_device=100000"), out=out)
    assert not out.exists()
