"""From an attack's raw answer to figures with intervals, beside what a guess without the view scores.

Only this file knows the truth (the originals, who was a member) and only this file makes intervals
and floors. Intervals are at 95 %. A floor is named after its metric: ``ssim_class_mean`` is the
SSIM of guessing, for every record, the mean of the attacker's own images with the record's label;
it needs the labels, which travel in the clear, and nothing else that was seen.

References:
    Clopper, Pearson (Biometrika 1934); DeLong, DeLong, Clarke-Pearson (Biometrics 1988), equations 3 to 6.
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
from privet.engines.view import Query, View
from privet.errors import InputError
from privet.evidence.similarity import psnr, ssim

_NO_PROOF = "An attack that fails proves no guarantee: a stronger attacker, or more of the view, may do better."
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
    caught = int((inside > threshold).sum())
    metrics = {"auc": area, "auc_low": low, "auc_high": high}
    metrics |= _rate("tpr_at_1_percent_fpr", caught, len(inside))
    note = f"{len(inside)} members and {len(outside)} others. {_NO_PROOF}"
    return Finding(name, view.party, metrics, {"auc": 0.5, "tpr_at_1_percent_fpr": _LEVEL}, note)


def judge_reconstruction(
    name: str, view: View, reconstruction: Reconstruction, truth: Tensor, labels: Tensor, judge: Query | None = None
) -> Finding:
    """Returns how near reconstructions come to the originals.

    Metrics of images (``view.shape`` of three sides): ``ssim``, ``ssim_95th`` (of the records that
    leak most), ``psnr``. Of vectors: ``error`` (distance to the original, as a share of the records'
    typical distance from the mean; columns in units of their spread) and ``correlation`` (mean over
    columns). Of both: ``reidentified`` (share of guesses whose nearest original is their own),
    ``label_accuracy`` (share of guesses that ``judge`` gives the original's label).

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
    measure = _images if len(view.shape) == 3 else _Vectors(view, truth)
    kept, count = _per_record(guess, truth, labels, judge), len(truth)
    metrics: dict[str, float] = {}
    for key, values in measure(guess, truth).items():
        metrics |= _mean(key, values)
    if "ssim" in metrics:
        metrics["ssim_95th"] = float(measure(guess, truth)["ssim"].quantile(0.95))
    for key, hits in kept.items():
        metrics |= _rate(key, int(hits.sum()), count)
    floor = {"reidentified": 1 / count} | ({"label_accuracy": 1 / view.classes} if judge and view.classes else {})
    for kind, blind in _blind(view, truth, labels).items():
        figures = measure(blind, truth) | _per_record(blind, truth, labels, judge)
        floor |= {f"{key}_{kind}": float(values.double().mean()) for key, values in figures.items()}
        if "ssim" in figures:
            floor[f"ssim_95th_{kind}"] = float(figures["ssim"].quantile(0.95))
    note = f"{count} records, {len(view.knows.get('inputs', ()))} pairs of the attacker's own. {_NO_PROOF}"
    return Finding(name, view.party, metrics, floor, note)
