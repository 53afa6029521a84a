"""What stands behind ``privet data list``, ``get`` and ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privet import parts
from privet.errors import DataError, PartError
from privet.fleet import catalogue
from privet.fleet.datasets.mnist import FILES


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data of the machine is seen."""
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_lists_every_data_set_and_how_to_bring_it() -> None:
    rows = {row["name"]: row for row in catalogue.available()}
    assert tuple(rows) == parts.names("datasets")
    assert all(row["meaning"] for row in rows.values())
    assert rows["mnist-10k"]["here"] is True
    assert rows["mnist"]["here"] is False
    assert "privet data get mnist" in rows["mnist"]["place"]


@pytest.mark.parametrize("folder", [None, "mine"])
def test_get_fetches_each_file_with_its_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(catalogue, "fetch", lambda *args, **options: calls.append((*args, options["largest"])))
    target = catalogue.get("mnist", tmp_path / folder if folder else None)
    assert target == (tmp_path / "mine" if folder else tmp_path / "cache" / "privet" / "mnist")
    assert calls == [(each.url, target / each.file, each.sha256, each.bytes) for each in FILES]
    assert all(each.url == f"https://ossci-datasets.s3.amazonaws.com/mnist/{each.file}.gz" for each in FILES)


@pytest.mark.parametrize("name", ["mnist-10k", "csv"])
def test_get_of_what_needs_no_bringing(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} has nothing to bring"):
        catalogue.get(name)


def test_unknown_name_names_the_nearest() -> None:
    for command in (catalogue.get, catalogue.check):
        with pytest.raises(PartError, match="did you mean 'mnist'"):
            command("mnits")


def test_check_says_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "pumps.csv"
    path.write_text("heat,fault,home\n" + "".join(f"{n},{n % 2},h{n % 3}\n" for n in range(10)))
    seen = catalogue.check("csv", path=str(path), target="fault", key="home", licence="mine")
    assert seen | {"rows_per_class": None} == {
        "name": "pumps",
        "train_rows": 8,
        "test_rows": 2,
        "shape": [1],
        "classes": 2,
        "rows_per_class": None,
        "keys": 3,
        "licence": "mine",
    }
    assert sum(seen["rows_per_class"]) == 8


def test_check_of_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"in {tmp_path}, .*cache/privet/mnist; run: privet data get mnist"):
        catalogue.check("mnist", tmp_path)
    with pytest.raises(PartError, match="unknown field 'folder'"):
        catalogue.check("digits", tmp_path)
