"""The one door of a fleet that a stranger reaches: small HTTPS requests with a token, or with a certificate.

TLS 1.3 only. One request a connection, a bounded body, a deadline for the whole connection and not for each byte, a
bounded number of connections at once, and a limit on wrong attempts from one address. What is right and wrong is for
the function that answers; nothing about tokens is known here.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any

from privet.errors import InputError, PrivetError, RefusedError, UnreachableError

LONGEST = 16_384
"""Bytes in the body of a request or an answer."""

_REMEMBERED = 4096
"""Addresses whose wrong attempts are counted; the oldest is forgotten."""


@dataclass(frozen=True)
class Request:
    """What came in.

    Attributes:
        path: what is asked, for example ``/join``.
        fields: a JSON object.
        certificate: of the peer (DER), verified by TLS; None when it showed none.
        address: it came from.
    """

    path: str
    fields: Mapping[str, Any]
    certificate: bytes | None
    address: str


Answer = Callable[[Request], Mapping[str, Any]]
"""Returns a JSON object, or raises RefusedError or InputError."""


class Patience:
    """Counts wrong attempts by address in a sliding minute.

    Args:
        most: wrong attempts in a minute after which an address is not listened to.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.clock = most, clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def lost(self, address: str) -> bool:
        """Returns whether an address has been wrong too often."""
        with self._lock:
            recent = [at for at in self._wrong.get(address, ()) if self.clock() - at < 60]
            return len(recent) >= self.most

    def wrong(self, address: str) -> None:
        """Counts a wrong attempt."""
        with self._lock:
            recent = [at for at in self._wrong.pop(address, []) if self.clock() - at < 60]
            self._wrong[address] = [*recent[-self.most :], self.clock()]
            while len(self._wrong) > _REMEMBERED:
                self._wrong.popitem(last=False)


class EnrolmentServer(ThreadingMixIn, HTTPServer):
    """Listens; use it as a context manager, ``start()`` it, and it serves until ``stop()``.

    Args:
        address: host and port; port 0 takes a free one, see ``port``.
        context: of TLS, for a server; asks for a certificate and takes none for an answer.
        answer: says what is right.
        public: what anybody may read, path -> JSON object: the authority's certificate, for example.
        seconds: that a whole connection may last.
        at_once: connections served at once; more wait in the queue of the operating system. One address has half of
            them at most: what it opens beyond is closed.
        patience: limit on wrong attempts.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        answer: Answer,
        *,
        public: Mapping[str, Mapping[str, Any]] | None = None,
        seconds: float = 10.0,
        at_once: int = 64,
        patience: Patience | None = None,
    ) -> None:
        self.context, self.answer, self.public, self.seconds = context, answer, public or {}, seconds
        self.patience = patience or Patience()
        self._places, self._half = threading.BoundedSemaphore(at_once), at_once // 2
        self._by_address: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serves in a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(0.1,), name="enrolment", daemon=True).start()

    def stop(self) -> None:
        """Ends serving and frees the port."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection in a thread, once there is a place."""
        self._places.acquire()
        with self._lock:
            greedy = self._by_address[client_address[0]] >= self._half
            self._by_address[client_address[0]] += 1
        if greedy:
            self.shutdown_request(request)
            self._leave(client_address[0])
        else:
            super().process_request(request, client_address)

    def _leave(self, address: str) -> None:
        with self._lock:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        self._places.release()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection for a limited time, from the handshake on."""
        try:
            request.settimeout(self.seconds)
            secured = self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            clock = threading.Timer(self.seconds, _cut, (secured,))
            clock.daemon = True
            clock.start()
            try:
                with secured:
                    secured.do_handshake()
                    self.finish_request(secured, client_address)
            finally:
                clock.cancel()
        except (OSError, ValueError):  # a broken handshake or a cut line is the peer's loss
            pass
        finally:
            self.shutdown_request(request)
            self._leave(client_address[0])


def _cut(connection: ssl.SSLSocket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS, which another thread may be in


class _Handler(BaseHTTPRequestHandler):
    server: EnrolmentServer
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        known = self.server.public.get(self.path)
        self._say(200, known) if known is not None else self._say(404, {"wrong": "nothing here"})

    def do_POST(self) -> None:
        address = self.client_address[0]
        # Read before anything is answered: what lies unread would tear the line, and the answer with it.
        body = self.rfile.read(min(self._length(), 4 * LONGEST))
        if self.server.patience.lost(address):
            return self._say(429, {"wrong": "too many wrong attempts from this address", "do": "wait a minute"})
        try:
            certificate = self.connection.getpeercert(binary_form=True)
            answered = self.server.answer(Request(self.path, self._fields(body), certificate, address))
        except PrivetError as error:
            self.server.patience.wrong(address)
            status = 403 if isinstance(error, RefusedError) else 400
            return self._say(status, {"wrong": error.wrong, "allowed": error.allowed, "do": error.do})
        return self._say(200, answered)

    def _length(self) -> int:
        told = self.headers.get("Content-Length", "")
        return int(told) if told.isdecimal() and len(told) < 10 else 0

    def _fields(self, body: bytes) -> dict[str, Any]:
        if len(body) > LONGEST:
            raise InputError(f"a request of {self._length()} bytes", allowed=f"at most {LONGEST}")
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise InputError("a request that is no JSON object")
        return fields

    def _say(self, status: int, fields: Mapping[str, Any]) -> None:
        body = json.dumps(dict(fields)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Returns what the answer says of the server: not its version."""
        return "privet"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing; the registry records what matters."""


def ask(
    address: tuple[str, int],
    path: str,
    fields: Mapping[str, Any] | None,
    context: ssl.SSLContext,
    *,
    peer: str,
    seconds: float = 15.0,
) -> dict[str, Any]:
    """Asks an enrolment server.

    Args:
        address: host and port where it listens.
        path: what is asked.
        fields: sent as a JSON object; None reads what is public.
        context: of TLS, for a client.
        peer: the DNS name that the server's certificate must carry, wherever it listens.
        seconds: to wait.

    Raises:
        RefusedError: the server refused, or did not prove who it is.
        InputError: the server found the request wrong.
        UnreachableError: no sound answer in time.
    """
    where = f"{address[0]}:{address[1]}"
    line = _Line(address, context, peer, seconds)
    try:
        line.connect()
        body = None if fields is None else json.dumps(dict(fields)).encode()
        line.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        reply = line.getresponse()
        status, raw = reply.status, reply.read(LONGEST + 1)
        answered = json.loads(raw) if len(raw) <= LONGEST else None
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(
            f"the server at {where} did not prove that it is the fleet's coordinator ({error.verify_message})",
            do="check the address, and this machine's clock",
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(
            f"no sound answer from {where} ({error})", do="check the address, the network and that privet up runs there"
        ) from None
    finally:
        line.close()
    if not isinstance(answered, dict):
        raise UnreachableError(f"no sound answer from {where}", do="check the address")
    if status == 200:
        return answered
    said = {key: str(answered.get(key, ""))[:300] for key in ("wrong", "allowed", "do")}
    raised: type[PrivetError] = {403: RefusedError, 429: RefusedError, 400: InputError}.get(status, UnreachableError)
    raise raised(said["wrong"] or f"{where} answered {status}", allowed=said["allowed"], do=said["do"])


class _Line(http.client.HTTPConnection):
    """A connection to a peer that is known by its name and not by where it is."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, peer: str, seconds: float) -> None:
        super().__init__(*address, timeout=seconds)
        self._context, self._peer = context, peer

    def connect(self) -> None:
        """Connects, again where a full server closed the line: nothing was sent yet, so nothing is done twice."""
        for wait in (0.2, 0.5, 1.0, 2.0, None):
            try:
                super().connect()
                self.sock = self._context.wrap_socket(self.sock, server_hostname=self._peer)
                return
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                self.close()
                if wait is None:
                    raise
                time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads the fleet, guards nothing


def server_context(certificate: Path, key: Path, authority: Path, *, strangers: bool = False) -> ssl.SSLContext:
    """Returns TLS 1.3 for a server; peers must show a certificate of the authority.

    Args:
        certificate, key, authority: PEM files.
        strangers: whether a peer may show none; a wrong one is refused all the same.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL if strangers else ssl.CERT_REQUIRED
    context.num_tickets = 0  # a session that is taken up again would outlive a revocation
    return context


def client_context(authority: str | None, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Returns TLS 1.3 for a client.

    Args:
        authority: PEM of whom to trust. None trusts nobody and checks nothing: for reading what is public only.
        certificate: files of the own certificate and key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if authority is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context
