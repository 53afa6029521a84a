"""How sure a model is of given labels, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from privet.engines.view import Query
from privet.errors import InputError

_CHUNK = 1024


@torch.no_grad()
def log_confidence(query: Query, inputs: Tensor, labels: Tensor) -> Tensor:
    """Returns the logarithm of the softmax probability of each row's label, shape (n,), at most 0.

    Raises:
        InputError: a label is no class of the model, or the model answers with numbers that are not finite.
    """
    logits = torch.cat([query(chunk) for chunk in torch.split(inputs, _CHUNK)]).double()
    if not torch.isfinite(logits).all():
        raise InputError("the model's answers are not finite", do="attack a model whose training went well")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputError("the view holds a label that is no class", allowed=f"0 to {logits.shape[1] - 1}")
    return logits.log_softmax(1).gather(1, labels.long()[:, None])[:, 0]
