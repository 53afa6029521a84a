"""Runs across processes: a coordinator and five devices with real certificates, and what goes wrong with them."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from forked import PATIENCE, Forks, Process
from loopback_example import loopback

from privet.errors import RefusedError, UnreachableError
from privet.governance.enrolment import COORDINATOR, Fleet
from privet.transport.certificates import Authority, host_of, request

if importlib.util.find_spec("flwr") is None:
    pytest.skip("the extra privet[flower] is not installed", allow_module_level=True)

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

    def __init__(self, here: Path, forks: Forks) -> None:
        began, self.here, self.forks, self.port = time.monotonic(), here, forks, loopback.free_ports()
        self.plan = here / "plan.toml"
        self.plan.write_text(PLAN)
        self.fleet = Fleet.create(here / "fleet")
        tokens = self.fleet.invite(len(NAMES), "gateway")
        self.coordinator = forks.privet("up", self.fleet.folder, "--host", "127.0.0.1", "--port", self.port)
        until(lambda: self.coordinator.poll() is not None or self.coordinator.out.read_text().startswith("up:"))
        self.devices: dict[str, Process] = {}
        for name, token in zip(NAMES, tokens, strict=True):
            self.device(name, "--token", token.text())
        until(lambda: all("joined" in self.log(name) for name in NAMES))
        # As long as all of that took, and that is long where the machine is busy, a round has too.
        self.deadline = max(10, round(time.monotonic() - began))

    def device(self, name: str, *more: object) -> Process:
        """Starts a device of the plan; one without a token has joined before."""
        where = (self.plan, self.here / name, "--name", name, "--port", self.port)
        log = self.here / f"{name}.log"
        self.devices[name] = self.forks.script(loopback.HERE / "device.py", *where, *more, out=log)
        return self.devices[name]

    def start(self, out: str, *more: str) -> Process:
        """Starts the plan across the processes."""
        reach = ("--engine", "flower", "--fleet", self.fleet.folder, "--patience", PATIENCE)
        return self.forks.privet("run", self.plan, *reach, "--out", self.here / out, "--json", *more)

    def run(self, out: str, *more: str) -> tuple[int, dict[str, object], str]:
        """Runs the plan across the processes; returns exit status, metrics, and what was said."""
        process = self.start(out, *more)
        told, said = process.communicate()
        return process.wait(), json.loads(told) if process.returncode == 0 else {}, said

    def alone(self, out: str, *more: str) -> str:
        """Runs the plan in one process; returns the digest of its model."""
        run = self.forks.privet("run", self.plan, "--out", self.here / out, *more)
        assert run.wait() == 0, run.err.read_text()
        return str(loopback.digest(self.here / out))

    @contextmanager
    def held(self, name: str, number: int = 1) -> Iterator[None]:
        """Makes a device wait for the end of the block before it does a round of this number or later."""
        path = self.here / name / "hold"
        path.write_text(str(number))
        try:
            yield
        finally:
            path.unlink()

    def asked(self, name: str, out: str, number: int) -> None:
        """Returns once a device has been asked for a round of a run that goes on."""
        until(lambda: f"round {number} of {self.release(out)}" in self.log(name))

    def release(self, out: str) -> str:
        """Returns the name of a run towards devices."""
        until(lambda: (self.here / out / "records.jsonl").is_file() and bool(self.records(out, "fleet")))
        return str(self.records(out, "plan")[0]["release"])

    def log(self, name: str) -> str:
        return (self.here / f"{name}.log").read_text()

    def records(self, out: str, kind: str) -> list[dict[str, object]]:
        return loopback.records(self.here / out, kind)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    here = tmp_path_factory.mktemp("fleet")
    with Forks(here / "said") as forks:
        up = Running(here, forks)
        yield up
        up.coordinator.terminate()
        assert up.coordinator.wait() == 0


def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_same_model_as_in_one_process_whatever_two_bad_devices_send(running: Running) -> None:
    status, metrics, said = running.run("across")
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
        until(lambda: "in 5 sessions so far" in log.read_text().splitlines()[-1])
        if number == 1:
            os.kill(pid, signal.SIGKILL)
            until(lambda gone=pid: told.is_file() and json.loads(told.read_text())["pid"] != gone)  # type: ignore[misc]


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
    with running.held("device-002"):
        run = running.start("back", "--set", "training.rounds=1")
        running.asked("device-002", "back", 1)
        running.devices["device-002"].kill()
        running.devices["device-002"].wait()
    running.device("device-002")
    assert run.wait() == 0, run.err.read_text()
    (body,) = running.records("back", "round")
    assert body["replies"] == 3
    assert running.log("device-002").count(f"round 1 of {running.release('back')}") == 2


def test_rounded_updates_cross_in_a_quarter_of_the_bytes(running: Running) -> None:
    received = {}
    for name in ("fedavg", "int8-sgd"):
        status, told, said = running.run(name, "--set", f'training={{ name = "{name}", rounds = 1 }}')
        assert status == 0, said
        received[name] = told["wire"]["received"]  # type: ignore[index]
    assert received["int8-sgd"] < 0.45 * received["fedavg"]  # the two hostile replies are not packed


def test_coordinator_killed_in_mid_round_goes_on_and_no_device_answers_a_round_twice(running: Running) -> None:
    with running.held("device-000", 2):
        run = running.start("killed", "--set", "training.rounds=3")
        for name in ("device-000", "device-001"):
            running.asked(name, "killed", 2)
        kept = running.here / "device-001" / "work" / running.release("killed") / "answer-2.json"
        until(kept.is_file)
        run.kill()
        run.wait()
    resumed = running.forks.privet(
        *("run", running.plan, "--set", "training.rounds=3", "--resume", running.here / "killed"),
        *("--engine", "flower", "--fleet", running.fleet.folder, "--patience", PATIENCE),
    )
    assert resumed.wait() == 0, resumed.err.read_text()
    assert loopback.digest(running.here / "killed") == running.alone("not-killed", "--set", "training.rounds=3")
    for name in NAMES:  # asked for round 2 again, a device sends the answer that it kept
        assert running.log(name).count(f"round 2 of {running.release('killed')}") == 1


def test_late_device_is_named_and_the_round_goes_on(running: Running) -> None:
    with running.held("device-001"):
        limits = (f"engine.deadline={running.deadline}", "training.rounds=1")
        status, _, said = running.run("late", *loopback.changed(limits))
    assert status == 0, said
    (body,) = running.records("late", "round")
    missing = {one["device"]: one["reason"] for one in body["missing"]}  # type: ignore[attr-defined]
    assert missing["device-001"].startswith(f"late: no reply within {running.deadline} s")


def test_a_slow_device_holds_up_nobody_and_its_old_update_is_used_where_the_plan_says_asynchronous(
    running: Running,
) -> None:
    training = 'training={ name = "downpour", rounds = 2, staleness_exponent = 0.5 }'
    with running.held("device-001"):
        run = running.start("asynchronous", "--set", training)
        for name in ("device-000", "device-002"):
            until((running.here / name / "work" / running.release("asynchronous") / "answer-2.json").is_file)
        until(lambda: len(running.records("asynchronous", "round")) == 1)
        assert run.poll() is None
    assert run.wait() == 0, run.err.read_text()
    first, second = running.records("asynchronous", "round")
    assert first["missing"] == second["missing"] == []
    assert int(str(first["replies"])) + int(str(second["replies"])) == 6  # of the three honest devices, two each
    assert second["staleness"]["max"] >= 2  # type: ignore[index]
    assert running.records("asynchronous", "wire")[0]["late"] == []


def test_a_plan_with_a_ledger_ends_with_the_same_model_and_rewards_as_in_one_process(running: Running) -> None:
    settings = (
        *("--set", "ledger={ miners = 4 }", "--set", "training.rounds=1"),
        *("--set", 'aggregation={ name = "mean", equal_weights = true }'),
    )
    status, _, said = running.run("ledger", *settings)
    assert status == 0, said
    assert loopback.digest(running.here / "ledger") == running.alone("ledger-alone", *settings)
    (across,), (alone,) = (running.records(out, "ledger") for out in ("ledger", "ledger-alone"))
    assert across["customers"] == alone["customers"]  # keys, reputations, rewards
    assert across["height"] == alone["height"]
    verified = running.forks.privet("ledger", "verify", running.here / "ledger")
    assert verified.wait() == 0, verified.err.read_text()


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
    running.devices["device-000"].terminate()
    assert running.devices["device-000"].wait() == 0
    before = running.log("device-000").count("joined")
    thin = Thin(running.port + 1, 10_000 / 8)
    slow = running.device("device-000", "--gate", thin.port)
    until(lambda: running.log("device-000").count("joined") == before + 1)
    status, _, said = running.run("thin", "--set", "training.rounds=1", "--set", "model.hidden=[8]")
    slow.kill()
    slow.wait()
    thin.close()
    running.device("device-000")
    assert status == 0, said
    (body,) = running.records("thin", "round")
    assert body["replies"] == 3
    assert thin.crossed > 10_000
    until(lambda: running.log("device-000").count("joined") == before + 2)


def test_device_killed_in_training_is_named_and_may_come_back(running: Running) -> None:
    before = running.log("device-002").count("joined")
    with running.held("device-002"):
        limits = (f"engine.deadline={running.deadline}", "training.rounds=1")
        run = running.start("killed-device", *loopback.changed(limits))
        running.asked("device-002", "killed-device", 1)
        running.devices["device-002"].kill()
        assert run.wait() == 0, run.err.read_text()
    (body,) = running.records("killed-device", "round")
    assert body["replies"] == 2
    assert "device-002" in {one["device"] for one in body["missing"]}  # type: ignore[attr-defined]
    running.device("device-002")
    until(lambda: running.log("device-002").count("joined") == before + 1)


def test_a_revoked_device_is_out_and_the_coordinator_goes_on(running: Running) -> None:
    folder = running.here / "device-004"
    with _client(folder / "device.pem", folder / "device.key", folder / "authority.pem") as client:
        key = load_pem_private_key((folder / "device.key").read_bytes(), None).public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        named = {"flwr-public-key": base64.b64encode(pem).decode()}
        before = _ask(client, running.port + 1, "/v1/fleet/pull-messages", headers=named)
        assert before.status_code != 403  # the gate passes it on, and the SuperLink misses a signature
        running.fleet.registry.revoke("device-004")
        after = _ask(client, running.port + 1, "/v1/fleet/pull-messages", headers=named)  # at once, same connection
        assert (after.status_code, after.text, after.headers["connection"]) == (403, "revoked", "close")
    until(lambda: running.devices["device-004"].poll() is not None)
    assert running.devices["device-004"].returncode == 3
    assert "lets this device in no more" in running.log("device-004")
    time.sleep(3)
    assert running.coordinator.poll() is None
