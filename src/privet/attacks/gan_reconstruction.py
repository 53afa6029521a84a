"""GAN reconstruction: an insider trains a generator against the shared model, class by class.

The insider copies the shared model and gives the copy one more class, for fakes. In turns, the copy learns to
tell the insider's own rows from what the generator makes, and the generator learns to make, for every class,
what the copy takes for real and the shared model for that class; so it also draws classes that the insider
has no row of.

Assumes: the values of the shared model, and rows of the insider's own that look like those of others (the
same kind of image, of other classes). The paper's insider also feeds its fakes back as training rows, so that
others teach the model more about the class; this one only listens, and so understates the active one. It finds
what a class looks like, not a record; where the rows of a class differ much it finds nothing of use. Training
with record-level noise does not stop it while the model still knows the class.

Cost: 20 CPU-seconds for ten classes (LeNet on 28 x 28, 600 steps).

References:
    Hitaj, Ateniese, Perez-Cruz, Deep Models under the GAN: Information Leakage from Collaborative Deep
    Learning (CCS 2017), section 6.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pydantic import Field
from torch import Tensor, nn

from privet.attacks.contract import Attack, Reconstruction, Target, network_of, rows
from privet.attacks.gradients import last_layer
from privet.attacks.ranges import Range
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source

_DRAWN = 64  # rows made of each class at the end, of which the most typical is the answer


@part
class GanReconstruction(Attack):
    """Trains a generator against the shared model, and draws a typical input of every class.

    Needs ``view.network``, and ``inputs`` and ``labels`` of the insider's own in ``knows``.

    Attributes:
        steps: of generator and copy, in turns.
        batch_size: rows in a step.
        width: units in each of the generator's two hidden layers.
        code: random numbers that the generator makes a row of.
        learning_rate: of Adam, for both.
        realism: weight of being taken for real, beside being taken for the class.
    """

    grade: ClassVar[Grade] = "experimental"
    target: ClassVar[Target] = "model"

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    batch_size: Annotated[int, Field(ge=2, le=10_000)] = 64
    width: Annotated[int, Field(ge=1, le=100_000)] = 256
    code: Annotated[int, Field(ge=1, le=10_000)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    realism: Annotated[float, Field(ge=0)] = 0.3

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        shared, copy = network_of(view).requires_grad_(False).eval(), network_of(view).train()
        inputs, labels = rows(view.knows, "inputs", "labels")
        if inputs.shape[1:] != view.shape or labels.min() < 0 or labels.max() >= view.classes:
            raise InputError(
                f"the insider's rows have shape {tuple(inputs.shape[1:])} and labels up to {int(labels.max())}",
                allowed=f"{view.shape}, labels below {view.classes}; no label that is no class",
            )
        space, fake = Range(view), view.classes
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.child("layers").integers(1 << 62, 1)[0]))
            _widen(copy)
            generator = self._generator(view)
            teach = torch.optim.Adam(copy.parameters(), self.learning_rate, betas=(0.5, 0.999))
            learn = torch.optim.Adam(generator.parameters(), self.learning_rate, betas=(0.5, 0.999))
            for _ in range(self.steps):
                wanted = torch.randint(view.classes, (self.batch_size,))
                made = space.rows(self._make(generator, wanted, view))
                batch = torch.randint(len(labels), (self.batch_size,))
                mixed = torch.cat((inputs[batch].float(), made.detach()))
                told = torch.cat((labels[batch].long(), torch.full_like(wanted, fake)))
                teach.zero_grad()
                F.cross_entropy(copy(mixed), told).backward()
                teach.step()
                learn.zero_grad()
                real = 1 - copy(made).softmax(1)[:, fake]
                cost = F.cross_entropy(shared(made), wanted) - self.realism * real.clamp_min(1e-6).log().mean()
                cost.backward()
                learn.step()
            with torch.no_grad():
                every = torch.arange(view.classes).repeat_interleave(_DRAWN)
                drawn = space.rows(self._make(generator.eval(), every, view)).unflatten(0, (view.classes, _DRAWN))
        distance = (drawn - drawn.mean(1, keepdim=True)).flatten(2).norm(dim=2)
        typical = drawn[torch.arange(view.classes), distance.argmin(1)]
        return Reconstruction(typical, torch.arange(view.classes))

    def _generator(self, view: View) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Linear(self.code + view.classes, self.width), nn.LeakyReLU(0.2)),
            *(nn.Linear(self.width, self.width), nn.BatchNorm1d(self.width), nn.LeakyReLU(0.2)),
            nn.Linear(self.width, math.prod(view.shape)),
            nn.Sigmoid() if len(view.shape) == 3 else nn.Identity(),
        )

    def _make(self, generator: nn.Sequential, wanted: Tensor, view: View) -> Tensor:
        code = torch.randn(len(wanted), self.code)
        made: Tensor = generator(torch.cat((code, F.one_hot(wanted, view.classes)), 1))
        return made.reshape(-1, *view.shape)


def _widen(network: nn.Sequential) -> None:
    """Gives a network one more class, whose logit starts from small random weights."""
    name, layer = last_layer(network)
    wider = nn.Linear(layer.in_features, layer.out_features + 1)
    with torch.no_grad():
        wider.weight[:-1] = layer.weight
        wider.bias[:-1] = 0 if layer.bias is None else layer.bias
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, wider)
