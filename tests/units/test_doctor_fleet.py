"""The doctor of fleets and devices: each thing that is wrong is named, with what to do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from privet.apps.agent import checks, identity
from privet.apps.agent.state import State
from privet.apps.cli import doctor_fleet
from privet.apps.cli.main import main
from privet.governance.consent import Books, Consent
from privet.governance.enrolment import Fleet, signing_request
from privet.transport.enrolment import EnrolmentServer


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.create(tmp_path / "fleet")


@pytest.fixture
def served(fleet: Fleet) -> Iterator[EnrolmentServer]:
    server = fleet.serve(("127.0.0.1", 0))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def joined(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> identity.Identity:
    token = fleet.invite(1, "gateway")[0].text()
    return identity.join(tmp_path / "device", token, ("127.0.0.1", served.port), "one")


def look(module: object, folder: Path) -> dict[str, tuple[str, str, str]]:
    return {name: one() for name, one in module.checks(folder).items()}  # type: ignore[attr-defined]


def test_a_device_in_order(joined: identity.Identity, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", inputs=np.zeros((3, 2)), labels=[0, 2, 1])
    State(joined.folder).keep(data={"path": str(tmp_path / "rows.npz")})
    Books(joined.folder, "one").grant(Consent("training", None, 1e-5, "record"))
    found = look(checks, joined.folder)
    assert list(found) == [
        *("coordinator", "clock", "version", "certificate", "gate"),
        *("rows", "consent", "log", "room", "agent"),
    ]
    sound = [name for name, (status, _, _) in found.items() if status == "ok"]
    assert {"certificate", "coordinator", "clock", "version", "rows", "consent", "log", "room"} <= set(sound)
    assert found["agent"] == ("warn", "stopped, 0 restarts", "run: privet agent run, or systemctl start privet-agent")


def test_a_device_with_nothing_in_order(
    joined: identity.Identity, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.registry.revoke("one")
    request = signing_request(joined.files[1].read_bytes(), "one")
    joined.files[0].write_bytes(fleet.authority.sign(request, name="device/one", days=5))
    (joined.folder / "log.jsonl").write_text("nonsense\n")
    monkeypatch.setattr(checks, "_ROOM", 1 << 62)
    found = look(checks, joined.folder)
    assert found["certificate"][0] == "warn"
    assert found["coordinator"] == ("fail", "one was revoked", "ask the fleet's operator")
    assert [found[name][0] for name in ("rows", "consent", "log", "room")] == ["fail", "fail", "fail", "warn"]
    assert all(do for status, _, do in found.values() if status != "ok")
    joined.files[0].write_bytes(fleet.authority.sign(request, name="device/one", days=-1))
    assert look(checks, joined.folder)["certificate"][0] == "fail"
    assert look(checks, joined.folder / "none")["device"][0] == "fail"


@pytest.mark.parametrize(("skew", "status"), [(0.0, "ok"), (-100.0, "warn"), (5000.0, "fail")])
def test_the_clock(joined: identity.Identity, monkeypatch: pytest.MonkeyPatch, skew: float, status: str) -> None:
    true = identity.hello(joined)
    monkeypatch.setattr(checks, "hello", lambda _: true | {"time": true["time"] - skew, "version": "9"})
    found = look(checks, joined.folder)
    assert found["clock"][0] == status
    assert found["version"][0] == "warn"


def test_the_gate(joined: identity.Identity, port: int) -> None:
    place = identity.Identity(joined.folder, "one", ("127.0.0.1", port), b"")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", port + 1))
        listening.listen()
        assert checks._gate(place)[0] == "ok"
    assert checks._gate(place)[0] == "fail"


def test_a_coordinator(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"enrolment port": taken.getsockname()[1], "gate port": port}
        monkeypatch.setattr(doctor_fleet, "_PORTS", ports)
        found = look(doctor_fleet, fleet.folder)
        assert [found[name][0] for name in ports] == ["warn", "ok"]
        assert [found[name][0] for name in ("keys", "authority", "coordinator certificate")] == ["ok"] * 3
        assert found["devices"][0] == "warn"
        assert found["SuperLink"][:2] == ("warn", "not up")
        link = fleet.folder / "superlink.json"
        link.write_text(json.dumps({"address": f"127.0.0.1:{taken.getsockname()[1]}"}))
        found = look(doctor_fleet, fleet.folder)
        assert found["SuperLink"][0] == "ok"
        assert not set(ports) & set(found)
    assert look(doctor_fleet, fleet.folder)["SuperLink"][0] == "fail"
    link.write_text("{")
    assert look(doctor_fleet, fleet.folder)["SuperLink"][:2] == ("fail", "superlink.json is damaged")
    (fleet.folder / "work.key").chmod(0o644)
    assert look(doctor_fleet, fleet.folder)["keys"][0] == "fail"
    assert look(doctor_fleet, tmp_path / "none")["fleet"][0] == "fail"


def test_certificates_that_end(fleet: Fleet, joined: identity.Identity) -> None:
    fleet.registry.renewed("one", "1", 0.0)
    assert "one end within" in look(doctor_fleet, fleet.folder)["devices"][1]
    for days, status in ((5, "warn"), (-1, "fail")):
        _, certificate = fleet.authority.issue("coordinator/main", fleet.hosts, days)
        fleet.files[0].write_bytes(certificate)
        assert look(doctor_fleet, fleet.folder)["coordinator certificate"][0] == status


def test_flower_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise doctor_fleet.PackageNotFoundError(name)

    for found, status in ((lambda _: "1.41.0", "ok"), (lambda _: "2.0.0", "warn"), (absent, "fail")):
        monkeypatch.setattr(doctor_fleet, "version", found)
        assert doctor_fleet._flwr()[0] == status


def test_the_command(fleet: Fleet, joined: identity.Identity, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--fleet", str(fleet.folder), "--agent", str(joined.folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert left.value.code == 2  # the device has no rows
    names = [row["check"] for row in told["checks"]]
    assert {"torch", "keys", "SuperLink", "coordinator", "clock", "agent"} <= set(names)
