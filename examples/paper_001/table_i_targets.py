"""The networks that Table I is measured on, and the images: data found on this machine, weights kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from privet import parts
from privet.errors import DataError
from privet.fleet.datasets.cifar10_jpeg import Cifar10Jpeg
from privet.fleet.datasets.mnist import Mnist
from privet.fleet.datasets.mnist_10k import Mnist10k
from privet.fleet.fetch import data_folders, find_file
from privet.inference.distributed.networks import PAPER, Network, described
from privet.randomness import seeded

FACE = 128  # side of a face, in pixels
STRANGERS = 10  # people of ORL whom the attacker has no image of
EPOCHS = {"lenet": 3, "cifar": 4}


@dataclass(frozen=True)
class Images:
    """Images of a data set, and what it is called.

    Attributes:
        name: for the results.
        inputs, labels: for training the network, and public: the attacker has them.
        test_inputs, test_labels: whom the attack is on.
        classes: number of classes; 0 where the attacked are strangers to the attacker.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int


def mnist() -> Images:
    """Returns the digits, whole."""
    data = Mnist().load()
    arrays = (data.train_inputs, data.train_labels, data.test_inputs, data.test_labels)
    return Images("MNIST", *map(torch.from_numpy, arrays), 10)


def digits() -> Images:
    """Returns the 10,000 digits that the package holds."""
    data = Mnist10k().load()
    arrays = (data.train_inputs, data.train_labels, data.test_inputs, data.test_labels)
    return Images("MNIST, 10,000 digits", *map(torch.from_numpy, arrays), 10)


def cifar() -> Images:
    """Returns CIFAR-10 from a copy whose images went through JPEG.

    Raises:
        DataError: the files are not here.
    """
    data = Cifar10Jpeg().load()
    arrays = (data.train_inputs, data.train_labels, data.test_inputs, data.test_labels)
    return Images("CIFAR-10 (JPEG copy)", *map(torch.from_numpy, arrays), 10)


def faces(folder: Path | None = None) -> Images:
    """Returns faces in grey as three equal channels, 128 x 128: a folder's own pictures, or ORL.

    The last ten people of ORL (of a folder, the last fifth of its files) are whom the attack is on: strangers.

    Raises:
        DataError: there are none.
    """
    if folder is not None:
        pixels = torch.stack([_picture(path) for path in _pictures(folder)])
        cut = len(pixels) * 4 // 5
        none = torch.zeros(len(pixels), dtype=torch.int64)
        return Images(folder.name, pixels[:cut], none[:cut], pixels[cut:], none[cut:], 0)
    do = "put orl_faces.npz there: X (400, 112, 92) uint8, y"
    with np.load(find_file("orl_faces", "orl_faces.npz", "", None, do), allow_pickle=False) as file:
        pixels, people = torch.from_numpy(file["X"]).float() / 255, torch.from_numpy(file["y"]).long()
    pixels = functional.interpolate(pixels[:, None], (FACE, FACE), mode="bilinear").expand(-1, 3, -1, -1)
    known = people < int(people.max()) + 1 - STRANGERS
    return Images("ORL", pixels[known], people[known], pixels[~known], people[~known], 0)


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(found) < 100:
        raise DataError(f"{folder} has {len(found)} pictures", allowed="100 or more .jpg or .png")
    return found[:2000]


def _picture(path: Path) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        side = min(image.size)
        left, top = ((edge - side) // 2 for edge in image.size)
        square = image.convert("RGB").crop((left, top, left + side, top + side)).resize((FACE, FACE))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def trained(name: str, images: Images, epochs: int) -> nn.Sequential:
    """Returns one of the document's networks, trained on an image set or taken from the cache."""
    torch.manual_seed(0)
    table, shape, classes = PAPER[name]
    network = parts.build("models", table).build(shape, classes)
    kept = data_folders("paper_001")[-1] / f"{name}_{len(images.labels)}_{epochs}.safetensors"
    if kept.is_file():
        network.load_state_dict(load_file(kept))
        return network.eval()
    network.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), 0.002)
    steps = epochs * -(-len(images.labels) // 128)
    rise = torch.optim.lr_scheduler.OneCycleLR(adam, 0.002, total_steps=steps)
    for epoch in range(epochs):
        for rows in seeded(0, "epoch", epoch).permutation(len(images.labels)).split(128):
            inputs = images.inputs[rows]
            if name == "cifar" and epoch % 2:
                inputs = inputs.flip(3)
            adam.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "cifar"):  # a third of the time
                answer = network(inputs.contiguous(memory_format=torch.channels_last))
            functional.cross_entropy(answer.float(), images.labels[rows]).backward()
            adam.step()
            rise.step()
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, kept)
    return network.eval()


@torch.no_grad()
def accuracy(network: Network, images: Images) -> float:
    """Returns the share of test images that a network gets right."""
    right = [network(inputs).argmax(1) == labels for inputs, labels in _batches(images)]
    return float(torch.cat(right).double().mean())


def _batches(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(images.test_inputs.split(500), images.test_labels.split(500), strict=True)


def target(name: str, images: Images, epochs: int | None = None) -> Network:
    """Returns the network that is attacked: trained, but for VGG, whose weights are as at its birth."""
    _, shape, _ = PAPER[name]
    if name.startswith("vgg"):
        return random_front(name)
    return described(trained(name, images, EPOCHS[name] if epochs is None else epochs), shape, name)


def random_front(name: str) -> Network:
    """Returns the convolutions of a VGG with He's random weights, which keep the size of what passes."""
    torch.manual_seed(0)
    table, shape, classes = PAPER[name]
    with torch.device("meta"):
        whole = parts.build("models", table | {"hidden": (8,)}).build(shape, classes)
    front = whole[: next(at for at, stage in enumerate(whole) if isinstance(stage, nn.Flatten))].to_empty(device="cpu")
    for stage in front:
        if isinstance(stage, nn.Conv2d):
            nn.init.kaiming_normal_(stage.weight, nonlinearity="relu")
            nn.init.zeros_(stage.bias)
    return described(front, shape, name)
