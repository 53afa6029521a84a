"""The import contract holds, and notices an unlisted folder, an import that points up, torch in the ledger."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder):
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    environment = {"PYTHONPATH": str(folder / "src"), "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    return tmp_path


def test_the_package_keeps_the_contract():
    assert lint(ROOT)[0] == 0, lint(ROOT)[1]


def test_an_unlisted_folder_fails(copy):
    folder = copy / "src" / "privet" / "helpers"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Not in the contract."""\n')
    status, said = lint(copy)
    assert status != 0
    assert "privet.helpers" in said


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mechanisms/upwards.py", "import privet.study.plan"),
        ("training/sideways.py", "import privet.attacks.contract"),
        ("ledger/heavy.py", "import torch"),
        ("ledger/heavy.py", "import privet.tensors"),
        ("crypto/heavy.py", "import torch"),
        ("crypto/sideways.py", "import privet.accounting"),
        ("transport/heavy.py", "import flwr"),
        ("transport/sideways.py", "import privet.crypto"),
    ],
)
def test_an_import_that_is_not_allowed_fails(copy, path, line):
    (copy / "src" / "privet" / path).write_text(f'"""Breaks the contract."""\n\n{line}\n')
    status, said = lint(copy)
    assert status != 0
    assert path.removesuffix(".py").replace("/", ".") in said


def test_no_folder_or_file_has_a_name_that_says_nothing():
    vague = {"utils", "helpers", "common", "misc", "internal", "core", "manager"}
    named = [path for path in (ROOT / "src").rglob("*") if path.stem.strip("_") in vague]
    assert not named
