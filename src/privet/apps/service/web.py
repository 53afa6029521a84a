"""HTTPS in front of the queue: FastAPI on uvicorn, TLS 1.3, callers known before a body is read.

``POST /v1/classify`` takes a question in bytes (``application/octet-stream``), which is what the client library sends,
or as ``{"samples": [...]}`` in JSON, which web pages find easier; each is answered in kind. ``GET /v1/model`` has the
signed manifest. There is no page for strangers.

A body's length must be said, and is checked before it is read.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from privet.apps.service.callers import Admits, Tokens, holder
from privet.apps.service.desk import Desk
from privet.apps.service.listening import HEAD
from privet.errors import InputError, PrivetError, RefusedError
from privet.inference.over_https import BINARY, PATHS
from privet.inference.questions import BusyError, Values, answered
from privet.inference.serving import Scored
from privet.transport.contract import Peer

TRANSPORT = "https"
_DIGITS = 32  # bytes of one value in JSON
_HELD = 256 << 20  # bytes of bodies that are being read or waiting, of all callers together

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Door:
    """Lets in who shows a certificate or a token, with a body that is not too long.

    Args:
        app: what is behind it.
        desk: counts who is turned away.
        admits: whether a certificate's holder may ask.
        tokens: of callers without one.
    """

    def __init__(self, app: Any, desk: Desk, admits: Admits, tokens: Tokens) -> None:
        self._app, self._desk, self._admits, self._tokens = app, desk, admits, tokens
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send, peer: bytes = b"") -> None:
        """Answers one request of a connection whose certificate (DER, verified) is ``peer``."""
        headers = dict(scope["headers"])
        caller = self._caller(peer, headers)
        if caller is None:
            self._desk.refused(TRANSPORT, "refused")
            line = "nobody who is known asks" if not peer else "this certificate is not let in"
            return await _turn_away(send, 403 if peer else 401, line)
        length = headers.get(b"content-length", b"0")
        most = self._desk.longest if headers.get(b"content-type") == BINARY.encode() else _json_bytes(self._desk)
        if b"transfer-encoding" in headers or not length.isdigit() or int(length[:20]) > most:
            self._desk.refused(TRANSPORT, "wrong")
            return await _turn_away(send, 413, f"a body too long, or of unknown length; allowed: {most} bytes")
        if self._held and self._held + int(length) > _HELD:
            self._desk.refused(TRANSPORT, "busy")
            return await _turn_away(send, 429, "too many bodies at a time; try again after 1 s")
        scope["caller"] = caller
        self._held += int(length)
        try:
            await self._app(scope, receive, send)
        finally:
            self._held -= int(length)

    def _caller(self, certificate: bytes, headers: dict[bytes, bytes]) -> str | None:
        if certificate:
            peer: Peer | None = holder(certificate)
            return str(peer) if peer is not None and self._admits(peer) else None
        return self._tokens.caller(headers.get(b"authorization", b""))


def application(desk: Desk) -> FastAPI:
    """Returns what is behind the door."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    async def classify(request: Request) -> Response:
        plain = request.headers.get("content-type", "") == BINARY
        try:
            body = await request.body()
            if plain:
                asked = desk.ask(TRANSPORT, request.scope["caller"], body)
            else:
                values = await asyncio.to_thread(_values, body, desk)  # text takes long to read
                asked = desk.ask_values(TRANSPORT, request.scope["caller"], values)
            found = await asyncio.wrap_future(asked)
        except PrivetError as error:
            return _said(error)
        except ClientDisconnect:  # in the middle of a body; nobody is left to read an answer
            desk.refused(TRANSPORT, "wrong")
            return Response(status_code=400)
        if plain:
            return Response(answered(*found), media_type=BINARY)
        return Response(_json(found), media_type="application/json")

    async def model(request: Request) -> Response:
        return Response(desk.offer(), media_type="application/json")

    for name, handler in (("classify", classify), ("model", model)):
        verb, path = PATHS[name]
        app.add_route(path, handler, methods=[verb])
    return app


def inner(desk: Desk) -> FastAPI:
    """Returns what is for the machine itself: ``/health`` and ``/metrics``."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    async def health(request: Request) -> Response:
        return Response(json.dumps({"version": desk.batcher.version.digest.hex(), "waiting": desk.batcher.waiting}))

    async def metrics(request: Request) -> Response:
        return Response(desk.metrics(), media_type="text/plain; version=0.0.4")

    app.add_route("/health", health, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])
    return app


def _json_bytes(desk: Desk) -> int:
    return HEAD + desk.longest // 4 * _DIGITS


def _values(body: bytes, desk: Desk) -> Values:
    shape = desk.batcher.version.manifest.shape
    try:
        told = json.loads(body)
        values = np.asarray(told["samples"], np.float32)
        if values.ndim < 2:
            raise ValueError(values.ndim)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        desk.refused(TRANSPORT, "wrong")
        raise InputError("these are no samples", allowed='{"samples": [[...], ...]}') from None
    if values.ndim != 1 + len(shape) and values.ndim == 2 and values.shape[1] == math.prod(shape):
        values = values.reshape(-1, *shape)
    return values


def _json(found: Scored) -> bytes:
    classes = [int(each) for each in found.scores.argmax(axis=1)]
    fields = {"version": found.digest.hex(), "classes": classes, "scores": found.scores.tolist()}
    return json.dumps(fields, allow_nan=False).encode()


def _said(error: PrivetError) -> Response:
    headers = {}
    if isinstance(error, BusyError):
        status, headers["retry-after"] = 429, str(math.ceil(error.after))
    elif isinstance(error, InputError):
        status = 422
    else:
        status = 403 if isinstance(error, RefusedError) else 503
    return Response(error.advice(), status, headers, media_type="text/plain; charset=utf-8")


async def _turn_away(send: Send, status: int, line: str) -> None:
    body = line.encode()
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
