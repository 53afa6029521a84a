"""Parts: found by folder, checked when built, written to a plan's table and back."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from privet import parts
from privet.errors import PartError
from privet.mechanisms.clip import Clip
from privet.mechanisms.contract import Mechanism

OWN = '''
"""A user's own mechanism."""
from __future__ import annotations
from typing import Annotated
from pydantic import Field
from privet import part
from privet.mechanisms.contract import Mechanism

@part
class Halve(Mechanism):
    """Divides what leaves by two.

    More words that the list does not show.
    """

    times: Annotated[int, Field(ge=1)] = 1
    note: str | None = None

    def __call__(self, value, rng):
        return value / 2**self.times

class Plain:
    pass
'''


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a user's package with two entry points, one of which is not a part."""
    (tmp_path / "own_mechanisms.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    entries = [
        EntryPoint(name, f"own_mechanisms:{attribute}", "privet.mechanisms")
        for name, attribute in (("halve-it", "Halve"), ("plain", "Plain"))
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [entry for entry in entries if entry.group == group and name in (None, entry.name)]

    monkeypatch.setattr(parts, "entry_points", entry_points)
    for cached in (parts.names, parts.find):
        cached.cache_clear()
    yield importlib.import_module("own_mechanisms")
    for cached in (parts.names, parts.find):
        cached.cache_clear()
    del sys.modules["own_mechanisms"]


@pytest.mark.parametrize("family", parts.FAMILIES)
def test_every_shipped_part_is_whole(family: str) -> None:
    for name in parts.names(family):
        cls = parts.find(family, name)
        assert parts.name_of(cls) == name
        assert cls.__name__ == "".join(word.capitalize() for word in name.split("-"))
        assert cls.grade in ("derived", "measured", "experimental")
        assert parts.meaning(cls).endswith(".")
        assert sys.modules[cls.__module__].__doc__


def test_names_are_sorted_and_leave_out_what_is_no_part() -> None:
    names = parts.names("mechanisms")
    assert list(names) == sorted(names)
    assert "multi-krum" in parts.names("aggregators")
    assert not {"chain", "contract", "distances"} & {*names, *parts.names("aggregators")}


class TestBuilding:
    def test_by_position_by_name_and_by_table(self) -> None:
        built = parts.build("mechanisms", {"name": "clip", "limit": 2, "norm": "l1"})
        assert built == Clip(2.0, "l1") == Clip(limit=2.0, norm="l1")
        assert hash(built) == hash(Clip(2.0, "l1"))
        assert isinstance(built, Mechanism)

    def test_a_table_and_back(self) -> None:
        table = {"name": "clip", "limit": 2.0, "norm": "l1"}
        assert parts.to_table(parts.build("mechanisms", table)) == table
        assert parts.to_table(parts.build("aggregators", {"name": "multi-krum"})) == {
            "name": "multi-krum",
            "byzantine": 1,
        }

    def test_parts_are_frozen(self) -> None:
        with pytest.raises(AttributeError):
            Clip(2.0).limit = 3.0  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("table", "line"),
        [
            ({}, "needs a name; allowed: .*clip"),
            ({"name": "clpi", "limit": 2}, "no mechanisms part called 'clpi'.*did you mean 'clip'"),
            ({"name": "../../etc/passwd"}, "no mechanisms part called"),
            ({"name": "contract"}, "no mechanisms part called 'contract'"),
            ({"name": "clip"}, "clip.limit is missing; give clip its limit"),
            ({"name": "clip", "limit": 0}, "clip.limit: Input should be greater than 0, not 0"),
            ({"name": "clip", "limit": "much"}, "clip.limit: .*valid number.*'much'"),
            ({"name": "clip", "limit": float("nan")}, "clip.limit: .*finite"),
            ({"name": "clip", "limit": 1, "norm": "l3"}, "clip.norm: .*'l1', 'l2' or 'linf'.*'l3'"),
            ({"name": "clip", "limits": 1}, "clip: unknown field 'limits'; allowed: limit, norm; did you mean 'limit'"),
        ],
    )
    def test_wrong_tables_are_refused_in_one_line(self, table: dict[str, Any], line: str) -> None:
        with pytest.raises(PartError, match=line) as refused:
            parts.build("mechanisms", table)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("family", "table", "line"),
        [
            ("obfuscators", {"name": "prototype", "student": {"name": "nosuch"}}, "prototype.student: no models part"),
            ("protocols", {"name": "dp-sgd", "shares": 2}, "dp-sgd.shares is for distributed noise; leave it out"),
        ],
    )
    def test_an_error_that_advises_is_passed_on(self, family: str, table: dict[str, Any], line: str) -> None:
        with pytest.raises(PartError, match=f"^{line}") as refused:
            parts.build(family, table)
        assert not re.search(r"Value error|, not [{A]", str(refused.value))

    def test_wrong_values_by_position_name_their_field(self) -> None:
        with pytest.raises(PartError, match=r"clip\.norm: .*'l3'"):
            Clip(1.0, "l3")  # type: ignore[arg-type]
        with pytest.raises(PartError, match=r"clip\.2: Unexpected positional"):
            Clip(1.0, "l1", 3)  # type: ignore[call-arg]

    def test_an_unknown_family_names_the_nearest(self) -> None:
        for call in (lambda: parts.names("mechanism"), lambda: parts.find("mechanism", "clip")):
            with pytest.raises(PartError, match="did you mean 'mechanisms'"):
                call()


class TestOwnParts:
    def test_they_are_found_by_entry_point(self, own_package: Any) -> None:
        assert "halve-it" in parts.names("mechanisms")
        built = parts.build("mechanisms", {"name": "halve-it", "times": 3})
        assert built == own_package.Halve(3)
        assert parts.to_table(built) == {"name": "halve-it", "times": 3}
        assert parts.meaning(own_package.Halve) == "Divides what leaves by two."

    def test_their_fields_are_checked(self, own_package: Any) -> None:
        parts.find("mechanisms", "halve-it")
        with pytest.raises(PartError, match=r"halve-it\.times: .*greater than or equal to 1"):
            own_package.Halve(times=0)

    def test_what_is_not_a_part_is_refused(self, own_package: Any) -> None:
        with pytest.raises(PartError, match=r"'plain' of privet.mechanisms is not a part; decorate it"):
            parts.find("mechanisms", "plain")

    def test_a_broken_import_inside_a_part_is_not_hidden(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "broken_family").mkdir()
        (tmp_path / "broken_family" / "__init__.py").write_text("")
        (tmp_path / "broken_family" / "odd.py").write_text("import a_module_that_nobody_has\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(parts.FAMILIES, "odd", "broken_family")
        with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
            parts.find("odd", "odd")
        (tmp_path / "broken_family" / "odd.py").write_text("")
        with pytest.raises(PartError, match="no odd part called 'even'"):
            parts.find("odd", "even")
