"""What the pages show works: plans load, Python runs, commands exist, nothing built differs from what is shipped."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import privet
from privet.fleet.profile import find_profile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language):
    for path in PAGES:
        found = re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(found):
            yield pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("block", list(blocks("toml")))
def test_toml_on_a_page_is_a_plan_or_a_profile(block, tmp_path):
    path = tmp_path / "page.toml"
    path.write_text(block, encoding="utf-8")
    if "training" in tomllib.loads(block):
        assert privet.Plan.load(path).name
    else:
        assert find_profile(str(path)).name


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.toml")), ids=lambda path: path.stem)
def test_example_is_a_plan(path):
    assert privet.Plan.load(path).name


def test_python_of_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tutorial" / "library.md").read_text(encoding="utf-8")
    names = {"__name__": "tutorial"}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/tutorial/library.md", "exec"), names)  # noqa: S102 - our own page
    assert Path(names["run"].report).is_file()


def test_pages_name_no_path_of_this_repository_that_is_not_there():
    missing = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:src|docs|examples|tests|benchmarks|changelog\.d)/[\w./-]+)`", text):
            if "my_" not in name and not (ROOT / name).exists():
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert not missing


def test_make_targets_on_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert not named - targets


@pytest.mark.parametrize("block", list(blocks("bash")))
def test_bash_on_a_page_is_commands(block):
    for line in block.strip().splitlines():
        assert shlex.split(line, comments=True)[0] in ("privet", "make")
