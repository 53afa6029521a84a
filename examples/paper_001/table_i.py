"""Table I of the distributed-inference document, measured again: what an image is worth that some maps were made of.

    python examples/paper_001/table_i.py                     every row; half an hour of one core
    python examples/paper_001/table_i.py --only lenet        those of one network: lenet, cifar, vgg19
    python examples/paper_001/table_i.py --only vgg19 --faces FOLDER --out DIR
                                                             VGG19 on your own pictures of faces (CelebA), not ORL
    python examples/paper_001/table_i.py --draw              verdicts and picture from what is there
    python examples/paper_001/table_i.py --quick --out DIR   two rows in seconds, to see that it works

Each row is written when it is done, and not measured again. MNIST, CIFAR-10 (JPEG copy) and ORL are looked for in
$PRIVET_DATA and the user's cache; rows whose data are not here are left out. Trained weights are kept in the cache.

The attacker has public images of the same kind, and what the helper would hold of them. Maps are ordered by how much
they vary: m maps are the m that vary most, "weakest" is the one map that varies least.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from table_i_drawing import draw
from table_i_targets import Images, accuracy, cifar, digits, faces, mnist, target
from torch import Tensor

from privet.attacks.partial_maps import PartialMaps
from privet.engines.view import View
from privet.errors import DataError
from privet.evidence.audit import clopper_pearson, judge_reconstruction
from privet.inference.distributed.blinded import Blinded
from privet.inference.distributed.fleets import named_fleet
from privet.inference.distributed.masks import Masks
from privet.inference.distributed.networks import Network, apply
from privet.inference.distributed.planners.distprivacy import Distprivacy
from privet.inference.distributed.plans import Plan
from privet.inference.distributed.received import received
from privet.inference.distributed.table_i import TABLE
from privet.inference.distributed.workload import workload
from privet.randomness import seeded

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
LAYERS = {
    "lenet": ("convolution1", "convolution2"),
    "cifar": ("activation11", "activation22", "activation32"),
    "vgg19": ("activation11", "activation22", "activation34", "activation44"),
}
NOISE = 0.5  # standard deviation of the sensor's noise on each pixel of a frame
Held = dict[str, Tensor]
Holding = Callable[[Network, Tensor], Held]


@dataclass(frozen=True)
class Setting:
    """How much of everything: the attacker's images, the attacked ones, passes of the attack, of the network."""

    pairs: int
    attacked: int
    epochs: int
    trained: int | None = None


SETTINGS = {"lenet": Setting(6000, 1000, 6), "cifar": Setting(4000, 1000, 6), "vgg19": Setting(600, 100, 15)}
QUICK = Setting(800, 200, 2, trained=1)


@dataclass(frozen=True)
class Row:
    """One measurement: a name, what it stands beside in Table I, and what the helper holds."""

    name: str
    network: str
    layer: str
    held: int
    of: int
    published: float | None
    holding: Holding


@torch.no_grad()
def upto(network: Network, layer: str, inputs: Tensor) -> Tensor:
    """Returns the outputs of a layer."""
    value = inputs
    for each in network.layers:
        value = apply(each, value)
        if each.name == layer:
            return value
    raise KeyError(layer)


@functools.lru_cache(maxsize=64)
def ranked(network: str, layer: str) -> tuple[list[int], int]:
    """Returns the maps of a layer, those that vary most over public images first, and which of them varies least."""
    images, described = material(network)
    spread = upto(described, layer, images.inputs[:100]).var((0, 2, 3))
    order = spread.argsort(descending=True).tolist()
    return order, [at for at in order if spread[at] > 0][-1]


def some(network: str, layer: str, count: int, weakest: bool = False) -> Holding:
    """Returns what a helper holds who has some maps of a layer."""

    def holding(described: Network, inputs: Tensor) -> Held:
        order, last = ranked(network, layer)
        return {layer: upto(described, layer, inputs)[:, [last] if weakest else order[:count]]}

    return holding


def published_rows(network: str) -> Iterator[Row]:
    """Yields the rows of Table I for a network, all maps, half, a quarter, ... to one, the extremes first."""
    for layer, row in zip(LAYERS[network], TABLE[network], strict=True):
        counts = [row.maps >> step for step in range(row.maps.bit_length())]
        if network != "lenet":
            counts = [m for m in counts if m in (1, 8, row.maps)]
        for count in sorted(counts, key=lambda m: (m not in (1, row.maps), m)):
            step = counts.index(count) if network == "lenet" else (row.maps // count).bit_length() - 1
            printed = row.similarity[step] if step < len(row.similarity) else None
            name = f"{row.layer}: {count} of {row.maps}"
            yield Row(name, network, row.layer, count, row.maps, printed, some(network, layer, count))
    if network == "lenet":
        for layer, row in zip(LAYERS[network], TABLE[network], strict=True):
            name = f"{row.layer}: 1 of {row.maps}, weakest"
            yield Row(name, network, row.layer, 1, row.maps, None, some(network, layer, 1, weakest=True))


def other_rows() -> Iterator[Row]:
    """Yields what Table I has no row for, on LeNet."""

    def of(name: str, holding: Holding, held: int, layer: str = "") -> Row:
        return Row(name, "lenet", layer, held, 16, None, holding)

    yield of("after pooling 2: 1 of 16 (5 x 5)", some("lenet", "activation2", 1), 1)

    def union(described: Network, inputs: Tensor) -> Held:
        first, second = ranked("lenet", "convolution2")[0][:2]
        return {
            "conv2": upto(described, "convolution2", inputs)[:, [first]],
            "pool2": upto(described, "activation2", inputs)[:, [second]],
        }

    yield of("union: 1 map of conv2 and another after pooling 2", union, 2)
    for tolerance, fleet, helper, what in (
        (0.4, "paper:8", 0, "helper 0: maps of both convolutions, partial maps of 2 senders"),
        (0.4, "paper:8", 3, "helper 3: 8 maps of conv2, partial maps of 2 senders"),
        (0.4, "paper:8", 4, "helper 4: outputs of two linear layers"),
    ):
        yield of(f"plan of Algorithm 1 at {tolerance}, {fleet}, {what}", planned(tolerance, fleet, helper), 0)

    def summed(described: Network, inputs: Tensor) -> Held:
        held = planned(0.2, "paper:36", 12)(described, inputs)
        return {name: value[:, :1] for name, value in held.items() if " from " in name}

    yield of("partial maps of 8 senders for one map of conv2", summed, 1)
    yield of(
        "nothing: zeros in place of 1 map of conv2", lambda _, inputs: {"nothing": torch.zeros(len(inputs), 100)}, 0
    )
    yield of("blinded mode: all that all helpers receive", blinded, 0)
    for frames in (1, 8):
        yield of(f"{frames} noisy frame{'s' * (frames > 1)}, 1 map of conv2 of each", filmed(frames), 1)


def planned(tolerance: float, fleet: str, helper: int) -> Holding:
    """Returns what a helper of a plan of Algorithm 1 holds."""

    def holding(described: Network, inputs: Tensor) -> Held:
        plan = Distprivacy()(workload(described, tolerance), named_fleet(fleet).fresh())
        assert isinstance(plan, Plan), plan.reason  # noqa: S101 - this plan exists
        return received(described, plan, helper, inputs)

    return holding


def blinded(described: Network, inputs: Tensor) -> Held:
    """Returns what crosses to the helpers of the blinded mode, in every linear layer, as shares of the modulus."""
    got: Held = {}
    mode = Blinded(described)

    def multiply(number: int, sealed: Tensor, first: int) -> Tensor:
        got[f"linear layer {number}"] = (sealed.double() / mode.ring.modulus).float()
        return mode.here(number, sealed, first)

    with tempfile.TemporaryDirectory() as folder:
        masks = Masks(Path(folder) / "masks")
        mode.run(inputs, mode.prepare(masks, len(inputs)), masks, multiply)
        masks.close()
    return got


def filmed(frames: int) -> Holding:
    """Returns what a helper holds of one map over some frames of one scene, each with noise of its own."""

    def holding(described: Network, inputs: Tensor) -> Held:
        best = ranked("lenet", "convolution2")[0][0]
        rng = seeded(0, "frames", int(1000 * inputs.double().sum()))  # every batch has noise of its own
        noisy = [(inputs + NOISE * rng.normal(tuple(inputs.shape))).clamp(0, 1) for _ in range(frames)]
        return {f"frame {at}": upto(described, "convolution2", each)[:, [best]] for at, each in enumerate(noisy)}

    return holding


LOADERS: dict[str, Callable[[], Images]] = {"lenet": mnist, "cifar": cifar, "vgg19": faces}


@functools.lru_cache(maxsize=1)
def material(network: str) -> tuple[Images, Network]:
    """Returns the images and the attacked network."""
    images = LOADERS[network]()
    return images, target(network, images, SETTINGS[network].trained)


def attacked(row: Row) -> dict[str, Any]:
    """Returns what the attack on one row scores."""
    setting, (images, network) = SETTINGS[row.network], material(row.network)
    own, labels = images.inputs[-setting.pairs :], images.labels[-setting.pairs :]
    if row.network == "vgg19":  # few faces: each also in the mirror
        own, labels = torch.cat((own, own.flip(3))), torch.cat((labels, labels))
    truth, true_labels = images.test_inputs[: setting.attacked], images.test_labels[: setting.attacked]
    started = time.process_time()
    known, seen = (batched(row.holding, network, inputs) for inputs in (own, truth))
    knows = {"inputs": own} | ({"labels": labels} if images.classes else {})
    view = View("helper", seen, knows | known, shape=tuple(own.shape[1:]), classes=images.classes)
    attack = PartialMaps(epochs=setting.epochs, batch_size=64 if images.classes else 16)
    found = attack(view, seeded(0, row.name))
    spent = time.process_time() - started
    # The labels were not seen: they are here for the floor of whoever is told the class and nothing else.
    told = replace(view, seen=seen | ({"labels": true_labels} if images.classes else {}))
    judged = judge_reconstruction("partial-maps", told, found, truth, true_labels)
    metrics = {key: short(judged.metrics[key]) for key in ("ssim", "ssim_low", "ssim_high", "ssim_95th", "psnr")}
    floor = {k: short(v) for k, v in judged.floor.items() if k.startswith(("ssim", "psnr"))}
    metrics["reidentified"], floor["reidentified"] = short(judged.metrics["reidentified"]), short(1 / len(truth))
    if found.labels is not None:
        right = found.labels == true_labels
        low, high = clopper_pearson(int(right.sum()), len(right))
        metrics |= {"label_accuracy": short(float(right.double().mean()))}
        metrics |= {"label_accuracy_low": short(low), "label_accuracy_high": short(high)}
        floor["label_accuracy"] = short(float(true_labels.bincount().max()) / len(true_labels))
    return {
        "network": row.network,
        "layer": row.layer,
        "held": row.held,
        "of": row.of,
        "published": row.published,
        "numbers": sum(value[0].numel() for value in seen.values()),
        "metrics": metrics,
        "floor": floor,
        "images": images.name,
        "pairs": len(own),
        "attacked": len(truth),
        "cpu_seconds": round(spent, 1),
    }


def short(value: float) -> float:
    """Returns a value with four places."""
    return round(value, 4)


def batched(holding: Holding, network: Network, inputs: Tensor) -> Held:
    """Returns what a helper holds of many images; half precision, which is more than it needs, saves memory."""
    parts = [holding(network, part) for part in inputs.split(100)]
    return {name: torch.cat([part[name].half() for part in parts]) for name in parts[0]}


def about(path: Path) -> dict[str, Any]:
    """Returns what is in the file, or an empty table."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {"accuracy": {}, "rows": {}}


def measure(rows: list[Row], path: Path) -> None:
    """Measures what is not in the file yet."""
    for row in rows:
        table = about(path)
        if row.name in table["rows"]:
            continue
        try:
            images, network = material(row.network)
        except DataError as error:
            print(f"{row.network} left out: {error}")
            continue
        if row.network not in table["accuracy"] and images.classes:
            table["accuracy"][row.network] = short(accuracy(network, images))
        table["rows"][row.name] = attacked(row)
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        print(row.name, table["rows"][row.name]["metrics"], table["rows"][row.name]["cpu_seconds"], flush=True)


def urgency(row: Row) -> tuple[int, int]:
    """Returns a row's place: what says most comes first, one map, and last what lies between or takes long."""
    if row.network == "vgg19":
        return list(LAYERS).index(row.network), row.held
    return list(LAYERS).index(row.network), int(bool(row.layer) and 1 < row.held < row.of // 2)


def main() -> None:
    say = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say.add_argument("--only", choices=list(LAYERS))
    say.add_argument("--faces", type=Path)
    say.add_argument("--out", type=Path, default=FIGURES)
    say.add_argument("--quick", action="store_true")
    say.add_argument("--draw", action="store_true")
    asked = say.parse_args()
    torch.set_num_threads(1)
    path = asked.out / "paper_001_table_i.json"
    rows = [row for network in LAYERS for row in published_rows(network)] + list(other_rows())
    rows.sort(key=urgency)
    if asked.faces:
        if asked.out == FIGURES:
            say.error("--faces needs --out: the rows there are of other faces")
        LOADERS["vgg19"] = functools.partial(faces, asked.faces)
    if asked.quick:
        if asked.out == FIGURES:
            say.error("--quick needs --out: its figures are not for the documentation")
        SETTINGS["lenet"], LOADERS["lenet"] = QUICK, digits
        rows = [row for row in rows if row.held == 1 and row.network == "lenet" and row.layer][:2]
    if not asked.draw:
        measure([row for row in rows if asked.only in (None, row.network)], path)
    for verdict in draw(about(path), asked.out):
        print(verdict)


if __name__ == "__main__":
    main()
