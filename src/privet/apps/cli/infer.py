"""``privet infer``: ask a network about images, its work done by helpers, or a service about samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privet.apps.cli.infer_service import ask, check_needed, service_options
from privet.apps.cli.output import FloatRange, is_given, json_option, print_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from privet.inference.distributed.networks import Network
    from privet.inference.distributed.relay import Planned
    from privet.inference.distributed.source import Answer
    from privet.inference.offload import Answers, Offloaded
    from privet.transport.contract import Client, Peer

    Stay = Callable[[Answers], Offloaded]

Reply = TypeVar("Reply", "Answer", "Planned")
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


@click.command()
@click.option("--protocol", type=click.Choice(["blinded", "distributed"]), default="blinded", show_default=True)
@click.option("--folder", type=_FOLDER, required=True, help="The asker's certificate; helpers.json and masks.")
@click.option("--model", metavar="NAME|FOLDER", help="With helpers: lenet, cifar, vgg16, vgg19, or a trained model.")
@click.option("--weights", type=_FILE, help="Of a NAME: the published network's values, a safetensors file.")
@click.option("--input", "inputs", type=_FILE, required=True, help="Images (n, channels, height, width): a .npy file.")
@service_options
@click.option("--where", type=click.Choice(["auto", "helpers", "here"]), default="auto", show_default=True)
@click.option("--batch", type=click.IntRange(1, 1024), default=64, show_default=True, help="Images at a time.")
@click.option(
    "--ssim", type=FloatRange(), default=0.4, show_default=True, help="With distributed: tolerated similarity."
)
@click.option("--planner", default="fused", show_default=True, metavar="PART", help="With distributed: who plans.")
@json_option
def infer(
    protocol: str,
    folder: Path,
    model: str | None,
    weights: Path | None,
    inputs: Path,
    where: str,
    batch: int,
    ssim: float,
    planner: str,
    as_json: bool,
    **asked: Any,
) -> None:
    """Ask a network about images over the helpers in FOLDER/helpers.json, or a service that has a model.

    Blinded, helpers see uniform noise whatever they share among themselves, and lies are found out. Distributed is the
    published scheme, for measuring: its helpers see maps, and one map can be enough to see the image. A service sees
    what it is asked about: --obfuscator changes that on this machine before it leaves.
    """
    if asked["service"] is not None:
        _refuse_helpers()
        return ask(folder, _array(inputs), as_json, **asked)
    check_needed(asked)
    if model is None:
        raise click.UsageError("Missing option '--model', or '--service'", click.get_current_context())
    import torch

    torch.set_num_threads(1)
    network, images = _network(model, weights), _images(inputs)
    stay = _staying(network, images, **asked)
    helpers = _helpers(folder)
    try:
        if protocol == "blinded":
            said = _blinded(network, stay, helpers, folder, where, batch)
        else:
            said = _distributed(network, stay, helpers, ssim, planner, where, batch)
    finally:
        for client in helpers.values():
            client.close()
    said = {"protocol": protocol, "model": model, "images": len(images), **said}
    if as_json:
        print_json(said)
        return
    click.echo(f"classes: {' '.join(str(each) for each in said['classes'])}")
    click.echo(f"{said['seconds']:.3g} s for {len(said['left'])} of {len(images)} images")
    if protocol == "distributed":
        click.echo("not private: helpers saw maps of the images; see the page on distributed inference")
    for line in said["events"]:
        click.echo(line)


def _refuse_helpers() -> None:
    """Refuses what is for helpers where a service is asked: nobody shall think that it protected anything."""
    for name in ("protocol", "model", "weights", "where", "batch", "ssim", "planner"):
        if is_given(name):
            raise click.UsageError(f"'--{name}' is of no use with '--service'")


def _staying(
    network: Network,
    images: Tensor,
    own_model: Path | None,
    offload: float | None,
    threshold: float | None,
    **_: object,
) -> Stay:
    """Returns what asks about all images, or about those alone of which the own model is not sure."""
    import torch

    from privet.inference.obfuscation import Trained
    from privet.inference.offload import Offload, Offloaded
    from privet.inference.questions import require_samples

    if own_model is None and (offload is not None or threshold is not None):
        raise click.UsageError("Missing option '--own-model', which answers what stays here")
    if own_model is not None and (offload is None) == (threshold is None):
        raise click.UsageError("'--own-model' goes with one of '--offload' and '--threshold'")
    own = Trained.load(own_model) if own_model is not None else None
    require_samples(images.shape, network.inputs, "inputs")
    if own is None:
        return lambda ask: Offloaded(ask(images), torch.ones(len(images), dtype=torch.bool))
    own.require(network.inputs, network.outputs[0], "the own model", f"as {network.name} has")
    own.refuse_far(images)
    return lambda ask: Offload(own.answer, ask, threshold, offload).answer(images)


def _asked(infer: Callable[[Tensor], Reply], most: int, stay: Stay) -> tuple[list[Reply], dict[str, Any]]:
    """Returns the replies to what left, ``most`` images at a time, and what is said of any protocol."""
    import torch

    replies: list[Reply] = []

    def ask(images: Tensor) -> Tensor:
        replies.extend(map(infer, images.split(most)))
        return torch.cat([reply.outputs for reply in replies])

    answered = stay(ask)
    return replies, {
        "classes": answered.logits.argmax(1).tolist(),
        "left": answered.left.nonzero()[:, 0].tolist(),
        "seconds": sum(reply.seconds for reply in replies),
    }


def _blinded(
    network: Network, stay: Stay, helpers: dict[Peer, Client], folder: Path, where: Any, batch: int
) -> dict[str, Any]:
    from privet.inference.distributed.source import Source

    online = {peer: client for peer, client in helpers.items() if peer.role == "helper"}
    offline = {peer: client for peer, client in helpers.items() if peer.role == "preparer"}
    source = Source(network, online, folder / "masks", preparers=offline, where=where)
    try:
        answers, said = _asked(source.infer, min(batch, source.most), stay)
    finally:
        source.close()
    return said | {
        "preparing_s": sum(answer.preparing_s for answer in answers),
        "at_source": list(source.at_source),
        "bytes": sum(answer.outcome.bytes for answer in answers),
        "excluded": [str(peer) for peer in source.sharing.liars],
        "events": list(dict.fromkeys(source.met.said + [line for answer in answers for line in answer.outcome.said])),
    }


def _distributed(
    network: Network, stay: Stay, helpers: dict[Peer, Client], ssim: float, planner: str, where: str, batch: int
) -> dict[str, Any]:
    from privet import parts
    from privet.inference.distributed.relay import Relay
    from privet.inference.distributed.workload import workload

    online = {peer: client for peer, client in helpers.items() if peer.role == "helper" and where != "here"}
    load, chosen = workload(network, ssim), parts.build("planners", {"name": planner})
    relay = Relay(network, load, online, chosen, faster_only=where == "auto")
    answers, said = _asked(relay.infer, batch, stay)
    return said | {
        "run_locally": all(answer.plan is None for answer in answers),
        "devices_used": max((answer.plan.devices_used for answer in answers if answer.plan), default=0),
        "events": list(dict.fromkeys(line for answer in answers for line in answer.said)),
    }


def _helpers(folder: Path) -> dict[Peer, Client]:
    from privet.inference.distributed.founding import addresses
    from privet.inference.distributed.messages import LIMIT
    from privet.transport.grpc import GrpcClient
    from privet.transport.identity import Identity

    identity = Identity.load(folder)
    return {peer: GrpcClient(address, peer, identity, LIMIT) for peer, address in addresses(folder).items()}


def _network(model: str, weights: Path | None) -> Network:
    from privet import parts
    from privet.errors import InputError, nearest
    from privet.inference.distributed.networks import PAPER, described
    from privet.inference.obfuscation import Trained
    from privet.tensors import fill, load

    if Path(model).is_dir():
        if weights is not None:
            raise click.UsageError("'--weights' is of no use with a folder, which has its own")
        trained = Trained.load(Path(model))
        return described(trained.network, trained.shape, parts.name_of(trained.model))
    if model not in PAPER:
        allowed = f"{', '.join(PAPER)}, or the folder of a trained model"
        raise InputError(f"no network called {model!r}", allowed=allowed, do=nearest(model, list(PAPER)))
    if weights is None:
        raise click.UsageError("Missing option '--weights'", click.get_current_context())
    table, shape, classes = PAPER[model]
    module = parts.build("models", table).build(shape, classes)
    try:
        fill(module, load(weights))
    except InputError as error:
        raise InputError(f"{weights} does not fit {model}: {error.wrong}", allowed=error.allowed, do=error.do) from None
    return described(module, shape, model)


def _images(path: Path) -> Tensor:
    import torch

    return torch.from_numpy(_array(path))


def _array(path: Path) -> NDArray[np.float32]:
    import numpy as np

    from privet.errors import InputError

    try:
        found = np.load(path, allow_pickle=False)
        if found.dtype.kind not in "fiub":
            raise ValueError(found.dtype)
    except (ValueError, OSError, EOFError, TypeError, AttributeError):
        raise InputError(f"{path} is no array", allowed="a .npy file of real numbers") from None
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as such
        return found.astype(np.float32)  # type: ignore[no-any-return]
