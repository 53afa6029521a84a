"""What a device does before it asks a service: it answers what it is sure of, and obfuscates and pays for the rest."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from privet import parts
from privet.errors import InputError, RefusedError, RunError
from privet.governance.bit_budget import SLACK, BitBook, BitBudget
from privet.inference.asking import Asker
from privet.inference.guarded import Guarded
from privet.inference.memo import Memo
from privet.inference.obfuscation import Obfuscation, Trained, promises
from privet.inference.obfuscators.student import Distilled
from privet.inference.offload import Offload
from privet.inference.questions import require_samples, within
from privet.randomness import Source, system
from privet.tensors import digest, to_bytes
from privet.transport.key_files import read_secret, write_secret

SECRET, MEMO, BITS = "secret.key", "memo.sqlite", "bits.jsonl"
UNPROMISED = "no guarantee is derived: what leaves, leaves as it is"
SELECTED = "that a sample left, or stayed, tells one bit more, and no epsilon holds: it depends on the sample"
_SIZE = 32


@dataclass(frozen=True, eq=False)
class Way:
    """How a device's samples leave it: obfuscated, and within a budget where codes are counted.

    The state folder keeps the device's secret, what it released and what it paid. A device has one folder, which
    serves all its obfuscators and purposes.

    Attributes:
        made: the obfuscators, of which the device picks one.
        state: the folder, made when absent.
        budget: of bits; needed where the obfuscator counts its codes, and only there.
        rng: of the noise; the operating system's unless a test wants it repeated.

    Raises:
        InputError: the obfuscator needs a layer at the service, which runs the bare model, or a budget.
        RefusedError: there is a budget, and nobody counts the codes, or it is less than one release tells.
    """

    made: Obfuscation
    state: Path
    budget: BitBudget | None = None
    rng: Source = field(default_factory=system)

    def __post_init__(self) -> None:
        name, counted = parts.name_of(self.made.obfuscator), math.isfinite(self.made.bits())
        if any(not isinstance(side.service, nn.Identity) for side in self.made.sides):
            raise InputError(f"{name} needs a layer at the service, which runs the bare model", do="take another one")
        if counted and self.budget is None:
            raise InputError(
                f"{name} counts its codes, and there is no budget", do="name a subject, a purpose and bits"
            )
        if self.budget is not None and not counted:
            raise RefusedError(
                f"nobody counts what {name} tells, so no budget of bits lets it through", do="take a coded obfuscator"
            )
        least = min(map(self.made.bits, range(len(self.made.sides))))
        # Refused before it is written down: a budget that is open is never raised.
        if self.budget is not None and self.budget.bits < least - SLACK:
            raise RefusedError(
                f"a budget of {self.budget.bits:g} bits lets no release out: one tells {least:.4g}",
                do="give more bits, or take an obfuscator with fewer codes",
            )

    @cached_property
    def which(self) -> int:
        """The obfuscator that this device picked."""
        # Once for each device, from its secret: one that picks anew for each request shows a sample through one
        # obfuscator after the other, and what they tell adds up.
        if len(self.made.sides) == 1:
            return 0
        drawn = hmac.digest(self._secret, f"which:{self._mark}".encode(), "sha256")
        return int.from_bytes(drawn, "big") % len(self.made.sides)

    @property
    def student(self) -> Trained | None:
        """The obfuscator's own model of the answers; None where it has none."""
        if not isinstance(self.made.obfuscator, Distilled):
            return None
        network, trained = self.made.sides[self.which].encoder.get_submodule("0"), self.made.trained
        return Trained(self.made.obfuscator.student, network.eval(), trained.shape, trained.classes)

    def release(self, samples: Tensor) -> tuple[Tensor, float]:
        """Returns what leaves for samples (n, ...), and the bits that were paid for it now.

        What was released before is repeated, for nothing; ``math.inf`` where nobody counts.

        Raises:
            RefusedError: the budget would be exceeded, or the memo is full; nothing was drawn.
            InputError, RunError: a file of the state folder is missing or damaged, or others can read the secret.
        """
        if self.budget is not None:
            memo, account = self._memo(), (self.budget.subject, self.budget.purpose)
            with BitBook(self.state / BITS, [self.budget], memo.noted(BITS)) as book:
                guarded = Guarded(self.made, memo, book, self.budget.purpose, self.which, self.rng)
                before = book.spent(*account)
                released = guarded.release(samples, self.budget.subject)
                memo.note(BITS, book.mark)  # a book that is emptied or cut short would be paid from again
                return released, book.spent(*account) - before
        if not any(each.adds_noise for each in self.made.obfuscator.noise.mechanisms):
            return self.made.release(samples, self.rng, self.which), math.inf
        memo = self._memo()  # noise drawn again averages out
        return torch.stack([memo.once(one, lambda one=one: self._draw(one)) for one in samples]), math.inf  # type: ignore[misc]

    def promised(self, selected: bool = False) -> list[str]:
        """Returns what is promised of samples that leave, a line each.

        Args:
            selected: whether it depends on a sample that it leaves; then no epsilon bounds what that tells.
        """
        guarantee = None if selected else self.made.obfuscator.guarantee()
        bits = self.made.bits(self.which) if self.budget is not None else None
        lines = promises(bits, guarantee.to_json() if guarantee else None)
        return [*lines, SELECTED] if selected else lines

    def _draw(self, sample: Tensor) -> Tensor:
        return self.made.release(sample[None], self.rng, self.which)[0]

    def _memo(self) -> Memo:
        # It names samples by obfuscator: what another one made of a sample is no release of this one's.
        return Memo(self.state / MEMO, hmac.digest(self._secret, f"memo:{self._mark}".encode(), "sha256"))

    @cached_property
    def _mark(self) -> str:
        told = [parts.to_table(self.made.obfuscator), *(digest(side.state_dict()) for side in self.made.sides)]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    @cached_property
    def _secret(self) -> bytes:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any((self.state / name).exists() for name in (MEMO, BITS, SECRET)):
            Memo.found(self.state / MEMO)
            (self.state / BITS).touch()
            write_secret(self.state / SECRET, os.urandom(_SIZE))
        return _secret(self.state)


def accounts(state: Path) -> list[tuple[BitBudget, float]]:
    """Returns the budgets in a device's state folder, each with the bits that were paid of it.

    Raises:
        InputError: the folder is none, or a file of it is missing or damaged, or others can read the secret.
        RefusedError: somebody asks a service with it just now.
    """
    memo = Memo(state / MEMO, _secret(state))
    with BitBook(state / BITS, mark=memo.noted(BITS)) as book:
        return book.accounts()


def _secret(state: Path) -> bytes:
    # What got lost isn't made anew: without the secret or the memo everything would be drawn again, and without the
    # book paid for again.
    for name in (MEMO, BITS, SECRET):
        if not (state / name).exists():
            raise RunError(
                f"{state / name} is missing", do="restore the file; without it nobody knows what was released"
            )
    secret = read_secret(state / SECRET)
    if len(secret) != _SIZE:
        raise RunError(f"{state / SECRET} is damaged", allowed=f"{_SIZE} bytes", do="restore the file")
    return secret


@dataclass(frozen=True, eq=False)
class Asked:
    """What was answered, and what that told.

    Attributes:
        scores: shape (n, classes): the service's, or the device's own where a sample stayed.
        left: bool (n,), which samples left, obfuscated or as they are.
        bits: what was paid now; ``math.inf`` where samples left and nobody counts.
        version: digest of the model version that answered; "" where nothing left.
    """

    scores: Tensor
    left: Tensor
    bits: float
    version: str


@dataclass(frozen=True, eq=False)
class Device:
    """Asks a service about samples, and answers itself what it is sure of.

    Attributes:
        way: how samples leave; None lets them leave as they are.
        own: the model with which it answers; None is the obfuscator's student.
        share: of the samples asked about, 0 to 1: those leave of which the device is least sure.
        sure: those leave of which the device is less sure, 0 to 1; None with ``share``, or to ask about all.

    Raises:
        InputError: samples should stay, and there is no own model; or there is one, and none should.
    """

    way: Way | None = None
    own: Trained | None = None
    share: float | None = None
    sure: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and self.sure is not None:
            raise InputError("a share and a threshold of what leaves", allowed="one of them")
        if self.stays and self._model is None:
            raise InputError("nothing answers what stays on the device", do="name a model of its own")
        if self.own is not None and not self.stays:
            raise InputError("the device's own model would answer nothing", do="name a share or a threshold, too")

    @property
    def stays(self) -> bool:
        """Whether samples may stay on the device, so that it depends on them which leave."""
        return self.share is not None or self.sure is not None

    def ask(self, asker: Asker, samples: Tensor) -> Asked:
        """Returns the answers for samples (n, ...).

        Releases are paid and written down before they leave, so asking again after a failure costs nothing.

        Raises:
            InputError: the service's model takes other samples than these, than the obfuscators or than the own
                model, other values than the obfuscators make, or a value is not finite; nothing left.
            RefusedError: the budget would be exceeded, the memo is full, or the service lets nobody in; nothing left.
            RunError: a file of the state folder is damaged; nothing left.
            UnreachableError: no answer came in time.
        """
        self._fit(asker, samples)
        bits, version = 0.0, ""

        def elsewhere(leaving: Tensor) -> Tensor:
            nonlocal bits, version
            released, bits = self.way.release(leaving) if self.way else (leaving, math.inf)
            within(released.numpy(), asker.offer().manifest.span)  # noise and decoders may leave it
            answer = asker.ask(released.numpy())
            version = answer.version
            return torch.from_numpy(answer.scores)

        model = self._model
        if model is None or not self.stays:
            scores = elsewhere(samples)
            return Asked(scores, torch.ones(len(samples), dtype=torch.bool), bits, version)
        answered = Offload(model.answer, elsewhere, self.sure, self.share).answer(samples)
        return Asked(answered.logits, answered.left, bits, version)

    def promised(self) -> list[str]:
        """Returns what is promised of samples that leave, a line each."""
        return self.way.promised(selected=self.stays) if self.way else [UNPROMISED]

    def same_model(self, asker: Asker) -> bool:
        """Whether the obfuscators were trained for the very weights that the service's manifest names, if there are."""
        if self.way is None:
            return True
        weights = to_bytes(self.way.made.trained.network.state_dict())
        return hashlib.sha256(weights).hexdigest() == asker.offer().manifest.weights

    @property
    def _model(self) -> Trained | None:
        return self.own or (self.way.student if self.way else None)

    def _fit(self, asker: Asker, samples: Tensor) -> None:
        # Asked before a bit is paid: a service that is not there, or refuses, costs nothing.
        manifest = asker.offer().manifest
        require_samples(samples.shape, manifest.shape, "samples")
        within(samples.numpy(), manifest.span)
        for what, model in (
            ("the obfuscator", self.way.made.trained if self.way else None),
            ("the own model", self.own),
        ):
            if model is not None:
                model.require(manifest.shape, manifest.classes, what, "as the service's model has")
                model.refuse_far(samples)
