"""One plan in one process against the same plan across processes (Flower, 8 devices): CPU time and memory.

CPU time is that of all processes from their start to their end: importing torch and flwr, joining, training. Memory is
the sum of what each process held at most. Flower's simulation is not measured: it needs Ray, which Privet never uses.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from privet.governance.enrolment import Fleet

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


def alone(script: ModuleType, plan: Path, out: Path) -> tuple[float, float]:
    """Runs the plan in one process; returns CPU seconds and MB."""
    process = script.privet("run", plan, "--out", out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the run in one process ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


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


def main() -> None:
    """Prints one line of JSON for each comparison."""
    script = loopback()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        (here / "plan.toml").write_text(PLAN)
        seconds, megabytes = alone(script, here / "plan.toml", here / "alone")
        everybody, held, crossed = across(script, here / "plan.toml", here)
    what = f"one process against Flower deployment, {DEVICES} devices"
    cpu = {"seconds": [round(seconds, 1), round(everybody, 1)]}
    memory = {"MB": [round(megabytes), round(held)], "bytes a round": crossed}
    print(json.dumps({"name": f"{what}: CPU time", "ratio": round(seconds / everybody, 3), "goal": 1.0} | cpu))
    print(json.dumps({"name": f"{what}: memory", "ratio": round(megabytes / held, 3), "goal": 1.0} | memory))


if __name__ == "__main__":
    main()
