"""The device's end: asks the SuperLink for work, hands it to Privet, sends back what Privet answers.

It speaks to the SuperLink as Flower's SuperNode does, with one difference: a SuperNode fetches the run's app and runs
the code in it, whereas here the app is this file's, the run's is never fetched, and work is names and fields.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from privet.engines.flower.link import ServerName
from privet.engines.flower.wire import Letter, from_records, to_records
from privet.errors import PrivetError, RefusedError, UnreachableError
from privet.transport.certificates import issued_by, require_current

Answer = Callable[[Letter], Letter]
"""What Privet makes of work; it may raise nothing but what ends the device."""

BEAT = 30.0
"""Seconds between two signs of life; after two that are missing the coordinator is told."""

TRIES = 8
"""How often a transfer goes on after it broke, before the work is given up; chunks that arrived stay."""

GRACE = 75.0
"""Seconds for which a device that is not let in asks again: it may just be enrolling, or taken for present."""

_BROKEN = (httpx.HTTPError, ObjectPullError, ObjectPushError, OSError)


@dataclass(frozen=True)
class Coordinator:
    """Where a device's coordinator is, and how the two know each other.

    Attributes:
        address: host and port of the gate.
        name: the DNS name in its certificate.
        authority, certificate, key: PEM files; the device's own certificate and key.
    """

    address: str
    name: str
    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Returns the TLS settings: 1.3, both sides with a certificate of the fleet's authority."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(str(self.certificate), str(self.key))
        return context

    @contextmanager
    def client(self) -> Iterator[tuple[FleetHttpClient, bytes]]:
        """Yields a client that proves the device's key in every call, and the public key, PEM.

        Raises:
            RefusedError: the device's own certificate or key does not hold.
        """
        self._check()
        key = load_pem_private_key(self.key.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise RefusedError(f"{self.key} is no elliptic-curve key", do="join the fleet again")
        with FleetHttpClient(
            f"https://{self.address}",
            interceptors=[
                RuntimeVersionHttpInterceptor("SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
                ServerName(self.name),
            ],
            verify=self.context(),
        ) as client:
            yield client, public_key_to_bytes(key.public_key())

    def _check(self) -> None:
        """Refuses a certificate that the coordinator would hang up on, which it does without a word."""
        own = self.certificate.read_bytes()
        require_current(own, "this device's certificate", "join again")
        if not issued_by(own, self.authority.read_bytes()):
            raise RefusedError("this device's certificate is of another fleet", do="join this one")


def serve(
    coordinator: Coordinator,
    answer: Answer,
    stop: threading.Event,
    *,
    patience: float = 3600.0,
    rest: float = 3.0,
    joined: Callable[[], None] = lambda: None,
) -> None:
    """Answers work until it is told to stop.

    Args:
        coordinator: whose work.
        answer: what makes the answers.
        stop: set it to end.
        patience: seconds without any answer of the coordinator after which the device gives up.
        rest: seconds to sleep at most between two questions whether there is work.
        joined: called once the coordinator has let the device in.

    Raises:
        RefusedError: the coordinator does not know this device, or its certificate does not hold.
        UnreachableError: it did not answer for so long.
    """
    app = client_app(answer)
    heard, wait = time.monotonic(), 1.0
    while not stop.is_set():
        try:
            with coordinator.client() as (client, public_key):
                node = Node(node_id=_let_in(client, public_key, coordinator.key.with_name("flower.node")))
                heard, wait = time.monotonic(), 1.0
                joined()
                with _beating(client, node):
                    _work(client, node, app, stop, rest)
        except (httpx.HTTPError, ssl.SSLError) as error:
            _refused(error, known=time.monotonic() - heard < GRACE)
            if time.monotonic() - heard > patience:
                raise UnreachableError(
                    f"the coordinator at {coordinator.address} did not answer for {patience:g} s: {error}"
                ) from error
            stop.wait(wait)
            wait = min(2 * wait, 30.0)


def client_app(answer: Answer) -> ClientApp:
    """Returns the Flower app of a device: it answers training messages, and nothing else."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(to_records(answer(from_records(message.content))), reply_to=message)

    return app


def _let_in(client: FleetHttpClient, public_key: bytes, known: Path) -> int:
    """Says that the device is there and returns its number, which is kept for a device that is killed.

    Flower takes a killed device for present for a minute, and lets nobody in who is there; so it says goodbye first.
    """
    if known.is_file():
        with suppress(httpx.HTTPStatusError, ValueError):
            client.DeactivateNode(DeactivateNodeRequest(node_id=int(known.read_text())))
    asked = ActivateNodeRequest(public_key=public_key, heartbeat_interval=BEAT)
    number = int(client.ActivateNode(asked).node_id)
    known.write_text(str(number))
    return number


def _refused(error: Exception, *, known: bool) -> None:
    """Raises if trying again would not help.

    Args:
        error: what happened.
        known: whether the coordinator may still be registering this device.

    Raises:
        RefusedError: the coordinator said no, or is not who it should be.
    """
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
    if status in (400, 401, 403, 404) or (400 <= status < 500 and not known):
        reason = error.response.text[:200] if isinstance(error, httpx.HTTPStatusError) else ""
        raise RefusedError(f"the coordinator lets this device in no more: {reason}", do="ask the fleet's operator")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        raise RefusedError(f"the coordinator's certificate does not hold: {error}", do="check the address")


@contextmanager
def _beating(client: FleetHttpClient, node: Node) -> Iterator[None]:
    """Gives signs of life while a block runs, also while the device trains; says goodbye at its end."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.8 * BEAT):
            with suppress(httpx.HTTPError):
                client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=BEAT))

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1)
        with suppress(httpx.HTTPError):
            client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))


def _work(client: FleetHttpClient, node: Node, app: ClientApp, stop: threading.Event, rest: float) -> None:
    wait = 0.1
    while not stop.is_set():
        found = client.PullMessages(PullMessagesRequest(node=node))
        if not found.messages_list:
            stop.wait(wait)
            wait = min(1.5 * wait, rest)
            continue
        wait, started = 0.1, time.monotonic()
        message = _again(partial(_fetch, client, node, found), stop)
        if message is None:
            continue
        context = Context(message.metadata.run_id, node.node_id, {}, RecordDict(), {})
        try:
            reply = app(message, context)
        except PrivetError:
            continue  # what can't be read is not answered
        _again(partial(_send, client, node, reply, time.monotonic() - started), stop)


def _again(transfer: Callable[[], Message], stop: threading.Event) -> Message | None:
    """Goes on with a transfer that breaks, where only missing chunks travel; None once it is given up."""
    for number in range(TRIES):
        try:
            return transfer()
        except _BROKEN as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
            if 400 <= status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
                return None  # the run is over, or the round: nobody waits for this any more
            if stop.wait(min(2.0**number, 30.0)):
                return None
    return None


def _fetch(client: FleetHttpClient, node: Node, found: PullMessagesResponse) -> Message:
    proto, tree = found.messages_list[0], found.message_object_trees[0]
    run = message_from_proto(proto).metadata.run_id
    pull = make_pull_object_fn_protobuf(client.PullObject, node, run)
    contents = pull_objects([one.object_id for one in iterate_object_tree(tree)], pull)
    number = proto.metadata.message_id
    client.ConfirmMessageReceived(ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=number))
    message = inflate_object_from_contents(number, contents)
    assert isinstance(message, Message)  # noqa: S101 - it is what was asked for
    message.metadata.__dict__["_message_id"] = number
    return message


def _send(client: FleetHttpClient, node: Node, reply: Message, seconds: float) -> Message:
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects, tree, run = get_all_nested_objects(reply), get_object_tree(reply), reply.metadata.run_id
        wanted = client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
        )
        push = make_push_object_fn_protobuf(client.PushObject, node, run, wanted.session_id)
        push_objects(objects, push, object_ids_to_push=set(wanted.objects_to_push), keep_objects=True)
    return reply
