"""A device's way to its fleet's edge server: the coordinator's host, a port that signed work names, the same keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from privet.apps.agent.identity import Identity
from privet.transport.contract import Client


def way_to_edge(identity: Identity) -> Callable[[int], Client]:
    """Returns port -> the way to the edge server; a connection is made when it is first needed, and kept."""

    @cache
    def way(port: int) -> Client:
        from privet.study.edge import EDGE_PEER, LIMIT
        from privet.transport.grpc import GrpcClient
        from privet.transport.identity import Identity as Shown

        certificate, key, authority = (path.read_bytes() for path in identity.files)
        return GrpcClient(f"{identity.coordinator[0]}:{port}", EDGE_PEER, Shown(key, certificate, authority), LIMIT)

    return way
