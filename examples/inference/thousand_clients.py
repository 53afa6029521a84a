"""A thousand clients ask one inference service on this machine, over HTTPS, gRPC and MQTT, originals and obfuscated.

Each client has a certificate and a connection of its own, and asks at random moments. Every answer is compared with
what the model says when it is asked here. Prints one JSON object: questions lost and wrong, percentiles of the time to
an answer, and the service's memory before and after. Over MQTT only where mosquitto is installed.

    python examples/inference/thousand_clients.py --clients 1000 --questions 5 --seconds 60
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from privet.errors import PrivetError

ROOT = Path(__file__).resolve().parents[2]
PRIVET = "from privet.apps.cli.main import main; main()"
SHAPE, CLASSES = (1, 28, 28), 10
SCHEMES = {"https": "https", "grpc": "grpc", "mqtt": "mqtts"}
CLOSE = 1e-4  # a batch adds up in another order than a single sample does
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--clients", type=int, default=1000)
    asked.add_argument("--questions", type=int, default=5, help="of each client")
    asked.add_argument("--seconds", type=float, default=60.0, help="over which questions are spread")
    asked.add_argument("--processes", type=int, default=4, help="that the clients live in")
    asked.add_argument("--worker", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.worker:
        return work(json.loads(options.worker))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(json.dumps(measured(options, root, stack)))


def measured(options: argparse.Namespace, root: Path, stack: ExitStack) -> dict[str, Any]:
    """Runs the service and the clients, and returns the figures."""
    key = prepare(root, options.clients)
    broker = start_broker(root, stack)
    service = start_service(root, key, broker, stack)
    places = json.loads(service.stdout.readline())["places"]
    before = memory(service.pid, "VmRSS")
    ways = [name for name in SCHEMES if name in places]
    workers = []
    for at in range(options.processes):
        task = {"root": str(root), "key": key, "places": {way: places[way] for way in ways}, "seconds": options.seconds}
        task |= {"clients": list(range(at, options.clients, options.processes)), "questions": options.questions}
        command = [sys.executable, __file__, "--worker", json.dumps(task)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        stack.callback(stop, worker)
        workers.append(worker)
    for worker in workers:
        worker.stdout.readline()  # its clients are connected
    connected = memory(service.pid, "VmRSS")
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [json.loads(worker.stdout.readline()) for worker in workers]
    figures: dict[str, Any] = {"clients": options.clients, "questions": options.clients * options.questions}
    figures |= {name: sum(each[name] for each in told) for name in ("answered", "wrong", "lost", "obfuscated")}
    figures["errors"] = sorted({line for each in told for line in each["errors"]})[:5]
    for way in ways:
        times = sorted(1000 * at for each in told for at in each["times"][way])
        figures[way] = {f"p{part}_ms": round(float(np.percentile(times, part)), 1) for part in (50, 99)}
    figures["memory_MB"] = {"before": before, "all connected": connected, "most": memory(service.pid, "VmHWM")}
    return figures


def prepare(root: Path, clients: int) -> str:
    """Makes authority, certificates, model and signer; returns the signer's public key."""
    import torch

    from privet import parts
    from privet.crypto.signatures import public_key
    from privet.inference.versions import publish
    from privet.tensors import clone, save
    from privet.transport.certificates import Authority

    authority = Authority.create("thousand clients")
    holders = {"service": "service/inference", "broker": "broker/main"}
    holders |= {f"client-{at}": f"client/number-{at}" for at in range(clients)}
    for folder, name in holders.items():
        hosts = [] if name.startswith("client") else ["127.0.0.1"]
        key, certificate = authority.issue(name, hosts)
        (root / folder).mkdir(mode=0o700)
        for file, data in (("transport.key", key), ("transport.pem", certificate)):
            (root / folder / file).write_bytes(data)
        (root / folder / "transport.key").chmod(0o600)
        (root / folder / "authority.pem").write_bytes(authority.certificate)
    torch.manual_seed(0)
    (root / "model").mkdir()
    network = parts.build("models", {"name": "lenet"}).build(SHAPE, CLASSES)
    save(clone(network.state_dict()), root / "model" / "model.safetensors")
    secret = os.urandom(32)
    publish(root / "model", name="example", model={"name": "lenet"}, shape=SHAPE, classes=CLASSES, secret=secret)
    expect(root, network.eval())
    return public_key(secret).hex()


def expect(root: Path, network: Any) -> None:
    """Keeps samples, originals first, then obfuscated, and the model's scores for each."""
    import torch

    from privet import parts

    rows = parts.build("datasets", {"name": "mnist-10k"}).load().test_inputs[:200]
    order = np.random.default_rng(0).permutation(rows[0].size)
    samples = np.concatenate([rows, rows.reshape(len(rows), -1)[:, order].reshape(rows.shape)])
    with torch.inference_mode():
        scores = network(torch.from_numpy(samples)).numpy()
    np.savez(root / "expected.npz", samples=samples, scores=scores)


def start_broker(root: Path, stack: ExitStack) -> str:
    """Starts mosquitto with the packaged settings; returns its address, or "" where it is not installed."""
    program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if program is None:
        return ""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    text = (ROOT / "packaging" / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/privet/mosquitto.acl", str(ROOT / "packaging" / "mosquitto.acl"))
    text = text.replace("/etc/mosquitto/privet", str(root / "broker")).replace(
        "listener 8883", f"listener {port} 127.0.0.1"
    )
    (root / "mosquitto.conf").write_text(f"{text}user {getpass.getuser()}\n")
    broker = subprocess.Popen([program, "-c", str(root / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    stack.callback(stop, broker)
    for _ in range(100):
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                return f"mqtts://127.0.0.1:{port}"
        time.sleep(0.05)
    return ""


def start_service(root: Path, key: str, broker: str, stack: ExitStack) -> Any:
    """Starts the service."""
    command = [
        "serve",
        "inference",
        "--model",
        root / "model",
        "--signer",
        key,
        "--identity",
        root / "service",
        "--json",
    ]
    command += ["--https", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", ""]
    command += ["--mqtt", broker] if broker else []
    words = [sys.executable, "-c", PRIVET, *map(str, command)]
    service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    stack.callback(stop, service)
    return service


def work(task: dict[str, Any]) -> None:
    """The life of some clients, in a process of their own."""
    expected = np.load(Path(task["root"]) / "expected.npz")
    samples, scores = expected["samples"], expected["scores"]
    told: dict[str, Any] = dict.fromkeys(("answered", "wrong", "lost", "obfuscated"), 0)
    told |= {"times": {way: [] for way in task["places"]}, "errors": []}
    guard, go = threading.Lock(), threading.Event()
    # Ways are opened a few at a time, so that no client gives up while this machine is busy with handshakes.
    few, ready = threading.Semaphore(8), threading.Semaphore(0)

    def live(number: int) -> None:
        rng = random.Random(number)  # noqa: S311 - moments to ask, no secrets
        way = list(task["places"])[number % len(task["places"])]
        with few:
            asker = begin(task, way, number)
        ready.release()
        go.wait()
        moments = sorted(rng.uniform(0, task["seconds"]) for _ in range(task["questions"]))
        start = time.monotonic()
        for moment in moments:
            time.sleep(max(0.0, start + moment - time.monotonic()))
            first, count = rng.randrange(len(samples) - 4), rng.randint(1, 4)
            chosen, begin_s = slice(first, first + count), time.monotonic()
            try:
                answer = asker.ask(samples[chosen])
            except PrivetError as error:
                with guard:
                    told["lost"] += 1
                    told["errors"].append(error.advice())
                continue
            with guard:
                told["times"][way].append(time.monotonic() - begin_s)
                told["answered"] += 1
                told["obfuscated"] += first >= len(samples) // 2
                told["wrong"] += not np.allclose(answer.scores, scores[chosen], atol=CLOSE)
        with few:
            asker.close()

    threads = [threading.Thread(target=live, args=(number,), daemon=True) for number in task["clients"]]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    print("connected", flush=True)
    sys.stdin.readline()
    go.set()
    for thread in threads:
        thread.join()
    print(json.dumps(told), flush=True)


def begin(task: dict[str, Any], way: str, number: int) -> Any:
    """Returns a client that is connected."""
    from privet.inference.asking import Asker, connect
    from privet.inference.credentials import Credentials

    credentials = Credentials.load(Path(task["root"]) / f"client-{number}")
    client = connect(f"{SCHEMES[way]}://{task['places'][way]}", credentials)
    asker = Asker(client, signer=bytes.fromhex(task["key"]))
    asker.offer()
    return asker


def memory(process: int, name: str) -> float:
    """Returns a process's memory in MB, as Linux tells it."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024, 1)


def stop(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
