"""The tree of errors: what each says, and the exit code it leads to."""

from __future__ import annotations

import doctest
import inspect

import pytest

from privet import errors
from privet.errors import MissingExtraError, PrivetError, RefusedError, UnreachableError, nearest

TREE = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, PrivetError)]


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_the_tree_in_the_docstring_is_the_tree(cls: type[PrivetError]) -> None:
    line = next(line for line in errors.__doc__.splitlines() if line.split("-- ")[-1].split()[:1] == [cls.__name__])
    depth = len(cls.__mro__[: cls.__mro__.index(PrivetError)])
    assert line.index(cls.__name__) == 4 * depth + 4


def test_exit_codes() -> None:
    codes = {cls: cls.exit_code for cls in TREE if cls.exit_code != 2}
    assert codes == {RefusedError: 3, UnreachableError: 4}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "wrong"),
        ({"allowed": "a, b"}, "wrong; allowed: a, b"),
        ({"do": "do this"}, "wrong; do this"),
        ({"allowed": "a", "do": "do\n   this"}, "wrong; allowed: a; do this"),
    ],
)
def test_advice_is_one_line(fields: dict[str, str], line: str) -> None:
    error = PrivetError("wrong", **fields)
    assert error.advice() == str(error) == line


def test_wrong_input_is_a_value_error() -> None:
    inputs = [cls for cls in TREE if issubclass(cls, ValueError)]
    assert [cls.__name__ for cls in TREE if cls not in inputs] == ["PrivetError", "RefusedError", "UnreachableError"]


def test_a_missing_extra_says_how_to_install_it() -> None:
    assert str(MissingExtraError("flwr", "flower")) == "flwr is not installed; run: pip install 'privet[flower]'"


def test_nearest() -> None:
    assert doctest.testmod(errors).failed == 0
    assert nearest("zzz", ["learning_rate", "rounds"]) == ""
    assert nearest("", []) == ""
