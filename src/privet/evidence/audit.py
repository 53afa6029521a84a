"""From an attack's raw answer to figures with intervals, beside what a guess without the view scores.

Only this file knows the truth (the originals, who was a member) and only this file makes intervals
and floors. Intervals are at 95 %. A floor is named after its metric: ``ssim_class_mean`` is the
SSIM of guessing, for every record, the mean of the attacker's own images with the record's label;
it needs the labels, which travel in the clear, and nothing else that was seen.

References:
    Clopper, Pearson (Biometrika 1934); DeLong, DeLong, Clarke-Pearson (Biometrics 1988).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import beta, norm, rankdata
from torch import Tensor

from privet.attacks.contract import Reconstruction, Scores
from privet.attacks.linear_inverse import class_means
from privet.engines.view import Query, View
from privet.errors import InputError
from privet.evidence.similarity import psnr, ssim
from privet.randomness import seeded

NO_PROOF = "An attack that fails proves no guarantee: a stronger attacker, or more of the view, may do better."
_CHUNK = 1024
_LEVEL = 0.01  # the false-positive rate at which the true-positive rate is read

Interval = tuple[float, float]
"""The low and the high end."""


@dataclass(frozen=True)
class Finding:
    """What one attack on one view achieved.

    Attributes:
        name: the attack.
        view: the party whose view it was.
        metrics: by name, what the attack scored; ``x_low`` and ``x_high`` are the 95 % interval of ``x``.
        floor: by the metric's name, with the kind of guess behind it, what a guess without the view scores.
        note: how to read the figures.
    """

    name: str
    view: str
    metrics: dict[str, float]
    floor: dict[str, float]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Returns the exact interval of a success rate; its coverage is never below ``confidence``.

    Raises:
        InputError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or not trials or not 0 < confidence < 1:
        raise InputError(
            f"no interval for {successes} of {trials} at confidence {confidence}",
            allowed="0 <= successes <= trials, at least one trial, a confidence between 0 and 1",
        )
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def mean_interval(values: Tensor, confidence: float = 0.95) -> Interval:
    """Returns the normal interval of the mean of independent values, shape (n,); a point for one value."""
    middle = float(values.double().mean())
    error = float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    return middle - reach, middle + reach


def auc(scores: Tensor, members: Tensor, confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns the area under the ROC curve and its DeLong interval; ties count half.

    Where the scores separate the two groups completely the variance DeLong estimates is 0; the
    interval is then the Clopper-Pearson one of the smaller group, which is wider.

    Raises:
        InputError: there are no members or no others.
    """
    inside, outside = _sides(scores, members)
    m, n = len(inside), len(outside)
    together = rankdata(torch.cat((inside, outside)).numpy())
    above = (together[:m] - rankdata(inside.numpy())) / n
    below = 1 - (together[m:] - rankdata(outside.numpy())) / m
    area = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    if area in (0.0, 1.0) or min(m, n) < 2:
        low, high = clopper_pearson(round(area * min(m, n)), min(m, n), confidence)
    else:
        reach = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
        low, high = max(area - reach, 0.0), min(area + reach, 1.0)
    return area, min(low, area), max(high, area)


def judge_membership(name: str, view: View, scores: Scores, members: Tensor) -> Finding:
    """Returns how well scores tell members from others.

    Metrics: ``auc``, and ``tpr_at_1_percent_fpr`` (the share of members above the lowest threshold
    that at most 1 % of the others pass; its interval takes the threshold as given).

    Args:
        name: the attack's name.
        view: what the attacker saw.
        scores: the attack's answer, shape (n,).
        members: the truth, shape (n,), bool.

    Raises:
        InputError: scores and truth don't match, scores are not finite, or one side is empty.
    """
    area, low, high = auc(scores.scores, members)
    inside, outside = _sides(scores.scores, members)
    threshold = outside.sort(descending=True).values[int(_LEVEL * len(outside))]
    caught = inside > threshold
    ends = clopper_pearson(int(caught.sum()), len(caught))
    metrics = {"auc": area, "auc_low": low, "auc_high": high, "tpr_at_1_percent_fpr": float(caught.double().mean())}
    metrics |= {"tpr_at_1_percent_fpr_low": ends[0], "tpr_at_1_percent_fpr_high": ends[1]}
    note = f"{len(inside)} members and {len(outside)} others. {NO_PROOF}"
    return Finding(name, view.party, metrics, {"auc": 0.5, "tpr_at_1_percent_fpr": _LEVEL}, note)


def judge_reconstruction(
    name: str, view: View, reconstruction: Reconstruction, truth: Tensor, labels: Tensor, judge: Query | None = None
) -> Finding:
    """Returns how near reconstructions come to the originals.

    Metrics of images (``view.shape`` has three sides): ``ssim``, ``ssim_95th`` (the records that
    leak most), ``psnr``. Of vectors, with columns centred and in units of their spread: ``error``
    (distance to the original over the typical distance of originals from the mean) and
    ``correlation``. Of both: ``reidentified`` (share of rows whose own original the attacker picks out
    of all n), ``reidentified_in_class`` (the same where labels were seen: out of those with the label of
    the row) and ``label_accuracy`` (share of guesses to which ``judge`` gives the original's label).

    Where the attacker has several ways to pick (the original nearest to its guess, and the
    reconstruction's ``matchers``) each is a metric of its own, ``reidentified_by_guess`` and so on, and
    ``reidentified`` is the best of them, with an interval that allows for the picking (Bonferroni); so is
    ``reidentified_in_class``, whose best way may be another one.

    Args:
        name: the attack's name.
        view: what the attacker saw; its own inputs make the floors.
        reconstruction: the attack's answer, shape (n, ...).
        truth: the originals, shape (n, ...), row by row what was seen.
        labels: the originals' labels, shape (n,).
        judge: a classifier trained on clean data, inputs -> logits; without it no label accuracy.

    Raises:
        InputError: the shapes don't match, or a guess is not finite.
    """
    guess = reconstruction.inputs
    if guess.shape != truth.shape or len(labels) != len(truth) or not len(truth):
        raise InputError(
            f"the attack returned shape {tuple(guess.shape)} for {len(labels)} labels",
            allowed=f"{tuple(truth.shape)}, one label a row",
        )
    if not torch.isfinite(guess).all():
        raise InputError("the attack returned values that are not finite", do="correct the attack")
    measure = _measure(view, truth, labels, judge)
    found = measure(guess)
    scores = {way: _checked(match(truth), len(truth)) for way, match in reconstruction.matchers.items()}
    ways = {"guess": found["reidentified"]} | {way: _picked(table) for way, table in scores.items()}
    found["reidentified"] = max(ways.values(), key=_hits)
    if (same := _of_one_class(view, labels)) is not None:
        within = [_picked(table.masked_fill(~same, -torch.inf)) for table in scores.values()]
        found["reidentified_in_class"] = max([found["reidentified_in_class"], *within], key=_hits)
    metrics: dict[str, float] = {}
    for key, values in found.items():
        metrics |= _with_interval(key, values, tries=len(ways) if key.startswith("reidentified") else 1)
    floor = _chances("reidentified", view, labels)
    if same is not None:
        floor["reidentified_in_class"] = floor["reidentified_label"]
    if len(ways) > 1:
        for way, hits in ways.items():
            metrics |= _with_interval(f"reidentified_by_{way}", hits)
            floor |= _chances(f"reidentified_by_{way}", view, labels)
    if "label_accuracy" in found and view.classes:
        floor["label_accuracy"] = 1 / view.classes
    for kind, blind in _blind_guesses(view, truth, labels).items():
        scored = measure(blind)
        floor |= {f"{key}_{kind}": float(values.double().mean()) for key, values in scored.items()}
        if "ssim" in scored:
            floor[f"ssim_95th_{kind}"] = float(scored["ssim"].quantile(0.95))
    if "ssim" in found:
        metrics["ssim_95th"] = float(found["ssim"].quantile(0.95))
    note = f"{len(truth)} records; {len(view.knows.get('inputs', ()))} pairs of the attacker's own. {NO_PROOF}"
    return Finding(name, view.party, metrics, floor, note)


def _with_interval(key: str, values: Tensor, tries: int = 1) -> dict[str, float]:
    """Returns a metric and its 95 % interval; one picked as the best of several tries has a wider one."""
    if values.dtype == torch.bool:
        ends = clopper_pearson(int(values.sum()), len(values), 1 - 0.05 / tries)
    else:
        ends = mean_interval(values)
    return {key: float(values.double().mean()), f"{key}_low": ends[0], f"{key}_high": ends[1]}


def _chances(key: str, view: View, labels: Tensor) -> dict[str, float]:
    """Returns how often picking blindly hits, and, where labels were seen, picking among those of the label."""
    floor = {key: 1 / len(labels)}
    if "labels" in view.seen:
        floor[f"{key}_label"] = len(labels.unique()) / len(labels)
    return floor


def _of_one_class(view: View, labels: Tensor) -> Tensor | None:
    """Returns which candidates (second) have the label of which rows (first), where labels were seen."""
    return labels[:, None] == labels if "labels" in view.seen else None


def _checked(scores: Tensor, candidates: int) -> Tensor:
    if scores.shape != (candidates, candidates) or not torch.isfinite(scores).all():
        raise InputError(
            f"the attack returned scores of shape {tuple(scores.shape)} for {candidates} candidates",
            allowed="one finite score a row and candidate",
            do="correct the attack",
        )
    return scores


def _picked(scores: Tensor) -> Tensor:
    """Returns for which rows the attacker is surest of their own candidate; among equals chance decides."""
    order = seeded(0, "ties").permutation(len(scores))
    return order[scores[:, order].argmax(1)] == torch.arange(len(scores))


def _hits(picked: Tensor) -> int:
    return int(picked.sum())


def _measure(view: View, truth: Tensor, labels: Tensor, judge: Query | None) -> Callable[[Tensor], dict[str, Tensor]]:
    """Returns a function from guesses to one value a record by metric; rates are bool."""
    own = view.knows.get("inputs", truth).flatten(1).double()
    spread = own.std(0, correction=0)
    centre, unit = (0.0, 1.0) if len(view.shape) == 3 else (own.mean(0), torch.where(spread > 0, spread, 1.0))
    originals = (truth.flatten(1).double() - centre) / unit
    same = _of_one_class(view, labels)

    @torch.no_grad()
    def measure(guess: Tensor) -> dict[str, Tensor]:
        moved = (guess.flatten(1).double() - centre) / unit
        if len(view.shape) == 3:
            found = {"ssim": ssim(guess, truth), "psnr": psnr(guess, truth)}
        else:
            typical = originals.square().sum(1).mean().sqrt().clamp_min(1e-12)
            found = {
                "error": (moved - originals).norm(dim=1) / typical,
                "correlation": torch.cosine_similarity(moved, originals, eps=1e-3),
            }
        far = torch.cat([torch.cdist(part, originals) for part in torch.split(moved, _CHUNK)])
        found["reidentified"] = far.argmin(1) == torch.arange(len(truth))
        if same is not None:
            found["reidentified_in_class"] = far.masked_fill_(~same, torch.inf).argmin(1) == torch.arange(len(truth))
        if judge is not None:
            answers = torch.cat([judge(part) for part in torch.split(guess.to(truth.dtype), _CHUNK)])
            found["label_accuracy"] = answers.argmax(1) == labels
        return found

    return measure


def _blind_guesses(view: View, truth: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Returns, by kind, what an attacker would guess who saw nothing but perhaps the labels."""
    guesses = {"black": torch.zeros_like(truth)} if len(view.shape) == 3 else {}
    own = view.knows.get("inputs")
    if own is not None and len(own):
        guesses["mean"] = own.mean(0).to(truth.dtype).expand_as(truth)
        if "labels" in view.seen and "labels" in view.knows:
            means = class_means(own, view.knows["labels"].long(), max(view.classes, int(view.seen["labels"].max()) + 1))
            guesses["class_mean"] = means[view.seen["labels"].long()].to(truth.dtype)
    return guesses


def _sides(scores: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scores of members and of others."""
    if scores.shape != members.shape or scores.dim() != 1 or members.dtype != torch.bool:
        raise InputError(
            f"{tuple(scores.shape)} scores for {tuple(members.shape)} candidates", allowed="one score a candidate"
        )
    if not torch.isfinite(scores).all():
        raise InputError("the attack returned scores that are not finite", do="correct the attack")
    if members.all() or not members.any():
        raise InputError("the candidates are all members or all strangers", do="give some of each")
    return scores[members].double(), scores[~members].double()
