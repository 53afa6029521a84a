"""Does noise that every device adds to its own update average out? Error against the number of devices.

    python examples/private/noise_averages_out.py      a few seconds; writes docs/figures/noise_averages_out.*

A survey of privacy techniques says of devices that noise their own updates: "as the number keeps increasing, the
aggregated noise decreases and eventually is cancelled out". Here n devices send updates clipped to norm 1, all with the
same epsilon per device, and the error of their mean is measured with the mechanisms that plans use:

- each device alone: Clip, then Gaussian, on the device; the server sees single noised updates;
- central: Clip on the device, Gaussian on the mean, by a server that is trusted with the clipped updates;
- distributed: each device adds a share of the central noise; private only if nobody sees less than the sum of all.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from dp_accounting.dp_event import GaussianDpEvent
from scipy.optimize import brentq

from privet.accounting import Sensitivity
from privet.accounting.accountants import epsilon
from privet.aggregation.mean import Mean
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.randomness import seeded

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
COMMAND = "python examples/private/noise_averages_out.py"
EPSILON, DELTA, DIMENSION, LIMIT = 2.0, 1e-5, 100, 1.0
DEVICES = (10, 30, 100, 300, 1000, 3000, 10_000)
REPEATS = 10
ALONE, CENTRAL, DISTRIBUTED = "each device alone", "central", "distributed, seen only as a sum"


def multiplier(wanted: float) -> float:
    """Returns the noise multiplier (sigma over l2 sensitivity) at which one release costs ``wanted``."""
    return float(brentq(lambda noise: epsilon(GaussianDpEvent(noise), DELTA)[0] - wanted, 0.2, 50, xtol=1e-3))


def error_of(way: str, n: int, noise: float, seed: int) -> float:
    """Returns the squared l2 distance between the released mean and the true mean of the clipped updates."""
    rng, mean = seeded(seed, way, n), Mean(expected=n)
    updates = Clip(LIMIT)(rng.child("updates").normal((n, DIMENSION)) + 0.05, rng)
    one = Clip(LIMIT).bound(Sensitivity("device", "replace-one", dimension=DIMENSION))
    sigma = {
        ALONE: noise * one.l2,
        CENTRAL: noise * mean.bound(one, n).l2,
        DISTRIBUTED: noise * one.l2 / math.sqrt(n),
    }[way]
    gaussian, weights = Gaussian(sigma), torch.ones(n)
    if way == CENTRAL:
        released = gaussian(mean(updates, weights), rng)
    else:
        released = mean(Chain((gaussian,))(updates, rng), weights)
    return float((released - mean(updates, weights)).square().sum())


def closed_form(way: str, n: int, noise: float) -> float:
    """Returns the expected root-mean-square distance: sigma sqrt(d / n) alone, sigma sqrt(d) / n otherwise."""
    return 2 * LIMIT * noise * math.sqrt(DIMENSION) / (math.sqrt(n) if way == ALONE else n)


def figures() -> dict[str, object]:
    noise = multiplier(EPSILON)
    ways = {}
    for way in (ALONE, CENTRAL, DISTRIBUTED):
        measured = [math.sqrt(np.mean([error_of(way, n, noise, seed) for seed in range(REPEATS)])) for n in DEVICES]
        slope = float(np.polyfit(np.log(DEVICES), np.log(measured), 1)[0])
        ways[way] = {"measured": measured, "closed_form": [closed_form(way, n, noise) for n in DEVICES], "slope": slope}
    needed = {way: math.ceil((closed_form(way, 1, noise) / 0.1) ** (2 if way == ALONE else 1)) for way in ways}
    alone, central = ways[ALONE]["slope"], ways[CENTRAL]["slope"]
    return {
        "title": "Error of the mean of n clipped updates, the same epsilon for every device",
        "claim": "the aggregated noise decreases and eventually is cancelled out",
        "verdict": "not so: it decreases and is never cancelled out",
        "words": (
            f"With a fixed epsilon per device, the error of noise added on each device shrinks as 1 / sqrt(n) (slope "
            f"{alone:.2f}), that of central noise as 1 / n (slope {central:.2f}). It never reaches 0: for an error of "
            f"a tenth of the clip, devices that noise alone need {needed[ALONE]:,}, central noise {needed[CENTRAL]:,}. "
            "Noise shared among the devices reaches the central error, but then a single device's message is "
            "protected only as part of the sum: seen alone, one of 10,000 carries a hundredth of the noise."
        ),
        "epsilon": EPSILON,
        "delta": DELTA,
        "unit": "device",
        "relation": "replace-one",
        "releases": 1,
        "dimension": DIMENSION,
        "clip": LIMIT,
        "noise_multiplier": noise,
        "repeats": REPEATS,
        "devices": list(DEVICES),
        "root_mean_square_error": ways,
        "devices_for_an_error_of_a_tenth_of_the_clip": needed,
        "command": COMMAND,
    }


def draw(found: dict[str, object]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "privet"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    marks = {ALONE: "o", CENTRAL: "s", DISTRIBUTED: "x"}
    for way, errors in found["root_mean_square_error"].items():
        points = axes.loglog(DEVICES, errors["measured"], marks[way], label=f"{way}: slope {errors['slope']:.2f}")[0]
        axes.loglog(DEVICES, errors["closed_form"], "-", lw=0.8, color=points.get_color())
    axes.axhline(LIMIT, color="grey", lw=0.8, ls=":")
    axes.annotate("largest possible update", (DEVICES[0], LIMIT), xytext=(0, 3), textcoords="offset points", fontsize=8)
    axes.set_xlabel("devices, n")
    axes.set_ylabel("root-mean-square error of the mean")
    axes.set_title(f"Noise of epsilon {EPSILON:g} per device does not cancel out (lines: closed form)", fontsize=10)
    axes.legend()
    figure.tight_layout()
    figure.savefig(FIGURES / "noise_averages_out.svg", metadata={"Date": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = figures()
    (FIGURES / "noise_averages_out.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result)
    print(result["words"])
