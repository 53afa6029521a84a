"""The inference service as a process: three transports, who is let in, what is refused, kills, restarts, new models."""

from __future__ import annotations

import gc
import getpass
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from loopback_example import loopback

from privet import parts
from privet.apps.agent.identity import join
from privet.apps.service.callers import new_token
from privet.crypto.signatures import public_key
from privet.errors import InputError, PrivetError, RefusedError, UnreachableError
from privet.governance.enrolment import Fleet
from privet.inference.asking import Asker, connect
from privet.inference.credentials import Credentials
from privet.inference.obfuscation import Obfuscation, Trained
from privet.inference.obfuscators.prototype import Prototype
from privet.inference.over_mqtt import MqttClient, properties
from privet.inference.questions import question
from privet.inference.versions import publish
from privet.randomness import seeded, system
from privet.tensors import clone, save
from privet.transport.certificates import Authority

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("inference-service")]
ROOT = Path(__file__).parents[2]
RUN = "from privet.apps.cli.main import main; main()"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SECRET = bytes(range(32))
SIGNER = public_key(SECRET)
SCHEMES = {"https": "https", "grpc": "grpc", "mqtt": "mqtts"}
WAYS = list(SCHEMES)
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
PATIENCE = 10


def holder(root: Path, authority: Authority, name: str, folder: str, days: int = 30) -> Path:
    """Makes a folder with key and certificate of somebody."""
    key, certificate = authority.issue(name, ["127.0.0.1"] if name.split("/")[0] in ("service", "broker") else [], days)
    (root / folder).mkdir(mode=0o700)
    (root / folder / "transport.key").write_bytes(key)
    (root / folder / "transport.key").chmod(0o600)
    (root / folder / "transport.pem").write_bytes(certificate)
    (root / folder / "authority.pem").write_bytes(authority.certificate)
    return root / folder


def model(folder: Path, name: str, seed: int) -> torch.nn.Module:
    """Signs a LeNet with random weights."""
    torch.manual_seed(seed)
    network = parts.build("models", {"name": "lenet"}).build((1, 28, 28), 10).eval()
    folder.mkdir(exist_ok=True)
    save(clone(network.state_dict()), folder / "model.safetensors")
    publish(folder, name=name, model={"name": "lenet"}, shape=(1, 28, 28), classes=10, secret=SECRET)
    return network


def begin(home: Home, *more: str, https: str = "127.0.0.1:0", grpc: str = "127.0.0.1:0") -> tuple[Any, dict[str, Any]]:
    """Starts a service and returns it with what it says first."""
    command = ["serve", "inference", "--model", home.root / "model", "--signer", SIGNER.hex(), "--json"]
    command += ["--identity", home.root / "service", "--tokens", home.root / "tokens", "--metrics", "127.0.0.1:0"]
    command += ["--https", https, "--grpc", grpc, *more]
    words = [sys.executable, "-c", RUN, *map(str, command)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def end(process: Any, how: int = signal.SIGTERM) -> int:
    process.send_signal(how)
    status = int(process.wait(20))
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return status


@dataclass
class Home:
    """A service, its broker, and folders of who is let in and who is not."""

    root: Path
    network: torch.nn.Module
    token: str
    places: dict[str, str] = field(default_factory=dict)
    version: str = ""
    process: Any = None
    broker: Any = None

    def client(self, way: str, who: str = "client") -> Any:
        if way not in self.places:
            pytest.skip("mosquitto is not installed")
        return connect(f"{SCHEMES[way]}://{self.places[way]}", Credentials.load(self.root / who))

    def asker(self, way: str, who: str = "client", **options: Any) -> Asker:
        return Asker(self.client(way, who), signer=SIGNER, **options)

    def scores(self, samples: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.network(torch.from_numpy(samples)).numpy()

    def port(self, way: str = "https") -> int:
        return int(self.places[way].rpartition(":")[2])


def mosquitto(root: Path, port: int = 0) -> tuple[Any, str]:
    """Starts a broker with the packaged settings; its address is "" where there is none."""
    if MOSQUITTO is None:
        return None, ""
    port, text = port or loopback.free_ports(), (ROOT / "packaging" / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/privet/mosquitto.acl", str(ROOT / "packaging" / "mosquitto.acl"))
    text = text.replace("/etc/mosquitto/privet", str(root / "broker"))
    text = text.replace("listener 8883", f"listener {port} 127.0.0.1") + f"user {getpass.getuser()}\n"
    (root / "mosquitto.conf").write_text(text)
    broker = subprocess.Popen([MOSQUITTO, "-c", str(root / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return broker, f"mqtts://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    root = tmp_path_factory.mktemp("service")
    authority = Authority.create("fleet")
    for name in ("service/inference", "broker/main", "client/web", "miner/a"):
        holder(root, authority, name, name.split("/")[0])
    holder(root, authority, "device/gateway", "device")
    holder(root, authority, "device/late", "expired", days=-1)
    holder(root, Authority.create("fleet"), "client/web", "foreign")
    for folder in ("foreign", "foreign-trusting"):
        (root / folder).mkdir(exist_ok=True)
    for file in ("transport.key", "transport.pem"):
        shutil.copy(root / "foreign" / file, root / "foreign-trusting" / file)
    shutil.copy(root / "client" / "authority.pem", root / "foreign-trusting" / "authority.pem")
    made = Home(root, model(root / "model", "v1", 0), new_token(root / "tokens", "web"))
    (root / "bearer").mkdir()
    shutil.copy(root / "client" / "authority.pem", root / "bearer" / "authority.pem")
    (root / "bearer" / "token").write_text(made.token)
    (root / "bearer" / "token").chmod(0o600)
    made.broker, address = mosquitto(root)
    made.process, told = begin(made, *(["--mqtt", address] if address else []))
    made.places, made.version = told["places"], told["version"]
    yield made
    assert end(made.process) == 0
    if made.broker is not None:
        made.broker.terminate()
        made.broker.wait(10)


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 1, 28, 28), np.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["client", "device"])
def test_every_transport_gives_the_models_own_scores(home: Home, way: str, who: str) -> None:
    with home.asker(way, who) as asker:
        for count in (1, 3, 40):
            answer = asker.ask(samples(count, count))
            assert np.allclose(answer.scores, home.scores(samples(count, count)), atol=1e-5)
            assert answer.version == home.version == asker.offer().version


@pytest.mark.parametrize("way", WAYS)
def test_malformed_oversized_and_senseless_questions_get_one_line(home: Home, way: str) -> None:
    client = home.client(way)
    for body, says in (
        (b"", "a question of 0 bytes"),
        (b"abc", "a question of 3 bytes"),
        (question(samples(1))[:-1], "a question of 3135 bytes; allowed: 1 to 16 samples of 3136 bytes"),
        (question(samples(16)) + bytes(3136), "allowed"),
        (question(samples(2) * np.nan), "out of range; allowed: 0 to 1"),
        (question(samples(2) * np.inf), "out of range"),
        (question(samples(2) + 1), "out of range"),
    ):
        # gRPC ends a message that is far too long by itself, and the door of HTTPS before it is read.
        with pytest.raises((InputError, UnreachableError), match=says) as refused:
            client.call("classify", body, 5)
        assert "\n" not in str(refused.value)
    if way != "https":
        with pytest.raises(InputError, match="no method called"):
            client.call("train", b"", 5)
    client.close()
    with home.asker(way) as asker:
        assert len(asker.ask(samples(1)).scores) == 1


# paho leaves the socket of a handshake that failed to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("way", WAYS)
def test_who_does_not_belong_is_not_answered(home: Home, way: str) -> None:
    # A certificate of another authority; one that has expired; a service that another authority's client can't know;
    # a certificate of this authority for another role. None of them gets better by asking again.
    for who, says in (
        ("foreign-trusting", "does not let .* in .*authority|does not let this certificate in: .* another authority"),
        ("expired", "expired on"),
        ("foreign", "did not prove who it is"),
        ("miner", "let"),
    ):
        begin_s = time.monotonic()
        with pytest.raises(RefusedError, match=says):
            home.asker(way, who).ask(samples(1))
        assert time.monotonic() - begin_s < PATIENCE
    gc.collect()


def test_a_token_serves_instead_of_a_certificate_over_https(home: Home) -> None:
    with home.asker("https", "bearer") as asker:
        assert np.allclose(asker.ask(samples(2)).scores, home.scores(samples(2)), atol=1e-5)
    trusting = ssl.create_default_context(cafile=str(home.root / "client" / "authority.pem"))
    url = f"https://{home.places['https']}"
    with httpx.Client(base_url=url, verify=trusting, trust_env=False) as plain:
        body = {"samples": samples(2).tolist()}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic " + home.token}):
            for path in ("/v1/classify", "/v1/model", "/", "/docs"):
                assert plain.post(path, json=body, headers=headers).status_code == 401
        headers = {"authorization": f"Bearer {home.token}"}
        told = plain.post("/v1/classify", json=body, headers=headers).json()
        assert told["version"] == home.version
        assert told["classes"] == home.scores(samples(2)).argmax(1).tolist()
        flat = {"samples": samples(2).reshape(2, -1).tolist()}
        assert plain.post("/v1/classify", json=flat, headers=headers).json()["classes"] == told["classes"]
        for wrong in (
            b"",
            b"[" * 20_000,
            b'{"samples": "x"}',
            b'{"samples": []}',
            b'{"samples": [[NaN]]}',
            b"{}",
            b'{"samples": 1.5}',
        ):
            reply = plain.post("/v1/classify", content=wrong, headers=headers)
            assert (reply.status_code, reply.text.count("\n")) == (422, 0)
        assert plain.get("/docs", headers=headers).status_code == 404


def test_tls_1_2_and_plain_http_are_not_spoken(home: Home) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    for way in ("https", "grpc", "mqtt"):
        if way in home.places:
            with (
                socket.create_connection(("127.0.0.1", home.port(way)), 5) as line,
                pytest.raises((ssl.SSLError, OSError)),
            ):
                old.wrap_socket(line)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{home.places['https']}/v1/model", trust_env=False)


def tls(home: Home) -> ssl.SSLSocket:
    context = Credentials.load(home.root / "client").context()
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", home.port()), 5), server_hostname="inference.service.privet.internal"
    )


def test_lengths_are_checked_before_a_body_is_read(home: Home) -> None:
    for headers in (
        b"content-length: 50000000",
        b"content-length: 99999999999999999999999999",
        b"transfer-encoding: chunked",
    ):
        with tls(home) as line:
            kind = b"\r\ncontent-type: application/octet-stream\r\n\r\n"
            line.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: a\r\n" + headers + kind)
            assert line.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    with tls(home) as line:
        line.sendall(b"GET /v1/model HTTP/1.1\r\n" + b"x-header: aaaaaaa\r\n" * 2000)  # a head without end
        assert line.recv(100).startswith(b"HTTP/1.1 400")


def test_slow_connections_are_dropped_while_others_are_answered(home: Home) -> None:
    drips = {"says nothing, no handshake": socket.create_connection(("127.0.0.1", home.port()), 5)}
    drips["says nothing"] = tls(home)
    drips["half a head"] = tls(home)
    drips["half a head"].sendall(b"POST /v1/classify HTTP/1.1\r\nhost:")
    drips["half a body"] = tls(home)
    drips["half a body"].sendall(b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: 3136\r\n\r\n")
    begin_s, gone = time.monotonic(), dict[str, float]()

    def drip(name: str, line: socket.socket) -> None:
        line.settimeout(0.5)
        while time.monotonic() - begin_s < 2 * PATIENCE:
            try:
                if name.startswith("half"):
                    line.sendall(b"a")
                if line.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        gone[name] = time.monotonic() - begin_s

    threads = [threading.Thread(target=drip, args=each) for each in drips.items()]
    for thread in threads:
        thread.start()
    with home.asker("https") as asker:
        assert len(asker.ask(samples(1)).scores) == 1
    for thread in threads:
        thread.join()
    for line in drips.values():
        line.close()
    assert gone.keys() == drips.keys()
    assert all(at < PATIENCE + 4 for at in gone.values()), gone


def test_one_clients_name_is_no_others_at_the_broker(home: Home) -> None:
    client: MqttClient = home.client("mqtt")
    other: MqttClient = home.client("mqtt", "device")
    heard: list[str] = []
    own = other._client.on_message
    other._client.on_message = lambda *said: (heard.append(said[2].topic), own(*said))
    other._client.subscribe("privet/answer/client/web/#", 1)
    other._client.subscribe("privet/ask/#", 1)
    # Asking under another's name, or for an answer to another's topic, comes to nothing.
    for topic, answer in (
        ("privet/ask/device/gateway/classify", "privet/answer/device/gateway/x"),
        ("privet/ask/client/web/classify", other._answer),
    ):
        wishes = properties("PUBLISH", ResponseTopic=answer, CorrelationData=b"1")
        client._client.publish(topic, question(samples(1)), 1, properties=wishes)
    assert len(client.call("classify", question(samples(1)), 5)) == 32 + 40
    assert len(other.call("classify", question(samples(1)), 5)) == 32 + 40
    assert heard == [other._answer]
    client.close()
    other.close()


def figures(home: Home) -> str:
    with urllib.request.urlopen(f"http://{home.places['metrics']}/metrics", timeout=5) as reply:
        return reply.read().decode()


def test_health_and_figures_are_on_the_loopback_address_and_name_nobody(home: Home) -> None:
    with home.asker("grpc") as asker:
        asker.ask(samples(1))
    told = figures(home)
    assert 'privet_questions_total{outcome="answered",transport="grpc"}' in told
    assert "client/web" not in told
    assert "obfusc" not in told
    assert "gateway" not in told
    with urllib.request.urlopen(f"http://{home.places['metrics']}/health", timeout=5) as reply:
        assert json.loads(reply.read())["version"] == home.version
    assert home.places["metrics"].startswith("127.0.0.1:")


def infer(home: Home, url: str, *more: object) -> subprocess.CompletedProcess[str]:
    words = ["infer", "--service", url, "--input", home.root / "x.npy", *more]
    return subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT
    )


def test_the_command_asks_a_service(home: Home) -> None:
    np.save(home.root / "x.npy", samples(3))
    url = f"https://{home.places['https']}"
    own = ("--folder", home.root / "device", "--signer", SIGNER.hex())
    told = json.loads(infer(home, url, *own, "--json").stdout)
    assert told["classes"] == home.scores(samples(3)).argmax(1).tolist()
    assert (told["version"], told["model"], told["signed"]) == (home.version, "v1", True)
    wrong = infer(home, url, "--folder", home.root / "device", "--signer", "00" * 32)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (3, 1)
    assert "not signed by the key" in wrong.stderr
    lines = infer(home, f"grpc://{home.places['grpc']}", *own).stdout.splitlines()
    assert lines[0].startswith("classes: ")
    assert lines[1].endswith("its signature verifies")


def test_the_command_obfuscates_pays_once_and_then_refuses(home: Home, call: Any, tmp_path: Path) -> None:
    rows = torch.from_numpy(samples(80, 9))
    labels = torch.from_numpy(home.scores(samples(80, 9))).argmax(1)
    part = Prototype(student="small-cnn", epochs=1, batch_size=16)
    trained = Trained(parts.build("models", {"name": "lenet"}), home.network, (1, 28, 28), 10)
    made = Obfuscation.train(part, trained, rows, labels, 2, seeded(0))
    made.save(tmp_path / "obfuscated")
    each = [Obfuscation(part, trained, (side,)).bits() for side in made.sides]
    words = ["infer", "--service", f"https://{home.places['https']}", "--folder", home.root / "client", "--input"]
    more = ["--obfuscator", tmp_path / "obfuscated", "--state", tmp_path / "state", "--bits", 7 * min(each)]
    more += ["--subject", "ann", "--purpose", "digits", "--signer", SIGNER.hex()]

    def ask(seed: int, *options: object) -> tuple[int, str, str]:
        np.save(tmp_path / "x.npy", samples(4, seed))
        return call(*words, tmp_path / "x.npy", *more, *options)

    def answered() -> list[str]:
        return [line for line in figures(home).splitlines() if line.startswith("privet_questions_total")]

    status, out, err = ask(1, "--json")
    assert (status, err) == (0, "")
    first, released = json.loads(out), [made.release(torch.from_numpy(samples(4, 1)), system(), at) for at in (0, 1)]
    picked = [at for at in (0, 1) if np.allclose(first["scores"], home.scores(released[at].numpy()), atol=1e-5)]
    assert picked
    assert not np.allclose(first["scores"], home.scores(samples(4, 1)), atol=1e-5)
    assert first["bits"] == pytest.approx(4 * each[picked[0]])
    assert (first["left"], first["same_model"], len(first["promised"])) == ([0, 1, 2, 3], True, 1)
    status, out, _ = ask(1)
    assert status == 0
    assert "left, obfuscated: all; 0 bits were paid now" in out
    assert "min-entropy leakage): derived" in out
    before = answered()
    status, out, err = ask(2)
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert "would raise what was told" in err
    assert answered() == before
    status, out, _ = ask(2, "--offload", "0.25")
    assert status == 0
    assert "that a sample left, or stayed, tells one bit more, and no epsilon holds" in out
    assert answered() != before
    own = ["--own-model", tmp_path / "obfuscated", "--offload", "0.5"]
    told = json.loads(call(*words, tmp_path / "x.npy", *own, "--json")[1])
    assert told["classes"] == home.scores(samples(4, 2)).argmax(1).tolist()
    assert (len(told["left"]), told["bits"], told["obfuscated"]) == (2, None, False)
    assert told["promised"] == ["no guarantee is derived: what leaves, leaves as it is"]
    before = answered()
    lines = call(*words, tmp_path / "x.npy", *own[:2], "--threshold", "0")[1].splitlines()
    assert lines[1].endswith("model v1 was not asked, nobody checked its signature: --signer does")
    assert lines[2] == "left, as they are: none; 0 bits were paid now"
    assert answered() == before


class Crowd:
    """Clients that ask without end, over each transport, until they are told to stop."""

    def __init__(self, home: Home, ways: list[str], patience: float = 20) -> None:
        self.answers: list[tuple[str, bool]] = []
        self.lost: list[str] = []
        self._done = threading.Event()
        self._home = home
        self._threads = [
            threading.Thread(target=self._live, args=(home.asker(way, patience=patience), at), daemon=True)
            for at, way in enumerate(ways)
        ]
        for thread in self._threads:
            thread.start()

    def _live(self, asker: Asker, seed: int) -> None:
        turn = samples(2, seed)
        while not self._done.is_set():
            try:
                answer = asker.ask(turn)
                self.answers.append((answer.version, np.allclose(answer.scores, self._home.scores(turn), atol=1e-5)))
            except PrivetError as error:
                self.lost.append(str(error))
            time.sleep(0.01)
        asker.close()

    def seen(self, count: int, seconds: float = 20) -> None:
        """Waits for so many more answers."""
        until, goal = time.monotonic() + seconds, len(self.answers) + count
        while len(self.answers) < goal and time.monotonic() < until:
            time.sleep(0.02)

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def test_a_new_version_takes_over_and_no_question_is_lost(home: Home) -> None:
    crowd = Crowd(home, [way for way in WAYS if way in home.places])
    crowd.seen(20)
    before, old = home.network, home.version
    whole = (home.root / "model" / "model.safetensors").read_bytes()
    other = whole[:-1] + bytes([whole[-1] ^ 1])  # no signature fits this
    (home.root / "model" / "model.safetensors").write_bytes(other)
    home.process.send_signal(signal.SIGHUP)
    assert (
        "is not what was signed; copy the version again; what can't be read stays as it was"
        in home.process.stderr.readline()
    )
    crowd.seen(20)
    assert {version for version, _ in crowd.answers} == {old}
    assert all(right for _, right in crowd.answers)
    home.network = model(home.root / "model", "v2", 1)
    home.process.send_signal(signal.SIGHUP)
    assert "model v2" in home.process.stderr.readline()
    crowd.seen(10)
    settled = len(crowd.answers)
    crowd.seen(30)
    crowd.stop()
    assert crowd.lost == []
    versions = {version for version, _ in crowd.answers[settled:]}
    assert len(versions) == 1
    assert old not in versions
    assert all(right for _, right in crowd.answers[settled:])
    home.network, home.version = before, old
    model(home.root / "model", "v1", 0)
    home.process.send_signal(signal.SIGHUP)
    home.process.stderr.readline()
    with home.asker("grpc") as asker:
        home.version = asker.ask(samples(1)).version  # signed anew, so it has another time in it


def test_a_token_that_was_taken_out_is_refused_after_sighup(home: Home) -> None:
    kept = (home.root / "tokens").read_text()
    (home.root / "tokens").write_text("")
    home.process.send_signal(signal.SIGHUP)
    home.process.stderr.readline()
    with pytest.raises(RefusedError):
        home.asker("https", "bearer").ask(samples(1))
    (home.root / "tokens").write_text(kept)
    home.process.send_signal(signal.SIGHUP)
    home.process.stderr.readline()
    with home.asker("https", "bearer") as asker:
        asker.ask(samples(1))


def test_killed_and_started_again_its_clients_go_on(home: Home) -> None:
    process, told = begin(home)
    places = told["places"]
    crowd = Crowd(Home(home.root, home.network, home.token, places), ["https", "grpc", "https", "grpc"])
    try:
        crowd.seen(20)
        assert end(process, signal.SIGKILL) == -signal.SIGKILL
        process, _ = begin(home, https=places["https"], grpc=places["grpc"])
        crowd.seen(20)
    finally:
        crowd.stop()
        end(process)
    assert len(crowd.answers) >= 40
    assert crowd.lost == []
    assert all(right for _, right in crowd.answers)


def test_a_broker_that_is_killed_and_started_again_brings_questions_again(home: Home) -> None:
    with home.asker("mqtt", patience=25) as asker:
        asker.ask(samples(1))
        home.broker.kill()
        home.broker.wait()
        home.broker, _ = mosquitto(home.root, home.port("mqtt"))
        assert np.allclose(asker.ask(samples(3)).scores, home.scores(samples(3)), atol=1e-5)


def test_a_service_that_is_full_is_asked_again_though_it_closes_without_a_word(home: Home) -> None:
    process, told = begin(home, "--connections", "1")
    full = Home(home.root, home.network, home.token, told["places"])
    pauses: list[float] = []

    def leave(pause: float) -> None:
        pauses.append(pause)
        first.close()
        time.sleep(0.2)

    try:
        with full.asker("https") as first, full.asker("https", sleep=leave) as second:
            first.ask(samples(1))
            with pytest.raises(UnreachableError, match=r"without a word; .* may not know this certificate's authority"):
                second._client.call("model", b"", 5)
            assert np.allclose(second.ask(samples(1)).scores, home.scores(samples(1)), atol=1e-5)
    finally:
        end(process)
    assert pauses


def test_an_unsigned_model_or_a_wrong_certificate_does_not_start(home: Home, call: Any) -> None:
    words = ["serve", "inference", "--model", home.root / "model", "--https", "127.0.0.1:0", "--identity"]
    for identity, signer, status, says in (
        ("service", "00" * 32, 3, "not signed by the key"),
        ("client", SIGNER.hex(), 2, "client/web is no service"),
        ("expired", SIGNER.hex(), 3, "expired on"),
    ):
        left, out, err = call(*words, home.root / identity, "--signer", signer)
        assert (left, out, err.count("\n")) == (status, "", 1)
        assert says in err


def test_many_clients_over_three_transports_lose_nothing() -> None:
    command = [sys.executable, ROOT / "examples" / "inference" / "thousand_clients.py"]
    command += ["--clients", "30", "--questions", "4", "--seconds", "2", "--processes", "1"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=ENVIRONMENT)
    told = json.loads(done.stdout)
    assert (told["answered"], told["wrong"], told["lost"]) == (120, 0, 0), told
    assert 0 < told["obfuscated"] < 120
    assert all(told[way]["p99_ms"] >= told[way]["p50_ms"] > 0 for way in WAYS if way in told)
    assert told["memory_MB"]["most"] < told["memory_MB"]["before"] + 100


def test_a_device_of_the_fleet_asks_with_its_own_certificate_until_it_is_revoked(home: Home, tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "fleet", "fleet", ["127.0.0.1"])
    enrolment = fleet.serve(("127.0.0.1", 0))
    enrolment.start()
    join(tmp_path / "device", fleet.invite(1, "phone")[0].text(), enrolment.server_address[:2], "gateway")
    enrolment.stop()
    holder(tmp_path, fleet.authority, "service/inference", "service")
    own = Home(tmp_path, home.network, "")
    (tmp_path / "model").symlink_to(home.root / "model")
    (tmp_path / "tokens").touch(0o600)
    process, told = begin(own, "--fleet", str(tmp_path / "fleet"))
    own.places = told["places"]
    try:
        for way in ("https", "grpc"):
            with own.asker(way, "device") as asker:
                assert np.allclose(asker.ask(samples(1)).scores, home.scores(samples(1)), atol=1e-5)
        fleet.registry.revoke("gateway")
        time.sleep(1.1)
        for way in ("https", "grpc"):
            with own.asker(way, "device") as asker, pytest.raises(RefusedError, match="let"):
                asker.ask(samples(1))
    finally:
        assert end(process) == 0


@pytest.mark.parametrize("taken", ["https", "metrics"])
def test_an_address_that_is_taken_is_named_in_one_line(home: Home, taken: str) -> None:
    place = f"127.0.0.1:{home.port()}"
    others = {"--https": "127.0.0.1:0", "--metrics": "127.0.0.1:0"} | {f"--{taken}": place}
    command = ["serve", "inference", "--model", home.root / "model", "--signer", SIGNER.hex()]
    command += ["--identity", home.root / "service", "--tokens", home.root / "tokens"]
    words = [sys.executable, "-c", RUN, *map(str, [*command, *(word for pair in others.items() for word in pair)])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"can't listen at {place}" in done.stderr


def test_a_full_service_says_so_and_a_stopping_one_answers_what_waits(home: Home) -> None:
    limits = ("--waiting", "4", "--share", "2", "--samples", "1", "--batch", "2", "--wait", "500")
    process, told = begin(home, *limits)
    own = Home(home.root, home.network, home.token, told["places"])
    trusting = Credentials.load(home.root / "client").context()
    replies: list[tuple[int, str | None]] = []

    def post() -> None:
        line = http.client.HTTPSConnection("127.0.0.1", own.port(), context=trusting, timeout=20)
        line.request("POST", "/v1/classify", question(samples(1)), {"content-type": "application/octet-stream"})
        reply = line.getresponse()
        replies.append((reply.status, reply.getheader("retry-after")))
        line.close()

    def posts(count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=post) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    try:
        for _ in range(10):  # on a busy machine a crowd comes one after the other
            crowd = posts(12)
            with own.asker("grpc") as asker:
                assert len(asker.ask(samples(6)).scores) == 6
            for thread in crowd:
                thread.join()
            if 429 in {status for status, _ in replies}:
                break
        assert {status for status, _ in replies} == {200, 429}
        assert {after for status, after in replies if status == 429} == {"1"}
        (last,) = posts(1)
        until = time.monotonic() + 5
        while "privet_waiting_samples 1.0" not in figures(own) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        status = end(process)
    last.join()
    assert (status, replies[-1][0]) == (0, 200)
