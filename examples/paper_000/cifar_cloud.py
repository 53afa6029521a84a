"""Trains the cloud's model of the CIFAR-10 frontier and puts it into the cache.

python examples/paper_000/cifar_cloud.py     about 35 minutes of one core with bfloat16 instructions
"""

from __future__ import annotations

import numpy as np
import torch
from paper_000_trained import CACHE, rows
from torch import Tensor, nn
from torch.nn import functional

from privet.inference.obfuscation import Trained
from privet.models.small_resnet import SmallResnet
from privet.study.obfuscate import accuracy
from privet.tensors import State, clone

BATCH, MOMENTUM, DECAY, SMOOTHING = 256, 0.9, 5e-4, 0.05
# Three rises: the first was stopped after seven epochs of twenty, which were too slow; the others end at 0.
EPOCHS = (0.0, 4.0, 7.0, 7.0, 7.15, 15.0, 15.15, 18.0)
RATES = (0.0, 0.2, 0.1625, 0.0, 0.15, 0.0, 0.06, 0.0)
AVERAGED = (15, 18)  # the weights at these ends: 87.7 and 87.5 % alone, 88.3 % together


def moved(images: Tensor) -> Tensor:
    """Returns images (n, 3, 32, 32) each moved by up to four pixels, mirrored or not, with a grey square."""
    wide = functional.pad(images, (4, 4, 4, 4), mode="reflect")
    parts = []
    for part in wide.chunk(8):
        down, right = torch.randint(0, 9, (2,)).tolist()
        parts.append(part[:, :, down : down + 32, right : right + 32])
    out = torch.cat(parts)
    mirrored = torch.rand(len(out)) < 0.5
    out[mirrored] = out[mirrored].flip(3)
    down, right = torch.randint(0, 25, (2,)).tolist()
    out[:, :, down : down + 8, right : right + 8] = 0.5
    return out


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    own = rows("cifar")
    network = SmallResnet().build((3, 32, 32), own.classes).to(memory_format=torch.channels_last)
    weights = [value for value in network.parameters() if value.dim() > 1]
    others = [value for value in network.parameters() if value.dim() <= 1]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    descent = torch.optim.SGD(groups, lr=0.1, momentum=MOMENTUM, nesterov=True)
    steps, ends = len(own.inputs) // BATCH, list[State]()
    for epoch in range(int(EPOCHS[-1])):
        network.train()
        for step, batch in enumerate(torch.randperm(len(own.inputs)).split(BATCH)[:steps]):
            for group in descent.param_groups:
                group["lr"] = float(np.interp(epoch + step / steps, EPOCHS, RATES))
            inputs = moved(own.inputs[batch]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                answers = network(inputs)
            descent.zero_grad()
            functional.cross_entropy(answers.float(), own.labels[batch], label_smoothing=SMOOTHING).backward()
            descent.step()
        if epoch + 1 in AVERAGED:
            ends.append(clone(network.state_dict()))
    averaged(network, ends)
    made = Trained(SmallResnet(), network.eval(), (3, 32, 32), own.classes, {"epochs": EPOCHS[-1]})
    made.save(CACHE / "cifar-0" / "model")
    print(f"{accuracy(made.answer(own.test_inputs), own.test_labels):.4f}")


@torch.no_grad()
def averaged(network: nn.Sequential, ends: list[State]) -> None:
    """Gives a network the mean of some weights, and the statistics of its normalisations that go with them."""
    mean = {name: sum(end[name] for end in ends) / len(ends) for name in ends[0] if ends[0][name].is_floating_point()}
    network.load_state_dict(ends[-1] | mean)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in rows("cifar").inputs[:10_240].split(BATCH):
        network(batch)


if __name__ == "__main__":
    main()
