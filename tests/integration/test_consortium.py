"""A run's ledger in one process: what miners agree on, whom they name, and what a crash leaves."""

from __future__ import annotations

import hmac
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from torch import Tensor

from privet.aggregation.exact import aggregate, quantise, scores_of
from privet.aggregation.shared import Customer
from privet.crypto.signatures import public_key
from privet.errors import RefusedError
from privet.ledger.chain import Chain
from privet.ledger.content import encode_cid
from privet.ledger.sealing import _COMMITMENT, _CONTENT, Sealed, _derived, _digest, _info, _wrap, seal
from privet.ledger.verification import verify
from privet.study.consortium import Consortium
from privet.study.mining import moved
from privet.study.sections import HostileMiners, Ledger

DEVICES = [f"device-{at}" for at in range(6)]
INITIAL = torch.linspace(-1, 1, 40)


def updates(round: int, wild: bool = True) -> list[Tensor]:
    """Five alike, the last one far off."""
    rng = torch.Generator().manual_seed(round)
    found = [torch.randn(40, generator=rng) * 0.1 + 0.3 for _ in DEVICES]
    return [*found[:-1], found[-1] * 50 if wild else found[-1]]


def open_(folder: Path, rounds: int = 2, rule: str = "multi-krum", **settings: Any) -> Consortium:
    ledger = Ledger(**({"miners": 5 if settings.get("updates") == "shared" else 4} | settings))
    folder.mkdir(exist_ok=True)
    return Consortium(folder, ledger, DEVICES, rounds, rule, 1 if rule == "multi-krum" else 0, INITIAL, bytes(32))


def expected(rounds: int, rule: str = "multi-krum") -> list[Tensor]:
    model, out = INITIAL.numpy().astype("<f4").tobytes(), []
    for round in range(1, rounds + 1):
        steps = [quantise(update.numpy()) for update in updates(round)]
        model = moved(model, aggregate(steps, rule, 1, 3).update)
        out.append(torch.from_numpy(np.frombuffer(model, "<f4").copy()))
    return out


@pytest.mark.parametrize("rule", ["mean", "multi-krum"])
@pytest.mark.parametrize("kind", ["sealed", "shared", "plain"])
def test_the_chain_gives_the_exact_aggregate(tmp_path: Path, rule: str, kind: str) -> None:
    consortium = open_(tmp_path / "run", rule=rule, updates=kind)
    wanted = expected(2, rule)
    for round in (1, 2):
        settled = consortium.settle(round, DEVICES, updates(round))
        assert settled.model is not None
        assert torch.equal(settled.model, wanted[round - 1])
        assert set(settled.left_out) == ({"device-5"} if rule == "multi-krum" else set())
    told = consortium.finish()
    found = verify(tmp_path / "run", scores_of)
    assert (found.first_wrong, found.height) == (None, told["height"])
    reputations = {row["device"]: (row["reputation"], row["reward"]) for row in told["customers"]}
    if rule == "multi-krum":
        assert reputations == dict.fromkeys(DEVICES[:5], (7, 11)) | {"device-5": (0, 0)}
    else:
        assert reputations == dict.fromkeys(DEVICES, (7, 11))
    assert not any(row["named"] for row in told["miners"])


@pytest.mark.parametrize(
    ("lie", "charge"),
    [
        ("wrong-mean", "signed a wrong model in round 1"),
        ("wrong-scores", "signed a wrong verdict in round 1"),
        ("drops-update", "signed a wrong verdict in round 1"),
        ("double-votes", "voted twice at height"),
        ("silent", ""),
        ("shared wrong-mean", "signed a wrong model in round 1"),
        ("shared wrong-scores", "signed a wrong verdict in round 1"),
        ("shared wrong-shares", "opened a wrong share of the distances in round 1; in the run's record only"),
        ("shared double-votes", "voted twice at height"),
        ("shared silent", ""),
    ],
)
def test_a_lying_miner_changes_nothing_and_is_named(tmp_path: Path, lie: Any, charge: str) -> None:
    kind, lie = ("shared", lie.split()[1]) if " " in lie else ("sealed", lie)
    consortium = open_(tmp_path / "run", updates=kind, hostile=(HostileMiners(miners=1, behaviour=lie),))
    for round, wanted in enumerate(expected(2), 1):
        settled = consortium.settle(round, DEVICES, updates(round))
        assert settled.model is not None
        assert torch.equal(settled.model, wanted)
    *honest, liar = consortium.finish()["miners"]
    assert not any(row["named"] for row in honest)
    assert (liar["lie"], liar["named"] != []) == (lie, charge != "")
    assert not charge or any(one.startswith(charge) for one in liar["named"])
    assert verify(tmp_path / "run", scores_of).first_wrong is None


def test_too_many_liars_agree_on_nothing(tmp_path: Path) -> None:
    consortium = open_(tmp_path / "run", hostile=(HostileMiners(miners=2, behaviour="wrong-mean"),))
    with pytest.raises(RefusedError, match="the miners agree on nothing more"):
        consortium.settle(1, DEVICES, updates(1))


def test_a_round_with_too_few_updates_is_void_and_the_next_one_counts(tmp_path: Path) -> None:
    consortium = open_(tmp_path / "run")
    void = consortium.settle(1, DEVICES[:3], updates(1)[:3])
    assert (void.model, void.void) == (None, "3 updates on the ledger, a round needs 5")
    few = consortium.settle(2, DEVICES[:5], updates(2)[:5])
    steps = [quantise(update.numpy()) for update in updates(2)[:5]]
    wanted = moved(INITIAL.numpy().astype("<f4").tobytes(), aggregate(steps, "multi-krum", 1, 3).update)
    assert few.model is not None
    assert few.model.numpy().astype("<f4").tobytes() == wanted
    assert consortium.finish()["customers"][5]["reputation"] == 5


@pytest.mark.parametrize("kind", ["sealed", "shared"])
@pytest.mark.parametrize("killed", range(1, 8))
def test_a_run_goes_on_wherever_it_was_killed(
    tmp_path: Path, killed: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, appended = Chain.append, 0

    def append(self: Chain, *args: Any) -> None:
        nonlocal appended
        appended += 1
        if appended == killed:
            raise KeyboardInterrupt
        whole(self, *args)

    monkeypatch.setattr(Chain, "append", append)
    folder, rounds, stopped = tmp_path / "run", [], 0
    while len(rounds) < 2:
        try:
            consortium = open_(folder, updates=kind)
            for round in range(len(rounds) + 1, 3):
                rounds.append(consortium.settle(round, DEVICES, updates(round)).model)
        except KeyboardInterrupt:
            stopped += 1
    try:
        told = consortium.finish()
    except KeyboardInterrupt:
        stopped += 1
        told = open_(folder, updates=kind).finish()
    assert stopped == (killed <= 6)
    assert all(torch.equal(one, wanted) for one, wanted in zip(rounds, expected(2), strict=True) if one is not None)
    assert [row["reputation"] for row in told["customers"]] == [7] * 5 + [0]
    assert verify(folder, scores_of).first_wrong is None


def test_a_round_that_the_chain_has_is_not_posted_again(tmp_path: Path) -> None:
    first = open_(tmp_path / "run").settle(1, DEVICES, updates(1))
    again = open_(tmp_path / "run").settle(1, DEVICES, updates(9))
    assert first.model is not None
    assert again.model is not None
    assert torch.equal(first.model, again.model)
    assert (again.facts["blocks"], again.facts["bytes_posted"]) == (0, 0)


def test_sealed_updates_lie_in_the_store_for_nobody_else(tmp_path: Path) -> None:
    consortium = open_(tmp_path / "run")
    consortium.settle(1, DEVICES, updates(1))
    plain = quantise(updates(1)[0].numpy()).astype("<i4").tobytes()
    contents = [path.read_bytes() for path in (tmp_path / "run" / "ledger" / "store").rglob("*") if path.is_file()]
    assert contents
    assert not any(plain[:16] in content for content in contents)
    assert list((tmp_path / "run" / "ledger" / "epochs").rglob("*.key"))
    consortium.settle(2, DEVICES, updates(2))
    consortium.finish()
    assert not (tmp_path / "run" / "ledger" / "epochs").exists()


def test_shared_updates_lie_in_the_store_for_nobody_and_what_a_device_keeps_goes(tmp_path: Path) -> None:
    consortium, home = open_(tmp_path / "run", updates="shared"), tmp_path / "run" / "ledger"
    consortium.settle(1, DEVICES, updates(1))
    plain = quantise(updates(1)[0].numpy()).astype("<i4").tobytes()
    assert not any(plain[:16] in path.read_bytes() for path in (home / "store").rglob("*") if path.is_file())
    assert list((home / "dealt").iterdir()) == []
    consortium.finish()
    assert not (home / "dealt").exists()


class Beyond(Customer):
    """The last device's numbers are far beyond what may be shared."""

    def _deal(self, values: Any) -> Any:
        if self.name == public_key(hmac.digest(bytes(32), b"privet/consortium/1/customer/device-5", "sha256")):
            values = values.copy()
            values[:, 0] = 1
            values[0, 0] = 0
        return super()._deal(values)


@pytest.mark.parametrize("rule", ["mean", "multi-krum"])
def test_a_device_that_shares_nonsense_is_evaluated_low_on_the_chain(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.study.consortium.Customer", Beyond)
    consortium = open_(tmp_path / "run", rounds=1, rule=rule, updates="shared")
    settled = consortium.settle(1, DEVICES, updates(1))
    f = 1 if rule == "multi-krum" else 0
    mean = aggregate([quantise(update.numpy()) for update in updates(1)[:5]], rule, f, 3).update
    assert settled.model is not None
    assert settled.model.numpy().astype("<f4").tobytes() == moved(INITIAL.numpy().astype("<f4").tobytes(), mean)
    assert settled.left_out["device-5"] == "failed the miners' checks: it named no masks"
    told = consortium.finish()
    assert [(row["reputation"], row["reward"]) for row in told["customers"]] == [(6, 5)] * 5 + [(0, 0)]
    assert verify(tmp_path / "run", scores_of).first_wrong is None


def test_a_shared_round_with_too_few_sound_updates_leaves_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.study.consortium.Customer", Beyond)
    consortium = open_(tmp_path / "run", updates="shared")
    five = [DEVICES[at] for at in (0, 1, 2, 3, 5)]
    void = consortium.settle(1, five, [updates(1)[at] for at in (0, 1, 2, 3, 5)])
    assert (void.model, void.void) == (None, "4 updates passed their tests, a round needs 5")
    assert set(void.left_out) == set(five)
    monkeypatch.undo()
    good = consortium.settle(2, DEVICES, updates(2, wild=False))
    wanted = aggregate([quantise(update.numpy()) for update in updates(2, wild=False)], "multi-krum", 1, 3).update
    assert good.model is not None
    assert good.model.numpy().astype("<f4").tobytes() == moved(INITIAL.numpy().astype("<f4").tobytes(), wanted)
    assert [row["reputation"] for row in consortium.finish()["customers"]] == [7, 7, 7, 7, 6, 1]
    assert verify(tmp_path / "run", scores_of).first_wrong is None


def test_two_of_five_miners_that_open_nothing_stop_the_run(tmp_path: Path) -> None:
    hostile = (HostileMiners(miners=2, behaviour="wrong-shares"),)
    consortium = open_(tmp_path / "run", updates="shared", hostile=hostile)
    with pytest.raises(RefusedError, match="can't open what was shared in round 1"):
        consortium.settle(1, DEVICES, updates(1))


# A customer's wraps, and the miners that help each other


def misled(wrong: int) -> Any:
    """Seals as a device that wraps wrongly for the first so many miners."""

    def sealing(plain: bytes, recipients: Any, context: bytes) -> bytes:
        one = Sealed.decode(seal(plain, recipients, context))
        data_key, nonce = bytes(range(32)), one.nonce
        commitment, digest = _derived(data_key, _COMMITMENT), _digest(data_key, plain)
        wraps = []
        for at, (miner, public, _) in enumerate(one.wraps):
            wrapped = bytes(32) if at < wrong else data_key
            wraps.append((miner, public, _wrap(wrapped, public, _info(context, commitment, miner, public))))
        head = replace(one, commitment=commitment, digest=digest, wraps=tuple(wraps), ciphertext=b"")
        cipher = ChaCha20Poly1305(_derived(data_key, _CONTENT))
        return replace(head, ciphertext=cipher.encrypt(nonce, plain, head.associated(context))).encode()

    return sealing


@pytest.mark.parametrize("wrong", [1, 2])
def test_miners_whose_wraps_are_wrong_take_the_data_key_from_another(
    tmp_path: Path, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.study.consortium.seal", misled(wrong))
    consortium = open_(tmp_path / "run", miners=7)
    for round, wanted in enumerate(expected(2), 1):
        settled = consortium.settle(round, DEVICES, updates(round))
        assert settled.model is not None
        assert torch.equal(settled.model, wanted)
    assert [row["reputation"] for row in consortium.finish()["customers"]] == [7] * 5 + [0]


def test_updates_that_nobody_can_open_are_left_out_alike_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def sealing(plain: bytes, recipients: Any, context: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return (misled(7) if calls == 1 else seal)(plain, recipients, context)

    monkeypatch.setattr("privet.study.consortium.seal", sealing)
    consortium = open_(tmp_path / "run", miners=7)
    settled = consortium.settle(1, DEVICES, updates(1))
    steps = [quantise(update.numpy()) for update in updates(1)[1:]]
    assert settled.model is not None
    wanted = moved(INITIAL.numpy().astype("<f4").tobytes(), aggregate(steps, "multi-krum", 1, 3).update)
    assert settled.model.numpy().astype("<f4").tobytes() == wanted
    assert consortium.finish()["customers"][0]["reputation"] == 5


def test_plain_updates_are_worked_out_again_by_whoever_verifies(tmp_path: Path) -> None:
    consortium = open_(tmp_path / "run", updates="plain")
    for round in (1, 2):
        consortium.settle(round, DEVICES, updates(round))
    consortium.finish()
    asked: list[int] = []

    def scores(contents: Any, rule: str, f: int) -> list[int]:
        asked.append(len(contents))
        return scores_of(contents, rule, f)

    assert verify(tmp_path / "run", scores).first_wrong is None
    assert asked == [6, 6]


def test_a_damaged_content_is_named_with_its_block(tmp_path: Path) -> None:
    consortium = open_(tmp_path / "run", rounds=1)
    consortium.settle(1, DEVICES, updates(1))
    consortium.finish()
    chain = Chain(tmp_path / "run")
    row: Any = chain.state.entries["model/1/1"]
    chain.close()
    cid = encode_cid(row["cid"])
    (path,) = (tmp_path / "run" / "ledger" / "store").rglob(cid)
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    wrong = verify(tmp_path / "run", scores_of).first_wrong
    assert wrong is not None
    assert wrong.height == 3
    assert cid in wrong.file
