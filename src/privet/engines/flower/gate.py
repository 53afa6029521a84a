"""The one door for devices: mutual TLS 1.3 in front of the SuperLink, and only what a device needs behind it.

Flower serves devices, runs and control on one port, and authenticates no users: whoever reaches it may start runs.
So the SuperLink listens on the coordinator's own machine only, and the gate passes on the eight calls that a device
makes, from a device whose certificate holds the very key with which it signs to Flower. Starting a run, registering a
node and fetching an app's code are none of them.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from privet.engines.flower.link import Link

Admits = Callable[[x509.Certificate], bool]
"""Whether a device may still come in; its certificate is of our authority, and was valid when it connected."""

DOOR = "/v1/fleet/"
CALLS = frozenset(
    f"{DOOR}{name}"
    for name in (
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    )
)
"""What a device may ask for."""

LARGEST_BODY = 4 << 20
"""Bytes of one request; tensors come in chunks that are far smaller."""

PATIENCE = 60.0
"""Seconds without a byte of the body after which a request is dropped."""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Gate:
    """Passes devices' calls on to the SuperLink.

    Args:
        link: of the SuperLink.
        admits: asked for every request, so that a revoked device is out at its next one.
    """

    def __init__(self, link: Link, admits: Admits = lambda certificate: True) -> None:
        self._link, self._admits = link, admits
        self._client = httpx.AsyncClient(verify=link.context(), timeout=PATIENCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, peer: bytes = b"") -> None:
        """Answers one request.

        Args:
            scope, receive, send: as ASGI has them.
            peer: the device's certificate, DER, which the TLS handshake has checked.
        """
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope["method"], scope["path"], headers, peer)
        if refusal:
            await _answer(send, *refusal, [(b"connection", b"close")])
            return
        body = await _body(receive)
        if body is None:
            await _answer(send, 413, b"too large or too slow")
            return
        try:
            # h11 parsed the request and httpx writes a new one, so nothing hides between two requests.
            found = await self._client.post(
                f"https://{self._link.address}{scope['path']}",
                content=body,
                headers=[(name, value) for name, value in headers.items() if name not in _OWN],
                extensions={"sni_hostname": self._link.name},
            )
        except httpx.HTTPError:
            await _answer(send, 503, b"the SuperLink does not answer")
            return
        kept = [(name, value) for name, value in found.headers.raw if name.lower() not in _OWN]
        await _answer(send, found.status_code, found.content, kept)

    def _refusal(self, method: str, path: str, headers: dict[bytes, bytes], peer: bytes) -> tuple[int, bytes] | None:
        """Returns status and reason why a request is not passed on; None if it is."""
        if method != "POST" or path not in CALLS:
            return 403, b"devices may not ask for this"
        if not peer:
            return 401, b"no certificate"
        certificate = x509.load_der_x509_certificate(peer)
        pem = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        try:
            key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()], validate=True)
        except (KeyError, ValueError):
            return 401, b"no key"
        if key.strip() != pem.strip():
            return 401, b"the key is not the certificate's"
        if certificate.not_valid_after_utc <= datetime.now(UTC):  # a connection may outlive it
            return 403, b"expired"
        return None if self._admits(certificate) else (403, b"revoked")

    async def close(self) -> None:
        """Closes the connection to the SuperLink."""
        await self._client.aclose()


_OWN = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding", b"content-encoding"))
"""Headers of one connection, which are not passed on."""


async def _body(receive: Receive) -> bytes | None:
    """Returns a request's body; None if it is too large, or stops coming."""
    body = bytearray()
    while True:
        try:
            event = await asyncio.wait_for(receive(), PATIENCE)
        except TimeoutError:
            return None
        body += event.get("body", b"")
        if event["type"] == "http.disconnect" or len(body) > LARGEST_BODY:
            return None
        if not event.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    own = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": (headers or []) + own})
    await send({"type": "http.response.body", "body": body})


class _KnownPeer(H11Protocol):
    """Tells the gate whose certificate a connection came with."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.app = partial(self.app, peer=peer or b"")


def door(
    gate: Gate, *, host: str, port: int, authority: Path, certificate: Path, key: Path, most: int = 1024
) -> uvicorn.Server:
    """Returns a server that lets devices through the gate; run it with ``serve()``.

    Args:
        gate: what it lets them do.
        host, port: where devices find it.
        authority, certificate, key: PEM files; a device needs a certificate of this authority.
        most: connections at once; more are told to come later.
    """
    config = uvicorn.Config(
        gate,
        host=host,
        port=port,
        http=_KnownPeer,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=most,
        timeout_keep_alive=120,
        ssl_ca_certs=str(authority),
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )
    config.load()
    assert config.ssl is not None  # noqa: S101 - the files are given
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return uvicorn.Server(config)
