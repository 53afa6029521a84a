"""A fleet on one machine: a coordinator, an edge server and eight devices, all processes with real certificates.

It runs the smart-home plan twice, across the processes and in this one, and compares the two models bit for bit. The
plan is made reproducible, since otherwise noise comes from the operating system and no two runs are alike. The devices
send noisy features to the edge server's process, which trains their heads and sends gradients back.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from privet.governance.enrolment import Fleet

HERE = Path(__file__).resolve().parent
PLAN = HERE.parent / "smart_home.toml"
SETTINGS = (
    "reproducible=true",
    "fleet.devices=8",
    "engine.workers=0",
    "evidence.alone=false",
    "evidence.centralised=false",
    "attacks=[]",
)


def free_ports() -> int:
    """Returns the first of four ports in a row that are free.

    A fifth is held until this process ends, so that no other that asks gets the same four; all are below those that a
    system gives to outgoing connections.
    """
    for first in range(20000, 32000, 5):
        claim = socket.socket()
        with ExitStack() as stack:
            try:
                claim.bind(("127.0.0.1", first + 4))
                for number in range(first, first + 4):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                claim.close()
                continue
            atexit.register(claim.close)
            return first
    raise OSError("no four free ports in a row")


def privet(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    """Starts the command ``privet``."""
    return start([Path(sys.executable).with_name("privet"), *arguments], **options)


def start(command: Sequence[str | Path], **options: object) -> subprocess.Popen[str]:
    """Starts a process of one thread, so that eight of them share a machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([str(part) for part in command], env=environment, text=True, **options)  # type: ignore[call-overload,no-any-return]


@contextmanager
def ended(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Ends processes after a block."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(processes):
            mine = children(process.pid) if process.poll() is None else []
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                for one in mine:  # of a coordinator, which ends them where it ends by itself
                    with suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)
            if process.stdout is not None:
                process.stdout.close()


def coordinator(fleet: Path, port: int) -> subprocess.Popen[str]:
    """Starts a fleet's coordinator and returns once it is up."""
    process = privet("up", fleet, "--host", "127.0.0.1", "--port", str(port), stdout=subprocess.PIPE)
    if process.stdout is None or not process.stdout.readline().startswith("up:"):
        raise RuntimeError(f"the coordinator did not come up: {process.wait()}")
    return process


def device(
    plan: Path, folder: Path, port: int, token: str, settings: Sequence[str], *more: str
) -> subprocess.Popen[str]:
    """Starts the device of a plan that a folder is named after; see device.py. Without a token it has joined before."""
    command = [sys.executable, HERE / "device.py", plan, folder, "--name", folder.name, "--port", str(port)]
    joining = ["--token", token] if token else []
    with folder.with_suffix(".log").open("a") as log:
        return start([*command, *changed(settings), *joining, *more], stdout=log, stderr=log)


def changed(settings: Sequence[str]) -> list[str]:
    """Returns the arguments that change these keys of a plan."""
    return [part for setting in settings for part in ("--set", setting)]


def memory(process: int) -> float:
    """Returns the most memory (MB) that a process held at once."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def divided(process: int) -> float:
    """Returns the memory (MB) of a process now, with what it shares with others divided among them."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def children(process: int) -> list[int]:
    """Returns the processes that a process started and that are still there: SuperLink and edge server."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def digest(run: Path) -> str:
    """Returns the digest of a run's last global model."""
    return str(records(run, "round")[-1]["digest"])


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the bodies of a run's records of one kind."""
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    return [line["body"] for line in lines if line["kind"] == kind]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=200, help="rows of each device")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--patience", type=int, default=240, help="seconds to wait for the devices")
    given = parser.parse_args()
    changes = (f"fleet.devices={given.devices}", f"fleet.examples_per_device={given.rows}")
    settings = (*SETTINGS, *changes, f"training.rounds={given.rounds}")
    port = free_ports()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        fleet = Fleet.create(here / "fleet")
        processes = [coordinator(fleet.folder, port)]
        with ended(processes):
            names = [f"device-{number:03d}" for number in range(given.devices)]
            tokens = fleet.invite(given.devices, "gateway")
            began = time.monotonic()
            for own, token in zip(names, tokens, strict=True):
                processes.append(device(given.plan, here / own, port, token.text(), settings))
            reach = ("--engine", "flower", "--fleet", fleet.folder, "--patience", str(given.patience))
            across = privet("run", given.plan, *changed(settings), "--out", here / "across", *reach)
            if across.wait():
                print("\n".join(log.read_text() for log in here.glob("*.log")), file=sys.stderr)
                return across.returncode
            took = time.monotonic() - began
            most = [memory(process.pid) for process in processes[1:]]
            shared = [divided(process.pid) for process in processes[1:]]
            at_edge = memory(json.loads((fleet.folder / "edge.json").read_text())["pid"])
        alone = privet("run", given.plan, *changed(settings), "--out", here / "alone")
        if alone.wait():
            return alone.returncode
        one, two = digest(here / "across"), digest(here / "alone")
        wire = records(here / "across", "wire")[-1]
        learnt = (fleet.folder / "edge.log").read_text().splitlines()[-1]
    print(f"devices {given.devices}, rounds {given.rounds}, {took:.0f} s with starting all processes")
    print(f"memory of a device: {sum(most) / len(most):.0f} MB in the mean, {max(most):.0f} MB at most")
    print(f"with memory that processes share divided among them: {sum(shared) / len(shared):.0f} MB in the mean")
    print(f"edge server: {learnt}; {at_edge:.0f} MB")
    each = (wire["sent"] + wire["received"]) / given.rounds
    print(f"bytes of a round, both ways, all devices: {each:,.0f}")
    print(f"across processes  {one}\nin one process    {two}")
    print("the same model, bit for bit" if one == two else "THE MODELS DIFFER")
    return 0 if one == two else 1


if __name__ == "__main__":
    sys.exit(main())
