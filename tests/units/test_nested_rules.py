"""A rule inside a rule in a plan: read, stored, changed and refused like any other part."""

from __future__ import annotations

from typing import Any

import pytest

from privet.aggregation.krum import Krum
from privet.aggregation.nnm import Nnm
from privet.aggregation.trimmed_mean import TrimmedMean
from privet.errors import PlanError
from privet.study.explain import explain
from privet.study.plan import Plan


def plan(aggregation: Any) -> Plan:
    return Plan(
        name="nested",
        data={"name": "mnist-10k"},
        fleet={"devices": 10},
        model={"name": "mlp"},
        training={"name": "fedavg"},
        aggregation=aggregation,
    )


MIXED = {"name": "nnm", "byzantine": 2, "inner": {"name": "trimmed-mean", "trim": 2}}


def test_a_plan_with_a_nested_rule_reads_back_as_itself(tmp_path: Any) -> None:
    one = plan(MIXED)
    assert one.aggregator == Nnm(2, TrimmedMean(2))
    assert one == plan(Nnm(2, TrimmedMean(2)))
    assert one.to_table()["aggregation"] == MIXED
    (tmp_path / "plan.toml").write_text(one.to_toml())
    assert Plan.load(tmp_path / "plan.toml") == one


def test_settings_reach_the_nested_rule() -> None:
    assert plan(MIXED).with_settings(["aggregation.inner.trim=1"]).aggregator == Nnm(2, TrimmedMean(1))
    other = plan(MIXED).with_settings(["aggregation.inner.name=krum", "aggregation.inner.byzantine=2"])
    assert other.aggregator == Nnm(2, Krum(2))


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ({"name": "trimmed-mean", "trim": -1}, r"aggregation\.inner: trimmed-mean\.trim: .*greater than or equal to 0"),
        ({"name": "trimmed-mean", "trimm": 1}, r"aggregation\.inner: trimmed-mean: unknown field 'trimm'.*'trim'"),
        ({"name": "crumb"}, r"aggregation\.inner: no aggregators part called 'crumb'.*did you mean 'krum'"),
        ({"trim": 1}, r"aggregation\.inner: a part of aggregators needs a name"),
        ("krum", r"aggregation\.inner: nnm\.inner: 'krum' is refused; allowed: a table"),
        ({"name": "trimmed-mean", "trim": 5}, r"nnm needs at least 11 devices, fleet\.devices is 10"),
    ],
)
def test_a_wrong_nested_rule_is_refused_in_one_line(inner: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        plan(MIXED | {"inner": inner})


def test_it_is_explained() -> None:
    (found,) = explain("aggregation.inner")["parts"]
    assert found["name"] == "nnm"
    assert "combines the mixed updates" in found["meaning"]
