"""The contract of an attack: a View in, scores or reconstructions out; it judges nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Part
from privet.randomness import Source

Target = Literal["features", "members", "updates", "model", "property", "attribute"]
"""What an attack needs to have been seen; :class:`Attack` says what each means."""

Matcher = Callable[[Tensor], Tensor]
"""Candidate originals (c, ...) -> how sure the attacker is that each row of what was seen is theirs, (n, c)."""


@dataclass(frozen=True)
class Reconstruction:
    """What an attacker believes the originals were.

    Attributes:
        inputs: shape (n, ...), row i being the guess for row i of what was seen.
        labels: shape (n,), int64, what class the attacker believes each to be, where it had to find that out.
        matchers: by name, other ways in which the attacker can tell whose record a row is, given
            candidates; none needs the guess.
    """

    inputs: Tensor
    labels: Tensor | None = None
    matchers: Mapping[str, Matcher] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """How sure an attacker is of each candidate, larger meaning more likely true.

    Attributes:
        scores: shape (n,), row i being candidate i of what was seen; or (n, c), row i being record i of
            what was seen and column j the candidate j for what is hidden of it.
    """

    scores: Tensor


class Attack(Part):
    """Tries to undo a protection from what one party saw.

    ``target`` says what a View must hold and what comes back. ``view.shape`` and ``view.classes`` are
    always set; ``inputs`` have shape (n, ...), each of ``view.shape``, and ``labels`` (n,) in [0, view.classes).

    ``features``: what a device's front made of records.
        ``seen``: ``features`` (n, d) or (n, releases, d), perhaps ``labels``.
        ``knows``: ``inputs``, their ``features`` (``blind-key`` does without), perhaps their ``labels``.
        With ``release``, candidates can be recognised by computing the mechanism on them: (c, d), or (c, t, d)
        where the party knows that each record went through one of t mechanisms, but not through which.
        Returns: a Reconstruction, row by row what was seen, perhaps with ``matchers``. A matcher scores all
        candidates: those of another class than the seen one are ruled out by who judges.

    ``members``: was a record trained on?
        ``seen``: candidates, ``inputs`` and ``labels``.
        ``knows``: ``inputs`` and ``labels`` of records that were not trained on. Needs ``query``; some
        need ``train`` or ``train_many``.
        Returns: Scores (n,), larger: a member.

    ``updates``: what did a device compute its update from?
        ``seen``: ``gradients`` (k, d), row i being the mean gradient of the cross-entropy over one device's
        rows at the values of ``view.network()``, laid out as :func:`privet.tensors.flatten` lays out the
        network's ``state_dict`` (names sorted; what stands at buffers is not read). For an update of
        FedSGD or of one step of descent that is -update / learning rate. ``counts`` (k,), int: how many
        rows are behind each.
        ``knows``: perhaps ``inputs`` and ``labels`` of the attacker's own: they tell an attack what the
        model usually answers, and which values a column can take.
        Needs ``network``. Returns: a Reconstruction with ``labels``; its rows are the first device's
        counts[0] records, then the second's, and so on: sum(counts) in all. Within one device the order
        is the attacker's own: match before comparing.

    ``model``: what do records of a class look like?
        ``seen``: nothing (``{}``): the model is what was seen.
        ``knows``: perhaps ``inputs`` and ``labels`` of the attacker's own; ``gan-reconstruction`` needs
        them. Classes that the attacker has none of are the ones worth judging.
        Needs ``network``. Returns: a Reconstruction, one input a class (view.classes, ...), ``labels``
        0, 1, 2, ...

    ``property``: does a device hold records with a property?
        ``seen``: ``gradients`` (k, d) and ``counts`` (k,) as for ``updates``.
        ``knows``: ``inputs`` and ``labels`` of the attacker's own, and perhaps ``property`` (m,) bool:
        which of them have it. Without ``property`` it is "the label is the attack's field ``label``".
        Needs ``network``. Returns: Scores (k,), larger: at least one of the device's rows has it.

    ``attribute``: what was a hidden column of a record that is otherwise known?
        ``seen``: ``inputs``, whose hidden columns hold anything finite (say 0), and ``labels``.
        ``knows``: ``columns`` (h,) int64: which columns of the flattened input are hidden;
        ``candidates`` (c, h): the values that they can take together, one candidate a row; perhaps
        ``inputs`` of the attacker's own, complete, from which it learns how common each candidate is.
        Needs ``query``. Returns: Scores (n, c), the largest in a row being the guess.

    Attributes:
        target: one of these.
    """

    target: ClassVar[Target]

    @abstractmethod
    def __call__(self, view: View, rng: Source) -> Reconstruction | Scores:
        """Attacks a view.

        Raises:
            InputError: the view lacks what this attack needs.
        """


def network_of(view: View) -> nn.Sequential:
    """Returns the network of a view, after checking that the party holds it.

    Raises:
        InputError: it doesn't, or a value of the network is not finite.
    """
    if view.network is None:
        raise InputError("the view has no network", do="attack from a party that is sent the model's values")
    network = view.network()
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise InputError("the network's values are not finite", do="attack a model whose training went well")
    return network


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
