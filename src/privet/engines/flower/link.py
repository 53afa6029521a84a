"""The coordinator's end of a SuperLink: register devices, open a run, reach the Grid.

Flower starts a run from an app. Ours is empty: a name without a line of code, since the round loop runs here and
devices run only what they have. The SuperLink waits for a separate process to take the run (``--isolation process``)
and hands it to nobody without the secret, so that a run which somebody else starts executes nothing anywhere.
"""

from __future__ import annotations

import fcntl
import io
import json
import ssl
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from privet.errors import RunError, UnreachableError

SERVER_APP = "flwr-serverapp"
_EMPTY_APP = """[project]
name = "privet"
version = "1.0.0"
description = "No code: devices run what Privet ships"
license = { text = "Apache-2.0" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "privet"
[tool.flwr.app.components]
serverapp = "privet:none"
clientapp = "privet:none"
[tool.flwr.app.config]
"""


class ServerName:
    """Asks for a peer by the name in its certificate, wherever it happens to be."""

    def __init__(self, name: str) -> None:
        self._name = name

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Names the peer in the TLS handshake, which then demands a certificate of this name."""
        context.request.extensions["sni_hostname"] = self._name
        return call_next(context)


@dataclass(frozen=True)
class Node:
    """A device as the SuperLink knows it.

    Attributes:
        number: Flower's identifier.
        name: the device's identity in the fleet.
        online: whether it has been heard of lately.
        public_key: PEM.
        activated: when it came last; "" if it never did.
    """

    number: int
    name: str
    online: bool
    public_key: bytes
    activated: str = ""


@dataclass(frozen=True)
class Link:
    """Where a SuperLink is, and what proves that we may drive it.

    Attributes:
        address: host and port on the coordinator's own machine.
        authority: file of the certificate authority's certificate.
        name: the DNS name in the SuperLink's certificate.
        secret: file of the secret that lets a process take runs.
    """

    address: str
    authority: Path
    name: str
    secret: Path

    @classmethod
    def load(cls, file: Path) -> Link:
        """Reads the file that a running coordinator keeps.

        Raises:
            UnreachableError: there is none: no coordinator is up.
            RunError: the file is damaged.
        """
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
            return cls(table["address"], Path(table["authority"]), table["name"], Path(table["secret"]))
        except FileNotFoundError:
            raise UnreachableError(
                f"no coordinator is up at {file.parent}", do=f"run: privet up {file.parent}"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{file} is damaged", do=f"stop and start: privet up {file.parent}") from None

    def save(self, file: Path) -> None:
        """Writes where the coordinator is, for :meth:`load`."""
        file.write_text(json.dumps({name: str(value) for name, value in vars(self).items()}) + "\n", encoding="utf-8")

    def context(self) -> ssl.SSLContext:
        """Returns the TLS settings: 1.3, and a certificate of our own authority."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def healthy(self) -> bool:
        """Tells whether the SuperLink answers."""
        try:
            with httpx.Client(verify=self.context(), timeout=5) as client:
                extensions = {"sni_hostname": self.name}
                return client.get(f"https://{self.address}/health", extensions=extensions).status_code == 200
        except (httpx.HTTPError, ssl.SSLError):
            return False

    @contextmanager
    def control(self) -> Iterator[ControlHttpClient]:
        """Yields a client of the control API.

        Raises:
            UnreachableError: the SuperLink does not answer, or refuses.
        """
        try:
            with ControlHttpClient(
                f"https://{self.address}",
                interceptors=[RuntimeVersionHttpInterceptor("flwr-cli"), ServerName(self.name)],
                verify=self.context(),
            ) as client:
                yield client
        except httpx.HTTPStatusError as error:
            raise UnreachableError(f"the SuperLink refused: {error.response.text[:200]}") from error
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the SuperLink at {self.address} does not answer: {error}", do="see whether privet up runs"
            ) from error

    def register(self, name: str, public_key: bytes) -> int:
        """Lets a device in: whoever holds the key to this public key (PEM, NIST curve) is the device of this name."""
        with self.control() as client:
            return int(client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)).node_id)

    def unregister(self, number: int) -> None:
        """Shuts a device out."""
        with self.control() as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=number))

    def nodes(self) -> list[Node]:
        """Returns the registered devices, sorted by name; Flower lists those too that it has shut out."""
        with self.control() as client:
            found = client.ListNodes(ListNodesRequest()).nodes_info
        there = [one for one in found if one.name and one.status != "unregistered"]
        nodes = [
            Node(one.node_id, one.name, one.status == "online", one.public_key, one.last_activated_at) for one in there
        ]
        return sorted(nodes, key=lambda one: one.name)

    @contextmanager
    def grid(self) -> Iterator[HttpGrid]:
        """Opens a run on the SuperLink, yields its Grid, and ends the run.

        Raises:
            UnreachableError: the SuperLink does not answer, or gives us no run.
        """
        token = self._start()
        grid = HttpGrid(self.address, token=token)
        grid._client = self._runtime(RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._client))
        try:
            heartbeat.start()
            given = grid._client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
            TaskIdentity.node_id = given.context.node_id
            grid.set_run(run_from_proto(given.run))
            yield grid
        finally:
            heartbeat.stop()
            with suppress(httpx.HTTPError):  # the rounds are done, whatever the SuperLink says
                grid._client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed"))
            grid.close()

    def _start(self) -> str:
        """Starts a run and takes it; returns its token."""
        methods = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        prove = SuperExecAuthHttpInterceptor(master_secret=self.secret.read_bytes(), protected_methods=methods)
        with self.secret.open("rb+") as lock, self.control() as control, self._runtime(prove) as runtime:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # else two runs that start at once could take each other's
            run = control.StartRun(StartRunRequest(fab=Fab(content=_empty_app()))).run_id
            for _ in range(100):
                given = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[SERVER_APP]))
                if given.token and given.task.run_id == run:
                    return str(given.token)
                if not given.token:  # a token for another run is a stranger's: taken, and left undone
                    time.sleep(0.1)
        raise UnreachableError("the SuperLink gave us no run", do="stop and start privet up")

    def _runtime(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient(
            f"https://{self.address}",
            interceptors=[RuntimeVersionHttpInterceptor("flwr-serverapp"), ServerName(self.name), *interceptors],
            verify=self.context(),
            retry_invoker=make_simple_http_retry_invoker(),
        )


def _empty_app() -> bytes:
    """Returns a Flower app of a name and no code."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo("pyproject.toml"), _EMPTY_APP)
    return content.getvalue()
