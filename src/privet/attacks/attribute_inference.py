"""Attribute inference: which value of a hidden column makes the model surest of the record's label?

Every candidate is put in the record's place in turn; its score is the logarithm of the model's confidence in
the true label, plus that of how common the candidate is among the attacker's own rows.

Assumes: all other columns and the label of the record are known, and the model may be asked. It says most
where the hidden column matters for the label or the model has learned its training rows by heart. A guess
from the other columns alone (imputation) may do as well: what counts is how much better it does on records
that were trained on.

Cost: one question a candidate and record; 0.05 CPU-seconds for 1,000 records and 8 candidates (a multilayer
perceptron).

References:
    Fredrikson et al., Privacy in Pharmacogenetics (USENIX Security 2014), figure 5; Yeom, Giacomelli,
    Fredrikson, Jha, Privacy Risk in Machine Learning (CSF 2018), section 5. Jayaraman, Evans, Are Attribute
    Inference Attacks Just Imputation? (CCS 2022): the floor.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from privet.attacks.confidence import log_confidence
from privet.attacks.contract import Attack, Scores, Target, rows
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source


@part
class AttributeInference(Attack):
    """Scores each value that a hidden column could have by the model's confidence in the record's label.

    Needs ``view.query``, ``seen`` with ``inputs`` (n, ...) and ``labels`` (n,), ``knows["columns"]`` (h,) and
    ``knows["candidates"]`` (c, h); uses ``knows["inputs"]`` (m, ...) for how common each candidate is.

    Attributes:
        prior: whether a candidate that is common among the attacker's rows is likelier.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "attribute"

    prior: bool = True

    def __call__(self, view: View, rng: Source) -> Scores:
        inputs, labels = rows(view.seen, "inputs", "labels")
        columns, candidates = _hidden(view, inputs)
        if view.query is None:
            raise InputError("the view has no model to ask", do="attack from a party that may query the model")
        scores = []
        for candidate in candidates:
            tried = inputs.flatten(1).clone()
            tried[:, columns] = candidate
            scores.append(log_confidence(view.query, tried.view_as(inputs), labels))
        common = torch.zeros(len(candidates), dtype=torch.float64)
        if self.prior and "inputs" in view.knows:
            common = _common(rows(view.knows, "inputs")[0].flatten(1)[:, columns], candidates)
        return Scores(torch.stack(scores, 1) + common)


def _hidden(view: View, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the hidden columns (h,) and the candidates (c, h) in the inputs' type."""
    (columns,), (candidates,) = rows(view.knows, "columns"), rows(view.knows, "candidates")
    width = inputs[0].numel()
    if columns.min() < 0 or columns.max() >= width or candidates.shape[1:] != columns.shape:
        raise InputError(
            f"candidates of shape {tuple(candidates.shape)} for columns {columns.tolist()[:10]}",
            allowed=f"columns in 0 to {width - 1}, and a value of each in every candidate",
        )
    return columns.long(), candidates.to(inputs.dtype)


def _common(own: Tensor, candidates: Tensor) -> Tensor:
    """Returns the logarithm of the share of the attacker's rows that lie nearest each candidate, one row added."""
    spread = own.std(0, correction=0).clamp_min(1e-6)
    nearest = torch.cdist((own / spread).double(), (candidates / spread).double()).argmin(1)
    counts = nearest.bincount(minlength=len(candidates)) + 1
    return (counts / counts.sum()).double().log()
