"""Every way Privet can refuse, as one tree.

::

    PrivetError                      exit 2 unless said otherwise
    |-- InputError                   what was given is wrong; nothing was written
    |   |-- PlanError                a plan's key, type, range or combination of parts
    |   |-- PartError                no such part, or its fields are wrong
    |   |-- DataError                a data set is missing, damaged or unusable
    |   |-- ContentError             content is missing, damaged or not what its address names
    |   |-- RunError                 a run folder is missing, damaged or of another plan
    |   `-- MissingExtraError        an optional dependency is not installed
    |-- RefusedError                 exit 3: a policy (consent, budget, too few replies) said no
    `-- UnreachableError             exit 4: a peer does not answer
"""

from __future__ import annotations


class PrivetError(Exception):
    """Base of all errors that Privet raises on purpose.

    Args:
        wrong: what is wrong, naming the key, file or device.
        allowed: what would have been allowed.
        do: what the user can do now.
    """

    exit_code = 2

    def __init__(self, wrong: str, *, allowed: str = "", do: str = "") -> None:
        super().__init__(wrong)
        self.wrong = wrong
        self.allowed = allowed
        self.do = do

    def advice(self) -> str:
        """Returns one line: what is wrong, what is allowed, what to do."""
        line = self.wrong
        if self.allowed:
            line += f"; allowed: {self.allowed}"
        if self.do:
            line += f"; {self.do}"
        return " ".join(line.split())

    def __str__(self) -> str:
        return self.advice()


class InputError(PrivetError, ValueError):
    """What was given is wrong; nothing was written."""


class PlanError(InputError):
    """A plan's key, type, range or combination of parts is wrong."""


class PartError(InputError):
    """No such part, or a part's fields are wrong."""


class DataError(InputError):
    """A data set is missing, damaged or unusable."""


class ContentError(InputError):
    """Content is missing, damaged or not what its address names."""


class RunError(InputError):
    """A run folder is missing, damaged or belongs to another plan."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", do=f"run: pip install 'privet[{extra}]'")


class RefusedError(PrivetError):
    """A policy refused: consent, budget, or too few usable replies."""

    exit_code = 3


class UnreachableError(PrivetError):
    """A peer does not answer."""

    exit_code = 4


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns advice that names the known word closest to ``word``, or "" when none is close.

    >>> nearest("lerning_rate", ["learning_rate", "rounds"])
    "did you mean 'learning_rate'?"
    """
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
