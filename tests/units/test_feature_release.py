"""Features released once: the same noise in every round and after an interruption, and what that guarantees."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import privet
from privet.accounting.accountants import Accountant
from privet.engines import Channel, Keep, Message
from privet.errors import RunError
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.fleet.profile import find_profile
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.models.mlp import Mlp
from privet.randomness import keyed, seeded, system
from privet.study.secret import forget_secret, keep_secret, read_secret
from privet.tensors import clone
from privet.training import LocalStep, Task
from privet.training.contract import Promise
from privet.training.precision import Precision
from privet.training.protocols.feature_release import FeatureRelease, likelihood_of_labels
from privet.training.protocols.split_federated import EDGE


def devices(count: int) -> list[Device]:
    phone, shards = find_profile("phone"), np.array_split(np.arange(96), count)
    return [Device(f"device-{k:03}", phone, shards[k], Always(), Honest()) for k in range(count)]


NOISY = Chain((Clip(1.0), Gaussian(2.0)))


def task_of(protocol: FeatureRelease, reproducible: bool = False) -> Task:
    inputs = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Task(Mlp(), protocol, NOISY, inputs, torch.arange(96) % 3, 3, Precision(), 100, 5, reproducible)


def seen(task: Task, round: int, device: int = 0, drift: float = 0.0):
    step, channel = LocalStep(task), Channel(f"device-{device:03}", round, Keep(EDGE, 20, 1))
    state = {name: value + drift for name, value in clone(task.network().state_dict()).items()}
    step(devices(2)[device], Message(round, state, "base"), channel)
    return channel.seen, channel.traffic


class TestReleasedOnce:
    @pytest.mark.parametrize("reproducible", [True, False])
    def test_every_round_shows_the_same_release(self, reproducible: bool) -> None:
        task = task_of(FeatureRelease(label_epsilon=1.0), reproducible)
        (first, sent), (later, again) = seen(task, 1), seen(task, 7)
        assert torch.equal(first["features"], later["features"])
        assert torch.equal(first["labels"], later["labels"])
        sends = ("device-000", EDGE, "features and labels")
        assert sent[sends].bytes == 48 * (128 * 4 + 8)
        assert sends not in again
        assert ("device-000", "coordinator", "update") not in again

    def test_a_model_that_moves_the_front_gets_the_same_release_and_no_second_one(self) -> None:
        # Two different values under the same noise would give both away.
        task = task_of(FeatureRelease())
        assert torch.equal(seen(task, 1)[0]["features"], seen(task, 2, drift=0.5)[0]["features"])

    def test_devices_and_runs_do_not_share_noise(self) -> None:
        task = task_of(FeatureRelease())
        same = replace(task, inputs=task.inputs[:48].repeat(2, 1, 1, 1))
        assert not torch.equal(seen(same, 1, 0)[0]["features"], seen(same, 1, 1)[0]["features"])
        assert not torch.equal(seen(task, 1)[0]["features"], seen(task_of(FeatureRelease()), 1)[0]["features"])

    def test_the_front_never_trains(self) -> None:
        task = task_of(FeatureRelease(local_epochs=3))
        state = clone(task.network().state_dict())
        reply = LocalStep(task)(devices(1)[0], Message(1, state, "base"), Channel("device-000", 1))
        from privet.tensors import unflatten

        moved = unflatten(reply.tensors["update"], state)
        assert {name for name, value in moved.items() if value.abs().sum()} == {"logits.bias", "logits.weight"}


class TestLabels:
    def test_the_law_of_a_released_label(self) -> None:
        protocol, labels = FeatureRelease(label_epsilon=2.0), torch.full((200_000,), 3)
        shares = protocol.answers(labels, 10, seeded(1)).bincount(minlength=10) / len(labels)
        keep = math.exp(2) / (math.exp(2) + 9)
        assert protocol.keep(10) == pytest.approx(keep)
        assert shares[3].item() == pytest.approx(keep, abs=0.005)
        assert shares[[0, 9]].tolist() == pytest.approx([(1 - keep) / 9] * 2, abs=0.003)

    def test_the_corrected_likelihood_is_that_of_the_mixture(self) -> None:
        logits, share = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, 0.3, 0.2])
        labels = torch.tensor([0, 1, 2, 1, 0])
        truth = logits.exp() * share / (logits.exp() * share).sum(1, keepdim=True)
        slow = sum(
            -math.log(sum((0.6 if said == k else 0.2) * float(row[k]) for k in range(3)))
            for row, said in zip(truth, labels.tolist(), strict=True)
        )
        assert float(likelihood_of_labels(logits, labels, share, 0.6)) == pytest.approx(slow / 5, rel=1e-5)
        plain = torch.nn.functional.nll_loss(truth.log(), labels)
        assert float(likelihood_of_labels(logits, labels, share, 1.0)) == pytest.approx(float(plain), rel=1e-5)


class TestGuarantee:
    PROMISE = Promise(NOISY, Chain(), 64, 1e-5, "add-or-remove-one", 1, lambda one, n: one)

    def test_one_release_of_features_and_label_composed(self) -> None:
        features, label, both = FeatureRelease(label_epsilon=1.0, rounds=9).guarantees(self.PROMISE)
        assert {entry.releases for entry in (features, label, both)} == {1}
        assert {entry.relation for entry in (features, label, both)} == {"replace-one"}
        gaussian = NOISY.event(replace_unit())
        assert features.epsilon == pytest.approx(Accountant("pld").compose(gaussian).epsilon(1e-5), rel=1e-6)
        assert 0.99 < label.epsilon <= 1.0 + 1e-9
        assert max(features.epsilon, label.epsilon) < both.epsilon <= features.epsilon + 1.001

    def test_labels_in_the_clear_leave_no_guarantee_for_the_record(self) -> None:
        features, label, both = FeatureRelease().guarantees(self.PROMISE)
        assert features.formal
        assert not label.formal
        assert not both.formal

    def test_a_front_that_couples_records_moves_all_of_them(self) -> None:
        alone, *_ = FeatureRelease().guarantees(self.PROMISE)
        coupled, *_ = FeatureRelease().guarantees(replace(self.PROMISE, coupled=16))
        assert coupled.epsilon > 3 * alone.epsilon


def replace_unit():
    from privet.accounting import Sensitivity

    return Sensitivity("record", "replace-one", dimension=64, vectors=1)


class TestSecret:
    def test_it_is_the_owners_only_and_gone_afterwards(self, tmp_path: Path) -> None:
        keep_secret(tmp_path, bytes(range(32)), begun=False)
        path = tmp_path / "secret.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert read_secret(tmp_path) == bytes(range(32))
        keep_secret(tmp_path, bytes(32), begun=True)
        assert read_secret(tmp_path) == bytes(range(32))
        forget_secret(tmp_path)
        assert read_secret(tmp_path) is None

    def test_what_is_open_damaged_or_lost_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is missing"):
            keep_secret(tmp_path, bytes(32), begun=True)
        path = tmp_path / "secret.key"
        path.write_bytes(bytes(31))
        path.chmod(0o644)
        with pytest.raises(RunError, match="others may read"):
            read_secret(tmp_path)
        path.chmod(0o600)
        with pytest.raises(RunError, match="is damaged"):
            read_secret(tmp_path)

    def test_keyed_noise_repeats_by_path_and_is_standard(self) -> None:
        one, other = keyed(bytes(32), "a", 1), keyed(bytes(32), "a", 2)
        draw = one.normal((100_000,))
        assert torch.equal(draw, keyed(bytes(32), "a", 1).normal((100_000,)))
        assert not torch.equal(draw, one.normal((100_000,)))
        assert abs(float((draw * other.normal((100_000,))).mean())) < 0.02
        assert float(draw.std()) == pytest.approx(1, abs=0.01)
        assert torch.equal(one.child("x").normal((5,)), keyed(bytes(32), "a", 1).child("x").normal((5,)))
        assert [source.repeats for source in (one, seeded(1), system())] == [True, True, False]
        assert not one.reproducible


PLAN = {
    "name": "released",
    "data": {"name": "mnist-10k"},
    "fleet": {"devices": 3, "examples_per_device": 40},
    "model": {"name": "mlp"},
    "training": {"name": "feature-release", "rounds": 4, "label_epsilon": 2.0},
    "mechanisms": {"on_device": [{"name": "clip", "limit": 1.0}, {"name": "gaussian", "sigma": 1.0}]},
    "views": {"keep": ["edge-server"], "records": 30},
    "evidence": {"alone": False, "centralised": False},
}


def test_a_run_that_is_interrupted_goes_on_with_the_same_release(tmp_path: Path) -> None:
    from privet.ledger import Log
    from privet.study.experiment import prepare
    from privet.study.run import Session
    from privet.study.run_folder import begin_folder

    def stop(event: str, **figures: object) -> None:
        if event == "round":
            raise KeyboardInterrupt

    def session(name: str, progress: Callable[..., None]) -> Session:
        experiment = prepare(plan, secret=secret)
        folder = begin_folder(experiment, tmp_path / name, [])
        return Session(experiment, folder, Log(folder / "records.jsonl"), progress)

    plan = privet.Plan.from_table(PLAN)
    folder, secret = tmp_path / "run", bytes(range(32))
    with pytest.raises(KeyboardInterrupt):
        session("run", stop).finish()
    assert read_secret(folder) == secret
    resumed = privet.run(plan, resume=folder)
    assert read_secret(folder) is None
    whole = session("whole", lambda event, **figures: None).finish()
    assert resumed.metrics["digest"] == whole.metrics["digest"]
    assert json.loads((folder / "metrics.json").read_text())["guarantees"][2]["releases"] == 1
