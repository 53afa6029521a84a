"""33 shadow models of a multilayer perceptron that overfits 500 images, against 10 s of processor time."""

from __future__ import annotations

import json
import time

import torch

from privet.attacks.shadow import halves
from privet.attacks.stacked_mlp import Schedule, train_stacked
from privet.fleet.datasets.mnist_10k import Mnist10k
from privet.models.mlp import Mlp
from privet.randomness import seeded

MODELS, ROWS, ALLOWED = 33, 1000, 10.0
SCHEDULE = Schedule(rounds=1, epochs=50, batch_size=50, learning_rate=0.05, momentum=0.9)


def main() -> None:
    """Prints one line of JSON."""
    torch.set_num_threads(1)
    data = Mnist10k().load()
    inputs, labels = torch.from_numpy(data.train_inputs[:ROWS]), torch.from_numpy(data.train_labels[:ROWS])
    network, kept = Mlp(hidden=(128,)).build(data.shape, data.classes), halves(MODELS + 1, ROWS, seeded(0))[:MODELS]
    start = time.process_time()
    ask = train_stacked(network, inputs, labels, kept, SCHEDULE, seeded(0))
    seconds = time.process_time() - start
    right = ask(inputs).argmax(2) == labels
    row = {"name": f"{MODELS} shadow models / {ALLOWED:g} s", "ratio": round(seconds / ALLOWED, 3), "goal": 1.0}
    row |= {"right inside": round(float(right[kept].double().mean()), 3)}
    print(json.dumps(row | {"right outside": round(float(right[~kept].double().mean()), 3)}), flush=True)


if __name__ == "__main__":
    main()
