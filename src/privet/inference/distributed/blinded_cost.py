"""How long blinded inference takes on a shared channel, and which layers the source had better compute itself.

A layer that is sent costs its inputs once to all helpers (multicast) or once to each, its outputs once, the
multiplications shared out over helpers by speed, and the check of the answer at the source. A layer at the source
costs its multiplications. ReLU and pooling cost nothing, masks are prepared while nothing is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privet.inference.distributed.networks import Conv2d, Linear, Network

WORD_BITS = 32
CHECK_ROWS = 4
"""Rows that checking an answer multiplies with, modulo the prime."""


@dataclass(frozen=True)
class Site:
    """A machine and its way to the source.

    Attributes:
        speed: multiplications a second.
        rate: bits a second.
        trip: seconds of an empty call.
    """

    speed: float
    rate: float
    trip: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Modelled seconds of one inference.

    Attributes:
        seconds: with helpers, for the layers that gain by it.
        local: on the source alone.
        air: of ``seconds``, on the channel.
        checks: of ``seconds``, checking answers.
        at_source: numbers of the linear layers that the source computes.
        bits: on the channel.
    """

    seconds: float
    local: float
    air: float
    checks: float
    at_source: tuple[int, ...]
    bits: int


def estimate(
    network: Network, source: Site, helpers: Sequence[Site], *, multicast: bool = True, checked: bool = True
) -> Estimate:
    """Returns how long one inference takes when each linear layer runs where it is faster.

    Args:
        network: shapes are enough.
        source: its speed; its rate is that of the shared channel where it is the slowest.
        helpers: one at least.
        multicast: whether inputs are on the channel once for all helpers, or once for each.
        checked: whether answers are checked.
    """
    rate = min(source.rate, *(site.rate for site in helpers))
    together, trip = sum(site.speed for site in helpers), max(site.trip for site in helpers)
    air = checks = seconds = local = 0.0
    at_source, bits = [], 0
    for number, layer in enumerate(linear(network)):
        work, ins, outs = costs(layer)
        alone = work / source.speed
        words = ins * (1 if multicast else len(helpers)) + outs
        sending = WORD_BITS * words / rate + trip
        # The check: its rows over the inputs, and one random combination of the outputs.
        checking = (CHECK_ROWS * work / layer.outputs[0] + 2 * outs) / source.speed if checked else 0.0
        local += alone
        if alone <= sending + work / together + checking:
            at_source.append(number)
            seconds += alone
            continue
        air, checks, bits = air + sending, checks + checking, bits + WORD_BITS * words
        seconds += sending + work / together + checking
    return Estimate(seconds, local, air, checks, tuple(at_source), bits)


def here(network: Network, source: Site, helpers: Sequence[Site]) -> tuple[int, ...]:
    """Returns the numbers of the linear layers that are faster at the source."""
    open_way = Site(source.speed, min(site.rate for site in helpers), 0.0)
    return estimate(network, open_way, helpers, multicast=False).at_source


def linear(network: Network) -> list[Conv2d | Linear]:
    """Returns the layers that have weights."""
    return [layer for layer in network.layers if isinstance(layer, (Conv2d, Linear))]


def costs(layer: Conv2d | Linear) -> tuple[int, int, int]:
    """Returns multiplications, inputs and outputs of a layer for one image."""
    outs = math.prod(layer.outputs)
    fan = layer.kernel[0] * layer.kernel[1] * layer.inputs[0] if isinstance(layer, Conv2d) else layer.inputs[0]
    return fan * outs, math.prod(layer.inputs), outs
