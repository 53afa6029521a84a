"""``privet place``: what it prints, when it says to run locally, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from privet.apps.cli.main import main

KEYS = {"latency_s", "latency_nic_s", "latency_shared_s", "shared_bits", "rejected", "devices_used", "planning_s"}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["place", *arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.mark.parametrize("planner", ["distprivacy", "exact", "fused"])
def test_a_plan_as_json(call: Any, planner: str) -> None:
    status, out, _ = call("--model", "lenet", "--fleet", "paper:6", "--ssim", "0.4", "--planner", planner, "--json")
    said = json.loads(out)
    assert status == 0
    assert set(said) >= KEYS
    assert said["rejected"] is False
    assert said["run_locally"] is True
    assert 0 < said["latency_s"] <= said["latency_nic_s"] <= said["latency_shared_s"]
    assert said["violations"] == []
    assert said["shared_bits"] > 0


def test_a_plan_as_lines(call: Any) -> None:
    status, out, _ = call("--model", "vgg16", "--fleet", "paper:60")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "vgg16 on paper:60, tolerated SSIM 0.4, planner fused"
    assert lines[-1].startswith("run locally: the source alone takes 9.04 s")
    arguments = ("--model", "vgg19", "--fleet", "paper:60", "--ssim", "0.8", "--planner", "distprivacy")
    assert "run locally" not in call(*arguments)[1]  # 9.1 s on one channel, 11.5 s alone


def test_literal_plans_say_what_they_break(call: Any) -> None:
    arguments = ("--model", "lenet", "--fleet", "paper:4", "--planner", "distprivacy", "--literal")
    assert "breaks a constraint: (8f)" in call(*arguments)[1]
    assert any(line.startswith("(8f)") for line in json.loads(call(*arguments, "--json")[1])["violations"])


def test_a_rejection_is_an_answer(call: Any) -> None:
    status, out, _ = call("--model", "vgg19", "--fleet", "paper:60", "--ssim", "0.4", "--json")
    said = json.loads(out)
    assert status == 0
    assert set(said) >= KEYS
    assert said["rejected"] is True
    assert said["latency_s"] is None
    assert said["devices_used"] == 0
    assert said["run_locally"] is True
    assert "rejected: no helpers are free" in call("--model", "vgg19", "--fleet", "paper:60")[1]


def test_a_simulation(call: Any) -> None:
    arguments = ("--model", "lenet", "--fleet", "paper:12", "--requests", "40")
    status, out, _ = call(*arguments, "--json")
    said = json.loads(out)
    assert status == 0
    assert said["rejected_share"] == 0
    assert said["mean_latency_s"] == pytest.approx(0.001, rel=0.01)
    assert said["mean_shared_bits"] > 0
    assert said["run_locally"] is True
    lines = call(*arguments)[1].splitlines()
    assert lines[1] == "40 requests: 0.0 % rejected for good"
    none = call("--model", "vgg19", "--fleet", "paper:3", "--requests", "3")[1]
    assert "100.0 % rejected for good" in none
    assert "mean latency" not in none


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "lenett", "--fleet", "paper:9"), "did you mean 'lenet'?"),
        (("--model", "lenet", "--fleet", "paper:0"), "a fleet of 0 devices"),
        (("--model", "lenet", "--fleet", "nine"), "no fleet called 'nine'"),
        (("--model", "lenet", "--fleet", "mix:stm=3"), "did you mean 'stm32h7'?"),
        (("--model", "lenet", "--fleet", "paper:9", "--ssim", "0"), "the tolerated SSIM is 0.0"),
        (("--model", "lenet", "--fleet", "paper:9", "--ssim", "nan"), "'nan' is not a number"),
        (("--model", "lenet", "--fleet", "paper:9", "--ssim", "much"), "'much' is not a valid float"),
        (("--model", "lenet", "--fleet", "paper:9", "--planner", "fuse"), "did you mean 'fused'?"),
        (("--model", "lenet", "--fleet", "paper:9", "--literal"), "unknown field 'literal'"),
        (("--model", "lenet", "--fleet", "paper:9", "--requests", "0"), "nothing to simulate"),
        (("--model", "lenet"), "Missing option '--fleet'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(call: Any, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = call(*arguments)
    assert status == 2
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
