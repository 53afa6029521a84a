"""Faults that a stranger meets: models with state, shards of one row, a full disk, two processes, tampered files."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import privet
from privet.engines import InProcess, Message, Reply
from privet.errors import DataError, PartError, PlanError, RunError
from privet.fleet import Data
from privet.ledger import verify
from privet.tensors import load, save


def blobs(rows: int = 60) -> Data:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, rows)
    inputs = (rng.normal(size=(rows, 4)) + 3 * labels[:, None]).astype(np.float32)
    half = rows // 2
    return Data(inputs[:half], labels[:half], inputs[half:], labels[half:], 3, "blobs")


def plan(*settings: str) -> privet.Plan:
    return privet.Plan(
        name="faults",
        reproducible=True,
        data={"name": "digits"},
        fleet={"devices": 3},
        model={"name": "mlp"},
        training={"name": "fedavg", "rounds": 2, "batch_size": 8, "learning_rate": 0.1},
        evidence={"alone": False, "centralised": False},
    ).with_settings(settings)


def counting(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(*shape, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, classes))


def test_batch_norm_counters_stay_out_and_dropout_repeats(tmp_path: Path) -> None:
    done = [
        privet.run(plan(f"engine.workers={workers}"), out=tmp_path / str(workers), data=blobs(), model=counting)
        for workers in (0, 2)
    ]
    assert done[0].model["1.num_batches_tracked"].dtype == torch.int64
    assert int(done[0].model["1.num_batches_tracked"]) == 0
    assert done[0].metrics["digest"] == done[1].metrics["digest"]
    assert done[0].metrics["accuracy"] > 0.5


def test_noise_on_a_model_with_running_figures_is_refused(tmp_path: Path) -> None:
    noisy = plan('mechanisms.on_device=[{name="clip",limit=1.0},{name="gaussian",sigma=1.0}]')
    with pytest.raises(PartError, match="running_mean"):
        privet.run(noisy, out=tmp_path / "run", data=blobs(), model=counting)
    assert not (tmp_path / "run").exists()


def test_batch_norm_in_the_front_counts_as_coupling() -> None:
    from privet.study.experiment import prepare

    own = ("model.name=torch.nn:Sequential", "training.name=split-federated", "training.batch_size=8")
    split = plan(*own, 'training.cut="2"')
    assert prepare(split, data=blobs(), model=counting).promise.coupled == 8
    calm = plan(*own, 'training.cut="0"')
    assert prepare(calm, data=blobs(), model=counting).promise.coupled == 1


@pytest.mark.parametrize("shards", [[1, 14, 15], [30 - 2, 1, 1]])
def test_a_shard_of_one_row_is_refused_where_batches_are_normalised(tmp_path: Path, shards: list[int]) -> None:
    dealt = np.split(np.arange(30), np.cumsum(shards)[:-1])
    with pytest.raises(DataError, match="batch of one"):
        privet.run(plan(), out=tmp_path / "run", data=blobs(), partition=dealt, model=counting)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda shape, classes: nn.Linear(5, 5), "can't take inputs"),
        (lambda shape, classes: nn.Linear(*shape, classes + 1), "logits of shape"),
        (lambda shape: nn.Linear(4, 3), "failed for shape"),
    ],
)
def test_a_model_that_does_not_fit_gives_one_line(tmp_path: Path, model, says: str) -> None:
    with pytest.raises(PartError, match=says):
        privet.run(plan(), out=tmp_path / "run", data=blobs(), model=model)


def test_wrong_python_arguments_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data is a"):
        privet.run(plan(), out=tmp_path / "run", data=5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="partition is a"):
        privet.run(plan(), out=tmp_path / "run", data=blobs(), partition=3)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="not both"):
        privet.run(plan(), out=tmp_path / "a", resume=tmp_path / "b")
    with pytest.raises(PlanError, match="sees nothing"):
        plan('views.keep=["edge-server"]')


def test_the_coordinators_view_is_the_updates_of_the_last_round(tmp_path: Path) -> None:
    done = privet.run(plan('views.keep=["coordinator"]', "views.records=2"), out=tmp_path / "run", data=blobs())
    seen = load(done.path / "view-coordinator.safetensors")
    assert sorted(seen) == ["device-000", "device-001"]
    assert seen["device-000"].shape == (sum(value.numel() for value in done.model.values()),)


def test_resuming_with_other_rows_or_beside_another_process_is_refused(tmp_path: Path) -> None:
    out = privet.run(plan(), out=tmp_path / "run", data=blobs()).path
    other = blobs()
    other.train_inputs[0, 0] += 1
    with pytest.raises(RunError, match="other rows"):
        privet.run(plan(), resume=out, data=other)
    holder = (
        "import fcntl,sys; f=open(sys.argv[1],'a'); fcntl.lockf(f,fcntl.LOCK_EX); print('held',flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RunError, match="another process"):
            privet.run(plan(), resume=out, data=blobs())
        process.communicate(b"\n")
    assert privet.run(plan(), resume=out, data=blobs()).path == out
    with (out / ".lock").open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_disk_that_fills_leaves_a_run_that_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.study import run as runs

    whole = privet.run(plan(), out=tmp_path / "whole", data=blobs()).metrics["digest"]

    def full(state, path: Path) -> None:
        if path.name == "checkpoint-2.safetensors":
            raise OSError(28, "No space left on device", str(path))
        save(state, path)

    monkeypatch.setattr(runs, "save", full)
    with pytest.raises(OSError, match="No space left"):
        privet.run(plan(), out=tmp_path / "run", data=blobs())
    monkeypatch.undo()
    assert privet.run(plan(), resume=tmp_path / "run", data=blobs()).metrics["digest"] == whole
    assert [record.kind for record in verify(tmp_path / "run" / "records.jsonl")].count("round") == 2


def test_a_run_that_could_not_begin_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.ledger import Log

    def full(self, kind: str, body: dict) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Log, "append", full)
    with pytest.raises(OSError, match="No space left"):
        privet.run(plan(), out=tmp_path / "run", data=blobs())
    assert not (tmp_path / "run").exists()


def test_a_pickle_in_place_of_a_checkpoint_is_never_opened(tmp_path: Path) -> None:
    out = privet.run(plan(), out=tmp_path / "run", data=blobs()).path
    trap = tmp_path / "sprung"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    for name in ("model", "checkpoint-2"):
        torch.save(Bomb(), out / f"{name}.safetensors")
    with pytest.raises(RunError, match="never opens pickles"):
        privet.run(plan(), resume=out, data=blobs())
    assert not trap.exists()


def test_a_killed_worker_never_makes_the_others_hang(tmp_path: Path) -> None:
    """Large replies fill the pipe of the other worker while the first one dies."""
    from privet.fleet.availability.always import Always
    from privet.fleet.behaviours.honest import Honest
    from privet.fleet.device import Device
    from privet.fleet.profile import find_profile

    fleet = [Device(f"device-{k:03}", find_profile("phone"), np.arange(2), Always(), Honest()) for k in range(6)]

    def work(device, message, channel):
        if device.identity == "device-001":
            os.kill(os.getpid(), 9)
        return Reply(device.identity, message.round, {"update": torch.zeros(1_000_000)}, base=message.base)

    said = [reply.missing for reply in InProcess(workers=2).ask(fleet, work, Message(1, {}))]
    assert said == ["", "its worker process died"] * 3


def test_submodules_are_reachable() -> None:
    program = "import privet; privet.errors.PlanError; privet.fleet.Data"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError):
        privet.nonsense  # noqa: B018


def test_absent_devices_and_void_rounds_stand_in_the_report(tmp_path: Path) -> None:
    from privet.evidence.summary import plain_summary

    settings = ["fleet.availability.name=random", "fleet.availability.participation=0.5", "engine.minimum_replies=3"]
    done = privet.run(plan(*settings, "training.rounds=12"), out=tmp_path / "run", data=blobs())
    assert any(row["void"] for row in done.metrics["rounds"])
    said = plain_summary(done.metrics)
    assert "void rounds: " in said
    assert "replies that never came: " in said
    page = done.report.read_text()
    assert "the model stayed as it was" in page
    assert "replies never came" in page


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    import re

    tests, file = Path(__file__).parents[1], ""
    for named in re.findall(r"`([^`]*)`", (tests / "FAULTS.md").read_text(encoding="utf-8")):
        path, _, name = named.partition("::")
        file = path or file
        assert f"def {name}(" in (tests / file).read_text(encoding="utf-8") if name else (tests / file).is_file(), named
