"""A file that one holds: others are refused, or come in once it is free."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from privet.errors import RefusedError
from privet.transport.held_file import held


def test_others_are_refused_until_it_is_free(tmp_path: Path) -> None:
    refusal = RefusedError("somebody has it")
    with (
        held(tmp_path / "lock", refusal),
        pytest.raises(RefusedError, match="somebody has it"),
        held(tmp_path / "lock", refusal),
    ):
        pytest.fail("two had it")
    with held(tmp_path / "lock", refusal):
        pass


def test_who_has_patience_comes_in_when_the_other_is_done(tmp_path: Path) -> None:
    taken, free = threading.Event(), threading.Event()

    def other() -> None:
        with held(tmp_path / "lock", RefusedError("")):
            taken.set()
            free.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert taken.wait(10)
    threading.Timer(0.1, free.set).start()
    begun = time.monotonic()
    with held(tmp_path / "lock", RefusedError("somebody has it"), patience=10):
        assert time.monotonic() - begun > 0.05
    thread.join()
