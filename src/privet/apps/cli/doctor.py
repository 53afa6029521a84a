"""``privet doctor``: whether this machine can run plans, and what to do where it can't."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from privet.apps.cli.output import json_option, print_json

Finding = tuple[str, str, str]
"""``ok``, ``warn`` or ``fail``; what was found; what to do."""

_GB = 1e9
_EXTRAS = {"sklearn": ("digits", "the data set digits")}
"""Module of an optional package -> its extra, and what needs it."""


@click.command()
@click.option("--fleet", type=click.Path(path_type=Path), help="Check the coordinator of the fleet in this folder too.")
@click.option("--agent", type=click.Path(path_type=Path), help="Check the device in this folder too.")
@json_option
def doctor(fleet: Path | None, agent: Path | None, as_json: bool) -> int:
    """Check this machine; exit status 2 when something on it can't work."""
    looks = dict(CHECKS)
    for folder, module in ((fleet, "privet.apps.cli.doctor_fleet"), (agent, "privet.apps.agent.checks")):
        if folder is not None:  # by name, since front ends don't know each other
            looks |= import_module(module).checks(folder)
    rows = [
        {"check": name, **dict(zip(("status", "found", "do"), look(), strict=True))} for name, look in looks.items()
    ]
    sound = all(row["status"] != "fail" for row in rows)
    if as_json:
        print_json({"sound": sound, "checks": rows})
    else:
        for row in rows:
            click.echo(f"{row['status']:<4}  {row['check']}: {row['found']}" + (f"; {row['do']}" if row["do"] else ""))
        click.echo("next: privet demo" if sound else "next: mend what is marked fail")
    return 0 if sound else 2


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.machine()}"
    return ("ok", found, "") if sys.version_info[:2] == (3, 11) else ("warn", found, "Privet is tested on Python 3.11")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return "fail", f"can't be imported ({error})", "install privet again: pip install --force-reinstall privet"
    return "ok", f"{torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} processors", ""


def _bfloat16() -> Finding:
    try:
        import torch

        fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (ImportError, AttributeError, RuntimeError):
        fast = False
    return (
        ("ok", "computed by this processor", "")
        if fast
        else ("warn", "not computed by this processor", "plans use float32")
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return _room(free, 1 * _GB, f"{free / _GB:.1f} GB free here", "make room: runs need up to 1 GB")


def _memory() -> Finding:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return "warn", "not known on this system", ""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines.get("MemAvailable", f"{free // 1024} kB").split()[0]) * 1024
    return _room(free, 2 * _GB, f"{free / _GB:.1f} GB free", "close other programs: plans need about 2 GB")


def _room(free: float, needed: float, found: str, do: str) -> Finding:
    return ("ok", found, "") if free >= needed else ("warn", found, do)


def _runs() -> Finding:
    runs = Path("runs")
    place = runs if runs.exists() else Path.cwd()
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return "ok", f"{runs.resolve()} can be written", ""
    return "fail", f"{runs.resolve()} can't be written", "go to another folder, or use: privet run PLAN --out FOLDER"


def _extras() -> Finding:
    missing = [(extra, use) for module, (extra, use) in _EXTRAS.items() if find_spec(module) is None]
    if not missing:
        return "ok", "all installed", ""
    wanted = ",".join(extra for extra, _ in missing)
    return "warn", f"missing for {', '.join(use for _, use in missing)}", f"run: pip install 'privet[{wanted}]'"


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": _python,
    "torch": _torch,
    "bfloat16": _bfloat16,
    "disk": _disk,
    "memory": _memory,
    "runs folder": _runs,
    "extras": _extras,
}
"""What is looked at, in order."""
