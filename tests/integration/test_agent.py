"""Enrolment and the agent as processes of their own, with real certificates, on the loopback address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from forked import PATIENCE, Forks, Process
from loopback_example import loopback

from privet.apps.agent.identity import join, load
from privet.apps.agent.run import status
from privet.apps.agent.state import State
from privet.governance.consent import Books, Consent
from privet.governance.enrolment import Fleet
from privet.transport.enrolment import EnrolmentServer

PRIVET = Path(sys.executable).with_name("privet")


def privet(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(PRIVET), *(str(one) for one in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, input=stdin)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enrolment") / "fleet"
    made = privet("fleet", "init", folder, "--name", "plant", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["name"] == "plant"
    return folder


@pytest.fixture(scope="module")
def server(fleet: Path) -> Iterator[EnrolmentServer]:
    serving = Fleet(fleet).serve(("127.0.0.1", 0))
    serving.start()
    yield serving
    serving.stop()


def test_join_renew_list_and_revoke(fleet: Path, server: EnrolmentServer, tmp_path: Path) -> None:
    invited = privet("fleet", "invite", fleet, "--count", 2, "--label", "site=north")
    first, second = invited.stdout.split()
    where = f"127.0.0.1:{server.port}"
    one = tmp_path / "one"
    joined = privet("agent", "join", "-", "--coordinator", where, "--name", "one", "--folder", one, stdin=first + "\n")
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout.startswith("joined as one; the certificate holds for 30 days")
    again = privet("agent", "join", first, "--coordinator", where, "--name", "two", "--folder", tmp_path / "two")
    assert (again.returncode, again.stdout) == (3, "")
    assert again.stderr == "privet: this token was used before; ask for a new one: privet fleet invite\n"
    wrong = privet("agent", "join", second[:-5] + "AAAA=", "--coordinator", where, "--folder", tmp_path / "two")
    assert wrong.returncode == 2
    before = load(one).files[0].read_bytes()
    assert privet("agent", "renew", "--folder", one).stdout == "renewed: 30 days\n"
    assert load(one).files[0].read_bytes() != before
    listed = json.loads(privet("fleet", "list", fleet, "--json").stdout)
    assert [(row["name"], row["labels"]) for row in listed["devices"]] == [("one", {"site": "north"})]
    assert listed["open_invitations"] == 1
    assert privet("fleet", "revoke", fleet, "one").returncode == 0
    turned_away = privet("agent", "renew", "--folder", one)
    assert (turned_away.returncode, turned_away.stderr) == (3, "privet: one was revoked; ask the fleet's operator\n")


def test_two_processes_that_use_one_token_at_once(fleet: Path, server: EnrolmentServer, tmp_path: Path) -> None:
    token = Fleet(fleet).invite(1, "gateway")[0].text()
    where = f"127.0.0.1:{server.port}"
    both = [
        subprocess.Popen(
            [
                PRIVET,
                "agent",
                "join",
                token,
                "--coordinator",
                where,
                "--name",
                f"racer-{n}",
                "--folder",
                tmp_path / str(n),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(2)
    ]
    assert sorted(one.wait(PATIENCE) for one in both) == [0, 3]
    racers = [member for member in Fleet(fleet).registry.members() if member.name.startswith("racer")]
    assert len(racers) == 1


def test_the_unit_says_what_it_must() -> None:
    unit = (Path(__file__).parents[2] / "packaging" / "privet-agent.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in unit if "=" in line and not line.startswith("#"))
    assert settings["ProtectSystem"] == "strict"
    assert settings["NoNewPrivileges"] == "yes"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["RestartPreventExitStatus"] == "2 3"
    assert "AF_PACKET" not in settings["RestrictAddressFamilies"]


PLAN = """
name = "tiny"
[data]
name = "digits"
[fleet]
devices = 2
[model]
name = "mlp"
[training]
name = "fedavg"
rounds = 2
[mechanisms]
on_device = [{ name = "clip", limit = 1.0 }, { name = "gaussian", sigma = 6.0 }]
[privacy]
budget_epsilon = 1000.0
budget_unit = "device"
[evidence]
alone = false
centralised = false
"""


class Plant:
    """A coordinator and two agents as processes."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.fleet, self.forks = folder, folder / "fleet", forks
        (folder / "plan.toml").write_text(PLAN)
        Fleet.create(self.fleet)
        port = loopback.free_ports()
        up = forks.privet("up", self.fleet, "--host", "127.0.0.1", "--port", port, "--no-edge")
        until(lambda: up.poll() is not None or up.out.read_text().startswith("up:"))
        rng = np.random.default_rng(0)
        self.agents: dict[str, Process] = {}
        for name, token in zip(("device-000", "device-001"), Fleet(self.fleet).invite(2, "gateway"), strict=True):
            joined = join(folder / name, token.text(), ("127.0.0.1", port), name)
            np.savez(folder / f"{name}.npz", inputs=rng.random((40, 1, 8, 8)), labels=rng.integers(0, 10, 40))
            State(joined.folder).keep(data={"path": str(folder / f"{name}.npz"), "target": None})
            self.books(name).grant(Consent("training", 3.0, 1e-5, "device"))
            self.start_agent(name)
        for name in self.agents:
            self.wait_for(name)

    def books(self, name: str) -> Books:
        return Books(self.folder / name, name)

    def start_agent(self, name: str) -> None:
        self.agents[name] = self.forks.privet("agent", "run", "--folder", self.folder / name)

    def wait_for(self, name: str) -> None:
        """Returns once an agent is at work."""
        pid = self.agents[name].pid
        until(lambda: [(told := status(self.folder / name))["state"], told["pid"]] == ["working", pid])

    def run(self, out: str, *settings: str) -> tuple[int, str, str]:
        """Runs the plan across the processes; returns exit status, what it told and what it complained of."""
        changed = [part for setting in settings for part in ("--set", setting)]
        where = ("--out", self.folder / out, "--fleet", self.fleet, "--patience", PATIENCE)
        run = self.forks.privet("run", self.folder / "plan.toml", "--engine", "flower", *where, *changed, "--json")
        told, said = run.communicate()
        return run.wait(), told, said


def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    with Forks(folder / "said") as forks:
        yield Plant(folder, forks)


def test_a_plan_over_budget_is_refused_by_the_devices_and_shown_with_status_3(plant: Plant) -> None:
    status, _, said = plant.run("dear", "mechanisms.on_device.1.sigma=1.0")
    assert status == 3, said
    assert "device-000, 'training'" in said or "device-001, 'training'" in said
    assert "allowed: 3 at delta 1e-05" in said
    for name in plant.agents:
        assert [record.body["refused"] for record in plant.books(name).verify()] == ["budget"]
        assert plant.books(name).spent() == {"training": 0.0}


def test_a_plan_within_budget_is_paid_for_once_and_the_next_one_is_too_much(plant: Plant) -> None:
    status, told, said = plant.run("cheap")
    assert status == 0, said
    assert json.loads(told)["run"] == str(plant.folder / "cheap")
    paid = plant.books("device-000").verify()[-1].body
    assert paid["epsilon_spent"] == plant.books("device-001").spent()["training"]
    assert 1.5 < paid["epsilon_spent"] < 3
    plant.agents["device-000"].kill()
    plant.agents["device-000"].wait()
    plant.start_agent("device-000")
    plant.wait_for("device-000")
    status, _, said = plant.run("again")
    assert (status, "would raise epsilon from" in said) == (3, True), said
    assert plant.books("device-000").spent()["training"] == paid["epsilon_spent"]


def test_a_consent_that_was_taken_back_and_a_purpose_that_nobody_allowed(plant: Plant) -> None:
    status, _, said = plant.run("games", 'privacy.purpose="games"')
    assert (status, "the owner has not allowed 'games'" in said) == (3, True), said
    for name in plant.agents:
        plant.books(name).revoke("training")
    status, _, said = plant.run("gone")
    assert (status, "took the consent for 'training' back" in said) == (3, True), said


def test_a_revoked_device_ends_with_status_3(plant: Plant) -> None:
    health = json.loads(privet("agent", "status", "--folder", plant.folder / "device-001", "--json").stdout)
    assert (health["state"], health["name"]) == ("working", "device-001")
    Fleet(plant.fleet).registry.revoke("device-001")
    _, said = plant.agents["device-001"].communicate()
    assert plant.agents["device-001"].returncode == 3
    assert said.startswith("privet: the coordinator lets this device in no more")
