"""Who may ask the inference service, and what is counted of questions."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from privet import parts
from privet.apps.service.broker import _own_topic
from privet.apps.service.callers import Tokens, anybody, holder, members, new_token
from privet.apps.service.desk import Desk
from privet.errors import InputError, RefusedError, UnreachableError
from privet.governance.enrolment import Fleet
from privet.inference.questions import question
from privet.inference.serving import Limits
from privet.inference.versions import WEIGHTS, Version, publish
from privet.tensors import clone, save
from privet.transport.contract import Peer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def version(tmp_path: Path) -> Version:
    folder = tmp_path / "model"
    folder.mkdir()
    save(clone(parts.build("models", {"name": "mlp"}).build((3,), 2).state_dict()), folder / WEIGHTS)
    return publish(folder, name="v1", model={"name": "mlp"}, shape=(3,), classes=2, secret=bytes(32))


def test_a_token_lets_in_until_its_line_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token, other = new_token(path, "web-1"), new_token(path, "web-2")
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert len(token) == 43  # 256 bits
    assert token not in path.read_text()
    tokens = Tokens(path)
    assert tokens.caller(f"Bearer {token}".encode()) == "token/web-1"
    assert tokens.caller(f"bearer {other} ".encode()) == "token/web-2"
    for wrong in (b"", b"Bearer", b"Bearer " + token[:-1].encode(), b"Basic " + token.encode(), b"Bearer \xff\xfe"):
        assert tokens.caller(wrong) is None
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("web-1 ")))
    tokens.read()
    assert tokens.caller(f"Bearer {token}".encode()) is None
    assert tokens.caller(f"Bearer {other}".encode()) == "token/web-2"
    assert Tokens(None).caller(f"Bearer {token}".encode()) is None


def test_wrong_token_files_and_names(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    new_token(path, "web")
    with pytest.raises(InputError, match="web has a token already"):
        new_token(path, "web")
    with pytest.raises(InputError, match="is no name"):
        new_token(path, "We b")
    path.chmod(0o640)
    with pytest.raises(RefusedError, match="can be read by others"):
        Tokens(path)
    path.chmod(0o600)
    path.write_text("web abc\n")
    with pytest.raises(InputError, match="is damaged"):
        Tokens(path)
    with pytest.raises(InputError, match="is missing"):
        Tokens(tmp_path / "nothing")


def test_roles_and_members_of_a_fleet(tmp_path: Path) -> None:
    assert anybody(Peer("device", "a"))
    assert anybody(Peer("client", "a"))
    assert not anybody(Peer("miner", "a"))
    with pytest.raises(InputError, match="no fleet in"):
        members(tmp_path)
    admits = members(Fleet.create(tmp_path / "fleet").folder)
    assert admits(Peer("client", "a"))
    assert not admits(Peer("device", "stranger"))
    assert not admits(Peer("coordinator", "main"))


def test_a_certificate_that_names_nobody_is_nobodys() -> None:
    assert holder(b"no certificate") is None


@pytest.mark.parametrize(
    ("topic", "own"),
    [
        ("privet/answer/device/a/word1", True),
        ("privet/answer/device/a", False),
        ("privet/answer/device/a/", False),
        ("privet/answer/device/a/b/c", False),
        ("privet/answer/device/b/word1", False),
        ("privet/answer/device/a/../b", False),
        ("privet/answer/device/a/#", False),
        ("$SYS/broker", False),
        ("", False),
    ],
)
def test_answers_go_to_the_callers_own_topics_only(topic: str, own: bool) -> None:
    assert _own_topic(topic, "device/a") is own


def test_what_is_counted_names_no_caller_and_no_value(version: Version) -> None:
    desk = Desk(version, Limits(samples=2), 1)
    original, obfuscated = np.full((1, 3), 0.25, np.float32), np.full((1, 3), 0.75, np.float32)
    for samples in (original, obfuscated):
        assert desk.ask("grpc", "device/secret-name", question(samples)).result(5).scores.shape == (1, 2)
    with pytest.raises(InputError, match="out of range"):
        desk.ask("mqtt", "device/secret-name", question(original + 9)).result(5)
    with pytest.raises(InputError, match="a question of 7 bytes"):
        desk.ask("https", "device/secret-name", bytes(7)).result(5)
    desk.refused("https", "refused")
    desk.close()
    with pytest.raises(UnreachableError, match="stopping"):
        desk.ask("grpc", "device/secret-name", question(original)).result(5)
    lines = [line for line in desk.metrics().decode().splitlines() if line.startswith("privet_questions_total")]
    assert sorted(lines) == [
        'privet_questions_total{outcome="answered",transport="grpc"} 2.0',
        'privet_questions_total{outcome="busy",transport="grpc"} 1.0',
        'privet_questions_total{outcome="refused",transport="https"} 1.0',
        'privet_questions_total{outcome="wrong",transport="https"} 1.0',
        'privet_questions_total{outcome="wrong",transport="mqtt"} 1.0',
    ]
    assert "secret-name" not in desk.metrics().decode()
    assert json.loads(desk.offer())["samples"] == 2


def test_a_cancelled_question_counts_as_given_up(version: Version) -> None:
    desk = Desk(version, Limits(wait=0.2), 1)
    asked = desk.ask("grpc", "device/a", question(np.zeros((1, 3), np.float32)))
    assert asked.cancel()
    desk.close()
    assert 'privet_questions_total{outcome="given up",transport="grpc"} 1.0' in desk.metrics().decode()


def test_the_service_says_what_it_lacks_in_one_line(
    call: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["serve", "inference", "--model", tmp_path, "--identity", tmp_path, "--signer", "00" * 32]
    for more, says in (
        ((), "holds no identity of a service, no transport.pem; make one: privet serve certify"),
        (("--https", "nowhere"), "--https 'nowhere' is no address"),
        (("--https", "https://127.0.0.1:8470"), "'https://127.0.0.1:8470' is no address; allowed: HOST:PORT\n"),
        (("--mqtt", "mqtt://127.0.0.1:8883"), "is no address; allowed: HOST:PORT or mqtts://HOST:PORT\n"),
        (("--share", 4), "limits of 16 samples a question"),
        (("--signer", "xyz"), "no public key of a signer"),
    ):
        more = more if "--https" in more else (*more, "--https", "127.0.0.1:0")
        status, out, err = call(*words, *more)  # type: ignore[operator]
        assert (status, out) == (2, "")
        assert says in err
        assert err.count("\n") == 1
    (tmp_path / "transport.pem").touch()
    assert "would listen nowhere" in call(*words)[2]  # type: ignore[operator]
    for module in [name for name in sys.modules if name.startswith("privet.apps.service.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'privet[serve]'" in call(*words, "--https", "127.0.0.1:0")[2]  # type: ignore[operator]
