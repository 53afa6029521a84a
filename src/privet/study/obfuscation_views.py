"""What each party sees of samples that were obfuscated: the views that attackers of obfuscation get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from privet.attacks.views import jittered
from privet.engines.view import View
from privet.fleet.data import Data
from privet.inference.obfuscation import Obfuscation
from privet.mechanisms.chain import Chain
from privet.randomness import seeded, system

_REPEATS = 9  # releases of one record: all shifts by at most a pixel
_CALIBRATED = 5_000  # pairs of so many releases each
_CHUNK = 1_000


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set as tensors.

    Attributes:
        inputs, labels: to train on; their owner trains obfuscators on them, and makes its pairs of them.
        test_inputs, test_labels: of the devices.
        classes: number of classes.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int

    @classmethod
    def of(cls, data: Data, most: int | None = None) -> Rows:
        """Returns a data set's rows, of the training rows at most so many."""
        train, labels = torch.from_numpy(data.train_inputs[:most]), torch.from_numpy(data.train_labels[:most])
        return cls(train, labels, torch.from_numpy(data.test_inputs), torch.from_numpy(data.test_labels), data.classes)


@dataclass(frozen=True)
class Trial:
    """How an obfuscator is attacked.

    Attributes:
        pairs: how many pairs the coordinator makes of the training rows.
        records: how many test rows are attacked, and among how many each is looked for.
        attackers: only these; None for all that apply.
        effort: how many of their usual steps attackers take that learn; 0.5 halves them.
        seed: of the attackers and of which obfuscator each participant picked; noise comes from the operating system.
    """

    pairs: int = 20_000
    records: int = 2_000
    attackers: Sequence[str] | None = None
    effort: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Attacked:
    """A view, and the truth behind what was seen."""

    view: View
    truth: Tensor
    labels: Tensor


class Sight:
    """Makes what each party sees of some test rows, once.

    Where a code is noised, parties are given the noised code: what the decoder makes of it says no more.
    """

    def __init__(self, made: Obfuscation, rows: Rows, trial: Trial) -> None:
        self._made, self._rows, self._rng = made, rows, seeded(trial.seed, "attackers")
        self._own = self._rng.child("pairs").permutation(len(rows.inputs))[: trial.pairs]
        self._tested = self._rng.child("records").permutation(len(rows.test_inputs))
        self._records = trial.records
        self._noise = system()

    @cached_property
    def once(self) -> Attacked:
        """The coordinator's view: one release of each record, pairs of its own, the obfuscators."""
        return self._coordinator(lambda inputs: inputs[:, None], len(self._own))

    @cached_property
    def repeats(self) -> Attacked:
        """The coordinator's view of many releases of each record, jittered a little where records are images."""
        return self._coordinator(lambda inputs: jittered(inputs, _REPEATS), _CALIBRATED)

    @cached_property
    def labels_only(self) -> Attacked:
        """The view of somebody whom nothing reached but each record's class: what any attacker reaches without us."""
        rows, own, seen = self._rows, self._own, self._tested[: self._records]
        view = View(
            "anyone",
            {"features": torch.zeros(len(seen), 1), "labels": rows.test_labels[seen]},
            {"inputs": rows.inputs[own], "labels": rows.labels[own], "features": torch.zeros(len(own), 1)},
            shape=self._made.trained.shape,
            classes=rows.classes,
        )
        return Attacked(view, rows.test_inputs[seen], rows.test_labels[seen])

    @cached_property
    def blind(self) -> Attacked:
        """The outsider's view: releases of one device, rows of the same kind, no pairs and no obfuscator."""
        rows, seen = self._rows, self._tested[: self._records]
        view = View(
            "outsider",
            {"features": self._released(rows.test_inputs[seen], None), "labels": rows.test_labels[seen]},
            {"inputs": rows.inputs[self._own], "labels": rows.labels[self._own]},
            shape=self._made.trained.shape,
            classes=rows.classes,
        )
        return Attacked(view, rows.test_inputs[seen], rows.test_labels[seen])

    def _coordinator(self, several: Callable[[Tensor], Tensor], pairs: int) -> Attacked:
        rows, own, seen = self._rows, self._own[:pairs], self._tested[: self._records]
        sides: list[Tensor] = []
        for inputs in (rows.test_inputs[seen], rows.inputs[own]):
            views = several(inputs)
            picked = self._rng.child("picked", len(sides)).integers(len(self._made.sides), len(inputs))
            repeated = torch.from_numpy(picked).repeat_interleave(views.shape[1])
            sides.append(self._released(views.flatten(0, 1), repeated).unflatten(0, views.shape[:2]))
        released, known = (side if side.shape[1] > 1 else side[:, 0] for side in sides)
        view = View(
            "coordinator",
            {"features": released, "labels": rows.test_labels[seen]},
            {"inputs": rows.inputs[own], "labels": rows.labels[own], "features": known},
            release=self._clean,
            shape=self._made.trained.shape,
            classes=rows.classes,
        )
        return Attacked(view, rows.test_inputs[seen], rows.test_labels[seen])

    def _released(self, samples: Tensor, picked: Tensor | None) -> Tensor:
        """Returns what participants who picked these obfuscators let through, (n, d); the first for None."""
        if picked is None:
            return self._through(samples, 0, self._made.obfuscator.noise)
        out: Tensor | None = None
        for at in range(len(self._made.sides)):
            mine = picked == at
            if mine.any():
                part = self._through(samples[mine], at, self._made.obfuscator.noise)
                out = part.new_empty(len(samples), part.shape[1]) if out is None else out
                out[mine] = part
        assert out is not None  # noqa: S101
        return out

    def _clean(self, samples: Tensor) -> Tensor:
        """Returns what each obfuscator makes of samples without noise, (c, t, d), or (c, d) of one."""
        each = [self._through(samples, at, Chain()) for at in range(len(self._made.sides))]
        return torch.stack(each, 1) if len(each) > 1 else each[0]

    @torch.no_grad()
    def _through(self, samples: Tensor, at: int, noise: Chain) -> Tensor:
        side = self._made.sides[at].eval()
        noised = any(each.adds_noise for each in self._made.obfuscator.noise.mechanisms)
        parts = []
        for part in samples.split(_CHUNK):
            code = self._made.obfuscator.clean(side.encoder(part))
            code = noise(code, self._noise)
            parts.append((code if noised else side.decoder(code)).flatten(1))
        return torch.cat(parts)
