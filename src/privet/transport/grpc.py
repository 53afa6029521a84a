"""Services over a network: gRPC with mutual TLS 1.3, bodies as they are.

A server lets in whoever shows a certificate of its authority and passes ``admit``; a client connects only to the name
that it asked for. Messages, calls at a time, handshakes and silent connections are bounded. What a peer behind a
firewall offers goes over a connection that this peer opened: :class:`Listener` there, :meth:`Server.client` here.

gRPC for Python has no setting for the oldest TLS that it takes. It does take a list of TLS 1.2 ciphers; ours has one
that needs an RSA certificate, which our authority never signs, so no handshake of TLS 1.2 comes to an end. gRPC reads
that list when it is first imported: a program that imports it before this module, and sets nothing itself, takes TLS
1.2 as well, with the same certificates.
"""

from __future__ import annotations

import itertools
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from functools import lru_cache
from typing import Any

os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would write a line for each stranger who knocks

import grpc

from privet.errors import InputError, RefusedError, UnreachableError
from privet.transport.certificates import host_of, name_in
from privet.transport.contract import LIMIT, Peer, Service, UnprovenError, answer, fits, hung_up, opened
from privet.transport.identity import Identity

PREFIX, LISTEN = "/privet/", "/privet/listen"
CALLS = 32
"""Calls that a server answers at a time; more are turned away."""

_CLOSED = ("Socket closed", "Connection reset by peer", "Broken pipe")
_FRAME = struct.Struct(">QB")
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def _options(limit: int) -> list[tuple[str, Any]]:
    room = limit + 1024  # for the status byte and a frame's head
    return [*_KEEPALIVE, ("grpc.max_send_message_length", room), ("grpc.max_receive_message_length", room)]


class GrpcClient:
    """The way to one peer that has an address.

    Connects when it is first needed, and again whenever the connection is lost.

    Args:
        address: ``host:port``.
        peer: who must be there.
        identity: who calls.
        limit: longest body, both ways.
    """

    def __init__(self, address: str, peer: Peer, identity: Identity, limit: int = LIMIT) -> None:
        self.peer, self._limit = peer, limit
        self._address, self._identity = address, identity
        self._channel: Any = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate),
            [
                *_options(limit),
                ("grpc.ssl_target_name_override", host_of(str(peer))),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 2_000),  # also how long one attempt may take
                ("grpc.max_reconnect_backoff_ms", 2_000),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._methods: dict[str, Any] = {}

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """Returns the peer's answer; as :meth:`privet.transport.contract.Client.call`."""
        ask = self._methods.get(method)
        if ask is None:
            ask = self._methods[method] = self._channel.unary_unary(PREFIX + method)
        fits(body, self._limit)
        try:
            reply: bytes = ask(body, timeout=timeout)
        except grpc.RpcError as error:
            raise _lost(self.peer, self._address, error, self._identity) from None
        except ValueError:
            raise RefusedError("this client is closed") from None
        return fits(opened(self.peer, reply), self._limit)

    def stream(self, replies: Iterator[bytes]) -> Any:
        """Opens the stream over which the peer calls back; :class:`Listener` uses it."""
        return self._channel.stream_stream(LISTEN)(replies)

    def close(self) -> None:
        """Lets the connection go."""
        self._channel.close()


class Server:
    """Offers a service at an address.

    Args:
        address: ``host:port``; port 0 takes a free one.
        identity: who this is.
        service: what it offers.
        admit: says whether a peer whose certificate is in order may call at all.
        limit: longest body, both ways.
        calls: at most so many at a time.
        listeners: at most so many peers that are called over connections of theirs, besides ``calls``.

    Attributes:
        port: where it listens.

    Raises:
        InputError: the address can't be listened at.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        service: Service,
        *,
        admit: Callable[[Peer], bool],
        limit: int = LIMIT,
        calls: int = CALLS,
        listeners: int = 0,
    ) -> None:
        self._service, self._admit, self._limit = service, admit, limit
        self._listeners, self._most = dict[Peer, _Callback](), listeners
        self._guard = threading.Lock()
        threads = ThreadPoolExecutor(calls + listeners, thread_name_prefix="privet-serve")
        self._server: Any = grpc.server(
            threads,
            handlers=(_Routes(self),),
            maximum_concurrent_rpcs=calls + listeners,
            options=[
                *_options(limit),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", calls + 1),
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.max_connection_age_ms", 3_600_000),  # so that an expired certificate ends within the hour
                ("grpc.max_connection_age_grace_ms", 60_000),
            ],
        )
        credentials = grpc.ssl_server_credentials(
            [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
        )
        try:
            self.port: int = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise InputError(f"can't listen at {address}", do="free the port, or name another") from None
        self._server.start()

    def client(self, peer: Peer) -> _Callback | None:
        """Returns the way to a peer over the connection that it opened, or None while it has none."""
        return self._listeners.get(peer)

    def close(self, grace: float = 0.5) -> None:
        """Answers what has come in, at most for so many seconds, then ends."""
        for listener in list(self._listeners.values()):
            listener.close()
        self._server.stop(grace).wait()

    def answer(self, method: str, body: bytes, context: Any) -> bytes:
        """Answers one call that came over the network."""
        return answer(self._service, self._caller(context), method, body)

    def listen(self, replies: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Keeps a peer's stream as the way to call it."""
        peer = self._caller(context)
        callback = _Callback(peer, self._limit)
        with self._guard:
            before = self._listeners.pop(peer, None)
            if len(self._listeners) >= self._most:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for another listener")
            self._listeners[peer] = callback
        if before is not None:
            before.close()
        context.add_callback(callback.close)
        threading.Thread(target=callback.take, args=(replies,), daemon=True).start()
        try:
            yield from callback.frames()
        finally:
            callback.close()
            with self._guard:
                if self._listeners.get(peer) is callback:
                    del self._listeners[peer]

    def _caller(self, context: Any) -> Peer:
        try:
            peer = Peer.of(_name_in(context.auth_context()["x509_pem_cert"][0]))
        except (InputError, KeyError):
            peer = None
        if peer is None or not self._admit(peer):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "this peer is not let in")
        return peer  # type: ignore[return-value]  # abort raises


class _Routes(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Sends every method of the service, and the listeners' stream, to a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, call: Any) -> Any:
        """Returns the handler of a call, or None for what is not ours."""
        if call.method == LISTEN:
            return grpc.stream_stream_rpc_method_handler(self._server.listen)
        if not call.method.startswith(PREFIX):
            return None
        method = call.method.removeprefix(PREFIX)
        return grpc.unary_unary_rpc_method_handler(lambda body, context: self._server.answer(method, body, context))


class _Callback:
    """Calls to a peer over a stream that it opened: frames of a number, a method and a body go, numbered replies come.

    Args:
        peer: who opened it.
        limit: longest body.
    """

    def __init__(self, peer: Peer, limit: int) -> None:
        self._peer, self._limit = peer, limit
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[bytes]] = {}
        self._out: queue.Queue[bytes | None] = queue.Queue(maxsize=16)
        self._closed = threading.Event()

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """Returns the peer's answer; as :meth:`privet.transport.contract.Client.call`."""
        number, name = next(self._numbers), method.encode()
        frame = _FRAME.pack(number, len(name)) + name + fits(body, self._limit)
        future: Future[bytes] = Future()
        self._waiting[number] = future
        try:
            if self._closed.is_set():
                raise UnreachableError(f"{self._peer} has closed its connection")
            self._out.put(frame, timeout=timeout)
            return fits(opened(self._peer, future.result(timeout)), self._limit)
        except (Late, queue.Full):
            raise UnreachableError(f"{self._peer} does not answer within {timeout:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def frames(self) -> Iterator[bytes]:
        """Yields what is to be sent, until the stream is closed."""
        while not self._closed.is_set():
            frame = self._out.get()
            if frame is not None:
                yield frame

    def take(self, replies: Iterator[bytes]) -> None:
        """Hands out replies until the stream ends."""
        try:
            for reply in replies:
                number = int.from_bytes(reply[:8], "big")
                future = self._waiting.pop(number, None)
                if future is not None:
                    future.set_result(reply[8:])
        except grpc.RpcError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Ends the stream; whoever waits for an answer gets none."""
        self._closed.set()
        for number in list(self._waiting):
            future = self._waiting.pop(number, None)
            if future is not None and not future.done():
                future.set_exception(UnreachableError(f"{self._peer} has closed its connection"))
        if not self._out.full():
            self._out.put(None)


class Listener:
    """Offers a service to one peer over a connection to it, for a process that nobody can connect to.

    Connects at once, and again whenever the connection is lost.

    Args:
        client: the way to the peer.
        service: what it may call.
        again: seconds until the next attempt.
    """

    def __init__(self, client: GrpcClient, service: Service, again: float = 1.0) -> None:
        self._client, self._service, self._again = client, service, again
        self._closed = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name=f"privet-listen-{client.peer}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening; the client stays open."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closed.is_set():
            replies: queue.Queue[bytes | None] = queue.Queue()
            try:
                self._call = self._client.stream(iter(replies.get, None))
                if self._closed.is_set():  # by a thread that saw the call before this one
                    self._call.cancel()
                for frame in self._call:
                    replies.put(self._reply(frame))
            except (grpc.RpcError, ValueError):
                pass
            finally:
                replies.put(None)
            self._closed.wait(self._again)

    def _reply(self, frame: bytes) -> bytes:
        _, length = _FRAME.unpack_from(frame)
        at = _FRAME.size + length
        method = frame[_FRAME.size : at].decode("utf-8", "replace")
        return frame[:8] + answer(self._service, self._client.peer, method, frame[at:])


@lru_cache(maxsize=256)
def _name_in(certificate: bytes) -> str:
    return name_in(certificate)


def _lost(peer: Peer, address: str, error: Any, own: Identity) -> RefusedError | UnreachableError:
    code, where = error.code(), f"{peer} at {address}"
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return RefusedError(f"{where} does not let this certificate in", do="ask who runs it")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(f"{where} does not answer in time")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return UnreachableError(f"{where} is busy, or a message was oversize", do="try again later")
    why = " ".join((error.details() or code.name).split())
    if "CERTIFICATE_VERIFY_FAILED" in why or "Hostname Verification" in why:
        return UnprovenError(
            f"{where} did not prove who it is", do="check the address, and the authority's certificate"
        )
    if not why.endswith(_CLOSED):
        return UnreachableError(f"{where} is unreachable: {why[:200]}")
    return hung_up(where, own.certificate, own.authority)
