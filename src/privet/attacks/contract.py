"""The contract of an attack: a View in, scores or reconstructions out; it judges nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Part
from privet.randomness import Source


@dataclass(frozen=True)
class Reconstruction:
    """What an attacker believes the originals were.

    Attributes:
        inputs: shape (n, ...), row i being the guess for row i of what was seen.
    """

    inputs: Tensor


@dataclass(frozen=True)
class Scores:
    """How sure an attacker is of each candidate, larger meaning more likely true.

    Attributes:
        scores: shape (n,), row i being candidate i of what was seen.
    """

    scores: Tensor


class Attack(Part):
    """Tries to undo a protection from what one party saw.

    Attributes:
        target: what it needs to have been seen: ``features`` (it returns a Reconstruction) or
            ``members``, candidates for membership (it returns Scores).
    """

    target: ClassVar[Literal["features", "members"]]

    @abstractmethod
    def __call__(self, view: View, rng: Source) -> Reconstruction | Scores:
        """Attacks a view.

        Raises:
            InputError: the view lacks what this attack needs.
        """


def rows(table: Mapping[str, Tensor], *names: str) -> tuple[Tensor, ...]:
    """Returns the named tensors of ``view.seen`` or ``view.knows``, after checking them.

    Raises:
        InputError: one is missing, empty, not finite, or has another number of rows than the first.
    """
    for name in names:
        if name not in table:
            raise InputError(
                f"the view holds no {name!r}",
                allowed=f"a view with {', '.join(names)}",
                do="keep it in the plan's view",
            )
        if not len(table[name]) or len(table[name]) != len(table[names[0]]):
            raise InputError(
                f"the view has {len(table[name])} rows of {name!r}",
                allowed=f"as many as of {names[0]!r} ({len(table[names[0]])}), at least one",
            )
        if not torch.isfinite(table[name]).all():
            raise InputError(f"the view's {name!r} hold values that are not finite", do="leave out those rows")
    return tuple(table[name] for name in names)
