"""A miner as a process: its folder opened, its peers connected, its node run until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from privet.ledger.chain import Chain
from privet.ledger.consensus import Tempo
from privet.ledger.links import Links
from privet.ledger.miner_folder import MINER, SIGN_STATE_FILE, Member, MinerFolder
from privet.ledger.node import IDLE, Duty, Node, NoDuty
from privet.ledger.service import service
from privet.ledger.sign_state import DurableFile
from privet.ledger.wire import BATCH, LIMIT
from privet.transport.contract import Client, Peer, Service
from privet.transport.grpc import CALLS, GrpcClient, Listener, Server

MESSAGE = LIMIT + 16 * BATCH + 1024
"""Longest message of a miner's service: the longest block may be proposed."""


class Network:
    """A miner's connections to the others over gRPC.

    Args:
        folder: of the miner.
        listen: where to listen; "" where nobody connects to it.
    """

    def __init__(self, folder: MinerFolder, listen: str) -> None:
        self.own, self._folder, self._listen = folder.own, folder, listen
        self.others = [each for each in folder.consortium.members if each.peer != folder.own.peer]
        self.outbound = frozenset(each.peer for each in folder.consortium.members if not each.address)
        self.server: Server | None = None
        self._listeners: list[Listener] = []
        self._clients = {
            each.peer: GrpcClient(each.address, each.peer, folder.identity, MESSAGE)
            for each in self.others
            if each.address
        }

    def links(self) -> Links:
        """Returns the ways to the others."""
        return Links({each.key: each.peer for each in self.others}, self.way)

    def way(self, peer: Peer) -> Client | None:
        """Returns the way to a miner as it is now: its address, or the connection that it opened."""
        client = self._clients.get(peer)
        if client is None and self.server is not None:
            return self.server.client(peer)
        return client

    def open(self, service: Service) -> None:
        """Lets others in, and connects to those who are to call back where nobody can connect to this miner.

        Raises:
            InputError: the address can't be listened at.
        """
        if self._listen:
            self.server = Server(
                self._listen,
                self._folder.identity,
                service,
                admit=self._admit,
                limit=MESSAGE,
                calls=CALLS,
                listeners=len(self.outbound),
            )
        if not self.own.address:
            self._listeners = [Listener(client, service) for client in self._clients.values()]

    def close(self) -> None:
        """Ends all connections."""
        for listener in self._listeners:
            listener.close()
        if self.server is not None:
            self.server.close()
        for client in self._clients.values():
            client.close()

    def _admit(self, peer: Peer) -> bool:
        """Lets in everybody whom the authority knows, and as a miner only who is one of this consortium."""
        return peer.role != MINER or any(peer == each.peer for each in self._folder.consortium.members)


def mine(
    path: Path,
    *,
    listen: str = "",
    duty: Callable[[MinerFolder, Chain, Path], Duty] = lambda folder, chain, contents: NoDuty(contents),
    tempo: Tempo = IDLE,
    started: Callable[[Node, Member], None] = lambda node, own: None,
) -> str:
    """Runs the miner of a folder until its node is stopped.

    Args:
        path: the folder.
        listen: where to listen, if not at the address that the consortium knows; as behind a port forwarding.
        duty: (folder, chain, contents' folder) -> what it does besides voting.
        tempo: how long it waits.
        started: called once everything is connected.

    Returns:
        Why it votes no more although it ran on, or "".

    Raises:
        InputError: something in the folder is wrong, or the address can't be listened at.
        RefusedError: others can read a key, or the certificate has expired.
        RunError: another process runs it; the chain does not verify; the sign-state is missing, old or damaged.
        OSError: the disk failed.
    """
    folder = MinerFolder.load(path)
    with folder.held():
        network = Network(folder, listen or folder.own.address)
        chain = Chain(path)
        node: Node | None = None
        try:
            node = Node(
                chain,
                folder.secret,
                folder.vrf_secret,
                DurableFile(path / SIGN_STATE_FILE),
                network.links(),
                duty=lambda chain, contents: duty(folder, chain, contents),
                tempo=tempo,
            )
            network.open(service(node, folder.own.peer, network.outbound))
            started(node, folder.own)
            node.run()
            return node.stopped
        finally:
            network.close()
            (chain if node is None else node).close()
