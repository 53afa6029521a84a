"""How sure one model, or many at once, are of given labels, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from privet.engines.view import Query
from privet.errors import InputError

_CHUNK = 1024


def log_confidence(query: Query, inputs: Tensor, labels: Tensor) -> Tensor:
    """Returns the logarithm of the softmax probability of each row's label, at most 0.

    Args:
        query: inputs (n, ...) -> logits (n, classes), or (models, n, classes) for many models at once.
        inputs: shape (n, ...).
        labels: shape (n,).

    Returns:
        Shape (n,), or (models, n).

    Raises:
        InputError: a label is no class of the model, or the model answers with numbers that are not finite.
    """
    return _of_labels(_logits(query, inputs, labels).log_softmax(-1), labels)


def log_odds(query: Query, inputs: Tensor, labels: Tensor) -> Tensor:
    """Returns log(p / (1 - p)) of the softmax probability p of each row's label.

    It is made from the logits, as p itself rounds to 1 where a model is sure. Arguments, shapes and errors
    are those of :func:`log_confidence`.

    References:
        Carlini et al., Membership Inference Attacks From First Principles (S&P 2022), section IV.C:
        scaled so, the confidences of many models are about normal.
    """
    logits = _logits(query, inputs, labels)
    mine = labels.long().view(-1, 1).expand(*logits.shape[:-1], 1)
    others = logits.scatter(-1, mine, -torch.inf).logsumexp(-1)
    return _of_labels(logits, labels) - others


@torch.no_grad()
def _logits(query: Query, inputs: Tensor, labels: Tensor) -> Tensor:
    logits = torch.cat([query(chunk) for chunk in torch.split(inputs, _CHUNK)], dim=-2).double()
    if not torch.isfinite(logits).all():
        raise InputError("the model's answers are not finite", do="attack a model whose training went well")
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise InputError("the view holds a label that is no class", allowed=f"0 to {logits.shape[-1] - 1}")
    if logits.shape[-1] < 2:
        raise InputError("the model knows one class only, so its answers say nothing", allowed="two classes or more")
    return logits


def _of_labels(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(-1, labels.long().view(-1, 1).expand(*values.shape[:-1], 1))[..., 0]
