"""Asking an inference service, over whichever transport, again when it is busy.

What a sample is, original or obfuscated, is nobody's business but the caller's: both are asked about in the same way.
A question may be asked twice without harm, so it is asked again when no answer came.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from numpy.typing import NDArray

from privet.errors import InputError, RefusedError, UnreachableError
from privet.inference.credentials import Credentials
from privet.inference.manifest import Manifest, Signed
from privet.inference.questions import Answer, question, require_samples, width
from privet.transport.contract import LIMIT, Client, Peer

SERVICE = Peer("service", "inference")
"""Who an inference service is by its certificate, unless said otherwise."""

_VERSIONS = 3
"""How often all is asked again where a new version came between the parts of a question."""


@dataclass(frozen=True)
class Offer:
    """What a service says of itself.

    Attributes:
        manifest: of the model version that answers.
        version: its digest, hexadecimal.
        samples: most of one question.
    """

    manifest: Manifest
    version: str
    samples: int


class Asker:
    """Asks one service.

    Args:
        client: the way to it; any transport's.
        signer: Ed25519 public key of who signs model versions; None believes whatever the service says.
        patience: seconds until a question is given up, all attempts together.
        pause: seconds before the second attempt, about; doubled each time up to a second.
        sleep: waits.
    """

    def __init__(
        self,
        client: Client,
        *,
        signer: bytes | None = None,
        patience: float = 30.0,
        pause: float = 0.05,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._signer = client, signer
        self._patience, self._pause, self._sleep = patience, pause, sleep
        self._offer: Offer | None = None

    def offer(self, *, again: bool = False) -> Offer:
        """Returns what the service says of itself; asked once, unless ``again``.

        Raises:
            RefusedError: its version is not signed by the key that was given, or it does not let this client in.
            UnreachableError: it does not answer.
        """
        if self._offer is None or again:
            self._offer = _offer(self._call("model", b""), self._signer)
        return self._offer

    def ask(self, samples: NDArray[Any]) -> Answer:
        """Returns the scores of some samples (n, *shape), in several questions where they are too many for one.

        Raises:
            InputError: they have another shape, or a value is out of range.
            RefusedError: the service does not let this client in, or a version answers that is not signed.
            UnreachableError: no answer came in time, or parts were answered by different versions, three times.
        """
        import numpy as np

        offer = self.offer()
        require_samples(samples.shape, offer.manifest.shape, "samples")
        most = max(1, min(offer.samples, LIMIT // width(offer.manifest.shape)))
        parts = [samples[at : at + most] for at in range(0, len(samples), most)]
        for _ in range(_VERSIONS):
            answers = [self._answer(part) for part in parts]
            if len({each.version for each in answers}) == 1:
                return Answer(answers[0].version, np.concatenate([each.scores for each in answers]))
        raise UnreachableError("the service changes its model again and again", do="ask later")

    def close(self) -> None:
        """Lets the connection go."""
        self._client.close()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, samples: NDArray[Any]) -> Answer:
        answer = Answer.of(self._call("classify", question(samples)), len(samples), self.offer().manifest.classes)
        # A version that came in between is believed once its manifest was read and checked.
        if answer.version != self.offer().version and answer.version != self.offer(again=True).version:
            raise RefusedError("a model version answered that the service shows no manifest of", do="ask again")
        return answer

    def _call(self, method: str, body: bytes) -> bytes:
        """Calls until an answer comes or patience ends."""
        until, pause = time.monotonic() + self._patience, self._pause
        while True:
            left = until - time.monotonic()
            try:
                return self._client.call(method, body, max(0.1, min(left, 10.0)))
            except UnreachableError as error:
                wait = max(getattr(error, "after", 0.0), pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
                if time.monotonic() + wait >= until:
                    raise
                self._sleep(wait)
                pause = min(2 * pause, 1.0)


def connect(url: str, credentials: Credentials, *, peer: Peer = SERVICE) -> Client:
    """Returns the way to a service.

    Args:
        url: ``https://host:port``, ``grpc://host:port``, or ``mqtts://host:port`` of a broker.
        credentials: what to show.
        peer: whose certificate it must show.

    Raises:
        InputError: the address is malformed.
        MissingExtraError: what this transport needs is not installed.
        RefusedError, UnreachableError: the broker is not there, or not to be trusted.
    """
    place = urlsplit(url)
    try:
        host, port = place.hostname or "", place.port or 0
    except ValueError:
        host, port = "", 0
    if not host or not port or place.path not in ("", "/") or place.query or place.username:
        raise InputError(f"{url[:200]!r} is no address of a service", allowed="https, grpc or mqtts ://HOST:PORT")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if place.scheme == "https":
        from privet.inference.over_https import HttpsClient

        return HttpsClient(f"https://{where}", peer, credentials)
    if place.scheme == "mqtts":
        from privet.inference.over_mqtt import MqttClient

        return MqttClient(host, port, peer, credentials)
    if place.scheme == "grpc":
        from privet.transport.grpc import GrpcClient

        return GrpcClient(where, peer, credentials.identity())
    raise InputError(f"{place.scheme}:// is no way to a service", allowed="https, grpc, mqtts")


def told(signed: Signed, samples: int) -> bytes:
    """Returns what a service says of itself, as it travels."""
    fields = {"manifest": signed.text.decode(), "signature": signed.signature.hex(), "samples": samples}
    return json.dumps(fields).encode()


def _offer(body: bytes, signer: bytes | None) -> Offer:
    try:
        fields = json.loads(body)
        signed = Signed(str(fields["manifest"]).encode(), bytes.fromhex(fields["signature"]))
        samples = int(fields["samples"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnreachableError("the service does not say which model it has", do="check the address") from None
    manifest = Manifest.of(signed.text) if signer is None else signed.opened(signer)
    return Offer(manifest, signed.digest.hex(), max(1, samples))
