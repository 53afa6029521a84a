"""The way to an inference service over HTTPS: TLS 1.3, one connection that is kept."""

from __future__ import annotations

import time
from typing import Any

from privet.errors import InputError, MissingExtraError, RefusedError, UnreachableError
from privet.inference.credentials import Credentials
from privet.inference.questions import BusyError
from privet.transport.certificates import host_of
from privet.transport.contract import LIMIT, Peer, UnprovenError, fits, hung_up

PATHS = {"classify": ("POST", "/v1/classify"), "model": ("GET", "/v1/model")}
"""Method of a transport -> method and path of HTTP."""

BINARY = "application/octet-stream"


class HttpsClient:
    """Calls an inference service; a :class:`privet.transport.contract.Client`.

    Args:
        url: ``https://host:port``.
        peer: whose certificate the service must show, wherever it listens.
        credentials: what to show.

    Raises:
        MissingExtraError: httpx is not installed.
    """

    def __init__(self, url: str, peer: Peer, credentials: Credentials) -> None:
        try:
            import httpx
        except ModuleNotFoundError:
            raise MissingExtraError("httpx", "serve") from None
        self._errors, self._where = httpx.HTTPError, f"{peer} at {url}"
        self._closed = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
        self._shown = credentials.pair[0].read_bytes() if credentials.pair else b"", credentials.authority
        self._extensions: dict[str, Any] = {"sni_hostname": host_of(str(peer))}
        headers = {"authorization": f"Bearer {credentials.token}"} if credentials.token else {}
        headers["accept-encoding"] = "identity"
        # No proxy of the environment stands between: it would see nothing, but would know who asks when.
        self._client = httpx.Client(base_url=url, verify=credentials.context(), headers=headers, trust_env=False)

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """Returns the service's answer; as :meth:`privet.transport.contract.Client.call`."""
        until = time.monotonic() + timeout
        verb, path = PATHS[method]
        headers = {"content-type": BINARY} if verb == "POST" else {}
        try:
            with self._client.stream(
                verb,
                path,
                content=fits(body, LIMIT) or None,
                headers=headers,
                timeout=timeout,
                extensions=self._extensions,
            ) as reply:
                content = b""
                for part in reply.iter_raw():  # never more than is allowed, nor longer, whatever the service sends
                    content = fits(content + part, LIMIT)
                    if time.monotonic() > until:
                        raise UnreachableError(f"{self._where} does not answer in time")
        except self._errors as error:
            raise self._lost(error) from None
        if reply.status_code == 200:
            return content
        text = content[:500].decode("utf-8", "replace")
        said = "".join(letter if letter.isprintable() else " " for letter in text)
        line = f"{self._where}: {said or reply.status_code}"
        if reply.status_code == 429:
            raise BusyError(line, _seconds(reply.headers.get("retry-after", "")))
        if reply.status_code in (401, 403):
            raise RefusedError(line)
        if 400 <= reply.status_code < 500:
            raise InputError(line)
        raise UnreachableError(line)

    def close(self) -> None:
        """Lets the connection go."""
        self._client.close()

    def _lost(self, error: Exception) -> UnprovenError | UnreachableError:
        where, why = self._where, str(error)
        if "CERTIFICATE_VERIFY_FAILED" in why:
            do = "check the address, and the authority's certificate"
            return UnprovenError(f"{where} did not prove who it is", do=do)
        if "alert" in why.lower() and ("certificate" in why.lower() or "unknown ca" in why.lower()):
            return UnprovenError(f"{where} does not let this certificate in", do="ask who runs it")
        if not isinstance(error, self._closed):
            return UnreachableError(f"{where} does not answer ({' '.join(why.split())[:200]})")
        return hung_up(where, *self._shown)


def _seconds(text: str) -> float:
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 1.0
