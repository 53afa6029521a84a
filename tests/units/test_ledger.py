"""The log of records: what is written verifies, and any change is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from privet.errors import RunError
from privet.ledger import GENESIS, Log, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = Log(tmp_path / "records.jsonl")
    for number in range(5):
        log.append("round", {"round": number, "accuracy": 0.1 * number})
    return log.path


def test_records_verify_and_chain(path: Path) -> None:
    records = verify(path)
    assert [record.body["round"] for record in records] == [0, 1, 2, 3, 4]
    assert records[0].previous == GENESIS
    assert all(later.previous == earlier.hash for earlier, later in itertools.pairwise(records))


def test_reopened_log_goes_on(path: Path) -> None:
    log = Log(path)
    head = log.head
    assert log.append("end", {}).previous == head
    assert len(verify(path)) == 6
    assert [record.kind for record in log.of("end")] == ["end"]


def test_empty_log_has_the_genesis_head(tmp_path: Path) -> None:
    assert Log(tmp_path / "records.jsonl").head == GENESIS


@pytest.mark.parametrize("number", range(5))
def test_every_changed_record_is_named(path: Path, number: int) -> None:
    lines = path.read_text().splitlines()
    fields = json.loads(lines[number])
    fields["body"]["accuracy"] = 0.99
    lines[number] = json.dumps(fields)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=f"record {number} does not verify"):
        verify(path)


@pytest.mark.parametrize("change", ["remove", "swap", "repeat", "insert"])
def test_removed_swapped_repeated_and_foreign_lines_are_refused(path: Path, change: str) -> None:
    lines = path.read_text().splitlines()
    if change == "remove":
        del lines[2]
    elif change == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    elif change == "repeat":
        lines.insert(2, lines[2])
    else:
        lines.insert(2, "[]")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match="does not verify"):
        verify(path)


@pytest.mark.parametrize("lost", [1, 20])
def test_line_cut_short_by_a_crash_is_dropped(path: Path, lost: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    log = Log(path)
    assert len(log.records) == 4
    log.append("round", {"round": 4})
    assert len(verify(path)) == 5


def test_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no records"):
        verify(tmp_path / "records.jsonl")


def test_nan_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Log(tmp_path / "records.jsonl").append("round", {"loss": float("nan")})
