"""What an obfuscator lets through at worst: the strongest of all attackers on it, in one line.

That attackers were tried one after the other and the best was kept is allowed for: its interval is at
1 - .05 / (attackers and ways tried), after Bonferroni.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privet.errors import InputError
from privet.evidence.audit import Finding, clopper_pearson


@dataclass(frozen=True)
class Share:
    """How often the strongest attacker picks out a record.

    Attributes:
        value: the share of records.
        low: the lower end of the interval.
        high: the upper end; it covers every attacker that was tried, not only the strongest.
        by: which attacker.
        records: among how many.
    """

    value: float
    low: float
    high: float
    by: str
    records: int


@dataclass(frozen=True)
class Worst:
    """The strongest attackers on one obfuscator; they need not be the same one in every line.

    Attributes:
        reidentified: among all records.
        reidentified_in_class: among the records of the class, where labels were seen; None where no attacker saw any.
        ssim: of the likest reconstructions, their mean; None where inputs are no images.
        ssim_by: whose.
        ssim_floor: what the better of two guesses scores that know the label only: the class's mean, and what an
            attacker learned who saw nothing else, where that was tried; of all inputs' mean where no label was seen.
        ssim_above_floor: the largest difference of an attacker's SSIM to its floor; negative if all stay below.
    """

    reidentified: Share
    reidentified_in_class: Share | None
    ssim: float | None
    ssim_by: str | None
    ssim_floor: float | None
    ssim_above_floor: float | None


def worst(findings: Sequence[Finding], blind: Finding | None = None) -> Worst:
    """Returns the worst of what attackers found on one obfuscator.

    Args:
        findings: of :func:`privet.evidence.audit.judge_reconstruction`, one for each attacker that was tried.
        blind: of an attacker that saw the labels alone; where it beats the mean, it raises the floor of SSIM.

    Raises:
        InputError: there are no findings, or one says nothing of re-identification.
    """
    if not findings:
        raise InputError("no attacker was tried, so nothing is the worst", do="give the findings of one or more")
    for each in findings:
        if "reidentified" not in each.metrics or not each.floor.get("reidentified"):
            raise InputError(f"the finding of {each.name} says nothing of re-identification", do="leave it out")
    labelled = [each for each in findings if "reidentified_in_class" in each.metrics]
    pictured = [each for each in findings if "ssim" in each.metrics]
    within = _share(labelled, "reidentified_in_class") if labelled else None
    overall = _share(findings, "reidentified")
    if not pictured:
        return Worst(overall, within, ssim=None, ssim_by=None, ssim_floor=None, ssim_above_floor=None)
    least = blind.metrics["ssim"] if blind is not None else 0.0
    likest = max(pictured, key=lambda each: each.metrics["ssim"])
    above = max(each.metrics["ssim"] - max(_floor(each), least) for each in pictured)
    return Worst(overall, within, likest.metrics["ssim"], likest.name, max(_floor(likest), least), above)


def _share(findings: Sequence[Finding], metric: str) -> Share:
    tries = sum(_ways(each) for each in findings)
    strongest = max(findings, key=lambda each: each.metrics[metric])
    value, records = strongest.metrics[metric], _records(strongest)
    low, _ = clopper_pearson(round(value * records), records, 1 - 0.05 / tries)
    # An attacker judged on fewer records may reach further up, though it found less.
    tops = [(each.metrics[metric], _records(each)) for each in findings]
    high = max(clopper_pearson(round(found * count), count, 1 - 0.05 / tries)[1] for found, count in tops)
    return Share(value, low, high, strongest.name, records)


def _ways(finding: Finding) -> int:
    """Returns in how many ways an attacker could pick."""
    ways = [key for key in finding.metrics if key.startswith("reidentified_by_")]
    return max(sum(not key.endswith(("_low", "_high")) for key in ways), 1)


def _records(finding: Finding) -> int:
    return round(1 / finding.floor["reidentified"])


def _floor(finding: Finding) -> float:
    blind = [finding.floor[key] for key in ("ssim_class_mean", "ssim_mean", "ssim_black") if key in finding.floor]
    return blind[0]
