"""What ``privet up`` runs: enrolment, the edge server, the SuperLink, and the gate through which devices reach it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from privet.engines.flower.environment import prepare_flower
from privet.errors import PrivetError, RunError, UnreachableError
from privet.governance.enrolment import COORDINATOR, Fleet
from privet.governance.registry import Verdicts
from privet.study.across import EDGE, LINK, told_of_edge
from privet.transport.certificates import host_of

if TYPE_CHECKING:
    import uvicorn

GLANCE = 1.0
"""Seconds between two looks at the registry and at the processes."""


_PRIVET = "from privet.apps.cli.main import main; main()"


@dataclass(frozen=True)
class Ports:
    """Where the coordinator listens.

    Attributes:
        host: of both services that devices reach.
        enrolment: for a device with a token.
        gate: for a device with a certificate.
        superlink: on the loopback address, for this machine only.
        edge: for a device with a certificate, in split training; 0 starts no edge server.
    """

    host: str = "0.0.0.0"  # noqa: S104 - devices are elsewhere; both services ask for proof
    enrolment: int = 8440
    gate: int = 8441
    superlink: int = 8442
    edge: int = 8443


class Services:
    """A coordinator that is up; a context manager.

    Args:
        folder: of the fleet, which ``privet fleet init`` made.
        ports: where to listen.

    Raises:
        InputError: there is no fleet in the folder.
        MissingExtraError: flwr is not installed.
        UnreachableError: a port is taken, or the SuperLink does not start.
    """

    def __init__(self, folder: Path, ports: Ports) -> None:
        prepare_flower(folder / "flower")
        self.fleet, self.ports, self.folder = Fleet(folder), ports, folder.resolve()
        self._stack = ExitStack()
        self._edge: subprocess.Popen[bytes] | None = None
        self._verdicts = Verdicts(folder / "fleet.db", self._known)

    def __enter__(self) -> Services:
        from privet.engines.flower.superlink import SuperLink

        certificate, key, authority = (path.resolve() for path in self.fleet.files)
        self._stack.callback(self._verdicts.close)
        name = host_of(COORDINATOR)
        superlink = SuperLink(self.folder / "flower", self.ports.superlink, authority, certificate, key, name)
        try:
            if self.ports.edge:
                self.fleet.prepare_edge()
                self._edge = self._start_edge()
                self._stack.callback(lambda: _end(self._edge) if self._edge else None)
            self._process = superlink.start()
            self._stack.callback(_end, self._process)
            self._link = superlink.link
            self._let_in()
            server = self._start_gate(certificate, key, authority)
            self._stack.callback(server)
            enrolment = self.fleet.serve((self.ports.host, self.ports.enrolment))
            enrolment.start()
            self._stack.callback(enrolment.stop)
            self._await_edge()
            self._link.save(self.folder / LINK)
            self._stack.callback((self.folder / LINK).unlink, missing_ok=True)
        except OSError as error:
            self._stack.close()
            raise UnreachableError(f"port {self.ports} can't be opened: {error}", do="choose others") from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, stop: threading.Event) -> None:
        """Keeps the SuperLink's devices those of the registry until it is told to stop.

        Raises:
            UnreachableError: the SuperLink ended.
        """
        while not stop.wait(GLANCE):
            if self._process.poll() is not None:
                raise UnreachableError(
                    f"the SuperLink ended with status {self._process.returncode}",
                    do=f"read {self.folder / 'flower' / 'superlink.log'}",
                )
            if self._edge is not None and self._edge.poll() is not None:
                self._edge = self._start_edge()  # its sessions are lost, and their devices' rounds; no more than that
            with suppress(UnreachableError):  # busy, or ending: the next look tells which
                self._let_in()

    def _start_edge(self) -> subprocess.Popen[bytes]:
        command = ["edge", str(self.folder), "--host", self.ports.host, "--port", str(self.ports.edge)]
        (self.folder / EDGE).unlink(missing_ok=True)
        with (self.folder / "edge.log").open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-c", _PRIVET, *command],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches its parent, which ends it
            )

    def _await_edge(self, patience: float = 60.0) -> None:
        """Returns once the edge server is up.

        Raises:
            UnreachableError: it ended, or is not up in time.
        """
        until = time.monotonic() + patience
        while self._edge is not None and told_of_edge(self.folder).get("pid") != self._edge.pid:
            if self._edge.poll() is not None or time.monotonic() > until:
                raise UnreachableError("the edge server does not come up", do=f"read {self.folder / 'edge.log'}")
            time.sleep(0.1)

    def _let_in(self) -> None:
        """Registers enrolled devices with the SuperLink, and shuts revoked ones out."""
        members = self.fleet.registry.members()
        known = {node.name: node for node in self._link.nodes()} if members else {}
        for member in members:
            if member.trusted and member.name not in known:
                self._link.register(member.name, _pem(member.public_key.encode()))
            elif not member.trusted and member.name in known:
                self._link.unregister(known[member.name].number)

    def _start_gate(self, certificate: Path, key: Path, authority: Path) -> Callable[[], None]:
        """Serves the gate in a thread, and returns what ends it."""
        from privet.engines.flower.gate import Gate, door

        gate = Gate(self._link, self._verdicts)
        server = door(
            gate, host=self.ports.host, port=self.ports.gate, authority=authority, certificate=certificate, key=key
        )
        thread = threading.Thread(target=_serve, args=(server,), name="gate", daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise UnreachableError(f"port {self.ports.gate} can't be opened", do="choose another with --port")
            time.sleep(0.05)

        def end() -> None:
            server.should_exit = True
            thread.join(timeout=10)

        return end

    def _known(self, certificate: x509.Certificate) -> bool:
        try:
            self.fleet.admitted(certificate.public_bytes(Encoding.PEM))
        except RunError:
            raise  # a registry that is busy says nothing of a device, which asks again
        except PrivetError:
            return False
        return True


def _serve(server: uvicorn.Server) -> None:
    try:
        server.run()
    except SystemExit:  # uvicorn ends so when a port is taken; who started it looks at the thread
        return


def _pem(public: bytes) -> bytes:
    """Returns a device's public key, which the registry has in OpenSSH's format, as Flower's API takes it."""
    key = load_pem_public_key(public) if public.startswith(b"-----") else load_ssh_public_key(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
