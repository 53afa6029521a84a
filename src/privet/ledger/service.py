"""What others may ask of a miner: the methods of its service, and the same methods as somebody else calls them.

===========  =========================================  ==============================================
method       body                                       answer
===========  =========================================  ==============================================
message      a batch of consensus messages              nothing; miners only
relayed      the same, passed on by a miner             nothing; miners only
transaction  a batch of transactions                    the reason why each was refused, or ""
content      profile, address, offset                   size and a piece
bring        profile, address, size, offset, a piece    how many bytes are here
genesis      nothing                                    the genesis
final        height                                     the block and its certificate, or nothing
snapshot     height, offset                             a piece of the state, or nothing
account      a key                                      its nonce, the nonce it should use next, its balance
status       nothing                                    height, head, ...
===========  =========================================  ==============================================

Whoever the authority has given a certificate may read and send transactions; what is said is signed by who says it.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from privet.errors import InputError, PrivetError, RefusedError
from privet.ledger import catch_up, snapshot
from privet.ledger.blocks import Block
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import digest, key, read, text, whole
from privet.ledger.messages import Final
from privet.ledger.node import Node
from privet.ledger.store import Store
from privet.ledger.transactions import Transaction
from privet.ledger.verification import CHAIN_FILE
from privet.ledger.votes import Certificate
from privet.ledger.wire import BATCH, decode_batch, decode_final, encode_batch, encode_message
from privet.transport.contract import Client, Peer, Service

MINER = "miner"
"""The role of who may send messages of the consensus."""

TIMEOUT = 5.0

_ACCOUNT = {"nonce": whole(), "due": whole(), "balance": whole()}

_STATUS = {
    "name": text(128),
    "genesis": digest,
    "height": whole(),
    "head": digest,
    "period": whole(),
    "waiting": whole(),
    "stopped": lambda value: isinstance(value, str),
    "peers": lambda value: isinstance(value, dict),
}


def service(node: Node, own: Peer, outbound: frozenset[Peer] = frozenset()) -> Service:
    """Returns the methods of a node.

    Args:
        node: whose.
        own: its name.
        outbound: miners that nobody can connect to; what one of them says is passed on to the others of them.
    """
    folder, genesis = node.chain.folder, node.chain.genesis

    def message(peer: Peer, body: bytes) -> bytes:
        answer = relayed(peer, body)
        if peer in outbound:
            node.links.relay("relayed", body, outbound - {peer})
        return answer

    def relayed(peer: Peer, body: bytes) -> bytes:
        if peer.role != MINER:
            raise RefusedError(f"{peer} is no miner")
        for each in decode_batch(body):
            node.take(each)
        return b""

    def transaction(peer: Peer, body: bytes) -> bytes:
        reasons: list[Value] = []
        for each in _batch(body):
            try:
                node.submit(Transaction.decode(each), spread=peer.role != MINER)
                reasons.append("")
            except PrivetError as error:
                reasons.append(error.advice()[:500])
        return encode(reasons)

    def final(peer: Peer, body: bytes) -> bytes:
        height = read("final", decode(body), {"height": whole(1)})["height"]
        with closing(Store(folder / CHAIN_FILE)) as store:
            row = store.block(height)
        return b"" if row is None else encode_message(Final(Block.decode(row[0]), Certificate.decode(row[1])))

    def snapshot_piece(peer: Peer, body: bytes) -> bytes:
        asked = read("snapshot", decode(body), {"height": whole(1), "offset": whole()})
        return snapshot.piece(folder, asked["height"], asked["offset"], catch_up.PIECE)

    def account(peer: Peer, body: bytes) -> bytes:
        owner, state = read("account", decode(body), {"key": key})["key"], node.chain.state
        return encode({"nonce": state.nonce(owner), "due": node.pool.due(owner), "balance": state.balance(owner)})

    def status(peer: Peer, body: bytes) -> bytes:
        reached: dict[str, Value] = {name: there for name, there in node.links.reachable().items()}
        table: dict[str, Value] = {
            "name": str(own),
            "genesis": genesis.hash,
            "height": node.chain.state.height,
            "head": node.chain.head,
            "period": node.miner.period,
            "waiting": len(node.pool),
            "stopped": node.stopped,
            "peers": reached,
        }
        return encode(table)

    return {
        "message": message,
        "relayed": relayed,
        "transaction": transaction,
        "content": node.contents.content,
        "bring": node.contents.bring,
        "genesis": lambda peer, body: genesis.encode(),
        "final": final,
        "snapshot": snapshot_piece,
        "account": account,
        "status": status,
    }


class Remote:
    """A miner as others see it.

    Args:
        client: the way to it.
        timeout: seconds until a call is given up.
    """

    def __init__(self, client: Client, timeout: float = TIMEOUT) -> None:
        self.client, self.timeout = client, timeout

    def send(self, transactions: list[Transaction]) -> list[str]:
        """Hands in transactions; returns the reason why each was refused, or "" where it was taken.

        Raises:
            UnreachableError: the miner does not answer.
        """
        reasons: list[str] = []
        for at in range(0, len(transactions), BATCH):
            batch = encode_batch(each.encode() for each in transactions[at : at + BATCH])
            told: Any = decode(self.client.call("transaction", batch, self.timeout))
            reasons += map(str, told)
        return reasons

    def final(self, height: int) -> Final | None:
        """Returns the block of a height with its certificate, neither believed yet; None where it has none.

        Raises:
            InputError: it is malformed.
            UnreachableError: the miner does not answer.
        """
        return decode_final(self.client.call("final", encode({"height": height}), self.timeout))

    def snapshot(self, height: int, offset: int) -> bytes:
        """Returns a piece of the state at a height; none where the miner keeps no such snapshot."""
        return self.client.call("snapshot", encode({"height": height, "offset": offset}), self.timeout)

    def genesis(self) -> bytes:
        """Returns the bytes of the genesis that the miner follows."""
        return self.client.call("genesis", b"", self.timeout)

    def account(self, owner: bytes) -> dict[str, int]:
        """Returns what the miner says of a key: ``nonce`` (final), ``due`` (for the next transaction), ``balance``.

        Raises:
            InputError: the answer is malformed.
            UnreachableError: the miner does not answer.
        """
        return read("account", decode(self.client.call("account", encode({"key": owner}), self.timeout)), _ACCOUNT)

    def status(self) -> dict[str, Any]:
        """Returns name, genesis, height, head, period, waiting, stopped and which peers it reaches.

        Raises:
            InputError: the answer is malformed.
            UnreachableError: the miner does not answer.
        """
        return read("status", decode(self.client.call("status", b"", self.timeout)), _STATUS)

    def source(self, name: str) -> catch_up.Peer:
        """Returns this miner as somebody to catch up from."""

        def final(height: int) -> tuple[bytes, bytes] | None:
            found = self.final(height)
            return None if found is None else (found.block.encode(), found.certificate.encode())

        return catch_up.Peer(name, self.genesis, lambda: int(self.status()["height"]), final, self.snapshot)


def _batch(body: bytes) -> list[bytes]:
    listed = decode(body)
    if not isinstance(listed, list) or not 0 < len(listed) <= BATCH:
        raise InputError("no batch of transactions", allowed=f"1 to {BATCH}")
    return [each if type(each) is bytes else b"" for each in listed]
