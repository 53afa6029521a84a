"""The wheel: holds every file of the package, and works in an empty environment from any folder."""

import json
import os
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = 120.0
"""Seconds that `privet demo` may take on two cores."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_wheel_holds_every_file_of_the_package(wheel):
    source = ROOT / "src"
    here = {
        path.relative_to(source).as_posix()
        for path in (source / "privet").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if name.startswith("privet/")}
        licences = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert here == there
    assert licences == {"LICENSE", "NOTICE"}


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """An empty environment with the wheel and its dependencies, at the versions of constraints.txt."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--retries", "0"]
    done = subprocess.run(
        [*pip, "install", "--constraint", ROOT / "constraints.txt", wheel], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"the package index can't be reached: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin" / "privet"


@pytest.mark.slow
def test_demo_runs_from_an_empty_folder(installed, tmp_path, capsys):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    start = time.perf_counter()
    done = subprocess.run(
        [installed, "demo", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / result["run"] / "report.html").is_file()
    with capsys.disabled():
        sys.stdout.write(f"\nprivet demo from the wheel, in an empty folder: {seconds:.0f} s (goal {ALLOWED:.0f} s)\n")
