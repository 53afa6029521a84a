"""Figures, intervals and floors of attacks on updates, on the model itself, on a device's property and on attributes.

What :mod:`privet.evidence.audit` does for features and membership, in the same form. These attacks give
their answers in an order of their own, or one a class, so that they are matched with the truth first.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privet.attacks.contract import Reconstruction, Scores
from privet.attacks.linear_inverse import class_means
from privet.engines.view import Query, View
from privet.errors import InputError
from privet.evidence.audit import (
    NO_PROOF,
    Finding,
    auc,
    clopper_pearson,
    judge_reconstruction,
)
from privet.evidence.similarity import ssim
from privet.randomness import seeded

_CHUNK = 256


def judge_updates(
    name: str, view: View, reconstruction: Reconstruction, truth: Tensor, labels: Tensor, judge: Query | None = None
) -> tuple[Finding, Tensor]:
    """Returns how near records reconstructed from updates come to those that the updates were made from.

    Within a device, guesses and originals are matched one to one so that their total squared distance is
    least. Matching helps any guess a little, so ``..._own_rows`` among the floors is what rows of the
    attacker's own score that were drawn blindly and matched in the same way. Besides the metrics of
    :func:`privet.evidence.audit.judge_reconstruction` there is ``labels_found``, the share of labels that
    the attack named, counted within each device.

    Args:
        name: the attack's name.
        view: what the attacker saw: ``counts`` rows of each device, in the order of ``truth``.
        reconstruction: the attack's answer, shape (n, ...).
        truth: the originals, shape (n, ...), device by device.
        labels: the originals' labels, shape (n,).
        judge: a classifier trained on clean data.

    Returns:
        The finding, and the guesses in the order of the originals.

    Raises:
        InputError: the shapes don't match, or a guess is not finite.
    """
    guess, counts = reconstruction.inputs, view.seen["counts"].tolist()
    if guess.shape != truth.shape or sum(counts) != len(truth) or not torch.isfinite(guess).all():
        raise InputError(
            f"the attack returned shape {tuple(guess.shape)}", allowed=f"finite values of shape {tuple(truth.shape)}"
        )
    order = _matched(guess, truth, counts)
    found = judge_reconstruction(name, view, replace(reconstruction, inputs=guess[order]), truth, labels, judge)
    metrics, floor = dict(found.metrics), dict(found.floor)
    if len(own := view.knows.get("inputs", truth[:0])):
        drawn = own[torch.from_numpy(seeded(0, "own rows").integers(len(own), len(truth)))].to(truth.dtype)
        blind = Reconstruction(drawn[_matched(drawn, truth, counts)])
        scored = judge_reconstruction(name, view, blind, truth, labels, judge).metrics
        floor |= {f"{key}_own_rows": scored[key] for key in scored if not key.endswith(("_low", "_high"))}
    if reconstruction.labels is not None:
        hits = _common(reconstruction.labels, labels, counts)
        metrics |= {"labels_found": hits / len(labels)} | _ends("labels_found", clopper_pearson(hits, len(labels)))
        mode = view.knows["labels"].mode().values if "labels" in view.knows else labels.mode().values
        floor["labels_found_most_common"] = _common(mode.expand_as(labels), labels, counts) / len(labels)
    note = f"{len(truth)} records behind {len(counts)} updates, matched within each. {NO_PROOF}"
    return replace(found, metrics=metrics, floor=floor, note=note), guess[order]


def judge_model(
    name: str, view: View, reconstruction: Reconstruction, truth: Tensor, labels: Tensor, judge: Query | None = None
) -> tuple[Finding, Tensor, Tensor]:
    """Returns how near what an attack draws of each class comes to what members of that class have in common.

    Only classes are judged of which the attacker has no rows; each is compared with the mean of the members
    of its class, by the metrics of :func:`privet.evidence.audit.judge_reconstruction`. Floors: the mean of
    the attacker's own rows, and, for images, ``ssim_other_class``: the most alike mean of a class that it has.

    Args:
        name: the attack's name.
        view: what the attacker saw; its own ``inputs`` and ``labels``.
        reconstruction: one input a class, in the order of classes.
        truth: the members, shape (n, ...).
        labels: their labels, shape (n,).
        judge: a classifier trained on clean data.

    Returns:
        The finding, the mean member of each class that is judged, and what the attack drew of it.

    Raises:
        InputError: there is not one finite input a class, or no class that the attacker lacks.
    """
    guess = reconstruction.inputs
    if guess.shape != (view.classes, *truth.shape[1:]) or not torch.isfinite(guess).all():
        raise InputError(f"the attack returned shape {tuple(guess.shape)}", allowed="one finite input a class")
    owned = view.knows["labels"].unique() if "labels" in view.knows else torch.zeros(0, dtype=torch.int64)
    lacking = labels.unique()[~torch.isin(labels.unique(), owned)]
    if not len(lacking):
        raise InputError("the attacker has rows of every class, so the model tells it nothing", do="give it fewer")
    means = class_means(truth, labels.long(), view.classes).to(truth.dtype)[lacking]
    found = judge_reconstruction(name, view, Reconstruction(guess[lacking]), means, lacking, judge)
    floor = dict(found.floor)
    if len(view.shape) == 3 and len(owned):
        known = class_means(view.knows["inputs"], view.knows["labels"].long(), view.classes).to(truth.dtype)[owned]
        likest = [ssim(known, mean.expand_as(known)).max() for mean in means]
        floor["ssim_other_class"] = float(torch.stack(likest).mean())
    note = f"{len(lacking)} classes that the attacker has no rows of. {NO_PROOF}"
    return replace(found, floor=floor, note=note), means, guess[lacking]


def judge_property(name: str, view: View, scores: Scores, truth: Tensor) -> Finding:
    """Returns how well scores tell devices whose rows have a property from the others: the area under the curve.

    Raises:
        InputError: there is not one finite score a device, or all devices are alike.
    """
    area, low, high = auc(scores.scores, truth)
    note = f"{int(truth.sum())} devices have the property, {int((~truth).sum())} don't. {NO_PROOF}"
    return Finding(name, view.party, {"auc": area, "auc_low": low, "auc_high": high}, {"auc": 0.5}, note)


def judge_attribute(
    name: str, view: View, scores: Scores, truth: Tensor, strangers: tuple[Scores, Tensor] | None = None
) -> Finding:
    """Returns how often the likeliest candidate is the true value of a hidden column.

    Metrics: ``found`` and, where rows that were not trained on were attacked too, ``found_of_strangers``:
    what is as good on them comes from what everybody with such data could learn, not from having been trained
    on. Floors: the most common value, and the value of the record of the attacker's own that is nearest in
    the other columns.

    Args:
        name: the attack's name.
        view: what the attacker saw and knows.
        scores: shape (n, c).
        truth: the right candidate of each record, shape (n,), int64.
        strangers: scores and truth of rows that were not trained on.

    Raises:
        InputError: there is not one finite score a record and candidate.
    """
    hits = _named(scores, truth, view)
    metrics = {"found": hits / len(truth)} | _ends("found", clopper_pearson(hits, len(truth)))
    note = f"{len(truth)} records, column {view.knows['columns'].tolist()}, {len(view.knows['candidates'])} values."
    if strangers is not None:
        theirs, answers = strangers
        right = _named(theirs, answers, view)
        metrics |= {"found_of_strangers": right / len(answers)}
        metrics |= _ends("found_of_strangers", clopper_pearson(right, len(answers)))
    blind = _imputed(view)
    floor = {f"found_{kind}": float((guess == truth).double().mean()) for kind, guess in blind.items()}
    return Finding(name, view.party, metrics, floor, f"{note} {NO_PROOF}")


def _matched(guess: Tensor, truth: Tensor, counts: list[int]) -> Tensor:
    """Returns, device by device, which guess stands for each original, shape (n,)."""
    at, orders = 0, []
    for count in counts:
        mine, theirs = (rows[at : at + count].flatten(1).double() for rows in (truth, guess))
        chosen = linear_sum_assignment(torch.cdist(mine, theirs).square().numpy())[1]
        orders.append(at + torch.from_numpy(chosen))
        at += count
    return torch.cat(orders)


def _common(guess: Tensor, truth: Tensor, counts: list[int]) -> int:
    """Returns how many labels two lists share, counted within each device."""
    shared, most = 0, int(max(guess.max(), truth.max())) + 1
    for mine, theirs in zip(guess.long().split(counts), truth.long().split(counts), strict=True):
        shared += int(torch.minimum(mine.bincount(minlength=most), theirs.bincount(minlength=most)).sum())
    return shared


def _named(scores: Scores, truth: Tensor, view: View) -> int:
    met, wanted = tuple(scores.scores.shape), (len(truth), len(view.knows["candidates"]))
    if met != wanted or not torch.isfinite(scores.scores).all():
        raise InputError(f"the attack returned scores of shape {met}", allowed=f"finite scores of shape {wanted}")
    return int((scores.scores.argmax(1) == truth).sum())


def _imputed(view: View) -> dict[str, Tensor]:
    """Returns, by kind, which candidate an attacker would name who could not ask the model."""
    own, candidates, columns = (view.knows[key] for key in ("inputs", "candidates", "columns"))
    own, seen = own.flatten(1).double(), view.seen["inputs"].flatten(1).double()
    theirs = torch.cdist(own[:, columns], candidates.double()).argmin(1)
    others = torch.ones(own.shape[1], dtype=torch.bool).index_fill_(0, columns, False)
    unit = own.std(0).clamp_min(1e-12)
    near = [torch.cdist((part / unit)[:, others], (own / unit)[:, others]).argmin(1) for part in seen.split(_CHUNK)]
    return {"most_common": theirs.mode().values.expand(len(seen)), "nearest_record": theirs[torch.cat(near)]}


def _ends(key: str, ends: tuple[float, float]) -> dict[str, float]:
    return {f"{key}_low": ends[0], f"{key}_high": ends[1]}
