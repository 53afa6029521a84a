"""The agent: consent and budget that hold, limits, rows, a log that shows changes, and a life that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting.dp_event import GaussianDpEvent, SelfComposedDpEvent

from privet.accounting import Guarantee
from privet.apps.agent import conditions, identity
from privet.apps.agent.conditions import COPIES, Conditions, Limits, look, mind
from privet.apps.agent.device import OwnDevice
from privet.apps.agent.rows import read_rows
from privet.apps.agent.run import Agent, alone, status
from privet.apps.agent.state import State
from privet.apps.cli.main import main
from privet.errors import DataError, InputError, RefusedError, RunError, UnreachableError
from privet.governance.budget import Book
from privet.governance.consent import Books, Consent, NotAllowedError
from privet.governance.enrolment import Fleet, signing_request
from privet.governance.work import sign_work
from privet.ledger.log import verify

NOON = datetime(2026, 7, 1, 12, 0)


def calm(limits: Limits) -> Conditions:
    return Conditions(None, False, None, NOON)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet.create(tmp_path_factory.mktemp("fleet") / "fleet")


@pytest.fixture
def joined(made: Fleet, tmp_path: Path) -> identity.Identity:
    """A device that has joined, without a server."""
    folder = tmp_path / "device"
    folder.mkdir()
    key = identity._key(folder)
    signed = made.authority.sign(signing_request(key, "one"), name="device/one")
    (folder / identity.CERTIFICATE).write_bytes(signed)
    (folder / identity.AUTHORITY).write_bytes(made.authority.certificate)
    from privet.crypto.signatures import public_key

    State(folder).keep(name="one", coordinator=["127.0.0.1", 1], work_key=public_key(made.work_secret).hex())
    return identity.load(folder)


@pytest.fixture
def device(joined: identity.Identity) -> OwnDevice:
    return OwnDevice(joined, calm)


def asking(release: str = "run", round: int = 1, rounds: int = 3, **changed: Any) -> dict[str, Any]:
    return {"release": release, "round": round, "rounds": rounds, "purpose": "training", "bytes": 1000} | changed


def costing(releases: int = 10, multiplier: float = 5.0, unit: str = "record") -> Guarantee:
    event = SelfComposedDpEvent(GaussianDpEvent(multiplier), releases)
    return Guarantee("one record", unit, "replace-one", 1.0, 1e-5, releases, "rdp", event)  # type: ignore[arg-type]


def refused(device: OwnDevice, code: str, call: Callable[[], object]) -> None:
    with pytest.raises(NotAllowedError) as no:
        call()
    assert no.value.code == code
    assert no.value.exit_code == 3
    last = device.books.records()[-1]
    assert (last.kind, last.body["refused"], last.body["why"]) == ("refused", code, no.value.advice())


def test_purposes_that_nobody_allowed_and_consents_taken_back_are_refused(device: OwnDevice) -> None:
    refused(device, "purpose", lambda: device.permit(asking()))
    device.books.grant(Consent("training", 8.0, 1e-5, "record"))
    device.permit(asking())
    device.books.revoke("training")
    refused(device, "consent", lambda: device.permit(asking(round=2)))
    refused(device, "consent", lambda: device.spent(asking(), costing()))
    device.books.grant(Consent("training", 8.0, 1e-5, "record"))
    device.permit(asking(round=2))
    with pytest.raises(InputError, match="no consent for 'games'"):
        device.books.revoke("games")


def test_only_work_that_the_coordinator_signed_passes(device: OwnDevice, made: Fleet) -> None:
    signature = sign_work(made.work_secret, b"work")
    device.verify(b"work", signature)
    for work, shown in ((b"other", signature), (b"work", b""), (b"work", bytes(64)), (b"work", signature[:-1])):
        refused(device, "signature", lambda work=work, shown=shown: device.verify(work, shown))
    stranger = sign_work(os.urandom(32), b"work")
    refused(device, "signature", lambda: device.verify(b"work", stranger))


def test_a_run_is_paid_for_once_and_one_too_many_is_refused(device: OwnDevice) -> None:
    device.books.grant(Consent("training", 5.0, 1e-5, "record"))
    for _ in range(3):
        device.spent(asking("first"), costing(releases=20))
    once = device.books.spent()["training"]
    assert once is not None
    assert 2.5 < once < 5
    assert [record.kind for record in device.books.records()] == ["spent"]
    refused(device, "budget", lambda: device.spent(asking("second"), costing(releases=20)))
    refused(device, "budget", lambda: device.spent(asking("first"), costing(releases=19)))
    assert device.books.spent()["training"] == once
    body = device.books.records()[0].body
    assert (body["release"], body["epsilon"], body["epsilon_spent"], body["unit"]) == ("first", 5.0, once, "record")


def test_what_can_not_be_counted_is_refused(device: OwnDevice) -> None:
    device.books.grant(Consent("training", 5.0, 1e-5, "record"))
    refused(device, "unbounded", lambda: device.spent(asking(), None))
    refused(device, "unit", lambda: device.spent(asking(), costing(unit="device")))
    assert device.books.spent() == {"training": 0.0}


def test_a_consent_without_limit_is_logged_all_the_same(device: OwnDevice) -> None:
    device.books.grant(Consent("training", None, 1e-5, "record"))
    for _ in range(2):
        device.spent(asking("first"), None)
    device.spent(asking("second"), costing())
    bodies = [record.body for record in device.books.verify()]
    assert [body["release"] for body in bodies] == ["first", "second"]
    assert all(body["epsilon_spent"] is None for body in bodies)
    assert device.books.spent() == {"training": None}


def test_what_was_promised_is_not_raised(device: OwnDevice) -> None:
    device.books.grant(Consent("training", 5.0, 1e-5, "record"))
    with pytest.raises(RefusedError, match="has a budget"):
        device.books.grant(Consent("training", 50.0, 1e-5, "record"))
    assert device.books.consents()["training"].epsilon == 5.0
    for wrong in (
        Consent("", 1.0, 1e-5, "record"),
        Consent("x", -1.0, 1e-5, "record"),
        Consent("x", 1.0, 2.0, "record"),
    ):
        with pytest.raises(InputError):
            device.books.grant(wrong)
    assert list(device.books.consents()) == ["training"]


def test_a_run_moves_forward_only_so_no_round_is_released_twice(device: OwnDevice) -> None:
    device.books.grant(Consent("training", None, 1e-5, "record"))
    device.permit(asking(round=1))
    device.permit(asking(round=1))  # the answer was lost before it was made
    device.permit(asking(round=3))
    refused(device, "round", lambda: device.permit(asking(round=2)))
    refused(device, "round", lambda: device.permit(asking(round=4, rounds=9)))
    device.permit(asking("another", round=1))
    assert [run["release"] for run in State(device.folder).runs()] == ["another", "run"]


@pytest.mark.parametrize(
    ("limits", "here", "code"),
    [
        (Limits(memory_bytes=1000 * COPIES - 1), Conditions(None, False, None, NOON), "model-size"),
        (Limits(battery=30), Conditions(29.0, False, None, NOON), "battery"),
        (Limits(metered=False), Conditions(None, False, True, NOON), "metered"),
        (Limits(window="22:00-06:00"), Conditions(None, False, None, NOON), "window"),
        (Limits(window="12:01-13:00"), Conditions(None, False, None, NOON), "window"),
        (Limits(memory_bytes=1000 * COPIES), Conditions(None, False, True, NOON), None),
        (Limits(battery=30), Conditions(30.0, False, None, NOON), None),
        (Limits(battery=30), Conditions(1.0, True, None, NOON), None),
        (Limits(battery=30), Conditions(None, False, None, NOON), None),
        (Limits(metered=False), Conditions(None, False, None, NOON), None),
        (Limits(window="06:00-22:00"), Conditions(None, False, None, NOON), None),
        (Limits(window="22:00-12:01"), Conditions(None, False, None, NOON), None),
    ],
)
def test_limits(limits: Limits, here: Conditions, code: str | None) -> None:
    if code is None:
        mind(limits, here, 1000)
        return
    with pytest.raises(NotAllowedError) as no:
        mind(limits, here, 1000)
    assert no.value.code == code


def test_limits_of_the_owner_hold_for_work(joined: identity.Identity) -> None:
    device = OwnDevice(joined, lambda limits: Conditions(10.0, False, None, NOON))
    device.books.grant(Consent("training", None, 1e-5, "record"))
    device.permit(asking())
    State(joined.folder).keep(limits=Limits(battery=50).to_table())
    refused(device, "battery", lambda: device.permit(asking()))


@pytest.mark.parametrize("wrong", [{"memory_bytes": 0}, {"battery": 101}, {"link": "perhaps"}, {"window": "22-6"}])
def test_limits_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Limits(**wrong)


def supply(folder: Path, name: str, **words: str) -> None:
    (folder / name).mkdir(parents=True)
    for key, value in words.items():
        (folder / name / key).write_text(f"{value}\n")


def test_power_as_the_system_tells_it(tmp_path: Path) -> None:
    assert look(Limits(), tmp_path / "none").battery is None
    supply(tmp_path, "BAT0", type="Battery", capacity="80", status="Discharging")
    supply(tmp_path, "BAT1", type="Battery", capacity="15", status="Discharging")
    supply(tmp_path, "mouse", type="Battery", capacity="3", status="Charging", scope="Device")
    supply(tmp_path, "odd", type="Battery", capacity="?")
    here = look(Limits(), tmp_path)
    assert (here.battery, here.charging) == (15.0, False)
    supply(tmp_path, "AC", type="Mains", online="1")
    assert look(Limits(), tmp_path).charging


@pytest.mark.parametrize(
    ("told", "metered"),
    [
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:yes (guessed)\n", True),
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:no\n\nGENERAL.STATE:30 (off)\nGENERAL.METERED:yes\n", False),
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:unknown\n", None),
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:no\n\nGENERAL.STATE:100 (x)\nGENERAL.METERED:yes\n", True),
        ("", None),
    ],
)
def test_what_networkmanager_says(
    told: str, metered: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conditions._read_metered(told) is metered
    program = tmp_path / "nmcli"
    program.write_text(f"#!{sys.executable}\nprint({told!r}, end='')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look(Limits(metered=False), tmp_path / "none").metered is metered
    monkeypatch.setenv("PATH", "")
    assert look(Limits(metered=False), tmp_path / "none").metered is None
    assert look(Limits(metered=False, link="metered"), tmp_path / "none").metered is True
    assert look(Limits(metered=False, link="free"), tmp_path / "none").metered is False


def test_rows_from_arrays_and_tables(device: OwnDevice, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        device.rows()
    inputs = np.arange(6).reshape(3, 2)
    np.savez(tmp_path / "rows.npz", inputs=inputs, labels=[0, 2, 1])
    (tmp_path / "rows.csv").write_text("a,label,b\n0,0,1\n2,2,3\n4,1,5\n")
    one, two = read_rows(tmp_path / "rows.npz"), read_rows(tmp_path / "rows.csv", "label")
    assert one[0].dtype == np.float32
    assert one[1].dtype == np.int64
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    State(device.folder).keep(data={"path": str(tmp_path / "rows.csv"), "target": "label"})
    assert device.rows()[1].tolist() == [0, 2, 1]
    assert device.rows() is device.rows()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("rows.txt", b"", r"no file of rows; allowed: \.npz or \.csv"),
        ("rows.npz", b"no archive", "damaged"),
        ("rows.csv", b"\xff\xfe", "no UTF-8 CSV"),
        ("rows.csv", b"", "no single column"),
        ("rows.csv", b"label,label\n0,0\n", "no single column"),
        ("rows.csv", b"label\n0\n", "shape"),
        ("rows.csv", b"a,label\n", "shape"),
        ("rows.csv", b"a,label\n1,zero\n", "row 2"),
        ("rows.csv", b"a,label\n1,0\n1\n", "row 3: 1 values for 2 columns"),
        ("rows.csv", b"a,label\nnan,0\n", "NaN"),
        ("rows.csv", b"a,label\n1e99,0\n", "infinity"),
        ("rows.csv", b"a,label\n1,-1\n", "label of -1"),
    ],
)
def test_rows_that_can_not_be_used(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_rows(tmp_path / name, "label")


def test_arrays_that_can_not_be_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    for arrays, match in (
        ({"inputs": np.zeros((2, 2))}, "lacks arrays"),
        ({"inputs": np.array([["a"], ["b"]]), "labels": [0, 1]}, "numbers"),
        ({"inputs": np.zeros((2, 2)), "labels": [0.5, 1.0]}, "whole numbers"),
        ({"inputs": np.zeros((2, 2)), "labels": [0]}, "shape"),
        ({"inputs": np.array([[{}]], dtype=object), "labels": [0]}, "damaged"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=match):
            read_rows(path)
    with pytest.raises(DataError, match="can't be read"):
        read_rows(tmp_path / "none.npz")
    with pytest.raises(DataError, match="can't be read"):
        read_rows(tmp_path / "none.csv", "label")


def test_the_log_shows_every_change(device: OwnDevice) -> None:
    device.books.grant(Consent("training", 8.0, 1e-5, "record"))
    device.spent(asking("first"), costing())
    refused(device, "purpose", lambda: device.permit(asking(purpose="games")))
    records = device.books.verify()
    assert [record.kind for record in records] == ["spent", "refused"]
    assert records[1].previous == records[0].hash
    assert records[1].body["purpose"] == "games"
    whole = device.books.log.read_text()
    for wrong in (
        whole.replace("games", "chess"),
        whole.replace('"index": 1', '"index": 2'),
        whole[whole.index("\n") + 1 :],
    ):
        device.books.log.write_text(wrong)
        with pytest.raises(RunError, match="does not verify"):
            device.books.verify()
    device.books.log.write_text(whole)
    account = device.books.account.read_text()
    device.books.account.write_text("".join(account.splitlines(keepends=True)[:-1]))  # the payment is gone
    with pytest.raises(RunError, match=r"1 spends, consent\.jsonl 0"):
        device.books.verify()


def test_a_long_purpose_does_not_fill_the_log(device: OwnDevice) -> None:
    refused(device, "purpose", lambda: device.permit(asking(purpose="x" * 100_000)))
    assert device.books.log.stat().st_size < 110_000


CRASH = """
import os, signal, sys
from pathlib import Path
from privet.governance import consent
from privet.governance.consent import Books
sys.path.insert(0, sys.argv[2])
from test_agent import costing
die = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
setattr(consent.Books, "_make_good", die) if sys.argv[3] == "before the log" else None
books = Books(Path(sys.argv[1]), "one")
if sys.argv[3] == "before the log":
    consent.Books._make_good = lambda self: None if not self.account.read_text().count('"spent"') else die()
books.spend("first", "training", costing())
die()
"""


@pytest.mark.parametrize("when", ["before the log", "before the noise"])
def test_killed_between_payment_and_release(device: OwnDevice, when: str) -> None:
    device.books.grant(Consent("training", 5.0, 1e-5, "record"))
    ended = subprocess.run(
        [sys.executable, "-c", CRASH, device.folder, Path(__file__).parent, when], capture_output=True, timeout=60
    )
    assert ended.returncode == -9, ended.stderr.decode()
    paid = [record for record in verify(device.books.account) if record.kind == "spent"]
    assert len(paid) == 1  # nothing is forgotten
    before = device.books.spent()["training"]
    device.spent(asking("first"), costing())
    assert device.books.spent()["training"] == before  # and nothing is paid twice
    assert [record.body["release"] for record in device.books.verify()] == ["first"]


def test_two_processes_take_turns(device: OwnDevice) -> None:
    device.books.grant(Consent("training", None, 1e-5, "record"))
    threads = [
        threading.Thread(target=Books(device.folder, "one").spend, args=(f"run-{number}", "training", None))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(device.books.verify()) == 8


def test_books_that_somebody_else_holds(device: OwnDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privet.governance.consent._PATIENCE", 0.05)
    with device.books._alone(), pytest.raises(RefusedError, match="another process holds"):
        Books(device.folder, "one").consents()


# The agent's life.


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_an_agent_goes_on_after_what_goes_wrong(joined: identity.Identity, stop: threading.Event) -> None:
    wrong: list[Exception] = [UnreachableError("nobody there"), MemoryError("too much"), RunError("damaged")]
    seen: list[dict[str, Any]] = []

    def serve(who: identity.Identity, pause: threading.Event, let_in: Callable[[], None]) -> None:
        seen.append(status(who.folder))
        if wrong:
            raise wrong.pop(0)
        let_in()
        seen.append(status(who.folder))
        stop.set()

    Agent(joined.folder, serve, first_wait=0.01).run(stop)
    assert [one["state"] for one in seen] == ["connecting"] * 4 + ["working"]
    assert [one["error"] for one in seen] == ["", "nobody there", "MemoryError: too much", "damaged", ""]
    assert (seen[-1]["restarts"], seen[-1]["pid"]) == (3, os.getpid())
    assert status(joined.folder)["state"] == "stopped"


def test_an_agent_that_is_refused_ends(joined: identity.Identity, stop: threading.Event) -> None:
    def serve(*_: object) -> None:
        raise RefusedError("revoked")

    with pytest.raises(RefusedError, match="revoked"):
        Agent(joined.folder, serve).run(stop)


def test_one_agent_a_folder(joined: identity.Identity, stop: threading.Event) -> None:
    with alone(joined.folder), pytest.raises(RefusedError, match="an agent is at work"):
        Agent(joined.folder, lambda *_: None).run(stop)


@pytest.mark.parametrize("outcome", ["renewed", "unreachable", "revoked"])
def test_a_certificate_is_renewed_when_a_third_is_left(
    joined: identity.Identity, stop: threading.Event, monkeypatch: pytest.MonkeyPatch, made: Fleet, outcome: str
) -> None:
    request = signing_request(joined.files[1].read_bytes(), "one")
    joined.files[0].write_bytes(made.authority.sign(request, name="device/one", days=9))
    assert joined.due()
    asked = threading.Event()

    def renewal(who: identity.Identity) -> identity.Identity:
        asked.set()
        if outcome == "unreachable":
            raise UnreachableError("nobody there")
        if outcome == "revoked":
            raise RefusedError("one was revoked")
        who.files[0].write_bytes(made.authority.sign(request, name="device/one"))
        return who

    monkeypatch.setattr("privet.apps.agent.run.renew", renewal)

    starts: list[float] = []

    def serve(who: identity.Identity, pause: threading.Event, let_in: Callable[[], None]) -> None:
        starts.append(who.days_left())
        asked.wait(5)
        if outcome == "unreachable" or starts[-1] > 20:
            stop.set()
        assert pause.wait(5)

    agent = Agent(joined.folder, serve, check=0.05)
    if outcome == "revoked":
        with pytest.raises(RefusedError, match="one was revoked"):
            agent.run(stop)
    else:
        agent.run(stop)
    assert joined.due() == (outcome != "renewed")
    assert outcome != "renewed" or starts[-1] > 20  # the work went on with the new certificate


# The command.


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], joined: identity.Identity) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object, folder: Path | None = joined.folder) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(one) for one in ("agent", *arguments, *(("--folder", folder) if folder else ()))])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_the_owner_says_what_is_allowed_and_reads_what_was_done(
    call: Callable[..., tuple[int, str, str]], device: OwnDevice
) -> None:
    assert call("consent", "grant", "training", "--epsilon", 8)[0] == 0
    assert call("consent", "grant", "games", "--no-limit")[1] == "allowed: games, without limit\n"
    assert call("consent", "grant", "games")[0] == 2
    assert call("consent", "grant", "games", "--no-limit", "--epsilon", 1)[0] == 2
    assert call("consent", "grant", "training", "--epsilon", 9)[0] == 3
    assert call("consent", "revoke", "games")[0] == 0
    device.spent(asking("first"), costing())
    refused(device, "consent", lambda: device.permit(asking(purpose="games")))
    rows = json.loads(call("consent", "list", "--json")[1])["consents"]
    assert [(row["purpose"], row["epsilon"], bool(row["revoked"])) for row in rows] == [
        ("training", 8.0, False),
        ("games", None, True),
    ]
    listed = call("consent", "list")[1].splitlines()
    assert "of epsilon 8 spent per record" in listed[0]
    assert listed[1].endswith("taken back")
    status, out, _ = call("log", "--json")
    objects = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [one["kind"] for one in objects] == ["spent", "refused"]
    assert objects[1]["previous"] == objects[0]["hash"]
    assert "epsilon" in call("log")[1]
    assert json.loads(call("log", "--verify", "--json")[1]) == {
        "valid": True,
        "records": 2,
        "head": objects[1]["hash"],
    }
    assert "2 records verify" in call("log", "--verify")[1]
    device.books.log.write_text(out.replace("first", "fjrst"))
    assert call("log", "--verify")[0] == 2


def test_settings_and_status(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", inputs=np.zeros((3, 2)), labels=[0, 2, 1])
    status, out, _ = call("settings", "--data", tmp_path / "rows.npz", "--battery", 30, "--no-metered", "--json")
    told = json.loads(out)
    assert (status, told["data"]["path"]) == (0, str(tmp_path / "rows.npz"))
    assert (told["limits"]["battery"], told["limits"]["metered"]) == (30, False)
    out = call("settings", "--memory", 512, "--window", "22:00-06:00")[1]
    assert "memory_bytes: 512000000" in out
    assert "battery: 30" in out
    assert call("settings", "--data", tmp_path / "none.npz")[0] == 2
    assert call("settings", "--window", "late")[0] == 2
    told = json.loads(call("status", "--json")[1])
    assert (told["name"], told["state"], told["restarts"]) == ("one", "stopped", 0)
    assert told["certificate_days"] > 29
    assert "one: stopped" in call("status")[1]


def test_addresses_folders_and_help(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for address in ("nowhere", ":1", "host:", "host:0", "host:65536", "host:x"):
        assert call("join", "privet1-x", "--coordinator", address)[0] == 2
    assert call("renew")[0] == 4  # nobody listens on port 1
    assert call("status", folder=tmp_path)[0] == 2
    assert "consent" in call(folder=None)[1]
    assert "grant" in call("consent", folder=None)[1]


def test_book_of_a_device_replays(device: OwnDevice) -> None:
    device.books.grant(Consent("training", 5.0, 1e-5, "record"))
    device.spent(asking("first"), costing())
    with Book(device.books.account) as book:
        assert book.spent("one", "training") == device.books.records()[0].body["epsilon_spent"]
