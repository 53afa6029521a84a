"""Runs across processes: a coordinator and five devices with real certificates, and what goes wrong with them."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from loopback_example import loopback

from privet.errors import RefusedError, UnreachableError
from privet.governance.enrolment import COORDINATOR, Fleet
from privet.transport.certificates import Authority, host_of, request

if importlib.util.find_spec("flwr") is None:
    pytest.skip("the extra privet[flower] is not installed", allow_module_level=True)

# Fifteen processes, with time-outs: `make fleet-test`, on a machine that does nothing else.
pytestmark = pytest.mark.slow

SPLIT = (
    *("--set", 'training={ name = "split-federated", rounds = 1, batch_size = 16 }'),
    *("--set", 'model={ name = "smart-home-cnn", bound = 3.0 }'),
    *("--set", 'mechanisms.on_device=[{ name = "bounded-normalisation", over = "batch" }]'),
)
PLAN = """
name = "loopback"
seed = 1
reproducible = true
data = { name = "digits" }
model = { name = "mlp" }
training = { name = "fedavg", rounds = 2 }
evidence = { alone = false, centralised = false }

[fleet]
devices = 5
hostile = [
  { devices = 1, behaviour = { name = "nan-sender" } },
  { devices = 1, behaviour = { name = "wrong-shape" } },
]
"""
NAMES = [f"device-{number:03d}" for number in range(5)]


class Running:
    """A coordinator and its devices, which stay up for all tests of this file."""

    def __init__(self, here: Path) -> None:
        self.here, self.port = here, loopback.free_ports()
        self.plan = here / "plan.toml"
        self.plan.write_text(PLAN)
        self.fleet = Fleet.create(here / "fleet")
        self.coordinator = loopback.coordinator(self.fleet.folder, self.port)
        tokens = self.fleet.invite(len(NAMES), "gateway")
        self.processes = [self.coordinator]
        self.devices = {
            name: loopback.device(self.plan, here / name, self.port, token.text(), ())
            for name, token in zip(NAMES, tokens, strict=True)
        }

    def start(self, out: str, *more: str) -> subprocess.Popen[str]:
        """Starts the plan across the processes."""
        return loopback.privet(
            *("run", self.plan, "--engine", "flower", "--fleet", self.fleet.folder, "--out", self.here / out, "--json"),
            *more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, out: str, *more: str) -> tuple[int, dict[str, object], str]:
        """Runs the plan across the processes; returns exit status, metrics, and what was said."""
        process = self.start(out, *more)
        told, said = process.communicate(timeout=120)
        return process.returncode, json.loads(told) if process.returncode == 0 else {}, said

    def alone(self, out: str, *more: str) -> str:
        """Runs the plan in one process; returns the digest of its model."""
        run = loopback.privet("run", self.plan, "--out", self.here / out, *more, stderr=subprocess.DEVNULL)
        assert run.wait(timeout=120) == 0
        return str(loopback.digest(self.here / out))

    def log(self, name: str) -> str:
        return (self.here / f"{name}.log").read_text()

    def records(self, out: str, kind: str) -> list[dict[str, object]]:
        return loopback.records(self.here / out, kind)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    up = Running(tmp_path_factory.mktemp("fleet"))
    up.processes += up.devices.values()
    with loopback.ended(up.processes):
        until(lambda: all("joined" in up.log(name) for name in NAMES), 90)
        yield up
    assert up.coordinator.returncode == 0


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_same_model_as_in_one_process_whatever_two_bad_devices_send(running: Running) -> None:
    status, metrics, said = running.run("across", "--patience", "90")
    assert status == 0, said
    assert loopback.digest(running.here / "across") == running.alone("in-process")
    assert isinstance(metrics["accuracy"], float)
    for body in running.records("across", "round"):
        assert body["replies"] == 3
        reasons = {one["device"]: one["reason"] for one in body["rejected"]}  # type: ignore[attr-defined]
        assert reasons["device-003"].startswith("not finite")
        assert reasons["device-004"].startswith("wrong shape")
    (wire,) = running.records("across", "wire")
    assert int(str(wire["sent"])) > 0 < int(str(wire["received"]))


def test_split_training_at_the_edge_servers_process_and_again_once_that_was_killed(running: Running) -> None:
    digest = running.alone("split-alone", *SPLIT)
    log, told = running.fleet.folder / "edge.log", running.fleet.folder / "edge.json"
    for number in (1, 2):
        status, _, said = running.run(f"split-{number}", *SPLIT)
        assert status == 0, said
        assert loopback.digest(running.here / f"split-{number}") == digest
        pid = json.loads(told.read_text())["pid"]
        until(lambda: "in 5 sessions so far" in log.read_text().splitlines()[-1], 15)
        if number == 1:
            os.kill(pid, signal.SIGKILL)
            until(lambda gone=pid: told.is_file() and json.loads(told.read_text())["pid"] != gone, 40)  # type: ignore[misc]


@pytest.mark.parametrize("flaw", ["another fleet's", "expired", "unregistered", "another role"])
def test_the_edge_server_lets_in_devices_of_its_fleet_only(running: Running, flaw: str) -> None:
    from privet.study.edge import EDGE_PEER
    from privet.transport.grpc import GrpcClient
    from privet.transport.identity import Identity

    authority = Authority.create("other") if flaw == "another fleet's" else running.fleet.authority
    name = {"unregistered": "device/stranger", "another role": "miner/device-000"}.get(flaw, "device/device-000")
    key, certificate = authority.issue(name, days=-1 if flaw == "expired" else 1)
    client = GrpcClient(
        f"127.0.0.1:{running.port + 3}", EDGE_PEER, Identity(key, certificate, running.fleet.authority.certificate)
    )
    with pytest.raises((RefusedError, UnreachableError)):
        client.call("open", b"", 5)
    client.close()


def test_a_device_that_is_killed_and_comes_back_answers_in_the_same_round(running: Running) -> None:
    (running.here / "device-002" / "slow").write_text("100")
    run = running.start("back", "--set", "training.rounds=1")
    until(lambda: (running.here / "back").exists() and bool(running.records("back", "fleet")))
    release = running.records("back", "plan")[0]["release"]
    until(lambda: f"round 1 of {release}" in running.log("device-002"))
    running.devices["device-002"].kill()
    running.devices["device-002"].wait()
    (running.here / "device-002" / "slow").unlink()
    running.devices["device-002"] = loopback.device(running.plan, running.here / "device-002", running.port, "", ())
    running.processes.append(running.devices["device-002"])
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    (body,) = running.records("back", "round")
    assert body["replies"] == 3
    assert running.log("device-002").count(f"round 1 of {release}") == 2


@pytest.mark.slow
def test_rounded_updates_cross_in_a_quarter_of_the_bytes(running: Running) -> None:
    received = {}
    for name in ("fedavg", "int8-sgd"):
        status, told, said = running.run(name, "--set", f'training={{ name = "{name}", rounds = 1 }}')
        assert status == 0, said
        received[name] = told["wire"]["received"]  # type: ignore[index]
    assert received["int8-sgd"] < 0.45 * received["fedavg"]  # the two hostile replies are not packed


def test_coordinator_killed_in_mid_round_goes_on_and_no_device_answers_a_round_twice(running: Running) -> None:
    slow = running.here / "device-000" / "slow"
    slow.write_text("6")
    run = running.start("killed", "--set", "training.rounds=3")
    begun = running.here / "killed" / "records.jsonl"
    until(lambda: begun.exists() and len(running.records("killed", "round")) == 1)
    release = running.records("killed", "plan")[0]["release"]
    until(lambda: f"round 2 of {release}" in running.log("device-001"))
    time.sleep(1)
    run.kill()
    run.communicate()
    slow.unlink()
    resumed = loopback.privet(
        *("run", running.plan, "--set", "training.rounds=3", "--resume", running.here / "killed"),
        *("--engine", "flower", "--fleet", running.fleet.folder),
        stderr=subprocess.PIPE,
    )
    assert resumed.communicate(timeout=120)[1] is not None
    assert resumed.returncode == 0
    assert loopback.digest(running.here / "killed") == running.alone("not-killed", "--set", "training.rounds=3")
    for name in NAMES:  # asked for round 2 again, a device sends the answer that it kept
        assert len(re.findall(f"round 2 of {release}", running.log(name))) == 1


def test_late_device_is_named_and_the_round_goes_on(running: Running) -> None:
    slow = running.here / "device-001" / "slow"
    slow.write_text("15")
    status, _, said = running.run("late", "--set", "engine.deadline=8", "--set", "training.rounds=1")
    slow.unlink()
    assert status == 0, said
    (body,) = running.records("late", "round")
    missing = {one["device"]: one["reason"] for one in body["missing"]}  # type: ignore[attr-defined]
    assert missing["device-001"].startswith("late: no reply within 8 s")


def test_refusal_of_every_device_is_shown_at_the_coordinator_with_exit_status_3(running: Running) -> None:
    for name in NAMES:
        (running.here / name / "refuse").write_text("the plan costs epsilon 9, of which 1 is left")
    status, _, said = running.run("refused")
    for name in NAMES:
        (running.here / name / "refuse").unlink()
    assert status == 3
    assert "every device refused" in said
    assert "epsilon 9, of which 1 is left" in said


def test_too_few_devices_is_exit_status_4_and_nothing_is_written(running: Running) -> None:
    status, _, said = running.run("few", "--set", "fleet.devices=6", "--patience", "1")
    assert status == 4
    assert "5 devices are enrolled" in said
    assert not (running.here / "few").exists()


def test_work_that_the_coordinator_did_not_sign_is_refused(running: Running) -> None:
    key = running.fleet.folder / "work.key"
    own = key.read_bytes()
    key.write_bytes(bytes(32))
    status, _, said = running.run("unsigned")
    key.write_bytes(own)
    assert status == 3
    assert "not signed by the coordinator" in said


def _client(certificate: Path, key: Path, authority: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(str(certificate), str(key))
    return httpx.Client(verify=context, timeout=20)


def _ask(client: httpx.Client, port: int, path: str, **options: object) -> httpx.Response:
    extensions = {"sni_hostname": host_of(COORDINATOR)}
    return client.post(f"https://127.0.0.1:{port}{path}", extensions=extensions, **options)  # type: ignore[arg-type]


def test_a_device_cannot_start_runs_or_fetch_code(running: Running) -> None:
    folder = running.here / "device-000"
    files = (folder / "device.pem", folder / "device.key", folder / "authority.pem")
    with _client(*files) as client:
        for path in ("/v1/control/start-run", "/v1/control/list-nodes", "/v1/runtime/acquire-task", "/docs"):
            assert _ask(client, running.port + 1, path).status_code == 403
        for path in ("/v1/fleet/get-fab", "/v1/fleet/register-node", "/v1/fleet/../control/start-run"):
            assert _ask(client, running.port + 1, path).status_code == 403
        assert _ask(client, running.port + 1, "/v1/fleet/pull-messages").status_code == 401  # no key named
        other = (running.here / "device-001" / "device.key").read_bytes()
        headers = {"flwr-public-key": base64.b64encode(other).decode()}
        assert _ask(client, running.port + 1, "/v1/fleet/pull-messages", headers=headers).status_code == 401
    with pytest.raises((httpx.HTTPError, OSError)), _client(*files) as client:
        client.get(f"https://{_own_address()}:{running.port + 2}/health")  # the SuperLink hears this machine only


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))  # sends nothing
            address = str(one.getsockname()[0])
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has only a loopback address")
    return address


@pytest.mark.parametrize("flaw", ["another fleet's", "expired", "unregistered", "revoked"])
def test_who_does_not_belong_is_told_so(running: Running, tmp_path: Path, flaw: str) -> None:
    from privet.engines.flower.environment import prepare_flower

    prepare_flower(tmp_path)
    from privet.engines.flower.node import Coordinator, serve

    folder = running.here / "device-000"
    key, authority = folder / "device.key", running.fleet.authority
    if flaw == "another fleet's":
        authority = Authority.create("other")
    name = {"unregistered": "device/stranger", "revoked": "device/revoked"}.get(flaw, "device/device-000")
    if flaw == "unregistered":
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = tmp_path / "own.key"
        made = ec.generate_private_key(ec.SECP384R1())
        key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    days = -1 if flaw == "expired" else 1
    certificate = tmp_path / "device.pem"
    certificate.write_bytes(authority.sign(request(key.read_bytes(), name), name=name, days=days))
    with _client(certificate, key, folder / "authority.pem") as client, pytest.raises(httpx.HTTPError):
        _ask(client, running.port + 1, "/v1/fleet/activate-node").raise_for_status()
    coordinator = Coordinator(
        f"127.0.0.1:{running.port + 1}", host_of(COORDINATOR), folder / "authority.pem", certificate, key
    )
    stop = threading.Event()
    with pytest.raises(RefusedError, match=r"certificate|lets this device in no more"):
        serve(coordinator, lambda asked: asked, stop, patience=30)


def test_a_coordinator_of_another_name_is_not_believed(running: Running, tmp_path: Path) -> None:
    from privet.engines.flower.environment import prepare_flower

    prepare_flower(tmp_path)
    from privet.engines.flower.node import Coordinator, serve

    folder = running.here / "device-000"
    true = Coordinator(
        f"127.0.0.1:{running.port + 1}", host_of(COORDINATOR), folder / "authority.pem", folder / "device.pem",
        folder / "device.key",
    )  # fmt: skip
    with pytest.raises(RefusedError, match="certificate does not hold"):
        serve(replace(true, name=host_of("device/device-001")), lambda asked: asked, threading.Event(), patience=5)


class Thin:
    """A link to a port of this machine that lets so many bytes a second through, each way."""

    def __init__(self, port: int, rate: float) -> None:
        self._port, self._rate, self.crossed = port, rate, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := here.recv(256):
                time.sleep(len(data) / self._rate)
                self.crossed += len(data)
                there.sendall(data)
        here.close()
        there.close()

    def close(self) -> None:
        self._server.close()


def test_a_device_behind_10_kilobits_a_second_takes_part(running: Running) -> None:
    folder = running.here / "device-000"
    running.devices["device-000"].terminate()
    assert running.devices["device-000"].wait(timeout=30) == 0
    thin = Thin(running.port + 1, 10_000 / 8)
    slow = loopback.device(running.plan, folder, running.port, "", (), "--gate", str(thin.port))
    running.processes.append(slow)
    until(lambda: running.log("device-000").count("joined") == 2)
    status, _, said = running.run("thin", "--set", "training.rounds=1", "--set", "model.hidden=[8]")
    slow.kill()
    slow.wait()
    thin.close()
    running.processes.append(loopback.device(running.plan, folder, running.port, "", ()))
    assert status == 0, said
    (body,) = running.records("thin", "round")
    assert body["replies"] == 3
    assert thin.crossed > 10_000
    until(lambda: running.log("device-000").count("joined") == 3)


def test_device_killed_in_training_is_named_and_may_come_back(running: Running) -> None:
    (running.here / "device-002" / "slow").write_text("60")
    run = running.start("killed-device", "--set", "engine.deadline=12", "--set", "training.rounds=1")
    until(lambda: (running.here / "killed-device").exists() and bool(running.records("killed-device", "fleet")))
    release = running.records("killed-device", "plan")[0]["release"]
    until(lambda: f"round 1 of {release}" in running.log("device-002"))
    running.devices["device-002"].kill()
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    (body,) = running.records("killed-device", "round")
    assert body["replies"] == 2
    assert "device-002" in {one["device"] for one in body["missing"]}  # type: ignore[attr-defined]
    (running.here / "device-002" / "slow").unlink()
    running.processes.append(loopback.device(running.plan, running.here / "device-002", running.port, "", ()))
    until(lambda: running.log("device-002").count("joined") == 3, 40)


def test_a_revoked_device_is_out_and_the_coordinator_goes_on(running: Running) -> None:
    running.fleet.registry.revoke("device-004")
    until(lambda: running.devices["device-004"].poll() is not None, 30)
    assert running.devices["device-004"].returncode == 3
    assert "lets this device in no more" in running.log("device-004")
    time.sleep(3)
    assert running.coordinator.poll() is None
