"""Membership attacks on a perceptron that knows its 500 members by heart.

    python examples/attacks/membership.py      about a minute of one core; writes docs/figures/membership.json

500 members and 500 others of the embedded digits, 200 rows of the attacker's own; a perceptron of 784-128-10 trained
for 30 epochs.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor

from privet import parts
from privet.attacks.contract import Scores
from privet.attacks.lira import Lira
from privet.attacks.loss_threshold import LossThreshold
from privet.attacks.rmia import Rmia
from privet.attacks.stacked_mlp import Schedule, train_stacked
from privet.engines import View
from privet.evidence.audit import judge_membership
from privet.models.mlp import Mlp
from privet.randomness import Source, seeded

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "membership.json"
SEEDS = (0, 1, 2)
SCHEDULE = Schedule(rounds=1, epochs=30, batch_size=50, learning_rate=0.05, momentum=0.9)
ATTACKS = {
    "loss-threshold": LossThreshold(),
    "rmia, 4 references": Rmia(references=4),
    "rmia, 32 references": Rmia(references=32),
    "lira online, 32 references": Lira(references=32),
    "lira offline, 32 references": Lira(references=32, variant="offline"),
}


def view_of(seed: int) -> tuple[View, Tensor]:
    """Returns what whoever has the model knows, and which candidates are members."""
    data = parts.build("datasets", {"name": "mnist-10k"}).load()
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    order = seeded(seed, "rows").permutation(len(labels))
    candidates, own = order[:1000], order[1000:1200]
    members = torch.arange(1000) < 500
    network = Mlp(hidden=(128,)).build((1, 28, 28), 10)

    def many(pool: Tensor, its: Tensor, kept: Tensor, rng: Source):
        return train_stacked(network, pool, its, kept, SCHEDULE, rng)

    target = many(inputs[candidates], labels[candidates], members[None], seeded(seed, "target"))
    seen = {"inputs": inputs[candidates], "labels": labels[candidates]}
    knows = {"inputs": inputs[own], "labels": labels[own]}
    view = View("whoever has the model", seen, knows, lambda asked: target(asked)[0], train_many=many, classes=10)
    return view, members


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ATTACKS}
    for seed in SEEDS:
        view, members = view_of(seed)
        for name, attack in ATTACKS.items():
            start = time.process_time()
            scores: Scores = attack(view, seeded(seed, name))
            figures = judge_membership(name, view, scores, members).metrics
            row = {key: round(value, 4) for key, value in figures.items()}
            found[name].append(row | {"cpu_seconds": round(time.process_time() - start, 1)})
            print(seed, name, found[name][-1], flush=True)
    figure = {
        "title": "Membership attacks on a perceptron that knows 500 of 1,000 digits by heart",
        "seeds": list(SEEDS),
        "floor": {"auc": 0.5, "tpr_at_1_percent_fpr": 0.01},
        "measured": found,
        "command": "python examples/attacks/membership.py",
    }
    FIGURE.write_text(json.dumps(figure, indent=1) + "\n")


if __name__ == "__main__":
    main()
