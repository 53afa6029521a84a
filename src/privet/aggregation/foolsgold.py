"""FoolsGold: devices that always push the same way count little.

Paper: Fung, Yoon, Beschastnikh, The Limitations of Federated Learning in Sybil Settings, RAID 2020. Assumes that
honest devices differ and that those of one adversary resemble each other; it stands any number of Sybils, but not
one device that is alone in what it sends, however large that is. Where data is alike everywhere, honest devices
look like Sybils. Cost: one Gram product of the histories and two passes. Memory: one vector a device.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import gram
from privet.aggregation.mean import weighted_mean
from privet.parts import Grade, part

MOST = 0.99
"""A weight above this counts as this before its logit is taken, as in the authors' code."""


def weights_by_contribution(histories: Tensor) -> Tensor:
    """Returns how much each device counts, shape (n,), float64, in [0, 1].

    Args:
        histories: the sum of what each device has sent so far, shape (n, d).
    """
    n = len(histories)
    products = gram(histories, torch.zeros(histories.shape[1], dtype=torch.float64))
    lengths = products.diagonal().sqrt()
    alike = (products / lengths[:, None] / lengths[None, :]).nan_to_num(0.0, 0.0, 0.0).fill_diagonal_(-1.0)
    most = alike.max(1).values if n > 1 else torch.zeros(1, dtype=torch.float64)
    # Pardoning: who resembles a device that resembles another one even more is not to blame for it.
    pardon = torch.where(most[:, None] < most[None, :], most[:, None] / most[None, :], 1.0)
    worst = (alike * pardon).fill_diagonal_(-1.0).max(1).values if n > 1 else most
    weights = (1 - worst).clamp(0, 1)
    if not float(weights.max()) > 1e-9:  # all alike: nothing tells who is a Sybil
        return torch.ones(n, dtype=torch.float64)
    weights = (weights / weights.max()).clamp_max(MOST)
    return ((weights / (1 - weights)).log() + 0.5).clamp(0, 1)


@part
class Foolsgold(Aggregator):
    """Averages updates by how little a device's history resembles that of another; weights don't count.

    It takes all values of the model alike, where the authors may keep those that matter for a class. Histories
    are kept by identity; without identities only this round's updates are compared.

    References:
        Fung et al., RAID 2020, section 5, algorithm 1.
    """

    grade: ClassVar[Grade] = "measured"
    anchored: ClassVar[bool] = True

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        self.check(updates, weights)
        memory = dict(around.memory)
        for identity, update in zip(around.identities, updates, strict=bool(around.identities)):
            name = f"history.{identity}"
            memory[name] = memory[name] + update if name in memory else update.clone()
        histories = [memory[f"history.{identity}"] for identity in around.identities]
        trust = weights_by_contribution(torch.stack(histories) if histories else updates)
        combined = weighted_mean(updates, trust / trust.sum())
        return Combined(combined, trust > 0, 1 - trust, memory=memory)
