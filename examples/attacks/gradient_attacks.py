"""What a coordinator reads from devices' gradients, and an insider from a model: every attack, measured on MNIST.

    python examples/attacks/gradient_attacks.py      minutes of one core; writes docs/figures/gradient_attacks.*

The rows are the embedded 10,000 images; what is attacked comes from the test rows, the attacker's own from the training
rows. `LeNet` is the one of this package (max-pooling), fresh or trained three epochs. Noise: the gradient is clipped
to norm 1 and Gaussian noise of sigma .01 added to each coordinate. Where PRIVET_DATA holds the Adult data, attribute
inference is measured on it; else that part is left out.
"""

from __future__ import annotations

import copy
import csv
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from privet.attacks.attribute_inference import AttributeInference
from privet.attacks.contract import Attack
from privet.attacks.deep_inversion import DeepInversion
from privet.attacks.gan_reconstruction import GanReconstruction
from privet.attacks.idlg import Idlg
from privet.attacks.inverting_gradients import InvertingGradients
from privet.attacks.linear_layer_inversion import LinearLayerInversion
from privet.attacks.property_inference import PropertyInference
from privet.engines.view import View
from privet.evidence.audit import auc, clopper_pearson, mean_interval
from privet.evidence.similarity import psnr, ssim
from privet.fleet.datasets.mnist_10k import Mnist10k
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.models.lenet import Lenet
from privet.models.mlp import Mlp
from privet.randomness import seeded
from privet.tensors import flatten

matplotlib.use("Agg")
import matplotlib.pyplot as plt

torch.set_num_threads(1)
FIGURES = Path(__file__).parents[2] / "docs" / "figures"
COMMAND = "python examples/attacks/gradient_attacks.py"
CLASSES, CANDIDATES = 10, 200
SHAPE = (1, 28, 28)
LIMIT, SIGMA = 1.0, 0.01

DATA = Mnist10k().load()
OWN, OWN_LABELS = torch.from_numpy(DATA.train_inputs), torch.from_numpy(DATA.train_labels)
ROWS, LABELS = torch.from_numpy(DATA.test_inputs), torch.from_numpy(DATA.test_labels)
MEANS = torch.stack([OWN[label == OWN_LABELS].mean(0) for label in range(CLASSES)])


def trained(network: nn.Sequential, inputs: Tensor, labels: Tensor, epochs: int, rate: float = 0.05) -> nn.Sequential:
    """Returns the network after some epochs of gradient descent with momentum .9 and batches of 64."""
    descent = torch.optim.SGD(network.parameters(), rate, momentum=0.9)
    for epoch in range(epochs):
        for rows in seeded(0, "epoch", epoch).permutation(len(labels)).split(64):
            descent.zero_grad()
            nn.functional.cross_entropy(network(inputs[rows]), labels[rows]).backward()
            descent.step()
    descent.zero_grad()
    return network


def lenet(activation: str, epochs: int = 0) -> nn.Sequential:
    """Returns a LeNet, fresh or trained on the attacker's rows."""
    torch.manual_seed(0)
    return trained(Lenet(activation=activation).build(SHAPE, CLASSES), OWN, OWN_LABELS, epochs)


def view_of(network: nn.Sequential, devices: int, rows: int, sigma: float = 0.0) -> View:
    """Returns what the coordinator sees of devices that each take one step on some test rows."""
    seen = []
    for device in range(devices):
        mine, own = slice(device * rows, (device + 1) * rows), copy.deepcopy(network)
        nn.functional.cross_entropy(own(ROWS[mine]), LABELS[mine]).backward()
        gradient = flatten({name: value.grad for name, value in own.named_parameters()})
        noised = Chain((Clip(LIMIT), Gaussian(sigma))) if sigma else Chain()
        seen.append(noised(gradient, seeded(1, "noise", device)))
    return View(
        party="coordinator",
        seen={"gradients": torch.stack(seen), "counts": torch.full((devices,), rows)},
        knows={"inputs": OWN[:2000], "labels": OWN_LABELS[:2000]},
        network=lambda: copy.deepcopy(network),
        shape=SHAPE,
        classes=CLASSES,
    )


def matched(guess: Tensor, devices: int, rows: int) -> Tensor:
    """Returns the guesses in the order of the records that they are most like, device by device."""
    out = []
    for device in range(devices):
        mine = guess[device * rows : (device + 1) * rows]
        truth = ROWS[device * rows : (device + 1) * rows]
        every = torch.stack([ssim(mine, record.expand_as(mine)) for record in truth])
        out.append(mine[torch.from_numpy(linear_sum_assignment(-every.numpy())[1])])
    return torch.cat(out)


def with_interval(values: Tensor) -> dict[str, float]:
    """Returns the mean and its 95 % interval: Clopper-Pearson for yes and no."""
    rate = values.dtype == torch.bool
    low, high = clopper_pearson(int(values.sum()), len(values)) if rate else mean_interval(values)
    return {"value": round(float(values.double().mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def rebuild(attack: Attack, network: nn.Sequential, devices: int, rows: int, sigma: float = 0.0) -> dict:
    """Returns the figures of an attack on updates, and under ``pictures`` its matched guesses."""
    view, started = view_of(network, devices, rows, sigma), time.process_time()
    found = attack(view, seeded(0))
    spent = time.process_time() - started
    count = devices * rows
    truth, guess = ROWS[:count], matched(found.inputs, devices, rows)
    nearest = torch.cdist(guess.flatten(1), ROWS[:CANDIDATES].flatten(1)).argmin(1)
    pairs = zip(found.labels.view(devices, rows), LABELS[:count].view(devices, rows), strict=True)
    right = [torch.minimum(a.bincount(minlength=CLASSES), b.bincount(minlength=CLASSES)).sum() for a, b in pairs]
    told = torch.arange(count) < int(sum(right))  # how many labels are right, whatever their order in a device
    return {
        "records": count,
        "ssim": with_interval(ssim(guess, truth)),
        "psnr": with_interval(psnr(guess, truth)),
        "reidentified": with_interval(nearest == torch.arange(count)),
        "labels_right": with_interval(told),
        "floor": {
            "ssim_class_mean": round(float(ssim(MEANS[LABELS[:count]], truth).mean()), 4),
            "reidentified_class_mean": round(
                float(
                    (
                        torch.cdist(MEANS[LABELS[:count]].flatten(1), ROWS[:CANDIDATES].flatten(1)).argmin(1)
                        == torch.arange(count)
                    )
                    .double()
                    .mean()
                ),
                4,
            ),
            "reidentified_chance": 1 / CANDIDATES,
            "labels_right_chance": 1 / CLASSES,
        },
        "cpu_seconds_a_device": round(spent / devices, 2),
        "pictures": guess,
    }


Jobs = dict[str, Callable[[], dict]]


def updates() -> Jobs:
    """Returns, by name, how to measure each attack on updates."""
    usual = InvertingGradients(starts=2, steps=400)
    strong = InvertingGradients(starts=2, steps=1000, total_variation=0.03)
    fresh, taught = lenet("tanh"), lenet("tanh", 3)
    torch.manual_seed(0)
    wide = Mlp(hidden=(128,)).build(SHAPE, CLASSES)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    return {
        "inverting-gradients, tanh LeNet fresh, batch 1": lambda: rebuild(usual, fresh, 8, 1),
        "inverting-gradients, tanh LeNet fresh, batch 1, noise": lambda: rebuild(usual, fresh, 8, 1, sigma=SIGMA),
        "inverting-gradients, tanh LeNet fresh, batch 1, ten times the noise": lambda: rebuild(
            usual, fresh, 8, 1, sigma=10 * SIGMA
        ),
        "inverting-gradients, tanh LeNet fresh, batch 4": lambda: rebuild(strong, fresh, 3, 4),
        "inverting-gradients, tanh LeNet fresh, batch 4, noise": lambda: rebuild(strong, fresh, 3, 4, sigma=SIGMA),
        "inverting-gradients, tanh LeNet trained, batch 1": lambda: rebuild(usual, taught, 8, 1),
        "inverting-gradients, ReLU LeNet fresh, batch 1": lambda: rebuild(usual, lenet("relu"), 8, 1),
        "inverting-gradients, ReLU LeNet trained, batch 1": lambda: rebuild(usual, lenet("relu", 3), 10, 1),
        "idlg, tanh perceptron fresh, batch 1": lambda: rebuild(Idlg(starts=1), smooth, 8, 1),
        "idlg, tanh LeNet fresh, batch 1": lambda: rebuild(Idlg(starts=1), fresh, 8, 1),
        "idlg, tanh perceptron fresh, batch 1, noise": lambda: rebuild(Idlg(starts=1), smooth, 8, 1, sigma=SIGMA),
        "linear-layer-inversion, ReLU perceptron fresh, batch 1": lambda: rebuild(LinearLayerInversion(), wide, 8, 1),
        "linear-layer-inversion, ReLU perceptron fresh, batch 4": lambda: rebuild(LinearLayerInversion(), wide, 6, 4),
        "linear-layer-inversion, ReLU perceptron fresh, batch 8": lambda: rebuild(LinearLayerInversion(), wide, 6, 8),
        "linear-layer-inversion, ReLU perceptron fresh, batch 1, noise": lambda: rebuild(
            LinearLayerInversion(), wide, 8, 1, sigma=SIGMA
        ),
        "linear-layer-inversion, ReLU perceptron fresh, batch 4, noise": lambda: rebuild(
            LinearLayerInversion(), wide, 6, 4, sigma=SIGMA
        ),
    }


def imagine(attack: Attack, network: nn.Sequential) -> dict:
    """Returns the figures of an attack on a model by an insider who has rows of the classes 0 to 4 only."""
    judge = trained(Mlp().build(SHAPE, CLASSES), OWN, OWN_LABELS, 4)
    insider = OWN_LABELS < 5
    inputs, labels = OWN[insider][:1000], OWN_LABELS[insider][:1000]
    knows = {"inputs": inputs, "labels": labels}
    view = View("insider", {}, knows, network=lambda: copy.deepcopy(network), shape=SHAPE, classes=CLASSES)
    started = time.process_time()
    guess = attack(view, seeded(0)).inputs
    spent = time.process_time() - started
    right = judge(guess).argmax(1) == torch.arange(CLASSES)
    blind = inputs.mean(0).expand_as(MEANS)
    return {
        "label_accuracy": with_interval(right),
        "label_accuracy_of_unseen_classes": with_interval(right[5:]),
        "ssim_to_class_mean": with_interval(ssim(guess, MEANS)),
        "floor": {"label_accuracy": 1 / CLASSES, "ssim_to_class_mean": round(float(ssim(blind, MEANS).mean()), 4)},
        "cpu_seconds": round(spent, 1),
        "pictures": guess,
    }


def models() -> Jobs:
    """Returns, by name, how to measure each attack on a model."""
    return {
        "deep-inversion, tanh LeNet trained": lambda: imagine(DeepInversion(), lenet("tanh", 3)),
        "deep-inversion, tanh LeNet fresh": lambda: imagine(DeepInversion(), lenet("tanh")),
        "gan-reconstruction, tanh LeNet trained": lambda: imagine(GanReconstruction(), lenet("tanh", 3)),
        "gan-reconstruction, tanh LeNet fresh": lambda: imagine(GanReconstruction(), lenet("tanh")),
    }


def tell(epochs: int, sigma: float = 0.0) -> dict:
    """Returns how well the coordinator tells whether class 3 is among 16 rows."""
    devices, rows = 100, 16
    truth = (LABELS[: devices * rows].view(devices, rows) == 3).any(1)
    view, started = view_of(lenet("tanh", epochs), devices, rows, sigma), time.process_time()
    area, low, high = auc(PropertyInference(label=3)(view, seeded(0)).scores, truth)
    return {
        "auc": {"value": round(area, 4), "low": round(low, 4), "high": round(high, 4)},
        "floor": {"auc": 0.5},
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def properties() -> Jobs:
    """Returns, by name, how to measure property inference."""
    return {
        "property-inference, tanh LeNet fresh": lambda: tell(0),
        "property-inference, tanh LeNet fresh, noise": lambda: tell(0, sigma=SIGMA),
        "property-inference, tanh LeNet one epoch": lambda: tell(1),
        "property-inference, tanh LeNet trained": lambda: tell(3),
    }


def adult(path: Path) -> tuple[Tensor, Tensor, dict[str, list[int]]]:
    """Returns rows of columns in [0, 1], whether the income is high, and which columns each name has."""
    with gzip.open(path, "rt") as file:
        header, *lines = list(csv.reader(file, skipinitialspace=True))
    lines = [line for line in lines if len(line) == len(header) and "?" not in line][:6000]
    columns, places = [], {}
    for at, name in enumerate(header[:-1]):
        cells = [line[at] for line in lines]
        start = len(columns)
        if cells[0].lstrip("-").isdigit():
            numbers = torch.tensor([float(cell) for cell in cells])
            columns.append((numbers - numbers.min()) / (numbers.max() - numbers.min()))
        else:
            columns += [torch.tensor([float(cell == value) for cell in cells]) for value in sorted(set(cells))]
        places[name] = list(range(start, len(columns)))
    return torch.stack(columns, 1), torch.tensor([int(line[-1].startswith(">")) for line in lines]), places


def attributes() -> dict[str, dict]:
    """Returns how well the marital status of members and others is found, beside guesses without the model."""
    path = Path(os.environ.get("PRIVET_DATA", "")) / "adult" / "adult.data.gz"
    if not path.is_file():
        print(f"no {path}: attribute inference is left out")
        return {}
    from sklearn.linear_model import LogisticRegression

    rows, labels, places = adult(path)
    hidden = torch.tensor(places["Marital_status"])
    torch.manual_seed(0)
    network = trained(Mlp(hidden=(256, 256)).build(tuple(rows.shape[1:]), 2), rows[:1000], labels[:1000], 150)
    others = [at for at in range(rows.shape[1]) if at not in hidden.tolist()]
    own = slice(3000, 6000)
    known = torch.cat((rows[:, others], labels[:, None]), 1).numpy()
    truth = rows[:, hidden].argmax(1)
    imputed = LogisticRegression(max_iter=2000).fit(known[own], truth[own]).predict(known)
    found = {}
    for name, chosen in (("members", slice(0, 1000)), ("others", slice(1000, 2000))):
        blind = rows[chosen].clone()
        blind[:, hidden] = 0
        view = View(
            party="whoever has the global model",
            seen={"inputs": blind, "labels": labels[chosen]},
            knows={"inputs": rows[own], "columns": hidden, "candidates": torch.eye(len(hidden))},
            query=lambda inputs: network(inputs).detach(),
            shape=tuple(rows.shape[1:]),
            classes=2,
        )
        guess = AttributeInference()(view, seeded(0)).scores.argmax(1)
        common = truth[own].bincount().argmax()
        found[f"attribute-inference, Adult, marital status, {name}"] = {
            "right": with_interval(guess == truth[chosen]),
            "floor": {
                "commonest": round(float((truth[chosen] == common).double().mean()), 4),
                "imputed_from_other_columns": round(
                    float((torch.from_numpy(imputed)[chosen] == truth[chosen]).double().mean()), 4
                ),
            },
        }
    return found


def draw(found: dict[str, dict]) -> None:
    """Writes the picture: originals above reconstructions."""
    lines = [("originals", ROWS[:12])]
    for key in (
        "inverting-gradients, tanh LeNet fresh, batch 1",
        "inverting-gradients, tanh LeNet fresh, batch 1, noise",
        "inverting-gradients, tanh LeNet fresh, batch 1, ten times the noise",
        "inverting-gradients, tanh LeNet fresh, batch 4",
        "inverting-gradients, tanh LeNet fresh, batch 4, noise",
        "inverting-gradients, ReLU LeNet fresh, batch 1",
        "idlg, tanh perceptron fresh, batch 1",
        "linear-layer-inversion, ReLU perceptron fresh, batch 8",
        "linear-layer-inversion, ReLU perceptron fresh, batch 1, noise",
        "deep-inversion, tanh LeNet trained",
        "gan-reconstruction, tanh LeNet trained",
    ):
        figure = found[key].get("ssim", found[key].get("ssim_to_class_mean"))["value"]
        lines.append((f"{key}\nSSIM {figure:.2f}", found[key]["pictures"][:12]))
    picture, axes = plt.subplots(len(lines), 1, figsize=(10, 0.6 * len(lines)))
    for axis, (title, images) in zip(axes, lines, strict=True):
        strip = torch.ones(28, 12 * 29)
        for place, image in enumerate(images):
            strip[:, place * 29 : place * 29 + 28] = image[0]
        axis.imshow(strip.numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
        axis.text(-8, 14, title, ha="right", va="center", fontsize=7)
    picture.subplots_adjust(left=0.42, right=0.99, top=0.99, bottom=0.01, hspace=0.05)
    picture.savefig(FIGURES / "gradient_attacks.png", dpi=110)


def write(found: dict[str, dict]) -> None:
    """Writes figures and picture."""
    draw(found)
    figures = {name: {k: v for k, v in one.items() if k != "pictures"} for name, one in found.items()}
    about = {
        "made_by": COMMAND,
        "data": "mnist-10k; attacked rows: its test rows; the attacker's own: its training rows",
        "noise": f"gradient clipped to norm {LIMIT:g}, Gaussian of sigma {SIGMA:g} on each coordinate",
        "reidentified": f"the guess is nearest its own record among {CANDIDATES} candidates",
        "intervals": "95 %: normal for means, Clopper-Pearson for rates, DeLong for AUC; over records, one network",
    }
    (FIGURES / "gradient_attacks.json").write_text(json.dumps({"about": about, "attacks": figures}, indent=1) + "\n")


def main() -> None:
    """Measures every attack."""
    found = {}
    for name, job in (updates() | models() | properties()).items():
        found[name] = job()
        print(name, {k: v for k, v in found[name].items() if k != "pictures"}, flush=True)
    write(found | attributes())


if __name__ == "__main__":
    main()
