"""MQTT in front of the queue: the service is a client of a broker, which has authenticated whoever asks.

A question comes on ``privet/ask/ROLE/NAME/METHOD``; the broker lets nobody publish there but ROLE/NAME. The answer goes
to the response topic that came with it, if that is one of the same caller: nobody makes the service write to another.
"""

from __future__ import annotations

import re
import secrets
import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.apps.service.callers import Admits
from privet.apps.service.desk import Desk
from privet.errors import InputError, PrivetError, RefusedError, UnreachableError
from privet.inference.credentials import Credentials
from privet.inference.over_mqtt import ANSWER, ASK, AT_LEAST_ONCE, connected, ended, mqtt, properties
from privet.inference.questions import answered
from privet.inference.serving import Scored
from privet.transport.contract import Peer, answer

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

TRANSPORT = "mqtt"
OWED = 4096
"""Answers that wait for the broker; with more the oldest questions' clients ask again."""

_TOPIC = re.compile(f"{ASK}/([a-z0-9-]+/[a-z0-9-]+)/([a-z]+)")
_WORD = re.compile("[A-Za-z0-9]{1,40}")
_CORRELATION = 64


class Broker:
    """Takes questions from a broker.

    Args:
        host, port: of the broker, as its certificate names it.
        folder: the service's key and certificate.
        desk: where questions go.
        admits: whether the holder of a certificate may ask.

    Raises:
        UnreachableError: the broker does not answer.
        RefusedError: it does not prove who it is, or does not let the service in.
    """

    def __init__(self, host: str, port: int, folder: Path, desk: Desk, admits: Admits, patience: float = 10.0) -> None:
        self._desk, self._admits = desk, admits
        credentials = Credentials.load(folder)
        own = credentials.identity().peer
        self._ready, self._closing, self._wrong = threading.Event(), False, ""
        self._client = mqtt(f"{own.role}-{own.name}-{secrets.token_hex(4)}", credentials.context())
        self._client.max_queued_messages_set(OWED)
        self._client.max_inflight_messages_set(OWED)
        self._client.on_connect, self._client.on_subscribe = self._on_connect, self._on_subscribe
        self._client.on_message, self._client.on_disconnect = self._on_message, self._on_disconnect
        connected(self._client, host, port)
        if not self._ready.wait(patience) or self._wrong:
            ended(self._client)
            where = f"the broker at {host}:{port}"
            if not self._wrong:
                raise UnreachableError(f"{where} does not answer in time")
            raise RefusedError(
                f"{where} does not let {own} read {ASK}/# {self._wrong}",
                do="give the service its lines in the broker's access list",
            )

    def stop(self) -> None:
        """Takes no more questions."""
        self._closing = True
        self._client.unsubscribe(f"{ASK}/+/+/+")

    def close(self) -> None:
        """Ends once the answers so far are with the broker."""
        ended(self._client)

    def _on_connect(self, client: Client, _own: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._wrong = f"({reason})"
            self._ready.set()
        elif not self._closing:
            client.subscribe(f"{ASK}/+/+/+", AT_LEAST_ONCE)

    def _on_disconnect(self, _client: Client, _own: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self._ready.is_set():
            self._wrong = f"({reason})"
            self._ready.set()

    def _on_subscribe(self, _client: Client, _own: Any, _number: int, reasons: list[Any], _properties: Any) -> None:
        self._wrong = f"({reasons[0]})" if reasons[0].is_failure else ""
        self._ready.set()

    def _on_message(self, _client: Client, _own: Any, message: MQTTMessage) -> None:
        found = _TOPIC.fullmatch(message.topic)
        topic = str(getattr(message.properties, "ResponseTopic", ""))
        number = getattr(message.properties, "CorrelationData", b"")
        if found is None or len(number) > _CORRELATION or not _own_topic(topic, found[1]):
            return self._desk.refused(TRANSPORT, "wrong")  # there is nowhere to say so
        caller, method, body = found[1], found[2], bytes(message.payload)
        reply = partial(self._reply, topic, number)
        try:
            peer = Peer.of(caller)
            if not self._admits(peer):
                raise RefusedError(f"{caller} is not let in", do="ask who runs the service")
            if method == "model":
                return reply(answer({"model": lambda _peer, _body: self._desk.offer()}, peer, method, body))
            if method != "classify":
                raise InputError(f"no method called {method[:40]!r}", allowed="classify, model")
            asked = self._desk.ask(TRANSPORT, caller, body)
        except PrivetError as error:
            self._desk.refused(TRANSPORT, "refused" if isinstance(error, RefusedError) else "wrong")
            return reply(_framed(error))
        asked.add_done_callback(partial(self._done, reply))

    def _done(self, reply: Any, asked: Future[Scored]) -> None:
        try:
            reply(b"\0" + answered(*asked.result(0)))
        except PrivetError as error:
            reply(_framed(error))
        except CancelledError:
            return

    def _reply(self, topic: str, number: bytes, payload: bytes) -> None:
        wishes = properties("PUBLISH", CorrelationData=number)
        self._client.publish(topic, payload, AT_LEAST_ONCE, properties=wishes)


def _own_topic(topic: str, caller: str) -> bool:
    own, _, word = topic.rpartition("/")
    return own == f"{ANSWER}/{caller}" and _WORD.fullmatch(word) is not None


def _framed(error: PrivetError) -> bytes:
    return bytes([error.exit_code]) + error.advice().encode()[:500]
