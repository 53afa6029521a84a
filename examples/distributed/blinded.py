"""Blinded inference, measured over four helper processes on loopback: docs/figures/blinded_inference.json.

    python examples/distributed/blinded.py     some minutes; the full MNIST and a JPEG copy of CIFAR-10, where they are

Trains LeNet with 8 and 16 maps and the CIFAR CNN briefly, then asks them blinded and undistributed. In between a helper
is killed in mid-request, one lies, one is slow. ``--quick`` takes the embedded digits and no CIFAR.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from privet import parts
from privet.errors import DataError
from privet.fleet.fetch import find_file
from privet.inference.distributed.blinded import Blinded
from privet.inference.distributed.blinded_cost import Site, estimate
from privet.inference.distributed.fixed_point import FIELD, RINGS
from privet.inference.distributed.founding import found
from privet.inference.distributed.freivalds import check_of
from privet.inference.distributed.masks import Masks
from privet.inference.distributed.messages import LIMIT
from privet.inference.distributed.networks import PAPER, Network, described, paper_network
from privet.inference.distributed.source import Source
from privet.transport.contract import Peer
from privet.transport.grpc import GrpcClient
from privet.transport.identity import Identity

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "blinded_inference.json"
COMMAND = "python examples/distributed/blinded.py"
HELPERS, REPEATS = 4, 9
ODD = Path(__file__).with_name("odd_helper.py")
HOW_MUCH = {"lies": "1", "slow": "0.7"}
RUN = "from privet.apps.cli.main import main; raise SystemExit(main())"


def start(folder: Path, kind: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a helper process and returns it with its address."""
    command = [sys.executable, str(ODD), str(folder), kind, HOW_MUCH.get(kind, "0")]
    if kind == "honest":
        command = [sys.executable, "-c", RUN, "helper", "--folder", str(folder)]
        command += ["--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    said = process.stdout.readline() if process.stdout else ""
    return process, said.split()[-1]


@contextmanager
def fleet(*kinds: str) -> Iterator[tuple[Path, list[subprocess.Popen[str]], dict[Peer, GrpcClient]]]:
    """Runs helper processes, and yields the source's folder, the processes, and the ways to them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "home"
        peers = [Peer("helper", f"helper-{at}") for at in range(len(kinds))]
        found(folder, {peer: "127.0.0.1:1" for peer in peers})
        started = [start(folder / peer.name, kind) for peer, kind in zip(peers, kinds, strict=True)]
        identity = Identity.load(folder / "source")
        clients = {p: GrpcClient(at, p, identity, LIMIT) for p, (_, at) in zip(peers, started, strict=True)}
        try:
            yield folder / "source", [process for process, _ in started], clients
        finally:
            for client in clients.values():
                client.close()
            for process, _ in started:
                process.kill()
                process.wait()


def digits(quick: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """Returns training and test digits: all of MNIST where it is, the embedded ones otherwise."""
    try:
        data = parts.build("datasets", {"name": "mnist-10k" if quick else "mnist"}).load()
    except DataError:
        data = parts.build("datasets", {"name": "mnist-10k"}).load()
    arrays = (data.train_inputs, data.train_labels, data.test_inputs, data.test_labels)
    return *(torch.from_numpy(each) for each in arrays), data.name  # type: ignore[return-value]


def pictures(side: str, count: int) -> tuple[Tensor, Tensor]:
    """Returns the first images of the JPEG copy of CIFAR-10."""
    file = np.load(find_file("cifar10_jpeg", f"{side}.npz", "", None, "put it there by hand"), allow_pickle=False)
    data, offset = file["jpeg"].tobytes(), file["offset"]
    images = [
        np.asarray(Image.open(io.BytesIO(data[offset[i] : offset[i + 1]])), dtype=np.float32) for i in range(count)
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, torch.from_numpy(file["y"][:count]).long()


def train(name: str, inputs: Tensor, labels: Tensor, epochs: int, rate: float) -> nn.Sequential:
    """Returns a network of the document, trained briefly."""
    torch.manual_seed(0)
    table, shape, classes = PAPER[name]
    module: nn.Sequential = parts.build("models", table).build(shape, classes)
    steps = epochs * (len(inputs) // 64)
    optimiser = torch.optim.Adam(module.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs))[: len(inputs) // 64 * 64].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    return module.eval()


def same_answers(network: Network, inputs: Tensor, labels: Tensor, batch: int) -> dict[str, Any]:
    """Asks for all inputs over four helper processes, and compares with the undistributed network."""
    with fleet(*["honest"] * HELPERS) as (folder, _, clients), torch.no_grad():
        source = Source(network, clients, folder / "masks", where="helpers")
        equal = right = right_alone = near = plain = 0
        worst = seconds = preparing = 0.0
        closest, sent = float("inf"), 0
        for images, wanted in zip(inputs.split(batch), labels.split(batch), strict=True):
            answer, alone = source.infer(images), network(images).double()
            top = alone.topk(2, 1).values
            closest = min(closest, float((top[:, 0] - top[:, 1]).min()))
            equal += int((answer.outputs.argmax(1) == alone.argmax(1)).sum())
            right += int((answer.outputs.argmax(1) == wanted).sum())
            right_alone += int((alone.argmax(1) == wanted).sum())
            worst = max(worst, float((answer.outputs - alone).abs().max()))
            plain += int((source.blinded.rounded(images).argmax(1) == alone.argmax(1)).sum())
            seconds, preparing = seconds + answer.seconds, preparing + answer.preparing_s
            sent, near = sent + answer.outcome.bytes, near + answer.outcome.close
        begin = time.perf_counter()
        for images in inputs.split(batch):
            network(images)
        local = time.perf_counter() - begin
        source.close()
    return {
        "images": len(inputs),
        "same_argmax": equal,
        "same_argmax_without_deciding_close_ones_here": plain,
        "close_ones_decided_by_the_source": near,
        "largest_error_of_a_logit": worst,
        "smallest_margin_of_a_winner": closest,
        "accuracy_blinded": right / len(inputs),
        "accuracy_undistributed": right_alone / len(inputs),
        "seconds_an_image": seconds / len(inputs),
        "preparing_masks_seconds_an_image": preparing / len(inputs),
        "undistributed_seconds_an_image": local / len(inputs),
        "bytes_an_image": sent / len(inputs),
        "batch": batch,
    }


def failures(network: Network, images: Tensor) -> dict[str, Any]:
    """Measures a request with a helper killed in it, with a liar, with a slow helper, and an undisturbed one."""
    alone, made = network(images).double().argmax(1), {}
    for name, kind in {"undisturbed": "honest", "killed": "honest", "lying": "lies", "slow": "slow"}.items():
        with fleet(kind, "honest", "honest", "honest") as (folder, processes, clients):
            source = Source(network, clients, folder / "masks", where="helpers")
            for _ in range(2 if kind == "honest" else 0):
                source.infer(images)
            source.prepare(len(images))
            if name == "killed":
                threading.Timer(0.005, processes[0].send_signal, (signal.SIGKILL,)).start()
            answer = source.infer(images)
            made[name] = {
                "seconds": answer.seconds,
                "same_argmax": bool(torch.equal(answer.outputs.argmax(1), alone)),
                "parts_redone": answer.outcome.redone,
                "parts_hedged": answer.outcome.hedged,
                "excluded": [str(peer) for peer in source.sharing.liars],
            }
            source.close()
    return made


def checks(network: Network, batch: int) -> list[dict[str, Any]]:
    """Measures what Freivalds' check costs beside multiplying, modulo the prime and modulo 2^32."""
    rows = []
    for ring in RINGS.values():
        blinded = Blinded(network, ring)
        for number, layer in enumerate(blinded.layers):
            sent = torch.randint(0, ring.modulus, (batch, *layer.layer.inputs))
            answer = blinded.evaluate(number, sent)
            check = check_of(layer.kernel, ring)
            work = min(timed(lambda b=blinded, n=number, s=sent: b.evaluate(n, s)) for _ in range(REPEATS))
            checking = min(timed(lambda c=check, s=sent, a=answer: c.holds(s, a)) for _ in range(REPEATS))
            single = sent.float()
            plain = min(timed(lambda n=layer.layer, s=single: functional(n, s)) for _ in range(REPEATS))
            rows.append(
                {
                    "ring": ring.name,
                    "layer": layer.layer.name,
                    "multiply_s": work,
                    "check_s": checking,
                    "float_s": plain,
                }
            )
    return rows


def functional(layer: Any, value: Tensor) -> Tensor:
    """Returns the layer's outputs in float32."""
    from privet.inference.distributed.networks import apply

    return apply(layer, value)


def timed(done: Any) -> float:
    """Returns how many seconds a call takes."""
    begin = time.perf_counter()
    done()
    return time.perf_counter() - begin


def modelled() -> list[dict[str, Any]]:
    """Models VGG16 with random weights, LeNet and the CIFAR CNN on 8 Raspberry Pi 3 and one shared channel."""
    rows = []
    for name in ("vgg16", "cifar", "lenet"):
        network = paper_network(name, weights=False)
        for rate in (72.2e6, 1e9):
            for multicast, checked in ((True, False), (True, True), (False, True)):
                pi = Site(560e6, rate)
                got = estimate(network, pi, [pi] * 8, multicast=multicast, checked=checked)
                rows.append(
                    {
                        "network": name,
                        "channel_bits_per_second": rate,
                        "multicast": multicast,
                        "checked": checked,
                        "seconds": got.seconds,
                        "one_device_seconds": got.local,
                        "layers_at_source": list(got.at_source),
                        "megabits": got.bits / 1e6,
                    }
                )
    return rows


def vgg16() -> dict[str, Any]:
    """Asks VGG16 with random weights about one random image, every linear layer blinded, in this process."""
    torch.manual_seed(0)
    network = paper_network("vgg16")
    image = torch.rand(1, *network.inputs)
    blinded = Blinded(network)
    with tempfile.TemporaryDirectory() as place:
        masks = Masks(Path(place) / "masks")
        begin = time.perf_counter()
        ready = blinded.prepare(masks, 1)
        prepared = time.perf_counter()
        made = blinded.run(image, ready, masks, blinded.here)
        end = time.perf_counter()
        masks.close()
    alone = network(image).double()
    return {
        "same_argmax": bool(made.argmax() == alone.argmax()),
        "largest_error_of_a_logit": float((made - alone).abs().max()),
        "spread_of_logits": float(alone.std()),
        "preparing_s": prepared - begin,
        "blinded_in_one_process_s": end - prepared,
        "undistributed_s": timed(lambda: network(image)),
    }


def main() -> None:
    """Measures, prints and writes."""
    quick = "--quick" in sys.argv
    torch.set_num_threads(1)
    found: dict[str, Any] = {"command": COMMAND, "helpers": HELPERS, "ring": FIELD.name, "modelled": modelled()}
    inputs, labels, tests, wanted, name = digits(quick)
    _, shape, _ = PAPER["lenet"]
    network = described(train("lenet", inputs, labels, 1 if not quick else 2, 4e-3), shape, "lenet")
    with torch.no_grad():
        found["lenet"] = {"data": name} | same_answers(network, tests, wanted, 250)
        found["failures"] = failures(network, tests[:50])
        found["checks_lenet"] = checks(network, 16)
    print(json.dumps({key: found[key] for key in ("lenet", "failures")}, indent=2), flush=True)
    try:
        colours = None if quick else (*pictures("train", 12000), *pictures("test", 1000))
    except DataError as error:
        print(f"without CIFAR: {error}")
        colours = None
    if colours is not None:
        network = described(train("cifar", colours[0], colours[1], 2, 1.5e-3), PAPER["cifar"][1], "cifar")
        with torch.no_grad():
            found["cifar"] = {"data": "CIFAR-10 (JPEG copy)"} | same_answers(network, colours[2], colours[3], 20)
            found["checks_cifar"] = checks(network, 4)
        print(json.dumps(found["cifar"], indent=2), flush=True)
    if not quick:
        with torch.no_grad():
            found["vgg16"] = vgg16()
        FIGURE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
