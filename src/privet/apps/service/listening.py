"""Web servers that give strangers little: of time, of memory, of connections.

A connection has so many seconds for its TLS handshake, and again for a whole request however it drips in. A head is at
most 16 KiB.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol

from privet.errors import InputError
from privet.transport.certificates import CERTIFICATE_FILE as AUTHORITY_FILE
from privet.transport.enrolment import server_context
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE

PATIENCE = 10
"""Seconds for a handshake, for a whole request, and for a connection that says nothing."""

HEAD = 16_384
"""Bytes of a request's head."""


class _Connection(H11Protocol):
    """Knows its certificate, has a deadline for each request, and is not one too many."""

    most = 1024

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.app = partial(self.app, peer=tls.getpeercert(binary_form=True) or b"")
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None:
            self._begin()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(PATIENCE, self.transport.abort)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Loop(uvloop.Loop):
    """Gives strangers little time for a handshake, and nobody much for a farewell."""

    async def create_server(self, *args: Any, **options: Any) -> Any:
        if options.get("ssl") is not None:
            options |= {"ssl_handshake_timeout": PATIENCE, "ssl_shutdown_timeout": 1}
        return await super().create_server(*args, **options)


class Web:
    """Web servers in one thread of their own.

    Args:
        servers: not yet started.

    Raises:
        InputError: an address can't be listened at.
    """

    def __init__(self, servers: Iterable[uvicorn.Server]) -> None:
        self._servers, self._sockets = list(servers), list[socket.socket]()
        for server in self._servers:
            try:
                self._sockets.append(_bound(server.config.host, server.config.port))
            except OSError as error:
                for each in self._sockets:
                    each.close()
                where, why = f"{server.config.host}:{server.config.port}", error.strerror or str(error)
                raise InputError(f"can't listen at {where} ({why})", do="free the port, or name another") from None
        self._thread = threading.Thread(target=self._run, name="privet-web", daemon=True)
        self._thread.start()
        while not all(server.started for server in self._servers):
            self._thread.join(0.02)
            if not self._thread.is_alive():
                raise InputError("a web server did not start", do="see what it wrote above")

    @property
    def ports(self) -> list[int]:
        """Where the servers listen, in their order."""
        return [int(server.servers[0].sockets[0].getsockname()[1]) for server in self._servers]

    def close(self) -> None:
        """Answers what has come in, then ends."""
        for server in self._servers:
            server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        both = zip(self._servers, self._sockets, strict=True)
        await asyncio.gather(*(server.serve(sockets=[own]) for server, own in both))


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket to listen at; uvicorn, asked to bind, would end the process where it can't."""
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)  # asyncio sends at once only where the protocol is said to be TCP
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError:
        bound.close()
        raise
    return bound


def server(app: Any, host: str, port: int, *, most: int = 1024, tls: ssl.SSLContext | None = None) -> uvicorn.Server:
    """Returns a web server.

    Args:
        app: of ASGI.
        host, port: where it listens; port 0 takes a free one.
        most: connections at once.
        tls: None speaks plainly, for the loopback address.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=type("_Connection", (_Connection,), {"most": most}),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=PATIENCE,
        h11_max_incomplete_event_size=HEAD,
    )
    config.load()
    config.ssl = tls
    return uvicorn.Server(config)


def context(folder: Path, *, strangers: bool) -> ssl.SSLContext:
    """Returns TLS 1.3 for the identity in a folder.

    Args:
        folder: of key, certificate and authority.
        strangers: whether who shows no certificate gets through to the door.
    """
    files = (folder / CERTIFICATE_FILE, folder / KEY_FILE, folder / AUTHORITY_FILE)
    return server_context(*files, strangers=strangers)
