"""What a device does before it asks: only what was paid for leaves, once, by one obfuscator, and what it is sure of
stays."""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from privet import parts
from privet.crypto.signatures import public_key
from privet.errors import InputError, RefusedError, RunError
from privet.governance import BitBudget
from privet.inference.asking import Asker, told
from privet.inference.manifest import Manifest, Signed
from privet.inference.memo import Memo
from privet.inference.obfuscation import Obfuscation, Trained
from privet.inference.obfuscators.noised import Noised
from privet.inference.obfuscators.obfnet1 import Obfnet1
from privet.inference.obfuscators.prototype import Prototype
from privet.inference.obfuscators.response import Response
from privet.inference.obfuscators.secret_key import SecretKey
from privet.inference.questions import answered, samples_in
from privet.models.mlp import Mlp
from privet.study.asked import BITS, MEMO, SECRET, Device, Way
from privet.tensors import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE, CLASSES = (1, 2, 3), 4
ANN = BitBudget("ann", "digits", 12.0)
STUDENT = {"name": "mlp"}


def trained(seed: int = 0, classes: int = CLASSES) -> Trained:
    torch.manual_seed(seed)
    return Trained(Mlp(), Mlp().build(SHAPE, classes).eval(), SHAPE, classes)


def made(obfuscator=None, count: int = 1, seed: int = 0) -> Obfuscation:
    """Obfuscators with random students; the prototypes of the one at ``at`` hold 10 at + code + seed."""
    part, model = obfuscator or Prototype(student=STUDENT), trained()
    torch.manual_seed(seed + 1)
    sides = tuple(part.build(SHAPE, CLASSES).eval() for _ in range(count))
    for at, side in enumerate(sides):
        if isinstance(part, Prototype):
            codes = torch.arange(CLASSES) + 10.0 * at + seed
            side.decoder.get_buffer("table").copy_(codes[:, None, None, None].expand(-1, *SHAPE))
            side.decoder.place(torch.eye(CLASSES))
    return Obfuscation(part, model, sides)


class Service:
    """The other end of a line: keeps what it was sent and answers with the model."""

    def __init__(self, model: Trained | None = None, span: tuple[float, float] | None = None) -> None:
        self.model, self.received = model or trained(), []
        weights = hashlib.sha256(to_bytes(self.model.network.state_dict())).hexdigest()
        table = parts.to_table(self.model.model)
        manifest = Manifest("v1", "2026-01-01T00:00:00Z", table, SHAPE, self.model.classes, span, weights)
        self.signed, self.fails = Signed.make(manifest, bytes(range(32))), False

    def call(self, method: str, body: bytes, patience: float) -> bytes:
        if method == "model":
            return told(self.signed, 16)
        samples = samples_in(body, SHAPE, None, 16).copy()
        self.received.append(torch.from_numpy(samples))
        if self.fails:
            raise RefusedError("not now")
        return answered(self.signed.digest, self.model.answer(torch.from_numpy(samples)).numpy())

    def close(self) -> None:
        pass

    @property
    def seen(self) -> torch.Tensor:
        return torch.cat(self.received)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state"


@pytest.fixture
def samples() -> torch.Tensor:
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(7))


def test_only_prototypes_leave_and_the_same_again_costs_nothing(service, state, samples) -> None:
    one = made()
    first = Device(Way(one, state, ANN)).ask(Asker(service), samples)
    assert first.bits == 10.0  # 5 of 2 bits
    assert first.left.tolist() == [True] * 5
    table = one.sides[0].decoder.get_buffer("table")
    assert all(any(torch.equal(row, each) for each in table) for row in service.seen)
    assert torch.equal(first.scores, service.model.answer(service.seen))
    again = Device(Way(made(), state, ANN)).ask(Asker(service), samples)  # as another process would
    assert again.bits == 0.0
    assert torch.equal(again.scores, first.scores)
    assert torch.equal(service.received[0], service.received[1])
    assert first.version == service.signed.digest.hex()
    assert stat.S_IMODE((state / SECRET).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert not any(samples[0].numpy().tobytes() in path.read_bytes() for path in state.iterdir())


def test_beyond_the_budget_nothing_leaves(service, state, samples) -> None:
    device = Device(Way(made(), state, ANN))
    device.ask(Asker(service), samples)
    service.received.clear()
    with pytest.raises(RefusedError, match="from 10 to 14 bits; allowed: 12"):
        device.ask(Asker(service), samples[:2] + 1)
    assert service.received == []
    assert device.ask(Asker(service), samples[:1] + 1).bits == 2.0
    with pytest.raises(RefusedError, match="has a budget"):  # what was promised is not raised
        Device(Way(made(), state, replace(ANN, bits=100.0))).ask(Asker(service), samples + 2)
    assert len(service.received) == 1


def test_what_was_paid_and_never_answered_is_free_the_second_time(service, state, samples) -> None:
    service.fails = True
    with pytest.raises(RefusedError, match="not now"):
        Device(Way(made(), state, ANN)).ask(Asker(service), samples)
    service.fails = False
    assert Device(Way(made(), state, ANN)).ask(Asker(service), samples).bits == 0.0
    assert torch.equal(service.received[0], service.received[1])


def test_a_device_picks_one_obfuscator_for_ever(service, tmp_path, samples) -> None:
    picked = []
    for device in range(12):
        folder = tmp_path / str(device)
        folder.mkdir()
        Memo.found(folder / MEMO)
        (folder / BITS).touch()
        (folder / SECRET).write_bytes(bytes([device]) * 32)
        (folder / SECRET).chmod(0o600)
        service.received.clear()
        for at in range(2):
            Device(Way(made(count=2), folder, ANN)).ask(Asker(service), samples[2 * at : 2 * at + 2])
        tens = {int(value) // 10 for value in service.seen.flatten()}
        assert len(tens) == 1
        picked += tens
    assert set(picked) == {0, 1}


def test_another_obfuscator_releases_and_pays_apart(service, state, samples) -> None:
    asked = [Device(Way(made(seed=seed), state, ANN)).ask(Asker(service), samples[:3]).bits for seed in (0, 100, 0)]
    assert asked == [6.0, 6.0, 0.0]
    assert service.received[1].min() >= 100
    assert torch.equal(service.received[0], service.received[2])


def test_noise_is_drawn_once_though_nobody_counts(service, state, samples) -> None:
    way = Way(made(Noised(width=2)), state)
    for _ in range(2):
        assert Device(way).ask(Asker(service), samples).bits == math.inf
    assert torch.equal(service.received[0], service.received[1])
    assert not torch.equal(way.made.release(samples, way.rng), service.received[0])
    (line,) = way.promised()
    assert line.startswith("epsilon ")
    assert line.endswith("per record (replace-one), one release, delta 1e-05: derived")


def test_what_is_promised(state) -> None:
    response = Response(student=STUDENT, epsilon=0.5)
    bits, epsilon = Way(made(response), state, ANN).promised()
    assert bits == "one release tells at most 2 bits of its sample (min-entropy leakage): derived"
    assert epsilon == "epsilon 0.5 per record (replace-one), one release, delta 0: derived"
    assert Way(made(Obfnet1()), state).promised() == ["no guarantee is derived: only attacks tell what it hides"]
    assert not state.exists()


def test_a_plain_obfuscator_needs_no_state(service, state, samples) -> None:
    one = made(Obfnet1())
    answer = Device(Way(one, state)).ask(Asker(service), samples)
    assert answer.bits == math.inf
    assert torch.equal(service.seen, one.sides[0].decoder(one.sides[0].encoder(samples)))
    assert not state.exists()


def test_combinations_that_protect_nothing_are_refused(state) -> None:
    for part, budget, error, says in (
        (SecretKey(), None, InputError, "secret-key needs a layer at the service, which runs the bare model"),
        (Prototype(student=STUDENT), None, InputError, "counts its codes, and there is no budget"),
        (Obfnet1(), ANN, RefusedError, "nobody counts what obfnet1 tells"),
        (
            Prototype(student=STUDENT),
            replace(ANN, bits=1.9),
            RefusedError,
            "1.9 bits lets no release out: one tells 2;",
        ),
    ):
        with pytest.raises(error, match=says):
            Way(made(part), state, budget)
    for options, says in (
        ({"share": 0.5}, "nothing answers what stays"),
        ({"way": Way(made(Obfnet1()), state), "sure": 0.5}, "nothing answers what stays"),
        ({"own": trained()}, "would answer nothing"),
        ({"own": trained(), "share": 0.5, "sure": 0.5}, "a share and a threshold"),
    ):
        with pytest.raises(InputError, match=says):
            Device(**options)
    assert not state.exists()


def test_only_what_the_device_is_not_sure_of_leaves(service, state, samples) -> None:
    one = made()
    student = one.sides[0].encoder[0]
    sure = student(samples).softmax(1).amax(1)
    answer = Device(Way(one, state, ANN), share=0.4).ask(Asker(service), samples)
    assert sorted(answer.left.nonzero().flatten().tolist()) == sorted(sure.argsort()[:2].tolist())
    assert (answer.bits, len(service.seen)) == (4.0, 2)
    assert torch.equal(answer.scores[~answer.left], student(samples)[~answer.left])
    assert torch.equal(answer.scores[answer.left], service.model.answer(service.seen))
    stayed = Device(Way(one, state, ANN), sure=0.0).ask(Asker(service), samples)
    assert (stayed.bits, stayed.version, bool(stayed.left.any())) == (0.0, "", False)
    assert len(service.received) == 1


def test_without_an_obfuscator_the_rest_leaves_as_it_is(service, samples) -> None:
    own = trained(seed=3)
    answer = Device(own=own, share=0.2).ask(Asker(service), samples)
    assert answer.bits == math.inf
    assert torch.equal(service.seen, samples[answer.left])
    assert torch.equal(answer.scores[~answer.left], own.answer(samples)[~answer.left])
    all_of_them = Device(own=own, share=1.0).ask(Asker(service), samples)
    assert bool(all_of_them.left.all())


def test_what_does_not_fit_is_found_before_anything_is_paid(service, state, samples) -> None:
    device = Device(Way(made(), state, ANN))
    broken = samples.clone()
    broken[0, 0, 0, 0] = math.nan
    for wrong, says in (
        (samples[:, :, :1], r"samples of shape \(5, 1, 1, 3\); allowed: \(n, 1, 2, 3\)"),
        (samples[:0], "samples of shape"),
        (broken, "NaN"),
    ):
        with pytest.raises(InputError, match=says):
            device.ask(Asker(service), wrong)
    with pytest.raises(InputError, match="out of range; allowed: 0 to 1"):
        device.ask(Asker(Service(span=(0.0, 1.0))), samples + 1)
    scaled = made()
    scaled = replace(scaled, trained=replace(scaled.trained, about={"reach": 1.0}))
    with pytest.raises(InputError, match="values up to 255, where the model learned from values up to 1;"):
        Device(Way(scaled, state, ANN)).ask(Asker(service), samples.sign().abs() * 255)
    with pytest.raises(InputError, match=r"the obfuscator is for inputs .* of 4 classes; allowed: .* and 7"):
        device.ask(Asker(Service(trained(classes=7))), samples)
    with pytest.raises(InputError, match="the own model is for"):
        Device(own=trained(classes=3), sure=0.5).ask(Asker(service), samples)
    assert service.received == []
    assert not state.exists()


def test_a_state_that_lost_its_end_or_was_emptied_is_refused(service, state, samples) -> None:
    device = Device(Way(made(), state, ANN))
    device.ask(Asker(service), samples[:2])
    whole = (state / BITS).read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"", b"".join(lines[:1]), b"".join(lines[:2]), whole[:-5]):
        (state / BITS).write_bytes(kept)
        with pytest.raises(RunError, match="has lost records: what was spent can't be told; restore"):
            device.ask(Asker(service), samples[:3])
    (state / BITS).write_bytes(whole)
    assert device.ask(Asker(service), samples[:3]).bits == 2.0
    (state / MEMO).write_bytes(b"")
    with pytest.raises(RunError, match="holds no releases; restore"):
        device.ask(Asker(service), samples[:1])
    assert len(service.received) == 2


def test_a_payment_that_is_ahead_of_the_memo_is_no_loss(service, state, samples, monkeypatch) -> None:
    device = Device(Way(made(), state, ANN))
    device.ask(Asker(service), samples[:1])

    def crashed(*_: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(Memo, "once", crashed)  # behind the payment
    with pytest.raises(OSError, match="gone"):
        device.ask(Asker(service), samples[:2])
    monkeypatch.undo()
    assert device.ask(Asker(service), samples[:2]).bits == 0.0


def test_a_secret_that_is_lost_damaged_or_open_is_refused(service, state, samples) -> None:
    Device(Way(made(), state, ANN)).ask(Asker(service), samples[:1])
    (state / SECRET).chmod(0o644)

    def refused(error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            Device(Way(made(), state, ANN)).ask(Asker(service), samples)

    refused(RefusedError, "chmod 600")
    (state / SECRET).chmod(0o600)
    (state / SECRET).write_bytes(b"short")
    refused(RunError, "is damaged")
    (state / SECRET).unlink()
    refused(InputError, "is missing")
    (state / MEMO).unlink()
    refused(InputError, "is missing")  # what was paid is there
    assert (state / BITS).exists()
    assert len(service.received) == 1


def test_what_was_paid_can_be_looked_at(service, state, samples, call) -> None:
    Device(Way(made(), state, ANN)).ask(Asker(service), samples[:2])
    Device(Way(made(), state, replace(ANN, purpose="faults", bits=3.0))).ask(Asker(service), samples[2:3])
    kept = (state / BITS).read_bytes()
    status, out, _ = call("obfuscate", "spent", state)
    assert status == 0
    assert out.splitlines() == [
        "ann, digits: 4 of 12 bits were paid, 8 are left",
        "ann, faults: 2 of 3 bits were paid, 1 are left",
    ]
    told = json.loads(call("obfuscate", "spent", state, "--json")[1])["accounts"]
    assert told[1] == {"subject": "ann", "purpose": "faults", "bits": 3.0, "spent": 2.0, "left": 1.0}
    assert (state / BITS).read_bytes() == kept
    (state / BITS).write_bytes(b"")
    status, out, err = call("obfuscate", "spent", state)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "has lost records" in err


@pytest.mark.parametrize("lost", [MEMO, BITS])
def test_a_memo_or_a_book_that_is_lost_is_not_begun_anew(service, state, samples, lost) -> None:
    Device(Way(made(), state, ANN)).ask(Asker(service), samples[:1])
    (state / lost).unlink()
    with pytest.raises(RunError, match=f"{lost} is missing"):
        Device(Way(made(), state, ANN)).ask(Asker(service), samples)
    assert len(service.received) == 1


def test_no_epsilon_is_promised_where_the_sample_decides_whether_it_leaves(state) -> None:
    way = Way(made(Response(student=STUDENT, epsilon=0.5)), state, ANN)
    assert any("epsilon 0.5" in line for line in Device(way).promised())
    lines = Device(way, share=0.4).promised()
    assert not any("epsilon 0.5" in line for line in lines)
    assert "no epsilon holds" in lines[-1]


def test_what_the_model_does_not_take_does_not_leave(service, state, samples) -> None:
    key = bytes(range(32))
    service.signed = Signed.make(replace(service.signed.opened(public_key(key)), span=(0.0, 1.0)), key)
    with pytest.raises(InputError, match="out of range"):
        Device(Way(made(), state, ANN)).ask(Asker(service), samples)
    assert service.received == []


def test_whether_the_obfuscators_are_for_this_very_model(service, state) -> None:
    device = Device(Way(made(), state, ANN))
    assert device.same_model(Asker(service))
    assert not device.same_model(Asker(Service(trained(seed=5))))
    assert Device().same_model(Asker(service))


def test_a_device_without_anything_asks_as_it_is(service, samples) -> None:
    answer = Device().ask(Asker(service), samples)
    assert torch.equal(service.seen, samples)
    assert np.array_equal(answer.scores.numpy(), service.model.answer(samples).numpy())
    assert answer.bits == math.inf


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--obfuscator", "o"), "'--obfuscator' is of no use without '--service'"),
        (("--own-model", "o"), "Missing option '--model', or '--service'"),
        (("--service", "https://a:1", "--obfuscator", "o"), "Missing option '--state'"),
        (
            ("--service", "https://a:1", "--obfuscator", "o", "--state", "s", "--bits", "3"),
            "Missing option '--subject'",
        ),
        (("--service", "https://a:1", "--state", "s"), "'--state' is of no use without '--obfuscator'"),
        (("--service", "https://a:1", "--bits", "3"), "'--bits' is of no use without '--obfuscator'"),
        (("--service", "https://a:1", "--protocol", "blinded"), "'--protocol' is of no use with '--service'"),
        (("--service", "https://a:1", "--where", "helpers"), "'--where' is of no use with '--service'"),
        (("--service", "https://a:1", "--bits", "0"), "--bits"),
        (("--service", "https://a:1", "--offload", "1.5"), "--offload"),
        (("--service", "https://a:1", "--offload", "0.5"), "nothing answers what stays on the device"),
        (("--service", "https://a:1", "--obfuscator", "o", "--state", "s"), "model.json is missing"),
    ],
)
def test_the_command_says_what_is_missing(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, *SHAPE), np.float32))
    status, out, err = call("infer", "--folder", tmp_path, "--input", tmp_path / "x.npy", *options)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
