"""The inference service's queue, questions, signed versions and callers, without a network."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from concurrent.futures import Future, wait
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privet import parts
from privet.crypto.signatures import public_key
from privet.errors import InputError, PartError, PrivetError, RefusedError, UnreachableError
from privet.inference.asking import SERVICE, Asker, connect, told
from privet.inference.credentials import Credentials
from privet.inference.manifest import Manifest, Signed, key_of
from privet.inference.questions import Answer, BusyError, answered, question, samples_in
from privet.inference.serving import Batcher, Limits, Scored
from privet.inference.versions import MANIFEST, SIGNATURE, WEIGHTS, Version, load_version, publish
from privet.tensors import clone, save
from privet.transport.certificates import Authority
from privet.transport.contract import Peer
from privet.transport.identity import Identity
from privet.transport.memory import Exchange

pytestmark = pytest.mark.usefixtures("one_thread")
SECRET = bytes(range(32))
SIGNER = public_key(SECRET)
CALLER = Peer("device", "a")


class Marks(nn.Module):
    """Gives the sum of a sample and its first value, so that an answer shows whose it is; counts batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        self.begun.set()
        self.go.wait(10)
        self.batches.append(len(samples))
        if float(samples.max()) > 1e6:
            raise ValueError("this network is broken")
        return torch.stack([samples[:, 0], samples.sum(1)], 1)


def version(network: nn.Module | None = None, name: str = "v1", shape: tuple[int, ...] = (3,)) -> Version:
    manifest = Manifest(name, "2026-01-01T00:00:00+00:00", {"name": "mlp"}, shape, 2, None, "0" * 64)
    return Version(Signed.make(manifest, SECRET), manifest, network or Marks())


def rows(*marks: float) -> np.ndarray:
    return np.array([[mark, 1, 0] for mark in marks], np.float32)


def held(limits: Limits) -> tuple[Marks, Batcher, Future[Scored]]:
    """Returns a queue whose network computes a first question, and does not end before ``go`` is set."""
    network = Marks()
    network.go.clear()
    batcher = Batcher(version(network), limits)
    first = batcher.ask("first", rows(0.5))
    assert network.begun.wait(5)
    return network, batcher, first


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=40),
    st.integers(4, 16),
    st.sampled_from([0.0, 0.001]),
)
def test_every_question_gets_its_own_answer_whatever_the_batches(sizes: list[int], batch: int, delay: float) -> None:
    network = Marks()
    batcher = Batcher(version(network), Limits(batch=batch, wait=delay, samples=4, waiting=1000, share=1000))
    marks = iter(range(1, 1000))
    asked = [rows(*(next(marks) for _ in range(size))) for size in sizes]
    futures = [batcher.ask("one", samples) for samples in asked]
    for samples, future in zip(asked, futures, strict=True):
        scores = future.result(5).scores
        assert np.array_equal(scores, np.stack([samples[:, 0], samples[:, 0] + 1], 1))
    batcher.close()
    assert sum(network.batches) == sum(sizes)
    assert max(network.batches) <= batch
    assert batcher.waiting == 0


def test_callers_at_once_get_their_own_answers_in_common_batches() -> None:
    network = Marks()
    batcher = Batcher(version(network), Limits(wait=0.02))
    wrong: list[int] = []

    def live(number: int) -> None:
        for turn in range(20):
            mark = 100 * number + turn
            if batcher.ask(f"caller-{number}", rows(mark)).result(5).scores.tolist() != [[mark, mark + 1]]:
                wrong.append(mark)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert not wrong
    assert sum(network.batches) == 160
    assert len(network.batches) < 160


def test_a_batch_begins_when_it_is_full_or_its_first_sample_has_waited() -> None:
    network = Marks()
    batcher = Batcher(version(network), Limits(batch=4, wait=5.0, samples=4))
    begin = time.monotonic()
    wait([batcher.ask("one", rows(1, 2)), batcher.ask("one", rows(3, 4))], 4)
    assert time.monotonic() - begin < 4
    assert network.batches == [4]
    batcher.limits = dataclasses.replace(batcher.limits, wait=0.05)
    batcher.ask("one", rows(1)).result(4)
    assert network.batches == [4, 1]
    batcher.close()


def test_a_full_queue_turns_away_at_once_and_says_when_to_come_back() -> None:
    network, batcher, first = held(Limits(batch=4, samples=4, waiting=8, share=8))
    waiting = [batcher.ask("one", rows(1, 2, 3, 4)) for _ in range(2)]
    begin = time.monotonic()
    with pytest.raises(BusyError, match=r"the service is busy; try again after .* s") as busy:
        batcher.ask("two", rows(1))
    assert time.monotonic() - begin < 1
    assert busy.value.after > 0
    assert busy.value.exit_code == 4
    assert batcher.waiting == 8
    network.go.set()
    assert all(len(future.result(5).scores) == 4 for future in waiting)
    assert len(batcher.ask("two", rows(1)).result(5).scores) == 1
    assert first.result(5).scores.tolist() == [[0.5, 1.5]]
    batcher.close()


def test_one_caller_cannot_take_the_whole_queue() -> None:
    network, batcher, _ = held(Limits(batch=4, samples=4, waiting=100, share=4))
    batcher.ask("greedy", rows(1, 2, 3))
    with pytest.raises(BusyError, match="greedy has 3 samples waiting"):
        batcher.ask("greedy", rows(1, 2))
    other = batcher.ask("modest", rows(7))
    network.go.set()
    assert other.result(5).scores.tolist() == [[7, 8]]
    batcher.ask("greedy", rows(1, 2)).result(5)
    batcher.close()


def test_a_question_that_waited_too_long_is_given_up_and_one_that_was_cancelled_costs_nothing() -> None:
    network, batcher, first = held(Limits(patience=0.05))
    late, cancelled = batcher.ask("one", rows(1)), batcher.ask("one", rows(2))
    assert cancelled.cancel()
    time.sleep(0.1)
    network.go.set()
    with pytest.raises(UnreachableError, match="waited too long"):
        late.result(5)
    first.result(5)
    batcher.ask("one", rows(3)).result(5)
    batcher.close()
    assert network.batches == [1, 1]


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    network, batcher, first = held(Limits(batch=2, samples=2))
    waiting = [batcher.ask("one", rows(mark)) for mark in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    deadline, said = time.monotonic() + 5, ""
    while time.monotonic() < deadline:
        try:
            waiting.append(batcher.ask("one", rows(9)))
        except BusyError as error:
            said = str(error)
            break
    assert "stopping" in said
    network.go.set()
    closing.join(5)
    assert all(future.done() and not future.exception() for future in [first, *waiting])


def test_a_network_that_fails_fails_its_batch_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    batcher = Batcher(version(), Limits())
    with pytest.raises(UnreachableError, match="the service failed") as failed:
        batcher.ask("one", rows(1e7)).result(5)
    assert "broken" not in str(failed.value)
    assert "broken" in caplog.text
    assert batcher.ask("one", rows(1)).result(5).scores.tolist() == [[1, 2]]
    batcher.close()


def test_scores_that_are_no_numbers_fail_their_question_and_no_other() -> None:
    class Reciprocal(nn.Module):
        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return 1 / samples[:, :2]

    batcher = Batcher(version(Reciprocal()), Limits(wait=0.2))
    zero, one = (batcher.ask("one", samples) for samples in (rows(0), rows(1)))
    with pytest.raises(InputError, match="scores of these values are no numbers; give smaller values"):
        zero.result(5)
    assert one.result(5).scores.tolist() == [[1, 1]]
    batcher.close()


def test_a_new_version_answers_from_the_next_batch_on_and_no_question_is_lost() -> None:
    network, batcher, first = held(Limits(batch=4, samples=4))
    old, new = batcher.version, version(name="v2")
    waiting = batcher.ask("one", rows(1))
    batcher.switch(new)
    network.go.set()
    assert first.result(5).digest == old.digest
    assert waiting.result(5) == (new.digest, pytest.approx(np.array([[1, 2]])))
    with pytest.raises(InputError, match=r"version v3 takes samples of \(5,\).*start another service"):
        batcher.switch(version(name="v3", shape=(5,)))
    assert batcher.ask("one", rows(1)).result(5).digest == new.digest != old.digest
    batcher.close()


@pytest.mark.parametrize("samples", [np.zeros((0, 3), np.float32), rows(*range(17)), np.zeros((1, 4), np.float32)])
def test_samples_that_do_not_fit_are_refused(samples: np.ndarray) -> None:
    batcher = Batcher(version(), Limits())
    with pytest.raises(InputError, match=r"allowed: \(n, 3\), n from 1 to 16$"):
        batcher.ask("one", samples)
    batcher.close()


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 65}, {"samples": 0}, {"batch": 4000}, {"share": 8}, {"wait": -1.0}, {"patience": float("nan")}],
)
def test_limits_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="allowed"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_a_question_is_its_values_and_nothing_else() -> None:
    samples = np.random.default_rng(0).random((3, 1, 2, 2), np.float32)
    body = question(samples)
    assert body == samples.astype("<f4").tobytes()
    assert np.array_equal(samples_in(body, (1, 2, 2), (0, 1), 3), samples)
    scores = np.array([[1.0, -2.0]], np.float32)
    answer = Answer.of(answered(b"\7" * 32, scores), 1, 2)
    assert (answer.version, answer.classes) == ("07" * 32, [0])
    assert np.array_equal(answer.scores, scores)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 64])
def test_a_question_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InputError, match=f"a question of {length} bytes; allowed: 1 to 3 samples of 16 bytes"):
        samples_in(bytes(length), (1, 2, 2), (0, 1), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_values_out_of_range_are_refused_in_one_line(value: float) -> None:
    samples = np.full((2, 4), 0.5, np.float32)
    samples[1, 2] = value
    with pytest.raises(InputError, match="out of range; allowed: 0 to 1"):
        samples_in(question(samples), (4,), (0, 1), 3)
    if not np.isfinite(value):
        with pytest.raises(InputError, match="out of range"):
            samples_in(question(samples), (4,), None, 3)
    else:
        assert len(samples_in(question(samples), (4,), None, 3)) == 2


def test_an_answer_that_does_not_fit_is_none() -> None:
    with pytest.raises(UnreachableError, match="does not fit the question"):
        Answer.of(bytes(32 + 8), 2, 2)
    with pytest.raises(UnreachableError, match="no numbers"):
        Answer.of(answered(bytes(32), np.array([[0, np.nan]], np.float32)), 1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = parts.build("models", {"name": "mlp"}).build((3,), 2)
    save(clone(network.state_dict()), tmp_path / WEIGHTS)
    publish(tmp_path, name="v1", model={"name": "mlp"}, shape=(3,), classes=2, secret=SECRET)
    return tmp_path


def test_a_version_is_what_was_signed(folder: Path) -> None:
    loaded = load_version(folder, SIGNER)
    assert (loaded.manifest.name, loaded.manifest.shape, loaded.manifest.span) == ("v1", (3,), (0, 1))
    assert not loaded.network.training
    assert not any(value.requires_grad for value in loaded.network.parameters())
    assert Manifest.of(loaded.manifest.to_bytes()) == loaded.manifest
    assert str(loaded) == f"v1 ({loaded.digest.hex()[:12]})"


@pytest.mark.parametrize("file", [WEIGHTS, MANIFEST, SIGNATURE])
def test_a_flipped_byte_anywhere_is_refused(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    for at in {0, len(whole) // 2, len(whole) - 2}:
        changed = bytearray(whole)
        changed[at] ^= 1
        (folder / file).write_bytes(changed)
        with pytest.raises(PrivetError):
            load_version(folder, SIGNER)
    (folder / file).write_bytes(whole)
    load_version(folder, SIGNER)


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), InputError, "is no file"),
        (lambda folder: (folder / SIGNATURE).write_text("no hexadecimal"), InputError, "is damaged"),
        (lambda folder: (folder / SIGNATURE).write_text("00" * 600), InputError, "oversize"),
        (lambda folder: (folder / SIGNATURE).write_text("00" * 64), RefusedError, "not signed by the key"),
        (lambda folder: (folder / MANIFEST).write_bytes(b" " * 70_000), InputError, "oversize"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder: Path, spoil: object, kind: type, says: str) -> None:
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(kind, match=says):
        load_version(folder, SIGNER)


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(tmp_path / "elsewhere")
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no file"):
        load_version(folder, SIGNER)


def test_another_signers_version_is_refused(folder: Path) -> None:
    with pytest.raises(RefusedError, match="not signed by the key that is trusted"):
        load_version(folder, public_key(bytes(32)))
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        key_of("abc")
    assert key_of(SIGNER.hex() + "\n") == SIGNER


def test_signing_what_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    def sign(**changed: object) -> None:
        fields: dict[str, object] = {"name": "v1", "model": {"name": "mlp"}, "shape": (3,), "classes": 2}
        publish(tmp_path, secret=SECRET, **fields | changed)  # type: ignore[arg-type]

    with pytest.raises(InputError, match="is no file"):
        sign()
    (tmp_path / WEIGHTS).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(InputError, match="the weights don't fit mlp"):
        sign()
    save(clone(parts.build("models", {"name": "mlp"}).build((3,), 2).state_dict()), tmp_path / WEIGHTS)
    for wrong, says in (
        ({"shape": (4,)}, "don't fit mlp"),
        ({"classes": 3}, "don't fit mlp"),
        ({"name": "../v1"}, "is no name of a version"),
        ({"shape": ()}, "shape"),
        ({"span": (1.0, 0.0)}, "two finite, rising"),
    ):
        with pytest.raises(InputError, match=says):
            sign(**wrong)
    with pytest.raises(PartError, match="did you mean 'mlp'"):
        sign(model={"name": "mlpp"})
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


def test_a_model_whose_answers_depend_on_the_batch_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(parts.build("models", {"name": "mlp"})), "couples_records", True)
    with pytest.raises(InputError, match="depend on the other samples"):
        load_version(folder, SIGNER)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"[" * 70_000, b'{"span": [0], "shape": [1]}', b"\xff", b'{"span": null, "shape": "x"}'],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(InputError, match="no manifest"):
        Manifest.of(text)


class Service:
    """An inference service over the transport of this process, whose answers a test can spoil."""

    def __init__(self, own: Version) -> None:
        self.own, self.before, self.asked = own, list[PrivetError](), 0
        exchange = Exchange()
        exchange.services[SERVICE] = {"classify": self.classify, "model": self.model}
        self.client = exchange.client(CALLER, SERVICE)

    def classify(self, peer: Peer, body: bytes) -> bytes:
        self.asked += 1
        if self.before:
            raise self.before.pop()
        samples = samples_in(body, self.own.manifest.shape, None, 2)
        return answered(self.own.digest, self.own.network(torch.from_numpy(samples.copy())).numpy())

    def model(self, peer: Peer, body: bytes) -> bytes:
        return told(self.own.signed, 2)


def test_asking_again_when_busy_and_in_pieces_when_there_are_many() -> None:
    service, pauses = Service(version()), list[float]()
    service.before = [BusyError("the service is busy", 0.3), UnreachableError("gone")]
    with Asker(service.client, signer=SIGNER, sleep=pauses.append) as asker:
        answer = asker.ask(rows(1, 2, 3, 4, 5))
    assert answer.scores[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert service.asked == 5
    assert len(pauses) == 2
    with pytest.raises(RefusedError):
        asker.ask(rows(1))  # it is closed


def test_a_new_version_between_the_parts_of_a_question_answers_all_of_them() -> None:
    service = Service(version())

    def classify(peer: Peer, body: bytes) -> bytes:
        answer = Service.classify(service, peer, body)
        service.own = version(name=f"later-{service.asked}") if service.asked == 1 or always else service.own
        return answer

    exchange, always = Exchange(), False
    exchange.services[SERVICE] = {"classify": classify, "model": service.model}
    with Asker(exchange.client(CALLER, SERVICE), signer=SIGNER) as asker:
        assert asker.ask(rows(1, 2, 3)).version == service.own.digest.hex()
        assert service.asked == 4
        always = True
        with pytest.raises((UnreachableError, RefusedError)):
            asker.ask(rows(1, 2, 3))


def test_patience_ends_and_refusals_are_not_asked_again() -> None:
    service = Service(version())
    asker = Asker(service.client, patience=0.2, sleep=lambda seconds: None)
    service.before = [UnreachableError("gone") for _ in range(10**6)]
    with pytest.raises(UnreachableError):
        asker.ask(rows(1))
    service.before, service.asked = [InputError("wrong")], 0
    with pytest.raises(InputError, match="service/inference: wrong"):
        asker.ask(rows(1))
    assert service.asked == 1


def test_a_version_that_the_pinned_key_did_not_sign_is_not_believed() -> None:
    service = Service(version())
    with pytest.raises(RefusedError, match="not signed by the key"):
        Asker(service.client, signer=public_key(bytes(32))).ask(rows(1))
    asker = Asker(service.client, signer=SIGNER)
    first = asker.ask(rows(1)).version
    service.own = version(name="v2")
    assert asker.ask(rows(1)).version == asker.offer().version != first
    shown = service.own
    service.own = version(name="v3")
    service.model = lambda peer, body: told(shown.signed, 2)  # type: ignore[method-assign]
    other = Exchange()
    other.services[SERVICE] = {"classify": service.classify, "model": service.model}
    with pytest.raises(RefusedError, match="shows no manifest of"):
        Asker(other.client(CALLER, SERVICE), signer=SIGNER).ask(rows(1))


def test_a_service_that_says_nonsense_of_itself_is_unreachable() -> None:
    exchange = Exchange()
    for nonsense in (b"", b"{}", b'{"manifest": 1, "signature": "xx", "samples": 1}', b"[" * 10_000):
        exchange.services[SERVICE] = {"model": lambda peer, body, nonsense=nonsense: nonsense}
        with pytest.raises(UnreachableError, match="does not say which model"):
            Asker(exchange.client(CALLER, SERVICE), patience=0.01).offer()


def test_samples_of_another_shape_are_refused_before_they_leave() -> None:
    service = Service(version())
    for wrong in (np.zeros((1, 4), np.float32), np.zeros((0, 3), np.float32)):
        with pytest.raises(InputError, match=r"allowed: \(n, 3\), n from 1 up"):
            Asker(service.client).ask(wrong)
    assert service.asked == 0


@pytest.mark.parametrize(
    "url", ["", "https://", "https://host", "http://host:1", "grpc://host:99999", "https://a@host:1", "mqtts://h:1/x"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="allowed"):
        connect(url, Credentials(b""))


def test_only_https_takes_a_token() -> None:
    with pytest.raises(RefusedError, match="need a certificate"):
        connect("grpc://localhost:1", Credentials(b"", token="secret"))  # noqa: S106 - no secret
    assert "secret" not in repr(Credentials(b"", token="secret"))  # noqa: S106


def test_what_a_client_needs_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"authority\.pem is missing"):
        Credentials.load(tmp_path)
    (tmp_path / "authority.pem").write_bytes(b"")
    with pytest.raises(InputError, match=r"authority\.pem: this is no certificate"):
        Credentials.load(tmp_path)
    (tmp_path / "authority.pem").write_bytes(Authority.create("others").certificate)
    with pytest.raises(InputError, match="holds no certificate and no token"):
        Credentials.load(tmp_path)
    (tmp_path / "token").write_text("some word\n")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(RefusedError, match="can be read by others"):
        Credentials.load(tmp_path)
    (tmp_path / "token").chmod(0o600)
    assert Credentials.load(tmp_path).token.split() == ["some", "word"]
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is no token"):
        Credentials.load(tmp_path)


def test_a_signers_key_is_given_or_its_file(tmp_path: Path) -> None:
    (tmp_path / "signer.pub").write_text(SIGNER.hex() + "\n")
    assert key_of(SIGNER.hex()) == key_of(str(tmp_path / "signer.pub")) == SIGNER
    with pytest.raises(InputError, match=r"'nope\.pub' is no public key .* or a file that holds them"):
        key_of("nope.pub")


def test_the_commands_that_make_things(call: object, tmp_path: Path) -> None:
    def run(*words: object) -> SimpleNamespace:
        status, out, err = call("serve", *words)  # type: ignore[operator]
        return SimpleNamespace(status=status, out=out, err=err)

    key = tmp_path / "signer.key"
    signer = json.loads(run("key", key, "--json").out)["signer"]
    assert os.stat(key).st_mode & 0o777 == 0o600
    assert run("key", key).status == 2  # never written over
    public = tmp_path / "signer.pub"
    public.write_text(signer + "\n")
    model = parts.build("models", {"name": "mlp"}).build((3,), 2)
    save(clone(model.state_dict()), tmp_path / WEIGHTS)
    words = ("sign", tmp_path, "--key", key, "--name", "v1")
    assert "model.json is missing" in run(*words).err
    assert "add --shape and --classes" in run(*words, "--model", "mlp").err
    assert "no list of figures" in run(*words, "--model", "mlp", "--shape", "a", "--classes", 2).err
    assert run(*words, "--model", "mlp", "--shape", "3", "--classes", 2, "--range", "any").status == 0
    assert load_version(tmp_path, key_of(signer)).manifest.span is None
    table = {"model": {"name": "mlp"}, "shape": [3], "classes": 2}
    (tmp_path / "model.json").write_text(json.dumps(table))
    done = json.loads(run(*words, "--json").out)
    assert load_version(tmp_path, key_of(signer)).digest.hex() == done["version"]
    for other, says in ((public, "signer.pub is a public key; name the secret"), (tmp_path / "no", "bring the file")):
        wrong = run("sign", tmp_path, "--key", other, "--name", "v1")
        assert (wrong.status, wrong.err.count("\n")) == (2, 1)
        assert says in wrong.err
    (tmp_path / "model.json").write_text('{"model": 1}')
    assert "describes no model" in run(*words).err
    assert "gets no certificate here" in run("certify", tmp_path, tmp_path / "out", "--as", "device/a").err
    assert not (tmp_path / "out").exists()
    Authority.create("fleet").save(tmp_path / "fleet")
    for role, hosts in (("service", ["localhost", "127.0.0.1"]), ("client", [])):
        assert run("certify", tmp_path / "fleet", tmp_path / role, "--as", f"{role}/a").status == 0
        assert str(Identity.load(tmp_path / role).peer) == f"{role}/a"
        certificate = x509.load_pem_x509_certificate((tmp_path / role / "transport.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [*names.get_values_for_type(x509.DNSName)[1:], *map(str, names.get_values_for_type(x509.IPAddress))]
        assert found == hosts
    assert "is there already" in run("certify", tmp_path / "fleet", tmp_path / "client", "--as", "client/b").err
