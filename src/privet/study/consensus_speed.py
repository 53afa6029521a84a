"""How fast miners agree when nobody is at fault: all in this process, real signatures, everything on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from privet.crypto.signatures import public_key
from privet.ledger.chain import Chain
from privet.ledger.messages import Event, Final, Send, Start, Timer
from privet.ledger.sign_state import DurableFile
from privet.ledger.transactions import Transaction
from privet.study.consensus_trials import Node, consortium, secret


def speed(miners: int, folder: Path, blocks: int = 20, batch: int = 200) -> dict[str, Any]:
    """Returns how long miners in this process take to agree, with chains and sign-states on the disk.

    All messages arrive at once, in order, and nobody is at fault. All miners share one thread, so what is measured is
    the work of all of them together.

    Args:
        miners: how many.
        folder: an empty one; chains are left in it.
        blocks: how many heights.
        batch: transactions in each block, each a signed payment.

    Returns:
        ``finality_ms_p50`` and ``finality_ms_p95``: from the moment at which a block's transactions are there until the
        last miner has stored the block; ``transactions_per_second``: over the whole run.
    """
    genesis = consortium(miners)
    maker, home = secret("maker"), public_key(secret("home"))
    paid = [
        Transaction.signed(maker, genesis.hash, nonce, "pay", {"to": home, "amount": 1})
        for nonce in range(blocks * batch)
    ]
    nodes: dict[bytes, Node] = {}
    for at in range(miners):
        place = folder / f"miner {at}"
        place.mkdir(parents=True)
        chain = Chain.create(place, genesis)
        node = Node(f"miner {at}", chain, DurableFile(place / "sign-state"), _batches(chain, paid, batch))
        nodes[node.key] = node
    queue: list[tuple[bytes, Event]] = []
    waiting: list[tuple[bytes, Event]] = [(key, Start()) for key in nodes]
    taken = []
    begun = time.perf_counter()
    for _ in range(blocks):
        queue, waiting, began = waiting, [], time.perf_counter()
        done: set[bytes] = set()
        for key, event in queue:  # grows while it is gone through
            if key in done:
                waiting.append((key, event))
                continue
            actions = nodes[key].miner.handle(event)
            for action in actions:
                if isinstance(action, Send):
                    others = [action.to] if action.to is not None else [other for other in nodes if other != key]
                    queue.extend((other, action.message) for other in others)
                elif isinstance(action, Final):
                    done.add(key)
                elif isinstance(action, Timer) and action.timeout.name == "begin":
                    queue.append((key, action.timeout))
        taken.append(1000 * (time.perf_counter() - began))
    seconds = time.perf_counter() - begun
    agreed = {(node.chain.state.height, node.chain.state.commitment) for node in nodes.values()}
    for node in nodes.values():
        if isinstance(node.chain, Chain):
            node.chain.close()
    ordered = sorted(taken)
    return {
        "miners": miners,
        "blocks": blocks,
        "transactions": blocks * batch,
        "agreed": len(agreed) == 1 and agreed.pop()[0] == blocks,
        "finality_ms_p50": ordered[(len(ordered) - 1) // 2],
        "finality_ms_p95": ordered[-(-95 * len(ordered) // 100) - 1],
        "transactions_per_second": blocks * batch / seconds,
        "signatures": "real",
        "verification": "shared in the process",
        "store": "SQLite, synchronous=FULL; sign-state synced before each vote",
    }


def _batches(chain: Chain, paid: list[Transaction], batch: int) -> Callable[[], Iterable[Transaction]]:
    def listed() -> list[Transaction]:
        begin = chain.state.height * batch
        return paid[begin : begin + batch]

    return listed
