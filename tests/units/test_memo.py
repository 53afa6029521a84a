"""The way out of a device: a release is repeated, written down before it leaves, and paid for."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from privet.errors import InputError, RefusedError, RunError
from privet.governance import BitBook, BitBudget
from privet.inference.guarded import Guarded
from privet.inference.memo import Memo
from privet.inference.obfuscation import Obfuscation, Trained
from privet.inference.obfuscators.obfnet1 import Obfnet1
from privet.inference.obfuscators.response import Response
from privet.models.mlp import Mlp
from privet.randomness import system

pytestmark = pytest.mark.usefixtures("one_thread")
SECRET = bytes(range(32))
SAMPLE = torch.arange(6.0).reshape(1, 2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memo.sqlite"


def test_a_release_is_drawn_once_for_ever(path: Path) -> None:
    drawn = [torch.rand(1, 2, 3) for _ in range(3)]
    given = iter(drawn)
    assert torch.equal(Memo(path, SECRET).once(SAMPLE, lambda: next(given)), drawn[0])
    memo = Memo(path, SECRET)
    again = memo.once(SAMPLE, lambda: next(given))
    assert torch.equal(again, drawn[0])
    again.zero_()  # what was given out is a copy
    assert torch.equal(memo.once(SAMPLE.clone(), lambda: next(given)), drawn[0])
    assert torch.equal(memo.once(SAMPLE + 1, lambda: next(given)), drawn[1])
    assert len(memo) == 2


def test_it_is_on_the_disk_before_anybody_gets_it(path: Path) -> None:
    program = (
        "import os, sys, torch; from pathlib import Path; from privet.inference.memo import Memo\n"
        "memo, sample = Memo(Path(sys.argv[1]), bytes(range(32))), torch.arange(6.0).reshape(1, 2, 3)\n"
        "memo.once(sample, lambda: torch.ones(1, 2, 3))\n"
        "os._exit(9)"  # as a power cut right behind it
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 9
    assert torch.equal(Memo(path, SECRET).once(SAMPLE, lambda: torch.zeros(1, 2, 3)), torch.ones(1, 2, 3))


def test_of_two_draws_at_once_the_first_is_everybodys(path: Path) -> None:
    memo = Memo(path, SECRET)

    def meanwhile() -> Tensor:
        Memo(path, SECRET).once(SAMPLE, lambda: torch.ones(1, 2, 3))
        return torch.zeros(1, 2, 3)

    assert torch.equal(memo.once(SAMPLE, meanwhile), torch.ones(1, 2, 3))


def test_a_full_memo_refuses_and_never_forgets(path: Path) -> None:
    memo = Memo(path, SECRET, most=2)
    for at in range(2):
        memo.once(SAMPLE + at, lambda: SAMPLE * 0)
    with pytest.raises(RefusedError, match="full"):
        memo.once(SAMPLE + 2, lambda: pytest.fail("it drew"))
    assert torch.equal(memo.once(SAMPLE, lambda: SAMPLE), SAMPLE * 0)


def test_names_tell_inputs_apart_and_nothing_without_the_secret(path: Path) -> None:
    memo, other = Memo(path, SECRET), Memo(path, SECRET[::-1])
    assert memo.name(SAMPLE) == memo.name(SAMPLE.clone())
    others = [memo.name(SAMPLE.reshape(1, 3, 2)), memo.name(SAMPLE + 1e-6), other.name(SAMPLE), memo.name(-SAMPLE)]
    assert len({memo.name(SAMPLE), *others}) == 5
    assert memo.name(SAMPLE.transpose(1, 2)) == memo.name(SAMPLE.transpose(1, 2).contiguous())
    memo.once(SAMPLE, lambda: SAMPLE * 0)
    assert SAMPLE.numpy().tobytes() not in path.read_bytes()


def test_wrong_secrets_shapes_and_files_are_refused(path: Path) -> None:
    with pytest.raises(InputError, match="5 bytes"):
        Memo(path, b"short")
    memo = Memo(path, SECRET)
    with pytest.raises(InputError, match="shape"):
        memo.once(SAMPLE, lambda: torch.zeros(2))
    assert len(memo) == 0
    broken = path.with_name("broken")
    broken.write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match="broken"):
        Memo(broken, SECRET)


# Memo, budget and obfuscator together.


def made(classes: int = 4) -> Obfuscation:
    obfuscator = Response(student={"name": "mlp"}, epsilon=0.5)  # type: ignore[arg-type]
    sides = obfuscator.build((1, 2, 3), classes)
    sides.decoder.get_buffer("table").copy_(torch.arange(classes)[:, None, None, None].expand(-1, 1, 2, 3))
    sides.decoder.place(torch.eye(classes))  # type: ignore[operator]
    part = Mlp()
    return Obfuscation(obfuscator, Trained(part, part.build((1, 2, 3), classes), (1, 2, 3), classes), (sides,))


@pytest.fixture
def book(tmp_path: Path):
    with BitBook(tmp_path / "bits", [BitBudget("ann", "digits", 8.0), BitBudget("bob", "digits", 2.0)]) as book:
        yield book


def test_a_noisy_answer_is_given_once_and_paid_for_once(path: Path, book: BitBook) -> None:
    way = Guarded(made(), Memo(path, SECRET), book, "digits")
    samples = torch.rand(2, 1, 2, 3)
    first = way.release(samples, "ann")
    assert first.shape == samples.shape
    assert way.bits == 2.0
    for _ in range(20):  # without the memo, four values would average to the truth
        assert torch.equal(way.release(samples, "ann"), first)
    assert book.spent("ann", "digits") == 4.0
    assert torch.equal(way.release(samples[:1], "bob"), first[:1])  # another's budget pays for the same release
    assert book.spent("bob", "digits") == 2.0
    assert len({float(made().release(samples[:1], system()).mean()) for _ in range(40)}) > 1


def test_beyond_the_budget_nothing_leaves_and_nothing_is_drawn(path: Path, book: BitBook) -> None:
    memo = Memo(path, SECRET)
    way = Guarded(made(), memo, book, "digits")
    with pytest.raises(RefusedError, match="allowed: 2"):
        way.release(torch.rand(2, 1, 2, 3), "bob")
    assert len(memo) == 0
    assert book.spent("bob", "digits") == 0.0
    with pytest.raises(RefusedError, match="no budget"):
        way.release(torch.rand(1, 1, 2, 3), "eve")
    assert way.release(torch.rand(0, 1, 2, 3), "bob").shape == (0, 1, 2, 3)


def test_a_memo_without_room_for_all_draws_none_and_costs_nothing(path: Path, book: BitBook) -> None:
    memo = Memo(path, SECRET, most=2)
    way, samples = Guarded(made(), memo, book, "digits"), torch.rand(3, 1, 2, 3)
    way.release(samples[:1], "ann")
    with pytest.raises(RefusedError, match="full"):
        way.release(samples, "ann")
    assert (len(memo), book.spent("ann", "digits")) == (1, 2.0)
    assert way.release(samples[[0, 1, 1]], "ann").shape == (3, 1, 2, 3)


def test_an_obfuscator_whose_codes_nobody_counts_is_refused(path: Path, book: BitBook) -> None:
    obfuscator, one = Obfnet1(), made()
    way = Guarded(
        Obfuscation(obfuscator, one.trained, (obfuscator.build((1, 2, 3), 4),)), Memo(path, SECRET), book, "digits"
    )
    assert way.bits == math.inf
    with pytest.raises(RefusedError, match="inf bits"):
        way.release(torch.rand(1, 1, 2, 3), "ann")


def test_the_file_is_a_plain_database(path: Path) -> None:
    Memo(path, SECRET).once(SAMPLE, lambda: SAMPLE * 0)
    database = sqlite3.connect(path)
    ((name, what),) = database.execute("SELECT input, what FROM released").fetchall()
    database.close()
    assert (len(name), len(what)) == (32, 24)
