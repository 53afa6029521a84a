"""The command: exit statuses, one-line errors, JSON on standard output, progress on standard error."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest

from privet import parts
from privet.apps.cli import doctor
from privet.apps.cli.main import LazyGroup, privet
from privet.apps.cli.output import FloatRange, print_json
from privet.apps.cli.progress import Reporter, line
from privet.errors import RefusedError, UnreachableError
from privet.study.plan import Plan

BROKEN = sorted((Path(__file__).parent / "broken_plans").glob("*.toml"))
ROOT = Path(__file__).parents[2]
TINY = """
name = "tiny"
[data]
name = "mnist-10k"
[fleet]
devices = 3
[model]
name = "lenet"
[training]
name = "fedavg"
rounds = 2
"""

SERVICES = {("up",), ("edge",), ("helper",), ("agent", "run")}
"""Commands that run until they are stopped, and so have no result to print."""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Stands in for the real run: remembers its arguments, tells two rounds, does what ``then`` says."""
    seen = SimpleNamespace(then=lambda: None, plan=None, out=None, resume=None)

    def run(
        plan: Plan, *, out: Path | None, resume: Path | None, progress: Callable[..., None], across: object = None
    ) -> SimpleNamespace:
        seen.plan, seen.out, seen.resume = plan, out, resume
        folder = out or tmp_path / "runs" / "tiny"
        progress("start", name=plan.name, rounds=2, path=folder)
        for number in (1, 2):
            progress("round", round=number, rounds=2, accuracy=0.5, rejected=[{"device": "device-002"}], void="")
        seen.then()
        metrics = {"run": str(folder), "digest": "ab", "accuracy": 0.5, "seconds": math.inf, "rejected": []}
        return SimpleNamespace(path=folder, metrics=metrics)

    module = ModuleType("privet.study.run")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "privet.study.run", module)
    return seen


def commands(group: click.Command = privet, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Returns the words of every command that is not a group."""
    if not isinstance(group, click.Group):
        return [path]
    context = click.Context(group)
    below = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [words for name, command in below if command for words in commands(command, (*path, name))]


def options(group: click.Command = privet) -> list[click.Parameter]:
    """Returns the options and arguments of every command and group."""
    context = click.Context(group)
    names = group.list_commands(context) if isinstance(group, click.Group) else []
    below = [group.get_command(context, name) for name in names]  # type: ignore[attr-defined]
    return [*group.params, *(option for command in below if command for option in options(command))]


def test_no_option_takes_what_is_not_a_number_for_one() -> None:
    figures = [option for option in options() if isinstance(option.type, click.types.FloatParamType)]
    assert len(figures) > 10
    for option in figures:
        assert isinstance(option.type, FloatRange), option
        with pytest.raises(click.BadParameter, match="'nan' is not a number"):
            option.type.convert("nan", option, None)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from privet.apps.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_and_json(words: tuple[str, ...], call: Call) -> None:
    status, out, _ = call(*words, "--help")
    assert status == 0
    assert "--json" in out or words in SERVICES


def test_listed_help_is_that_of_the_command() -> None:
    def check(group: LazyGroup) -> None:
        context = click.Context(group)
        for name, (_, meaning) in group.members.items():
            command = group.get_command(context, name)
            assert command is not None
            assert meaning.endswith(".")
            assert command.name == name
            if isinstance(command, LazyGroup):
                check(command)

    assert isinstance(privet, LazyGroup)
    check(privet)


def test_no_arguments_show_help(call: Call) -> None:
    assert call()[0] == 0
    assert "Commands:" in call()[1]
    assert "explain" in call("plan")[1]


def test_version(call: Call) -> None:
    import privet as package

    assert call("--version") == (0, f"privet, version {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demoo",), "no command called 'demoo'; did you mean 'demo'?; see: privet --help"),
        (("zzzz",), "no command called 'zzzz'; known: run, demo, plan"),
        (("plan", "chek"), "did you mean 'check'?; see: privet plan --help"),
        (("run",), "Missing argument 'PLAN'; see: privet run --help"),
        (("run", "x.toml", "--jsn"), "No such option '--jsn'"),
        (("compare", "one"), "compare needs two runs or more; see: privet compare --help"),
        (("run", "missing.toml"), "missing.toml: no such file"),
        (("plan", "explain", "engin"), "did you mean 'engine'?"),
        (("parts", "mechanism"), "did you mean 'mechanisms'?"),
        (("report", "nowhere"), "no run at nowhere"),
        (("compare", "nowhere", "neither"), "no run at nowhere"),
        (("data", "check", "mnist-10"), "did you mean 'mnist-10k'?"),
        (("data", "get", "digits"), "digits has nothing to bring"),
        (("obfuscate", "evaluate", "nowhere", "--effort", "nan"), "'--effort': 'nan' is not a number"),
    ],
)
def test_wrong_input_gives_one_line_and_status_2(arguments: tuple[str, ...], says: str, call: Call) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.startswith("privet: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_plan_gives_one_line_and_status_2(path: Path, call: Call, tmp_path: Path) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        status, out, err = call("plan", "check", path, "--json")
    finally:
        os.chdir(before)
    assert (status, out) == (2, "")
    assert path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# says: ") in err
    assert err.startswith("privet: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_plan_check(call: Call, tiny: Path) -> None:
    assert call("plan", "check", tiny)[0] == 0
    status, out, err = call("plan", "check", tiny, "--set", "training.rounds=7", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["plan"]["training"]["rounds"] == 7
    assert found["digest"] == Plan.load(tiny).with_settings(["training.rounds=7"]).digest


def test_plan_explain_and_schema(call: Call) -> None:
    _, text, _ = call("plan", "explain", "training.rounds")
    assert "split-federated" in text
    assert "default 5" in text
    assert json.loads(call("plan", "explain", "engine.workers", "--json")[1])["default"] == 0
    assert json.loads(call("plan", "schema")[1]) == json.loads(call("plan", "schema", "--json")[1])


def test_parts(call: Call) -> None:
    status, out, _ = call("parts", "aggregators", "--json")
    rows = json.loads(out)["parts"]
    assert status == 0
    assert [row["name"] for row in rows] == list(parts.names("aggregators"))
    assert all(row["meaning"] and row["grade"] in ("derived", "measured", "experimental") for row in rows)
    assert {row["family"] for row in json.loads(call("parts", "--json")[1])["parts"]} == set(parts.FAMILIES)
    assert "multi-krum" in call("parts")[1]


def test_data(call: Call) -> None:
    rows = json.loads(call("data", "list", "--json")[1])["datasets"]
    assert next(row for row in rows if row["name"] == "mnist-10k")["here"]
    assert "mnist-10k: " in call("data", "list")[1]
    found = json.loads(call("data", "check", "mnist-10k", "--json")[1])
    assert (found["train_rows"], found["test_rows"]) == (8000, 2000)
    assert "train rows: 8000" in call("data", "check", "mnist-10k")[1]


def test_doctor(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("doctor", "--json")
    found = json.loads(out)
    assert (status, found["sound"]) == (0, True)
    assert [row["check"] for row in found["checks"]] == list(doctor.CHECKS)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, out, _ = call("doctor")
    assert status == 2
    assert "fail  runs folder" in out


def test_doctor_warns_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert doctor._extras() == ("warn", "missing for the data set digits", "run: pip install 'privet[digits]'")
    assert doctor._room(1, 2, "1 left", "make room") == ("warn", "1 left", "make room")


def test_run_prints_one_json_object(call: Call, runs: SimpleNamespace, tiny: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "mine"
    status, out, err = call("run", tiny, "--set", "seed=5", "--set", "name=other", "--out", out_folder, "--json")
    assert status == 0
    assert json.loads(out) == {
        "run": str(out_folder),
        "digest": "ab",
        "accuracy": 0.5,
        "seconds": None,
        "rejected": [],
    }
    assert (runs.plan.seed, runs.plan.name, runs.out, runs.resume) == (5, "other", out_folder, None)
    assert "round 2/2: accuracy 50.0 %, rejected device-002\n" in err
    assert err.splitlines()[-1].startswith("next: open ")


def test_run_prints_a_summary_and_what_is_next(call: Call, runs: SimpleNamespace, tiny: Path) -> None:
    status, out, _ = call("run", tiny, "--resume", "runs/old")
    assert status == 0
    assert runs.resume == Path("runs/old")
    assert "accuracy: 50" in out
    assert out.splitlines()[-1].startswith("next: open ")


def test_demo_runs_the_smart_home_plan(call: Call, runs: SimpleNamespace) -> None:
    assert call("demo", "--json", "--set", "training.rounds=1")[0] == 0
    assert runs.plan.name == "smart-home"
    assert runs.plan.training.rounds == 1


def test_example_is_the_plan_of_the_demo() -> None:
    packaged = files("privet.study").joinpath("plans", "smart_home.toml").read_text(encoding="utf-8")
    assert (ROOT / "examples" / "smart_home.toml").read_text(encoding="utf-8") == packaged
    assert tomllib.loads(packaged)["fleet"]["devices"] == 10


def _raise(error: BaseException) -> Callable[[], None]:
    def then() -> None:
        raise error

    return then


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (RefusedError("too few replies", do="ask more devices"), 3, "privet: too few replies; ask more devices\n"),
        (UnreachableError("no answer"), 4, "privet: no answer\n"),
        (KeyboardInterrupt(), 130, "to go on: privet run "),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "privet: runs/x: No space left on device; "),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "privet: Permission denied; "),
    ],
)
def test_failing_run(
    error: BaseException, status: int, says: str, call: Call, runs: SimpleNamespace, tiny: Path
) -> None:
    runs.then = _raise(error)
    got, out, err = call("run", tiny, "--json")
    assert (got, out) == (status, "")
    assert says in err.splitlines(keepends=True)[-1]
    assert "Traceback" not in err


def test_stopping_before_a_run_begins(
    call: Call, runs: SimpleNamespace, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["privet.study.run"], "run", lambda *_, **__: _raise(KeyboardInterrupt())())
    status, _, err = call("run", tiny)
    assert status == 130
    assert err == "privet: stopped before the run began; nothing was written\n"


def test_a_closed_pipe_is_quiet() -> None:
    program = "from privet.apps.cli.main import main; main(['--help'])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


def test_reporter_remembers_the_run() -> None:
    shown: list[Any] = []
    reporter = Reporter(lambda *seen: shown.append(seen))
    reporter("start", path="runs/x", rounds=3)
    reporter("round", round=1)
    reporter("report", path="runs/x/report.html")
    assert reporter.run == "runs/x"
    assert shown == [("start: path runs/x", 0, 3), ("round 1", 1, 3), ("report: path runs/x/report.html", 1, 3)]


def test_lines_of_progress() -> None:
    attack = {"name": "rmia", "metrics": {"auc": 0.51234, "n": 3}, "floor": {}}
    assert line("attack", attack) == "attack rmia: metrics (auc 0.5123, n 3)"
    assert line("report", {}) == "report"


def test_json_says_null_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.inf, math.nan, 1.0], 2: (Path("x"),)})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.0], "2": ["x"]}


@pytest.fixture
def finished(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "plan.toml").write_text(TINY + f"momentum = 0.{number}\n", encoding="utf-8")
        figures = {"name": "tiny", "accuracy": 0.5 + number / 10, "guarantees": []}
        (folder / "metrics.json").write_text(json.dumps(figures), encoding="utf-8")
    return folders


def test_report_is_written_again(call: Call, finished: list[Path]) -> None:
    page = finished[0] / "report.html"
    assert json.loads(call("report", finished[0], "--json")[1]) == {"run": str(finished[0]), "report": str(page)}
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert call("report", finished[0])[1] == f"next: open {page}\n"


def test_compare_names_what_differs(call: Call, finished: list[Path]) -> None:
    rows = json.loads(call("compare", *finished, "--json")[1])["runs"]
    assert [row["accuracy"] for row in rows] == [0.5, 0.6]
    assert [row["differs"] for row in rows] == [{"training.momentum": 0.0}, {"training.momentum": 0.1}]
    status, out, _ = call("compare", *finished)
    assert status == 0
    assert "training.momentum" in out


def test_terminal_gets_a_live_bar_and_a_table(
    call: Call, runs: SimpleNamespace, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    status, out, err = call("run", tiny)
    assert status == 0
    assert "50.0 %" in out
    assert "round 1/2: accuracy 50.0 %, rejected device-002\n" not in err


def test_data_that_is_fetched_says_where_it_lies(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.fleet import catalogue

    monkeypatch.setattr(catalogue, "get", lambda name, folder: Path("somewhere") / name)
    assert json.loads(call("data", "get", "mnist", "--json")[1]) == {"name": "mnist", "folder": "somewhere/mnist"}
    assert "mnist is in somewhere/mnist\n" in call("data", "get", "mnist")[1]
