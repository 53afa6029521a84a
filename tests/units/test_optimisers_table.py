"""The comparison of optimisers: every protocol is in it, every plan of it is one, its tables stand in the page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from privet import parts

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "optimisers"))

import compare
import optimisers_table as table

sys.path.pop(0)

PRIVATE = {"dp-sgd", "feature-release", "split-federated"}
ROUNDED = {"int8-sgd"}  # selective SGD in fewer bytes, which the comparison does not count


def test_every_training_of_whole_models_is_compared() -> None:
    assert {grid["name"][0] for grid in compare.METHODS.values()} | PRIVATE | ROUNDED == set(parts.names("protocols"))


@pytest.mark.parametrize("task", compare.TASKS)
@pytest.mark.parametrize("method", compare.METHODS)
def test_every_setting_is_a_plan(task: str, method: str) -> None:
    for training in compare.settings(method):
        assert compare.plan(task, training, 1).training.learning_rate == training["learning_rate"]


def figures(accuracy: float, reached: int | None) -> dict:
    costs = {"round": reached, "seconds": 2.0, "bytes_per_device": 1000.0, "joules_per_device": 3.0}
    until = costs if reached else dict.fromkeys(costs)
    own = {"own_mean": accuracy, "own_worst": accuracy / 2, "bytes_per_device": 2e6, "seconds": 9.0}
    return {"accuracy": accuracy, "joules_per_device": 5.0, "to_target": until, **own}


def test_tables_are_put_between_their_marks(tmp_path: Path) -> None:
    rows = {
        "images: FedAvg": {"training": {}, "seeds": {"2": figures(0.5, 3), "3": figures(0.7, 5)}},
        "images: FedPer": {"training": {}, "seeds": {"2": figures(0.9, None), "3": figures(0.9, 1)}},
        "appliances: FedAvg": {"training": {}, "seeds": {"2": figures(0.4, None)}},
    }
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{table.BEGIN}old\n{table.END}after\n")
    for _ in range(2):
        table.draw({"tasks": compare.TASKS, "rows": rows}, tmp_path / "picture.svg", page)
    said = page.read_text()
    assert said.startswith("# Before\n")
    assert said.endswith("after\n")
    assert "OUTDATED" not in said
    assert said.count("| FedAvg | 60.0% | 60.0% | 30.0% | 2 MB | 4 | 2 s | 1 kB | 3 J |") == 1
    assert "| FedPer |  | 90.0% | 45.0% | 2 MB | - | - | - | - |" in said
    assert (tmp_path / "picture.svg").stat().st_size > 1000
