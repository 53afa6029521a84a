"""What a transport is: named methods, bytes in, bytes out, and both ends know whom they talk to.

::

    Handler  (peer, body) -> body                a service's method; the peer was verified before it is called
    Service  method name -> Handler              what a process offers
    Client   call(method, body, timeout) -> body

:mod:`privet.transport.memory` and :mod:`privet.transport.grpc` are two of them with the same behaviour: a handler that
raises :class:`~privet.errors.PrivetError` makes the caller raise its kind (wrong input, refused, unreachable) with its
one line, and whatever else goes wrong on the way is :class:`~privet.errors.UnreachableError`. Bodies are whatever the
two ends agree on; nothing here looks into them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from privet.errors import InputError, PrivetError, RefusedError, UnreachableError
from privet.transport.certificates import host_of, issued_by

LIMIT = 4 << 20
"""Longest body in bytes unless both ends say otherwise; what is larger goes in pieces (:mod:`.pieces`)."""

_LOG = logging.getLogger(__name__)
_TOLD = 500


class UnprovenError(RefusedError):
    """One of both ends did not prove to the other who it is, so nothing was asked."""


@dataclass(frozen=True, order=True)
class Peer:
    """Who is at the other end, as its certificate says.

    Attributes:
        role: such as ``miner``.
        name: unlike that of all others of this role.
    """

    role: str
    name: str

    @classmethod
    def of(cls, name: str) -> Peer:
        """Returns the peer of a ``role/name``.

        Raises:
            InputError: it is none.
        """
        host_of(name)
        role, _, own = name.partition("/")
        return cls(role, own)

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"


Handler: TypeAlias = Callable[[Peer, bytes], bytes]
"""Answers one call; raises :class:`~privet.errors.PrivetError` to say no."""

Service: TypeAlias = Mapping[str, Handler]
"""What a process offers, by the names of the methods."""


class Client(Protocol):
    """The way to one peer."""

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """Returns the peer's answer.

        Args:
            method: a name of the peer's service.
            body: at most as long as both ends' limit.
            timeout: seconds until this gives up.

        Raises:
            InputError: the peer found the body wrong, or it is too long.
            RefusedError: the peer refused, or does not let this caller in.
            UnreachableError: no answer came in time, or the peer failed.
        """

    def close(self) -> None:
        """Lets the connection go."""


def answer(service: Service, peer: Peer, method: str, body: bytes) -> bytes:
    """Returns what a service answers, as it travels: a status byte (an exit code), then the body or one line."""
    try:
        handler = service.get(method)
        if handler is None:
            raise InputError(f"no method called {method[:80]!r}")
        return b"\0" + handler(peer, body)
    except PrivetError as error:
        return bytes([error.exit_code]) + error.advice().encode()[:_TOLD]
    except Exception:
        # The reason stays here: a stranger must not read this process's insides in it.
        _LOG.exception("the method %r failed", method)
        return bytes([UnreachableError.exit_code]) + b"the service failed"


def opened(peer: Peer, reply: bytes) -> bytes:
    """Returns the body of what :func:`answer` made.

    Raises:
        InputError: the peer found the request wrong.
        RefusedError: the peer refused.
        UnreachableError: the peer failed, or answered in no way that is known.
    """
    status = reply[0] if reply else UnreachableError.exit_code
    if status == 0:
        return reply[1:]
    text = reply[1 : _TOLD + 1].decode("utf-8", "replace")
    line = f"{peer}: " + "".join(letter if letter.isprintable() else " " for letter in text)
    kinds: dict[int, type[PrivetError]] = {2: InputError, 3: RefusedError}
    raise kinds.get(status, UnreachableError)(line)


def fits(body: bytes, limit: int) -> bytes:
    """Returns a body that is not too long.

    Raises:
        InputError: it is.
    """
    if len(body) > limit:
        raise InputError(f"a message of {len(body)} bytes is oversize", allowed=f"up to {limit}")
    return body


def hung_up(where: str, certificate: bytes, authority: bytes) -> UnprovenError | UnreachableError:
    """Returns what it means that a server closed the connection without a word.

    So it does to a certificate of another authority, when it is being stopped, and when it is full. Only the first is
    for good, and the certificate shows it.

    Args:
        where: who that is, for the line.
        certificate: what it was shown, PEM; b"" for none.
        authority: that signed its certificate, PEM; the one that it takes certificates of.
    """
    if certificate and not issued_by(certificate, authority):
        wrong = f"{where} does not let this certificate in: it is of another authority"
        return UnprovenError(wrong, do="ask who runs it for one")
    do = "if it goes on, ask who runs it: it may not know this certificate's authority"
    return UnreachableError(f"{where} closed the connection without a word", do=do)
