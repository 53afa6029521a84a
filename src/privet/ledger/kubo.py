"""Contents in an IPFS node, over the RPC interface that Kubo serves (``/api/v0``), by default on this machine.

The node is not trusted. Addresses are worked out here; what the node calls a file is compared with them, and whatever
it hands out is hashed before anybody sees it. A node that is away, slow, sends without end or something else is one
line that says so. The interface is that of :class:`privet.ledger.folder_store.FolderStore`.

References: Kubo RPC API v0 (``add``, ``block/stat``, ``cat``).
"""

from __future__ import annotations

import http.client
import io
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from privet.errors import ContentError, InputError, UnreachableError
from privet.ledger.content import DEFAULT, chunks, cid_of, cid_of_file, decode_cid, profile_of

ADDRESS = "http://127.0.0.1:5001"
"""Where Kubo listens unless told otherwise. Who reaches it may do anything to the node: keep it on this machine."""

_ANSWER = 1 << 16
"""Longest answer that is no content, in bytes."""


class KuboStore:
    """Contents in an IPFS node, pinned, so that it keeps them.

    Args:
        api: address of the node's RPC interface.
        profile: how addresses are worked out; the node is told to do the same.
        largest: longest content that is taken from the node, in bytes.
        patience: seconds that one call may take.

    Raises:
        ContentError: there is no such profile.
        InputError: ``api`` is no address.
    """

    def __init__(
        self, api: str = ADDRESS, profile: str = DEFAULT, *, largest: int = 1 << 30, patience: float = 60.0
    ) -> None:
        self.profile = profile_of(profile)
        self.api, self.largest, self.patience = api, largest, patience
        try:
            parts = urlsplit(api)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            parts, self._host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not self._host or parts.path.strip("/") or parts.query:
            raise InputError(f"{api!r} is no address of an IPFS node", allowed=f"for example {ADDRESS}")
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def put(self, data: bytes) -> str:
        """Stores bytes and returns their address, once the node says that it has them.

        Raises:
            UnreachableError: the node does not answer in time.
            ContentError: the node refuses, or gives them another address.
        """
        return self._add(io.BytesIO(data), len(data), cid_of(data, self.profile.name))

    def put_file(self, path: Path) -> str:
        """Stores a copy of a file and returns its address, once the node has it; holds one chunk at a time.

        Raises:
            UnreachableError: the node does not answer in time.
            ContentError: ``path`` is not a file, or the node refuses it or gives it another address.
        """
        cid = cid_of_file(path, self.profile.name)
        with path.open("rb") as file:
            return self._add(file, path.stat().st_size, cid)

    def get(self, cid: str) -> bytes:
        """Returns the bytes of an address; the node may look for them among other nodes.

        Raises:
            UnreachableError: the node does not answer in time.
            ContentError: it is no address, the node has nothing under it, or what it gives is something else.
        """
        decode_cid(cid)
        with self._asked("cat", {"arg": cid, "length": str(self.largest + 1)}) as (answer, until):
            if answer.status != http.client.OK:
                raise ContentError(
                    f"no content {cid} at {self.api}: {self._reason(answer, until)}", do="bring it, then try again"
                )
            data = self._read(answer, self.largest, until)
        if cid_of(data, self.profile.name) != cid:
            raise ContentError(f"what {self.api} gives for {cid} is something else", do="take it from another node")
        return data

    def has(self, cid: str) -> bool:
        """Returns whether the node itself has the first block of an address, without asking other nodes.

        Raises:
            UnreachableError: the node does not answer in time.
            ContentError: it is no address.
        """
        decode_cid(cid)
        with self._asked("block/stat", {"arg": cid, "offline": "true"}) as (answer, _):
            return answer.status == http.client.OK

    def _add(self, file: BinaryIO, size: int, cid: str) -> str:
        options = {
            "cid-version": "1",
            "cid-base": "base32",
            "raw-leaves": "true",
            "hash": "sha2-256",
            "trickle": "false",
            "inline": "false",
            "chunker": f"size-{self.profile.chunk}",
            "max-file-links": str(self.profile.links),  # a node before Kubo 0.35 does not know it, and takes 174
            "pin": "true",
            "progress": "false",
        }
        with self._asked("add", options, file, size) as (answer, until):
            if answer.status != http.client.OK:
                raise ContentError(f"{self.api} stores nothing: {self._reason(answer, until)}", do="see the node's log")
            said = self._read(answer, _ANSWER, until)
        try:
            named = json.loads(said)["Hash"]
        except (ValueError, KeyError, TypeError):
            raise ContentError(f"{self.api} does not answer as an IPFS node", do="check the address") from None
        if named != cid:
            wrong = f"{self.api} calls the content {str(named)[:80]}, not {cid}"
            raise ContentError(wrong, do=f"profile {self.profile.name} may need a newer node")
        return cid

    @contextmanager
    def _asked(
        self, call: str, options: dict[str, str], file: BinaryIO | None = None, size: int = 0
    ) -> Iterator[tuple[http.client.HTTPResponse, float]]:
        """Sends a call; gives the answer, whose body is still to be read, and the time until which it may come."""
        until = time.monotonic() + self.patience
        query = "&".join(f"{quote(key)}={quote(value)}" for key, value in options.items())
        connection = self._connection(self._host, self._port, timeout=self.patience)
        try:
            mark = secrets.token_hex(16)
            head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="content"\r\n'.encode()
            head, tail = head + b"Content-Type: application/octet-stream\r\n\r\n", f"\r\n--{mark}--\r\n".encode()
            headers = {} if file is None else {"Content-Type": f"multipart/form-data; boundary={mark}"}
            headers["Content-Length"] = "0" if file is None else str(len(head) + size + len(tail))
            body = None if file is None else self._body(head, file, tail)
            connection.request("POST", f"/api/v0/{call}?{query}", body, headers)
            yield connection.getresponse(), until
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise UnreachableError(f"the IPFS node at {self.api} does not answer: {why}", do="start it") from None
        finally:
            connection.close()

    def _body(self, head: bytes, file: BinaryIO, tail: bytes) -> Iterator[bytes]:
        yield head
        yield from chunks(file, self.profile)
        yield tail

    def _read(self, answer: http.client.HTTPResponse, most: int, until: float) -> bytes:
        """Returns the body of an answer that is short enough and comes in time."""
        data = bytearray()
        while piece := answer.read1(1 << 16):
            data += piece
            if len(data) > most:
                raise ContentError(f"{self.api} sends more than {most} bytes", do="take it from another node")
            if time.monotonic() > until:
                raise TimeoutError(f"an answer took more than {self.patience:g} seconds")
        return bytes(data)

    def _reason(self, answer: http.client.HTTPResponse, until: float) -> str:
        """Returns what the node says about a refusal, in one short line."""
        said = self._read(answer, _ANSWER, until)
        try:
            return " ".join(str(json.loads(said)["Message"]).split())[:200]
        except (ValueError, KeyError, TypeError):
            return f"HTTP status {answer.status}"
