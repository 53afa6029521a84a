"""The plan: what it resolves, what it refuses, what it explains."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet import parts
from privet.errors import PlanError, RunError
from privet.fleet.partitions.iid import Iid
from privet.mechanisms.chain import Chain
from privet.models.lenet import Lenet
from privet.study import settings
from privet.study.explain import explain, json_schema
from privet.study.part_field import field_meanings
from privet.study.plan import LARGEST_FILE, Plan, digest_of

BROKEN = sorted((Path(__file__).parent / "broken_plans").glob("*.toml"))
SMART_HOME = Path(parts.__file__).parent / "study" / "plans" / "smart_home.toml"

TINY = {
    "name": "tiny",
    "data": {"name": "mnist-10k"},
    "fleet": {"devices": 3},
    "model": {"name": "lenet"},
    "training": {"name": "fedavg", "rounds": 2},
}


def tiny(*assignments: str) -> Plan:
    return Plan.from_table(settings.apply(TINY, assignments))


@pytest.fixture(scope="module")
def smart_home() -> Plan:
    return Plan.load(SMART_HOME)


def test_there_are_at_least_twenty_broken_plans() -> None:
    assert len(BROKEN) >= 20


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_plan_gives_the_line_it_says(path: Path) -> None:
    says = path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# says: ")
    with pytest.raises(PlanError) as refused:
        Plan.load(path)
    line = refused.value.advice()
    assert says in line
    assert "\n" not in line
    assert refused.value.allowed or refused.value.do
    assert "pydantic" not in line


def test_unknown_key_names_allowed_keys_and_the_nearest() -> None:
    with pytest.raises(PlanError) as refused:
        tiny("training.lerning_rate=0.1")
    assert refused.value.advice() == (
        "training.lerning_rate: unknown key; "
        "allowed: rounds, local_epochs, batch_size, learning_rate, momentum; did you mean 'learning_rate'?"
    )


def test_defaults() -> None:
    plan = tiny()
    assert plan.seed == 1
    assert plan.partition == Iid()
    assert parts.name_of(plan.availability) == "always"
    assert parts.name_of(plan.aggregator) == "mean"
    assert plan.model_part == Lenet()
    assert plan.protocol.rounds == 2
    assert plan.on_device == plan.on_server == Chain()
    assert plan.attack_parts == ()
    assert plan.hostile == []
    assert (plan.privacy.delta, plan.privacy.relation) == (1e-5, "replace-one")


def test_calibration_of_the_document() -> None:
    chain = [{"name": "bounded-normalisation"}, {"name": "laplace", "epsilon_per_coordinate": 2.0}]
    training = {"name": "split-federated", "batch_size": 64}
    plan = Plan(**{**TINY, "training": training}, mechanisms={"on_device": chain})
    normalisation, laplace = plan.on_device.mechanisms
    assert normalisation.batch_size == 64
    assert laplace.scale == pytest.approx(7.937253933193772, abs=1e-15)


def test_smart_home_is_calibrated_and_has_a_hostile_home(smart_home: Plan) -> None:
    normalisation, laplace = smart_home.on_device.mechanisms
    assert normalisation.batch_size == smart_home.training.batch_size
    assert laplace.scale > 0
    assert sum(count for count, behaviour in smart_home.hostile if behaviour.hostile) == 1


def test_calibration_follows_settings(smart_home: Plan) -> None:
    changed = smart_home.with_settings(["training.batch_size=17", "mechanisms.on_device.1.epsilon_per_coordinate=4"])
    normalisation, laplace = changed.on_device.mechanisms
    assert (normalisation.batch_size, laplace.scale) == (17, 2 * math.sqrt(16) / 4)


def test_calibration_after_each_clip() -> None:
    noise = {"name": "laplace", "epsilon_per_coordinate": 0.5}
    for norm in ("linf", "l1"):
        chain = [{"name": "clip", "limit": 3.0, "norm": norm}, noise]
        plan = Plan(**TINY, mechanisms={"on_device": chain})
        assert plan.on_device.mechanisms[1].scale == 2 * 3.0 / 0.5
    with pytest.raises(PlanError, match="bounds what one coordinate changes"):
        Plan(**TINY, mechanisms={"on_device": [{"name": "clip", "limit": 3.0, "norm": "l2"}, noise]})


def test_resolved_plan_round_trips(smart_home: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(smart_home.to_toml(), encoding="utf-8")
    again = Plan.load(path)
    assert again == smart_home
    assert again.to_toml() == smart_home.to_toml()
    assert "epsilon_per_coordinate" not in smart_home.to_toml()


def test_digest_is_that_of_canonical_json() -> None:
    import hashlib

    plan = tiny()
    canonical = json.dumps(plan.to_table(), sort_keys=True, separators=(",", ":"))
    assert plan.digest == hashlib.sha256(canonical.encode()).hexdigest()
    assert hash(plan) == hash(tiny())
    assert plan.digest != tiny("seed=2").digest
    assert plan != tiny("seed=2")


def test_built_parts_and_tables_make_the_same_plan() -> None:
    built = Plan(**{**TINY, "model": Lenet()})
    assert built == tiny()
    changed = built.with_settings(["model.name=mlp", "model.hidden=[8, 4]"])
    assert changed.model.hidden == (8, 4)
    assert built.with_settings(["fleet.devices=7"]).model == Lenet()


def test_model_of_the_user() -> None:
    plan = tiny("model.name=plant.networks:pump_net")
    assert parts.to_table(plan.model) == {"name": "imported", "function": "plant.networks:pump_net"}
    assert Plan.from_table(tomllib.loads(plan.to_toml())) == plan


def test_plans_are_frozen_and_keep_what_was_written() -> None:
    table = {**TINY, "fleet": {"devices": 3}}
    plan = Plan.from_table(table)
    table["fleet"]["devices"] = 9
    assert plan.with_settings([]).fleet.devices == 3
    with pytest.raises(ValueError, match="frozen"):
        plan.seed = 4


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("training.rounds=3", ("training", "rounds"), 3),
        ("training.learning_rate = 1e-3", ("training", "learning_rate"), 1e-3),
        ("data.name=mnist-10k", ("data", "name"), "mnist-10k"),
        ('data.name="mnist-10k"', ("data", "name"), "mnist-10k"),
        ("reproducible=true", ("reproducible",), True),
        ("views.keep=['edge-server']", ("views", "keep"), ["edge-server"]),
        ("data.path=a=b.csv", ("data", "path"), "a=b.csv"),
        ("data.path=1\nb=2", ("data", "path"), "1\nb=2"),
        ("data.path=2024-01-01", ("data", "path"), "2024-01-01"),
        ("engine.workers=2", ("engine", "workers"), 2),
        ("attacks.0.name=rmia", ("attacks", 0), {"name": "rmia"}),
    ],
)
def test_setting(assignment: str, path: tuple[str | int, ...], value: object) -> None:
    at: object = settings.apply(TINY, [assignment])
    for step in path:
        at = at[step]  # type: ignore[index]
    assert at == value
    assert type(at) is type(value)


def test_settings_change_lists_in_place() -> None:
    table = {"mechanisms": {"on_device": [{"name": "clip", "limit": 1.0}]}, "views": {"keep": ["edge-server"]}}
    out = settings.apply(table, ["mechanisms.on_device.0.limit=2", "views.keep.1=coordinator", "views.keep.0=x"])
    assert out["mechanisms"]["on_device"] == [{"name": "clip", "limit": 2}]
    assert out["views"]["keep"] == ["x", "coordinator"]
    assert table["mechanisms"]["on_device"][0]["limit"] == 1.0


def test_setting_a_parts_name_starts_it_afresh(smart_home: Plan) -> None:
    alone = smart_home.with_settings(["aggregation.name=mean", "ledger.miners=0"])
    assert alone.aggregator == parts.find("aggregators", "mean")()
    behaviour = smart_home.with_settings(["fleet.hostile.0.behaviour.name=boosting"]).hostile[0][1]
    assert parts.name_of(behaviour) == "boosting"
    fedavg = smart_home.with_settings(
        ["training.name=fedavg", "mechanisms.on_device=[]", "attacks=[]", "views.keep=[]"]
    )
    assert fedavg.protocol == parts.find("protocols", "fedavg")()


def test_setting_the_engines_name_keeps_its_other_keys() -> None:
    assert tiny("engine.workers=2", "engine.name=in-process").engine.workers == 2


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("training.rounds", "--set training.rounds: not a setting; allowed: KEY=VALUE"),
        ("=3", "--set =3: not a setting"),
        ("training..rounds=3", "not a setting"),
        ("seed.x=3", "seed.x: seed is neither a table nor a list"),
        ("seed.x.y=3", "seed.x.y: seed is neither a table nor a list"),
        ("attacks.2.name=rmia", "attacks.2: no such place in the list; allowed: 0 to 0"),
        ("attacks.first.name=rmia", "attacks.first: no such place in the list"),
        ("training.rounds=many", "training.rounds: 'many' is refused; allowed: an integer"),
    ],
)
def test_wrong_setting_is_refused(assignment: str, says: str) -> None:
    with pytest.raises(PlanError) as refused:
        Plan.from_table({**TINY, "seed": 1, "attacks": []}).with_settings([assignment])
    assert says in refused.value.advice()


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    def refuses(path: Path) -> str:
        with pytest.raises(PlanError) as refused:
            Plan.load(path)
        return refused.value.advice()

    plan = tmp_path / "plan.toml"
    assert "no such file" in refuses(plan)
    assert "is a folder" in refuses(tmp_path)
    plan.write_bytes(b'name = "\xff"')
    assert "byte 8 is not UTF-8" in refuses(plan)
    plan.write_bytes(b"#" * (LARGEST_FILE + 1))
    assert "too large" in refuses(plan)
    plan.write_text('name = "x"\nseed = = 1\n', encoding="utf-8")
    assert "plan.toml" in refuses(plan)
    assert "line 2" in refuses(plan)


def test_long_values_are_shortened() -> None:
    with pytest.raises(PlanError) as refused:
        Plan(**{**TINY, "fleet": {"devices": "9" * 10_000}})
    assert len(refused.value.advice()) < 300


def test_nested_problems_come_with_their_whole_key() -> None:
    with pytest.raises(PlanError, match=r"^model\.hidden\.1: 0 is refused; allowed: at least 1"):
        tiny("model.name=mlp", "model.hidden=[8, 0]")
    with pytest.raises(PlanError, match=r"^fleet\.hostile\.0\.behaviour\.factor: -1 is refused"):
        tiny("fleet.hostile=[{devices = 1, behaviour = {name = 'sign-flip', factor = -1}}]")
    with pytest.raises(PlanError, match=r"^mechanisms\.on_device\.0\.limit: missing"):
        tiny("mechanisms.on_device=[{name = 'clip'}]")


def test_noise_on_the_server_stands_behind_what_the_devices_bound() -> None:
    clip, noise = {"name": "clip", "limit": 1.0}, {"name": "gaussian", "sigma": 1.0}
    assert Plan(**TINY, mechanisms={"on_device": [clip], "on_server": [noise]}).on_server.mechanisms
    with pytest.raises(PlanError, match=r"on_server\.0\.name: nothing before this gaussian"):
        Plan(**TINY, mechanisms={"on_server": [noise]})


ODD = (
    None,
    -1,
    0,
    1,
    10**30,
    2.5,
    math.nan,
    math.inf,
    "",
    "x",
    "lenet",
    "a:b",
    True,
    [],
    [[]],
    [{}],
    {},
    {"name": "x"},
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in items:
        yield (*path, step)
        yield from _paths(below, (*path, step))


@pytest.mark.parametrize("seed", range(4))
def test_any_table_is_a_plan_or_one_line(seed: int) -> None:
    draw, original = np.random.default_rng(seed), tomllib.loads(SMART_HOME.read_text(encoding="utf-8"))
    accepted, lines = 0, []
    for _ in range(300):
        table = settings.copied(original)
        for _ in range(draw.integers(1, 3)):
            paths = list(_paths(table))
            path = paths[draw.integers(len(paths))]
            at = table
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = settings.copied(ODD[draw.integers(len(ODD))])
        try:
            plan = Plan.from_table(table)
            accepted += Plan.from_table(tomllib.loads(plan.to_toml())) == plan
        except PlanError as error:
            lines.append(error.advice())
    assert accepted > 0
    assert accepted + len(lines) == 300
    assert all("\n" not in line and len(line) < 600 for line in lines)


def test_explain_section_part_field_and_plan() -> None:
    assert [row["name"] for row in explain("")["keys"]][:4] == ["name", "seed", "reproducible", "data"]
    assert {"name", "meaning"} <= explain("training")["parts"][0].keys()
    rounds = explain("training.rounds")["parts"]
    assert {row["name"] for row in rounds} == set(parts.names("protocols"))
    assert all(row["meaning"] and row["type"].startswith("an integer, at least 1") for row in rounds)
    assert explain("fleet.hostile.0.devices")["type"] == "an integer, at least 1"
    assert explain("engine.precision")["type"] == '"auto" or "float32" or "bfloat16"'
    assert explain("engine.deadline")["type"] == "a number, more than 0, or left out"
    assert [row["name"] for row in explain("mechanisms.on_device.epsilon_per_coordinate")["parts"]] == ["laplace"]
    with pytest.raises(PlanError, match=r"engine\.worker: no such key; .*did you mean 'workers'"):
        explain("engine.worker")


def test_every_key_has_a_meaning() -> None:
    def walk(key: str) -> None:
        found = explain(key)
        assert found["meaning"], key
        for row in found["keys"]:
            walk(f"{key}.{row['name']}")

    for row in explain("")["keys"]:
        walk(row["name"])


def test_every_field_of_every_part_has_a_meaning() -> None:
    silent = [
        f"{family} {name}.{field}"
        for family in parts.FAMILIES
        for name in parts.names(family)
        for field in (each.name for each in dataclasses.fields(parts.find(family, name)))
        if not field_meanings(parts.find(family, name)).get(field)
    ]
    assert silent == []


def test_schema_has_every_part() -> None:
    schema = json_schema()
    json.dumps(schema, allow_nan=False)
    assert schema["additionalProperties"] is False
    models = [part["properties"]["name"]["const"] for part in schema["properties"]["model"]["oneOf"]]
    assert models == list(parts.names("models"))
    mechanisms = schema["$defs"]["Mechanisms"]["properties"]["on_device"]["items"]["oneOf"]
    laplace = next(part for part in mechanisms if part["properties"]["name"]["const"] == "laplace")
    assert laplace["required"] == ["name"]


def test_a_runs_plan_is_checked_as_it_was_written(tmp_path: Path) -> None:
    plan = tiny()
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    assert Plan.of_run(tmp_path, plan.digest) == plan
    written = plan.to_toml().replace('purpose = "training"\n', "")  # by a version that did not know the key
    (tmp_path / "plan.toml").write_text(written)
    assert Plan.of_run(tmp_path, digest_of(tomllib.loads(written))) == plan
    with pytest.raises(RunError, match="not the plan that was run"):
        Plan.of_run(tmp_path, plan.digest)
