"""Contrastive re-identifier: two networks learn which record and which release belong together.

Nothing is undone: of many candidates the attacker names the one whose record agrees best with what was seen. That
finds a record whose release keeps little of the picture, but something that is its own.

Knowledge: pairs (coordinator or outsider); labels if they travel: then it learns to tell records of one class apart.
Cost: 30 to 45 CPU-seconds for 20,000 pairs of 784 values and 784 pixels, one thread.

References:
    van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding (2018), equation 4.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.attacks import matchers
from privet.attacks.contract import Attack, Matcher, Reconstruction, Target
from privet.attacks.material import averaged, material
from privet.attacks.neighbours import looked_up
from privet.engines.view import View
from privet.models.fitting import Fitting
from privet.parts import Grade, part
from privet.randomness import Source

_MOST_PASSES, _LEAST_STEPS = 60, 8  # the latter in each pass


@part
class Contrastive(Attack):
    """Learns on its own pairs to tell whose release was seen, among candidates, without undoing anything.

    Needs ``seen["features"]`` (n, d), ``knows["features"]`` (m, d) and ``knows["inputs"]`` (m, ...); of (n, r, d) and
    (m, r, d) the mean over r releases of one record is taken. Uses ``labels`` when both sides have them. Its guess is
    looked up among its own pairs; the matcher does not need it.

    Attributes:
        steps: of the optimiser; nothing passes over the pairs more than 60 times.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: pairs a step; each is told apart from the others of its batch.
        width: units in the hidden layer of each network.
        shared: dimensions of the space in which they meet.
        principal: directions in which releases and inputs are described, at most.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "features"

    steps: Annotated[int, Field(ge=1)] = 1200
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    batch_size: Annotated[int, Field(ge=2)] = 512
    width: Annotated[int, Field(ge=1)] = 512
    shared: Annotated[int, Field(ge=1)] = 128
    principal: Annotated[int, Field(ge=1)] = 256

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        given = material(view)
        known = averaged(given, view.shape)
        batch = max(min(self.batch_size, len(known.pairs.inputs) // _LEAST_STEPS), 2)
        passes = min(math.ceil(self.steps * batch / len(known.pairs.inputs)), _MOST_PASSES)
        size = matchers.Size(self.width, self.shared, self.principal)

        @functools.cache
        def made() -> Matcher:
            fitting = Fitting(passes, self.learning_rate, batch)
            blocks = (known.pairs.features,), given.inputs, (known.seen,)
            return matchers.learned(*blocks, fitting, rng.child("matcher"), size, given.known_labels)

        def match(candidates: Tensor) -> Tensor:
            return made()(candidates)

        guess = known.undone(looked_up(known.pairs, view.shape, rng.child("held out")))
        return Reconstruction(guess, matchers={"matcher": match})
