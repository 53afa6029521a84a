"""The way to an inference service over a broker: MQTT 5 with response topics, over TLS 1.3.

A client publishes to ``privet/ask/ROLE/NAME/METHOD`` and reads ``privet/answer/ROLE/NAME/WORD``, where ROLE/NAME is
what its certificate says and WORD is drawn anew for each connection. The broker has to see to it that nobody publishes
or reads under another's name; ``packaging/mosquitto.acl`` does. A payload is what any transport carries: a question up,
a status byte and an answer (or one line) down.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, Any

from privet.errors import MissingExtraError, RefusedError, UnreachableError
from privet.inference.credentials import Credentials
from privet.transport.contract import LIMIT, Peer, fits, opened

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

ASK, ANSWER = "privet/ask", "privet/answer"
KEEPALIVE = 30
AT_LEAST_ONCE = 1
_OWED = 64  # questions that wait for a lost connection
_LATER = ("Server unavailable", "Server busy", "Server shutting down")
_SILENT = "Unspecified error"  # what paho says where the broker said nothing


def mqtt(identifier: str, context: ssl.SSLContext) -> Client:
    """Returns an MQTT 5 client that does not connect yet.

    Args:
        identifier: of the client; a second one of the same would throw the first out.
        context: for TLS.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
    """
    try:
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion
    except ModuleNotFoundError:
        raise MissingExtraError("paho-mqtt", "serve") from None
    client = Client(CallbackAPIVersion.VERSION2, identifier, protocol=MQTTv5)
    client.tls_set_context(context)
    client.reconnect_delay_set(1, 5)
    client.on_socket_open = _at_once
    return client


def _at_once(_client: Client, _own: Any, line: Any) -> None:
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # packets are small, and somebody waits for each


def connected(client: Client, host: str, port: int) -> None:
    """Connects and starts the client's thread.

    Raises:
        UnreachableError: nobody answers there.
        RefusedError: who answers does not prove that it is the broker.
    """
    wishes = properties("CONNECT", MaximumPacketSize=LIMIT)
    try:
        client.connect(host, port, KEEPALIVE, clean_start=True, properties=wishes)
    except ssl.SSLCertVerificationError as error:
        _let_go(client)
        why = f"the broker at {host}:{port} did not prove who it is ({error.verify_message})"
        raise RefusedError(why, do="check the address, and the authority's certificate") from None
    except OSError as error:
        _let_go(client)
        raise UnreachableError(f"the broker at {host}:{port} does not answer ({error})", do="check address") from None
    client.loop_start()


def properties(packet: str, **wished: Any) -> Any:
    """Returns the properties of a packet, by their names in MQTT 5."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    made = Properties(getattr(PacketTypes, packet))  # type: ignore[no-untyped-call]
    for name, value in wished.items():
        setattr(made, name, value)
    return made


def ended(client: Client) -> None:
    """Disconnects and ends the client's thread."""
    client.disconnect()
    client.loop_stop()
    _let_go(client)


def _let_go(client: Client) -> None:
    client._reset_sockets()  # paho leaves them to the garbage collector, also one that is just being opened again


class MqttClient:
    """Calls an inference service over a broker; a :class:`privet.transport.contract.Client`.

    Args:
        host, port: of the broker, as its certificate names it.
        peer: the service, for messages.
        credentials: what to show; a certificate.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
        UnreachableError: the broker does not answer, or has no time.
        RefusedError: there is no certificate, the broker does not prove who it is, or it lets no such client in.
    """

    def __init__(self, host: str, port: int, peer: Peer, credentials: Credentials, patience: float = 10.0) -> None:
        self._peer, own = peer, credentials.identity().peer
        word = secrets.token_hex(8)
        self._ask, self._answer = f"{ASK}/{own}", f"{ANSWER}/{own}/{word}"
        self._waiting: dict[bytes, Future[bytes]] = {}
        self._ready, self._refused = threading.Event(), ""
        self._client = mqtt(f"{own.role}-{own.name}-{word}", credentials.context())
        self._client.on_connect, self._client.on_subscribe = self._on_connect, self._on_subscribe
        self._client.on_message, self._client.on_disconnect = self._on_message, self._on_disconnect
        self._client.max_queued_messages_set(_OWED)
        connected(self._client, host, port)
        if not self._ready.wait(patience) or self._refused:
            said = self._refused
            self.close()
            where = f"the broker at {host}:{port}"
            if not said or said in _LATER:
                raise UnreachableError(f"{where} does not answer ({said or 'not in time'})", do="try again later")
            if said == _SILENT:
                said = "it closed the connection without a word and may not know this certificate's authority"
            raise RefusedError(f"{where} does not let {own} in ({said})", do="ask who runs it")

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """Returns the service's answer; as :meth:`privet.transport.contract.Client.call`."""
        number, future = secrets.token_bytes(8), Future[bytes]()
        wishes = properties(
            "PUBLISH",
            ResponseTopic=self._answer,
            CorrelationData=number,
            MessageExpiryInterval=max(1, round(timeout)),
        )
        self._waiting[number] = future
        try:
            self._client.publish(f"{self._ask}/{method}", fits(body, LIMIT), AT_LEAST_ONCE, properties=wishes)
            return fits(opened(self._peer, future.result(timeout)), LIMIT)
        except Late:
            raise UnreachableError(f"{self._peer} does not answer within {timeout:g} s over the broker") from None
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Lets the connection go."""
        ended(self._client)

    def _on_connect(self, client: Client, _own: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            self._ready.set()
            return
        client.subscribe(self._answer, AT_LEAST_ONCE)  # again after each connection that was lost

    def _on_disconnect(self, _client: Client, _own: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self._ready.is_set():
            self._refused = str(reason)
            self._ready.set()

    def _on_subscribe(self, _client: Client, _own: Any, _number: int, reasons: list[Any], _properties: Any) -> None:
        self._refused = str(reasons[0]) if reasons[0].is_failure else ""
        self._ready.set()

    def _on_message(self, _client: Client, _own: Any, message: MQTTMessage) -> None:
        number = getattr(message.properties, "CorrelationData", b"")
        if (future := self._waiting.pop(number, None)) is not None:
            future.set_result(bytes(message.payload))
