"""The inference service over HTTPS against a plain FastAPI handler that runs the model itself, side by side.

Both answer with the same LeNet, weights and bytes, behind TLS 1.3 on loopback, each in a process of its own with one
thread for torch. Clients keep their connections and ask for one sample at a time. The ratio is the plain handler's
answers a second over the service's; processor time for an answer is a note.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from privet import parts
from privet.crypto.signatures import public_key
from privet.inference.questions import question
from privet.inference.versions import publish
from privet.tensors import clone, save
from privet.transport.certificates import Authority
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE

SHAPE, CLASSES = (1, 28, 28), 10
CLIENTS, SECONDS, PAIRS = 64, 2.0, 4
GOAL = 1.0
PRIVET = "from privet.apps.cli.main import main; main()"
PLAIN = """
import sys, numpy as np, torch, uvicorn
from fastapi import FastAPI, Request, Response
from privet import parts
from privet.tensors import load
weights, certificate, key, port = sys.argv[1:]
torch.set_num_threads(1)
network = parts.build("models", {"name": "lenet"}).build((1, 28, 28), 10).eval()
network.load_state_dict(load(__import__("pathlib").Path(weights)))
app = FastAPI()

@app.post("/v1/classify")
async def classify(request: Request):
    samples = np.frombuffer(await request.body(), np.float32).reshape(-1, 1, 28, 28).copy()
    with torch.inference_mode():
        scores = network(torch.from_numpy(samples))
    return Response(scores.numpy().tobytes(), media_type="application/octet-stream")

uvicorn.run(app, port=int(port), ssl_certfile=certificate, ssl_keyfile=key, log_level="error", access_log=False)
"""


async def client(port: int, context: ssl.SSLContext, head: bytes, body: bytes, until: list[float]) -> int:
    """Asks over one connection until the time is up, and returns how many answers came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    answers = 0
    await until_set(until)
    while time.monotonic() < until[0]:
        writer.write(head + body)
        top = await reader.readuntil(b"\r\n\r\n")
        if not top.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(top.decode())
        length = next(int(line[15:]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        answers += 1
    writer.close()
    return answers


async def until_set(until: list[float]) -> None:
    """Waits until all clients are connected."""
    while not until:
        await asyncio.sleep(0.05)


async def load(port: int, context: ssl.SSLContext, token: str) -> float:
    """Returns answers a second for all clients together."""
    body = question(np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32))
    head = (
        "POST /v1/classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/octet-stream\r\n"
        f"authorization: Bearer {token}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    until = list[float]()
    asking = [asyncio.create_task(client(port, context, head.encode(), body, until)) for _ in range(CLIENTS)]
    await asyncio.sleep(1.5)
    until.append(time.monotonic() + SECONDS)
    return sum(await asyncio.gather(*asking)) / SECONDS


def spent(process: subprocess.Popen[str]) -> float:
    """Returns the processor seconds that a process has taken so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Returns a port that nobody listens at."""
    import socket

    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def prepared(root: Path) -> tuple[str, str]:
    """Makes model, certificate and token in a folder; returns the signer's public key and the token."""
    from privet.apps.service.callers import new_token

    authority = Authority.create("benchmark")
    key, certificate = authority.issue("service/inference", ["127.0.0.1"])
    for name, data in ((KEY_FILE, key), (CERTIFICATE_FILE, certificate), ("authority.pem", authority.certificate)):
        (root / name).write_bytes(data)
        (root / name).chmod(0o600)
    torch.manual_seed(0)
    network = parts.build("models", {"name": "lenet"}).build(SHAPE, CLASSES)
    save(clone(network.state_dict()), root / "model.safetensors")
    secret = os.urandom(32)
    publish(root, name="benchmark", model={"name": "lenet"}, shape=SHAPE, classes=CLASSES, secret=secret)
    return public_key(secret).hex(), new_token(root / "tokens", "benchmark")


def begin(root: Path, signer: str, options: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Starts the service; returns it and its port."""
    command = ["serve", "inference", "--model", str(root), "--signer", signer, "--identity", str(root), "--json"]
    command += ["--tokens", str(root / "tokens"), "--https", "127.0.0.1:0", "--metrics", "", *options]
    process = subprocess.Popen([sys.executable, "-c", PRIVET, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # noqa: S101 - it was asked for
    return process, int(json.loads(process.stdout.readline())["places"]["https"].rpartition(":")[2])


def begin_plain(root: Path) -> tuple[subprocess.Popen[str], int]:
    """Starts the plain handler; returns it and its port."""
    port = free_port()
    files = [root / name for name in ("model.safetensors", CERTIFICATE_FILE, KEY_FILE)]
    process = subprocess.Popen([sys.executable, "-c", PLAIN, *map(str, files), str(port)], text=True)
    return process, port


def await_port(port: int) -> None:
    """Returns once somebody listens."""
    import socket

    for _ in range(600):
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nobody listens at {port}")


def main() -> None:
    """Prints one line of JSON."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        signer, token = prepared(root)
        context = ssl.create_default_context(cafile=str(root / "authority.pem"))
        started = {"service": begin(root, signer, sys.argv[1:]), "plain": begin_plain(root)}
        rates: dict[str, list[float]] = {name: [] for name in started}
        costs: dict[str, list[float]] = {name: [] for name in started}
        try:
            for _ in range(PAIRS + 1):
                for name, (process, port) in started.items():
                    await_port(port)
                    before = spent(process)
                    rate = asyncio.run(load(port, context, token))
                    rates[name].append(rate)
                    costs[name].append(1e6 * (spent(process) - before) / (rate * SECONDS))
        finally:
            for process, _ in started.values():
                process.terminate()
                process.wait()
    rate = {name: statistics.median(each[1:]) for name, each in rates.items()}
    cost = {name: statistics.median(each[1:]) for name, each in costs.items()}
    row = {"name": f"plain FastAPI + torch / service, answers a second, {CLIENTS} clients over TLS", "goal": GOAL}
    row["ratio"] = round(rate["plain"] / rate["service"], 3)
    row["answers a second"] = f"{rate['service']:.0f} against {rate['plain']:.0f}"
    row["processor us an answer"] = f"{cost['service']:.0f} against {cost['plain']:.0f}"
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
