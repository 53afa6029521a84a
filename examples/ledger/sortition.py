"""Does who leads follow the stake? Leader share against stake under both priorities, and the risk of committees.

    python examples/ledger/sortition.py      about ten seconds; writes docs/figures/sortition.json and .svg

One miner holds a share of 100 units, six others the rest in equal parts. Points are drawn as the ledger draws; lines
are the exact probabilities, worked out in fractions.
"""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb
from pathlib import Path

from privet.ledger.public_committee import ALLOWED_RISK, failure_risk
from privet.ledger.sortition import EXPECTED, POLICIES, count_leaders

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
COMMAND = "python examples/ledger/sortition.py"
UNITS, OTHERS, ROUNDS = 100, 6, 10_000
STAKES = (4, 10, 16, 22, 28, 34, 40, 46, 52, 58, 64, 70)
TOTAL, FAULTY = 1000, (100, 200, 250, 300)


def chances(stake: int, units: int = UNITS) -> list[Fraction]:
    """Returns the probabilities that 0, 1, ... of a miner's units are chosen."""
    p = Fraction(EXPECTED, units)
    return [comb(stake, k) * p**k * (1 - p) ** (stake - k) for k in range(stake + 1)]


def leads(policy: str, stake: int, units: int = UNITS) -> float:
    """Returns the exact probability that a miner leads against six with equal parts of the rest."""
    if policy == "min-hash":  # every unit has the same chance to be chosen and to have the smallest hash
        return float(Fraction(stake, units) * (1 - (1 - Fraction(EXPECTED, units)) ** units))
    mine, theirs = chances(stake, units), chances((units - stake) // OTHERS, units)
    lead = Fraction(0)
    for chosen in range(1, stake + 1):
        same = theirs[chosen] if chosen < len(theirs) else Fraction(0)
        fewer = sum(theirs[:chosen], Fraction(0))
        tied = sum(comb(OTHERS, k) * same**k * fewer ** (OTHERS - k) / (k + 1) for k in range(OTHERS + 1))
        lead += mine[chosen] * tied
    return float(lead)


def smallest_committee(faulty: int) -> int:
    """Returns the smallest committee of 1,000 units that fails with at most one in a billion."""
    return next(size for size in range(1, TOTAL + 1) if failure_risk(TOTAL, faulty, size) <= ALLOWED_RISK)


def figures() -> dict[str, object]:
    measured, exact = {}, {}
    for policy in POLICIES:
        drawn = [[stake] + [(UNITS - stake) // OTHERS] * OTHERS for stake in STAKES]
        measured[policy] = [count_leaders(stakes, ROUNDS, policy)[0] / ROUNDS for stakes in drawn]
        exact[policy] = [round(leads(policy, stake), 4) for stake in STAKES]
    at = STAKES.index(40)
    hashed, counted = measured["min-hash"][at], measured["count"][at]
    return {
        "title": "Which share of the rounds a miner leads, against its stake",
        "claim": "the ratio of a miner's stake to all tokens determines the probability for the miner to be selected; "
        "the number of selected sub-users is each user's priority",
        "verdict": "not both: with that priority the largest stake leads nearly always",
        "words": f"With 40 % of the stake a miner leads {100 * hashed:.1f} % of the rounds under min-hash and "
        f"{100 * counted:.1f} % under count ({100 * leads('count', 400, 1000):.1f} % when the stake is cut into 1,000 "
        "units).",
        "units": UNITS,
        "expected": EXPECTED,
        "rounds": ROUNDS,
        "others": f"{OTHERS} miners with equal parts of the rest",
        "stake": [stake / UNITS for stake in STAKES],
        "leader_share": measured,
        "exact": exact,
        "committees": [
            {
                "units": TOTAL,
                "at_fault": faulty,
                "smallest": (size := smallest_committee(faulty)),
                "risk": float(f"{float(failure_risk(TOTAL, faulty, size)):.2g}"),
                "risk_of_100": float(f"{float(failure_risk(TOTAL, faulty, 100)):.2g}"),
            }
            for faulty in FAULTY
        ],
        "command": COMMAND,
    }


def draw(found: dict[str, object]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "privet"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    stakes = [100 * stake for stake in found["stake"]]
    for policy, colour, mark in (("min-hash", "#0072B2", "o"), ("count", "#D55E00", "^")):
        axes.plot(stakes, [100 * share for share in found["exact"][policy]], "-", lw=1, color=colour)
        shares = [100 * share for share in found["leader_share"][policy]]
        axes.plot(stakes, shares, mark, color=colour, label=f"{policy}, {ROUNDS:,} rounds")
    axes.set(xlabel="stake of one miner, %", ylabel="rounds that it leads, %", xlim=(0, 75), ylim=(0, 102))
    axes.set_title("Leading in proportion to stake, and not (lines: exact)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(FIGURES / "sortition.svg", metadata={"Date": None})


if __name__ == "__main__":
    result = figures()
    (FIGURES / "sortition.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result)
    print(result["words"])
