"""A model and what devices may put in front of it: trained once, kept in a folder, run anywhere.

The folder holds ``model.json`` and ``model.safetensors`` (the user's model, which the folder of a run holds as well),
``obfuscator.json`` and one ``obfuscator-I.safetensors`` for each that was trained; nothing in it is a pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from privet import parts
from privet.accounting.release_bits import ReleaseBits
from privet.errors import InputError
from privet.inference.obfuscators import Obfuscator, Sides, UserModel
from privet.models import Model
from privet.models.cost import multiplications
from privet.models.fitting import Fitting
from privet.randomness import Source
from privet.tensors import clone, fill, load, save

MODEL, WEIGHTS, OBFUSCATOR = "model.json", "model.safetensors", "obfuscator.json"
FAR = 10.0
"""How many times as large as the values that a model learned from is taken for another unit, and no rare value."""

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Trained:
    """A model with its values.

    Attributes:
        model: the architecture.
        network: with its values, in evaluation mode.
        shape: of one input.
        classes: number of classes.
        about: where the values come from, plain values only, for the files; ``reach`` is the largest absolute value
            of the inputs that it learned from.
    """

    model: Model
    network: nn.Module
    shape: tuple[int, ...]
    classes: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def answer(self, inputs: Tensor) -> Tensor:
        """Returns logits (n, classes) for inputs (n, ...)."""
        return torch.cat([self.network(part) for part in inputs.split(_CHUNK)])

    def require(self, shape: tuple[int, ...], classes: int, called: str, whose: str, do: str = "") -> None:
        """Refuses to be used for other inputs.

        Args:
            shape: of one input.
            classes: number of classes.
            called: what the error calls this model.
            whose: shape and classes those are, as the error says it.
            do: what to do.

        Raises:
            InputError: this model takes others.
        """
        if (self.shape, self.classes) != (shape, classes):
            wrong = f"{called} is for inputs {self.shape} of {self.classes} classes"
            raise InputError(wrong, allowed=f"{shape} and {classes}, {whose}", do=do)

    def refuse_far(self, samples: Tensor) -> None:
        """Refuses samples in other units than those that the model learned from, where that is known.

        Raises:
            InputError: a value is more than :data:`FAR` times as large as any of theirs.
        """
        reach, most = self.about.get("reach"), float(samples.abs().max()) if samples.numel() else 0.0
        if reach is not None and not most <= FAR * reach:
            raise InputError(
                f"values up to {most:g}, where the model learned from values up to {reach:g}",
                do="scale them as the data were that it was trained on",
            )

    def save(self, folder: Path) -> None:
        """Writes ``model.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save(clone(self.network.state_dict()), folder / WEIGHTS)
        told = {"model": parts.to_table(self.model), "shape": list(self.shape), "classes": self.classes}
        _write(folder / MODEL, told | {"about": dict(self.about)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns the model in a folder.

        Raises:
            InputError: the folder holds none, or its files don't fit each other.
            PartError: the architecture is none of the parts here.
        """
        told = _read(folder / MODEL)
        try:
            model: Model = parts.build("models", told["model"])
            shape, classes = tuple(int(side) for side in told["shape"]), int(told["classes"])
            about = dict(told["about"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{folder / MODEL} is damaged", do="make the folder again") from None
        network = model.build(shape, classes)
        _fill(network, folder / WEIGHTS)
        return cls(model, network.eval(), shape, classes, about)


def train_model(model: Model, inputs: Tensor, labels: Tensor, classes: int, fitting: Fitting, rng: Source) -> Trained:
    """Returns a model trained on rows that are all in one place: what a service has before obfuscators come.

    Args:
        model: its architecture.
        inputs: shape (n, ...).
        labels: int64 (n,).
        classes: number of classes.
        fitting: how long and how fast.
        rng: of first weights and batches.
    """
    shape = tuple(inputs.shape[1:])

    def lost(network: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(inputs[batch]), labels[batch])

    network = fitting(lambda: model.build(shape, classes), lost, len(inputs), rng)
    return Trained(model, network, shape, classes, {"reach": float(inputs.abs().max())})


@dataclass(frozen=True, eq=False)
class Obfuscation:
    """Obfuscators trained for one model; each participant picks one of them at random.

    Attributes:
        obfuscator: the part.
        trained: the model.
        sides: the networks, one for each that was trained.
        figures: measured when it was made, plain values only.
    """

    obfuscator: Obfuscator
    trained: Trained
    sides: tuple[Sides, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def train(
        cls, obfuscator: Obfuscator, trained: Trained, inputs: Tensor, labels: Tensor, count: int, rng: Source
    ) -> Self:
        """Returns ``count`` obfuscators, each from its own first weights.

        Args:
            obfuscator: the part.
            trained: the model, which stays as it is.
            inputs: rows of its owner, (n, ...).
            labels: int64 (n,).
            count: how many.
            rng: of the training.
        """
        model = UserModel(trained.network, inputs, labels, trained.classes)
        return cls(obfuscator, trained, tuple(obfuscator.fit(model, rng.child(at)) for at in range(count)))

    def release(self, samples: Tensor, rng: Source, which: int = 0) -> Tensor:
        """Returns what leaves a device that picked obfuscator ``which``, in the shape of the samples."""
        return self.obfuscator.release(self.sides[which], samples, rng)

    def answer(self, released: Tensor, which: int = 0) -> Tensor:
        """Returns the model's logits (n, classes) for what left."""
        with torch.no_grad():
            service = self.sides[which].service
            return torch.cat([self.trained.network(service(part)) for part in released.split(_CHUNK)])

    @property
    def multiplications(self) -> int:
        """What a device computes for one sample."""
        side = self.sides[0]
        return multiplications(nn.Sequential(side.encoder, side.decoder), self.trained.shape)

    def bits(self, which: int | None = None) -> float:
        """Returns the most that one release tells, in bits of min-entropy leakage; ``math.inf`` where uncounted.

        Args:
            which: by this obfuscator; by any of them unless given.
        """
        sides = self.sides if which is None else [self.sides[which]]
        codes = max(self.obfuscator.codes(side) for side in sides)
        return ReleaseBits(int(codes)).bits if math.isfinite(codes) else math.inf

    def save(self, folder: Path) -> None:
        """Writes the model and the obfuscators."""
        self.trained.save(folder)
        for at, side in enumerate(self.sides):
            save(clone(side.state_dict()), folder / _weights(at))
        told = {"obfuscator": parts.to_table(self.obfuscator), "count": len(self.sides), "figures": dict(self.figures)}
        _write(folder / OBFUSCATOR, told)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Returns the obfuscators in a folder, and their model.

        Raises:
            InputError: the folder holds none, or its files don't fit each other.
            PartError: an architecture or the obfuscator is none of the parts here.
        """
        trained, told = Trained.load(folder), _read(folder / OBFUSCATOR)
        try:
            obfuscator: Obfuscator = parts.build("obfuscators", told["obfuscator"])
            count, figures = int(told["count"]), dict(told["figures"])
            if count < 1:
                raise ValueError(count)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{folder / OBFUSCATOR} is damaged", do="make the folder again") from None
        sides = list[Sides]()
        for at in range(count):
            side = obfuscator.build(trained.shape, trained.classes)
            _fill(side, folder / _weights(at))
            sides.append(side.eval())
        return cls(obfuscator, trained, tuple(sides), figures)


def promises(bits: float | None, guarantee: Mapping[str, Any] | None) -> list[str]:
    """Returns what is derived of one release, a line each, or the one line that nothing is.

    Args:
        bits: that it tells at most; None where nobody counts.
        guarantee: of its noise, as :meth:`privet.accounting.guarantee.Guarantee.to_json` has it.
    """
    lines = []
    if bits is not None:
        lines.append(f"one release tells at most {bits:.3g} bits of its sample (min-entropy leakage): derived")
    if guarantee is not None and guarantee["epsilon"] is not None:
        about = f"per {guarantee['unit']} ({guarantee['relation']}), one release, delta {guarantee['delta']:g}"
        lines.append(f"epsilon {guarantee['epsilon']:.3g} {about}: derived")
    return lines or ["no guarantee is derived: only attacks tell what it hides"]


def _weights(at: int) -> str:
    return f"obfuscator-{at}.safetensors"


def _fill(network: nn.Module, path: Path) -> None:
    try:
        fill(network, load(path))
    except InputError as error:
        raise InputError(f"{path}: {error.wrong}", allowed=error.allowed, do="make the folder again") from None


def _write(path: Path, told: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{path} is missing",
            do="name a folder of privet obfuscate train, or of a run whose model answers by itself",
        ) from None
    except ValueError:
        raise InputError(f"{path} is no JSON", do="make the folder again") from None
    if not isinstance(told, dict):
        raise InputError(f"{path} is no JSON object", do="make the folder again")
    return told
