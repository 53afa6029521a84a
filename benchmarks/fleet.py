"""One process against Flower's simulation (10, 100, 1,000 devices) and against Flower's deployment (8): CPU and memory.

CPU time is that of all processes from their start to their end: importing torch and flwr, joining, training. Memory is
the most that all of them held at one moment, with what they share divided among them; of the deployment the sum of what
each held at most. The simulation needs Ray, which
Privet never uses: without it (``pip install 'flwr[simulation]'``) one line says that it is not measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks._process_tree import measured
from privet.governance.enrolment import Fleet

SIZES = ((10, 600, 1.0), (100, 60, 1.0), (1000, 6, 0.2))
"""Devices, rows of each, and the goal for CPU time as a ratio."""

ROUNDS = 2
DEVICES = 8
PLAN = """
name = "bench"
seed = 1
reproducible = true
data = { name = "digits" }
model = { name = "mlp" }
training = { name = "fedavg", rounds = 3 }
evidence = { alone = false, centralised = false }
[fleet]
devices = 8
"""


def loopback() -> ModuleType:
    """Returns the script that starts a fleet on this machine."""
    path = Path(__file__).parents[1] / "examples" / "fleet" / "loopback.py"
    spec = importlib.util.spec_from_file_location("loopback", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback"] = module
    spec.loader.exec_module(module)
    return module


def across(script: ModuleType, plan: Path, here: Path) -> tuple[float, float, int]:
    """Runs the plan across processes; returns CPU seconds and MB of all of them, and bytes of a round."""
    before, port = resource.getrusage(resource.RUSAGE_CHILDREN), script.free_ports()
    fleet = Fleet.create(here / "fleet")
    processes = [script.coordinator(fleet.folder, port)]
    with script.ended(processes):
        for number, token in enumerate(fleet.invite(DEVICES, "gateway")):
            processes.append(script.device(plan, here / f"device-{number:03d}", port, token.text(), ()))
        reach = ("--engine", "flower", "--fleet", fleet.folder, "--patience", "240")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = script.privet("run", plan, "--out", here / "across", *reach, **quiet)
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            raise RuntimeError(f"the run across processes ended with {running.returncode}")
        pids = [process.pid for process in processes] + script.children(processes[0].pid)
        held = used.ru_maxrss / 1024 + sum(script.memory(pid) for pid in pids)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wire = script.records(here / "across", "wire")[-1]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, held, (wire["sent"] + wire["received"]) // 3


def told(what: str, goals: tuple[float, float], own: Sequence[float], other: Sequence[float], **notes: object) -> None:
    """Prints a comparison of CPU seconds and one of MB as lines of JSON."""
    for name, unit, goal, one, two in zip(("CPU time", "memory"), ("s", "MB"), goals, own, other, strict=False):
        row = {
            "name": f"{what}: {name}",
            "ratio": round(one / two, 3),
            "goal": goal,
            unit: [round(one, 1), round(two, 1)],
        }
        print(json.dumps(row | notes), flush=True)


def simulations() -> None:
    """Compares the engine in one process with Flower's simulation at each size."""
    if importlib.util.find_spec("ray") is None:
        sys.stderr.write("Flower's simulation is not measured: it needs pip install 'flwr[simulation]'\n")
        return
    for devices, rows, goal in SIZES:
        schedule = (str(devices), str(rows), str(ROUNDS))
        own = measured((sys.executable, "-m", "benchmarks._alone", *schedule))
        other = measured((sys.executable, "-m", "benchmarks._flower_simulation", *schedule))
        seconds = [round(own[2], 1), round(other[2], 1)]
        what = f"one process against Flower simulation, {devices} devices x {rows} rows"
        told(what, (goal, 1.0), own, other, wall=seconds)


def main() -> None:
    """Prints one line of JSON for each comparison."""
    simulations()
    script = loopback()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        (here / "plan.toml").write_text(PLAN)
        own = measured((Path(sys.executable).with_name("privet"), "run", here / "plan.toml", "--out", here / "alone"))
        *other, crossed = across(script, here / "plan.toml", here)
    what = f"one process against Flower deployment, {DEVICES} devices"
    told(what, (1.0, 1.0), own, other, bytes_a_round=crossed)


if __name__ == "__main__":
    main()
