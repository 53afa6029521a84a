"""Enrolment: tokens, the registry, the service's door, and certificates that renew."""

from __future__ import annotations

import json
import re
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.apps.agent import identity
from privet.errors import InputError, RefusedError, RunError, UnreachableError
from privet.governance.enrolment import COORDINATOR, Fleet
from privet.governance.registry import Registry, Verdicts
from privet.governance.tokens import Token, hash_of, same
from privet.transport.certificates import expires, host_of, name_in
from privet.transport.enrolment import LONGEST, EnrolmentServer, Patience, ask, client_context

PEER = host_of(COORDINATOR)
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(tmp_path: Path, clock: Clock) -> Fleet:
    Fleet.create(tmp_path / "fleet")
    return Fleet(tmp_path / "fleet", clock)


@pytest.fixture
def served(fleet: Fleet) -> Iterator[EnrolmentServer]:
    server = fleet.serve(("127.0.0.1", 0), seconds=1.0)
    server.start()
    yield server
    server.stop()


def at(server: EnrolmentServer) -> tuple[str, int]:
    return "127.0.0.1", server.port


def test_a_fleet_is_made_once_and_its_keys_are_the_owners_alone(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "fleet", "plant", ["coordinator.example", "127.0.0.1"])
    other = Fleet.create(tmp_path / "other")
    assert fleet.work_secret != other.work_secret
    assert fleet.authority.key != other.authority.key
    for secret in ("authority.key", "coordinator.key", "work.key", "fleet.db"):
        assert stat.S_IMODE((fleet.folder / secret).stat().st_mode) == 0o600
    assert stat.S_IMODE(fleet.folder.stat().st_mode) == 0o700
    with pytest.raises(InputError, match="exists already"):
        Fleet.create(tmp_path / "fleet")
    with pytest.raises(InputError, match="no host"):
        Fleet.create(tmp_path / "third", hosts=["not a host"])
    assert not (tmp_path / "third").exists()
    with pytest.raises(InputError, match="no fleet"):
        Fleet(tmp_path / "third")
    (fleet.folder / "work.key").chmod(0o644)
    with pytest.raises(RefusedError, match="chmod 600"):
        Fleet(fleet.folder).work_secret  # noqa: B018


@given(st.binary(min_size=32, max_size=32))
def test_tokens_are_read_as_they_were_written(authority: bytes) -> None:
    token = Token.fresh(authority)
    assert Token.read(f" {token.text()}\n") == token
    assert len(token.secret) * 8 >= 128
    assert token.secret.hex() not in repr(token)
    assert same(token.secret, hash_of(token.secret))
    assert not same(token.secret, hash_of(b"another"))


@given(st.integers(0, 90), st.sampled_from("aZ9_-"))
@settings(max_examples=30)
def test_a_slip_of_the_pen_is_no_token(place: int, letter: str) -> None:
    text = Token(bytes(8), bytes(24), bytes(32)).text()
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong != text:
        with pytest.raises(InputError, match="no token"):
            Token.read(wrong)


def test_tokens_are_kept_as_hashes_only(fleet: Fleet) -> None:
    tokens = fleet.invite(50, "gateway", {"site": "north"})
    assert len({token.text() for token in tokens}) == 50
    held = b"".join(path.read_bytes() for path in fleet.folder.iterdir())
    assert hash_of(tokens[0].secret) in held
    assert not any(token.secret in held or token.secret.hex().encode() in held for token in tokens)
    assert fleet.registry.open_invitations() == 50


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"count": 0}, "0 tokens"),
        ({"count": 1, "days": 400.0}, "365"),
        ({"count": 1, "profile": "gatewey"}, "gateway"),
        ({"count": 1, "labels": {"Site!": "x"}}, "label"),
    ],
)
def test_wrong_invitations_are_refused(fleet: Fleet, changed: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fleet.invite(**({"profile": "gateway"} | changed))
    assert fleet.registry.open_invitations() == 0


def test_a_device_joins_with_a_key_of_its_own_that_flower_can_read(
    fleet: Fleet, served: EnrolmentServer, tmp_path: Path
) -> None:
    token = fleet.invite(1, "gateway", {"site": "north"})[0]
    joined = identity.join(tmp_path / "device", token.text(), at(served), "device-000")
    member = fleet.registry.find("device-000")
    assert (member.profile, member.labels, member.trusted) == ("gateway", {"site": "north"}, True)
    assert 29.9 < joined.days_left() <= 30
    assert not joined.due()
    assert name_in(joined.files[0].read_bytes()) == "device/device-000"
    for secret in (identity.KEY, "agent.db"):
        assert stat.S_IMODE((joined.folder / secret).stat().st_mode) == 0o600
    own = serialization.load_pem_private_key((joined.folder / identity.KEY).read_bytes(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    assert own.curve.name == "secp384r1"
    assert serialization.load_ssh_public_key(member.public_key.encode()) == own.public_key()
    with pytest.raises(InputError, match="joined already"):
        identity.join(tmp_path / "device", token.text(), at(served), "device-000")


def test_used_expired_and_wrong_tokens_are_refused_in_one_line(
    fleet: Fleet, served: EnrolmentServer, tmp_path: Path, clock: Clock
) -> None:
    used, late = fleet.invite(2, "gateway")
    identity.join(tmp_path / "one", used.text(), at(served), "one")
    with pytest.raises(RefusedError, match="used before; ask for a new one"):
        identity.join(tmp_path / "two", used.text(), at(served), "two")
    with pytest.raises(RefusedError, match="called 'one' was enrolled before"):
        identity.join(tmp_path / "two", late.text(), at(served), "one")
    with pytest.raises(RefusedError, match="knows no such token"):
        identity.join(tmp_path / "two", Token.fresh(used.authority).text(), at(served), "two")
    with pytest.raises(RefusedError, match="knows no such token"):
        identity.join(tmp_path / "two", Token(late.number, used.secret, used.authority).text(), at(served), "two")
    clock.now += 8 * DAY
    with pytest.raises(RefusedError, match="expired"):
        identity.join(tmp_path / "two", late.text(), at(served), "two")
    assert [member.name for member in fleet.registry.members()] == ["one"]
    assert not (tmp_path / "two" / identity.CERTIFICATE).exists()


def test_a_token_is_never_sent_to_another_fleet(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> None:
    other = Fleet.create(tmp_path / "other")
    token = other.invite(1, "gateway")[0]
    with pytest.raises(RefusedError, match="the token was not sent"):
        identity.join(tmp_path / "device", token.text(), at(served))
    assert not (tmp_path / "device").exists()


def test_a_join_whose_answer_was_lost_is_tried_again(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> None:
    token = fleet.invite(1, "gateway")[0].text()
    first = identity.join(tmp_path / "device", token, at(served), "device-000")
    first.files[0].unlink()  # as if the answer had never come
    again = identity.join(tmp_path / "device", token, at(served), "device-000")
    assert again.days_left() > 29
    assert len(fleet.registry.members()) == 1
    fleet.registry.revoke("device-000")
    again.files[0].unlink()
    with pytest.raises(RefusedError, match="used before"):
        identity.join(tmp_path / "device", token, at(served), "device-000")


def test_a_name_of_its_own_comes_from_the_key(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> None:
    joined = identity.join(tmp_path / "device", fleet.invite(1, "phone")[0].text(), at(served))
    assert re.fullmatch("device-[0-9a-f]{8}", joined.name)


@pytest.mark.parametrize("name", ["", "Device", "a/b", "-a", "a" * 41, "../x", "ü"])
def test_names_that_are_none_are_refused(fleet: Fleet, name: str) -> None:
    token = fleet.invite(1, "phone")[0]
    with pytest.raises(InputError):
        fleet.registry.enrol(token.number, token.secret, name, "key", lambda: ("1", 0.0))
    assert fleet.registry.open_invitations() == 1


def test_a_device_renews_with_its_certificate_until_it_is_revoked(
    fleet: Fleet, served: EnrolmentServer, tmp_path: Path
) -> None:
    joined = identity.join(tmp_path / "device", fleet.invite(1, "gateway")[0].text(), at(served), "one")
    before = joined.files[0].read_bytes()
    assert identity.renew(joined) == joined
    assert joined.files[0].read_bytes() != before
    assert joined.due(expires(before).timestamp() - 9 * DAY)
    assert fleet.admitted(before) == "one"
    assert fleet.registry.revoke("one") == fleet.registry.revoke("one")
    with pytest.raises(RefusedError, match="one was revoked"):
        identity.renew(joined)
    with pytest.raises(RefusedError, match="one was revoked"):
        fleet.admitted(before)
    with pytest.raises(RefusedError, match="no device called"):
        fleet.registry.revoke("two")


def test_renewal_wants_a_certificate_and_the_same_key(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> None:
    one, two = (
        identity.join(tmp_path / name, fleet.invite(1, "gateway")[0].text(), at(served), name)
        for name in ("one", "two")
    )
    authority = one.files[2].read_text()
    stolen = {"request": identity.signing_request((two.folder / identity.KEY).read_bytes(), "one").decode()}
    with pytest.raises(RefusedError, match="no certificate was shown"):
        ask(at(served), "/renew", stolen, client_context(authority), peer=PEER)
    own = client_context(authority, one.files[:2])
    with pytest.raises(RefusedError, match="another key"):
        ask(at(served), "/renew", stolen, own, peer=PEER)
    other = {"request": identity.signing_request((one.folder / identity.KEY).read_bytes(), "two").decode()}
    with pytest.raises(RefusedError, match="not for device/one"):
        ask(at(served), "/renew", other, own, peer=PEER)
    coordinator = client_context(authority, fleet.files[:2])
    with pytest.raises(RefusedError, match="not a device's"):
        ask(at(served), "/renew", other, coordinator, peer=PEER)


def test_expired_and_foreign_certificates_do_not_pass_the_handshake(
    fleet: Fleet, served: EnrolmentServer, tmp_path: Path
) -> None:
    joined = identity.join(tmp_path / "device", fleet.invite(1, "gateway")[0].text(), at(served), "one")
    certificate, key, authority = joined.files
    request = identity.signing_request(key.read_bytes(), "one")
    for signer, days in ((fleet.authority, -1), (Fleet.create(tmp_path / "other").authority, 30)):
        certificate.write_bytes(signer.sign(request, name="device/one", days=days))
        context = client_context(authority.read_text(), (certificate, key))
        with pytest.raises(UnreachableError):
            ask(at(served), "/renew", {"request": request.decode()}, context, peer=PEER)
    certificate.write_bytes(fleet.authority.sign(request, name="device/one", days=-1))
    with pytest.raises(RefusedError, match="certificate of one has ended"):
        identity.renew(joined)


def test_a_device_can_not_play_the_coordinator(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> None:
    joined = identity.join(tmp_path / "device", fleet.invite(1, "gateway")[0].text(), at(served), "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*joined.files[:2])
    false = EnrolmentServer(("127.0.0.1", 0), context, lambda asked: {})
    false.start()
    try:
        with pytest.raises(RefusedError, match="did not prove"):
            ask(at(false), "/join", {}, client_context(joined.files[2].read_text()), peer=PEER)
    finally:
        false.stop()


@pytest.mark.parametrize(
    ("path", "fields", "match"),
    [
        ("/join", {}, "name is missing"),
        ("/join", {"name": "x", "request": "x", "number": "zz", "secret": ""}, "not hexadecimal"),
        ("/join", {"name": "x", "request": "x", "number": "00", "secret": "00"}, "no signing request"),
        ("/join", {"name": 7}, "name is missing"),
        ("/join", {"name": "x" * 5000}, "no short text"),
        ("/nothing", {}, "nothing is asked here"),
        ("/join", {"name": "x" * (LONGEST + 1)}, "at most 16384"),
    ],
)
def test_malformed_requests_are_refused(served: EnrolmentServer, path: str, fields: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        ask(at(served), path, fields, client_context(None), peer=PEER)


def test_keys_of_another_kind_are_refused(fleet: Fleet) -> None:
    from privet.transport.certificates import new_key, request

    token = fleet.invite(1, "gateway")[0]
    asked = {
        "name": "one",
        "number": token.number.hex(),
        "secret": token.secret.hex(),
        "request": request(new_key(), "device/one").decode(),
    }
    with pytest.raises(InputError, match="P-384"):
        fleet._join(asked)
    assert fleet.registry.open_invitations() == 1


def test_ten_wrong_attempts_a_minute_and_the_address_is_not_heard(served: EnrolmentServer, fleet: Fleet) -> None:
    for _ in range(10):
        with pytest.raises(InputError):
            ask(at(served), "/nothing", {}, client_context(None), peer=PEER)
    with pytest.raises(RefusedError, match="too many wrong attempts"):
        ask(at(served), "/nothing", {}, client_context(None), peer=PEER)
    assert ask(at(served), "/authority", None, client_context(None), peer=PEER)["certificate"]
    with pytest.raises(UnreachableError, match="nothing here"):
        ask(at(served), "/other", None, client_context(None), peer=PEER)


def test_patience_returns_after_a_minute_and_forgets_the_oldest_address() -> None:
    now = [0.0]
    patience = Patience(most=2, clock=lambda: now[0])
    patience.wrong("a")
    patience.wrong("a")
    assert patience.lost("a")
    assert not patience.lost("b")
    now[0] = 61.0
    assert not patience.lost("a")
    for number in range(5000):
        patience.wrong(str(number))
    assert len(patience._wrong) == 4096


def test_a_line_that_says_nothing_or_drips_is_cut(served: EnrolmentServer) -> None:
    with socket.create_connection(at(served)) as mute:
        mute.settimeout(5)
        started = time.monotonic()
        assert mute.recv(1) == b""
        assert 0.5 < time.monotonic() - started < 5
    context = client_context(None)
    with (
        socket.create_connection(at(served)) as plain,
        context.wrap_socket(plain, server_hostname=PEER) as dripping,
    ):
        dripping.settimeout(5)
        started = time.monotonic()
        with suppress(OSError):
            for _ in range(40):
                dripping.sendall(b"P")
                time.sleep(0.1)
        assert time.monotonic() - started < 3.5  # all of it takes 4


def test_one_address_has_half_of_the_places(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key, authority = fleet.files
    from privet.transport.enrolment import server_context

    context = server_context(certificate, key, authority, strangers=True)
    server = EnrolmentServer(("127.0.0.1", 0), context, lambda asked: {}, seconds=60, at_once=4)
    server.start()
    held = [socket.create_connection(at(server)) for _ in range(2)]
    waits: list[float] = []

    def until(places: int) -> None:
        end = time.monotonic() + 20
        while server._by_address["127.0.0.1"] != places:
            assert time.monotonic() < end
            time.sleep(0.005)

    def left(seconds: float) -> None:
        waits.append(seconds)
        for one in held:
            one.close()
        until(0)

    try:
        until(2)
        with socket.create_connection(at(server)) as third:
            third.settimeout(20)  # a third of what the others may last
            assert third.recv(1) == b""
        # A client that was cut waits and tries again, so it comes in once the others have left.
        until(2)
        monkeypatch.setattr("privet.transport.enrolment.time", SimpleNamespace(sleep=left))
        assert ask(at(server), "/join", {}, client_context(None), peer=PEER) == {}
        assert len(waits) == 1
    finally:
        server.stop()
        for one in held:
            one.close()


def test_tls_below_1_3_is_refused(served: EnrolmentServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(at(served)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match="no sound answer"):
        identity.join(tmp_path / "device", Token.fresh(bytes(32)).text(), ("127.0.0.1", port))
    assert not (tmp_path / "device").exists()


def test_a_server_that_answers_nonsense(fleet: Fleet) -> None:
    certificate, key, authority = fleet.files
    from privet.transport.enrolment import server_context

    context = server_context(certificate, key, authority, strangers=True)
    large = EnrolmentServer(("127.0.0.1", 0), context, lambda asked: {"x": "y" * LONGEST})
    large.start()
    try:
        with pytest.raises(UnreachableError, match="no sound answer"):
            ask(at(large), "/join", {}, client_context(None), peer=PEER)
    finally:
        large.stop()


def test_a_damaged_registry_is_named(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").write_bytes(b"no database at all, but long enough to be one" * 50)
    with pytest.raises(RunError, match=r"fleet\.db can't be used"):
        Registry(tmp_path / "fleet.db")


def test_a_folder_without_a_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="joined a fleet"):
        identity.load(tmp_path)


def test_what_a_join_tells(fleet: Fleet, served: EnrolmentServer, tmp_path: Path) -> None:
    joined = identity.join(tmp_path / "device", fleet.invite(1, "gateway")[0].text(), at(served), "one")
    from privet.crypto.signatures import public_key

    assert joined.work_key == public_key(fleet.work_secret)
    assert identity.load(joined.folder) == joined
    assert json.dumps(fleet.registry.find("one").labels) == "{}"


@pytest.mark.parametrize("text", ["", "privet1-", "privet1-!!!!", "token", "privet1-" + "A" * 92])
def test_words_that_are_no_tokens(text: str) -> None:
    with pytest.raises(InputError, match="no token"):
        Token.read(text)


def test_a_verdict_holds_until_anybody_changes_the_registry(fleet: Fleet) -> None:
    asked, trusted = [], {"one"}

    def decide(who: str) -> bool:
        asked.append(who)
        return who in trusted

    verdicts = Verdicts[str](fleet.registry.path, decide)
    assert [verdicts(who) for who in ("one", "two", "one", "two")] == [True, False, True, False]
    assert asked == ["one", "two"]
    trusted.clear()
    assert verdicts("one")  # nobody has written to the file
    Registry(fleet.registry.path).keep(anything=1)
    assert not verdicts("one")
    assert asked == ["one", "two", "one"]
    verdicts.close()


def test_one_key_is_one_device(fleet: Fleet) -> None:
    one, two = fleet.invite(2, "gateway")
    fleet.registry.enrol(one.number, one.secret, "one", "key", lambda: ("1", 0.0))
    with pytest.raises(RefusedError, match="another device has this key"):
        fleet.registry.enrol(two.number, two.secret, "two", "key", lambda: ("2", 0.0))
    assert fleet.registry.open_invitations() == 1


def test_budgets_are_found_where_they_were() -> None:
    from privet import governance
    from privet.governance.budget import Book

    assert governance.Book is Book
    with pytest.raises(AttributeError, match="no attribute 'Purse'"):
        governance.Purse  # noqa: B018
