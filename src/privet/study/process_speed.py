"""How fast miners agree as processes of their own: gRPC with mutual TLS over loopback, everything on the disk."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from privet.crypto.signatures import public_key
from privet.errors import UnreachableError
from privet.ledger.founding import MANUFACTURER_FOLDER, found, register
from privet.ledger.miner_folder import SIGNING_FILE, Consortium, seed
from privet.ledger.service import Remote
from privet.ledger.transactions import Transaction
from privet.transport.grpc import GrpcClient
from privet.transport.identity import Identity

_PATIENCE = 120.0
_MINER = """
import signal, sys
from contextlib import ExitStack
from pathlib import Path
from privet.ledger.miner import mine

mine(Path(sys.argv[1]), started=lambda node, own: signal.signal(signal.SIGTERM, lambda *_: node.stop()))
"""


def speed(miners: int, folder: Path, blocks: int = 20, batch: int = 200) -> dict[str, Any]:
    """Returns how long miner processes on this machine take to agree on payments.

    Batches are handed in one at a time, to one miner after the other, which passes them on to the others.

    Args:
        miners: how many processes.
        folder: an empty one; the miners' folders are left in it.
        blocks: how many batches.
        batch: signed payments in each.

    Returns:
        ``finality_ms_p50`` and ``finality_ms_p95``: from handing a batch in until every miner has all of it in final
        blocks, seen by asking; ``transactions_per_second``: over all batches.

    Raises:
        UnreachableError: the miners do not start, or stop agreeing.
    """
    names = [f"miner-{at}" for at in range(1, miners + 1)]
    places = zip(names, _free_ports(len(names)), strict=True)
    genesis = found(folder, [register(folder / name, name, f"127.0.0.1:{port}") for name, port in places], "bench")
    place = folder / MANUFACTURER_FOLDER
    identity, secret = Identity.load(place), seed(place / SIGNING_FILE)
    maker, home = public_key(secret), bytes(31) + b"\1"
    paid = [
        Transaction.signed(secret, genesis.hash, nonce, "pay", {"to": home, "amount": 1})
        for nonce in range(blocks * batch)
    ]
    clients = [GrpcClient(each.address, each.peer, identity) for each in Consortium.load(place).members]
    remotes = [Remote(client) for client in clients]
    processes = [
        subprocess.Popen([sys.executable, "-c", _MINER, str(folder / name)])  # noqa: S603
        for name in names
    ]
    taken = []
    try:
        _wait(remotes, maker, 0)
        for at in range(blocks):
            began = time.perf_counter()
            remotes[at % miners].send(paid[at * batch : (at + 1) * batch])
            _wait(remotes, maker, (at + 1) * batch)
            taken.append(1000 * (time.perf_counter() - began))
        heads = {(status["height"], status["head"]) for status in (remote.status() for remote in remotes)}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        for client in clients:
            client.close()
    ordered = sorted(taken)
    return {
        "miners": miners,
        "blocks": blocks,
        "transactions": blocks * batch,
        "agreed": len(heads) == 1,
        "finality_ms_p50": ordered[(len(ordered) - 1) // 2],
        "finality_ms_p95": ordered[-(-95 * len(ordered) // 100) - 1],
        "transactions_per_second": 1000 * blocks * batch / sum(taken),
        "signatures": "real",
        "verification": "each process for itself",
        "store": "SQLite, synchronous=FULL; sign-state synced before each vote",
        "transport": "gRPC, TLS 1.3, loopback",
    }


def _wait(remotes: list[Remote], payer: bytes, nonce: int) -> None:
    """Returns when every miner has so many payments in final blocks."""
    end, waiting = time.monotonic() + _PATIENCE, list(remotes)
    while waiting:
        try:
            if waiting[0].account(payer)["nonce"] >= nonce:
                waiting.pop(0)
                continue
        except UnreachableError:
            if nonce:
                raise
        if time.monotonic() > end:
            raise UnreachableError(f"the miners did not agree within {_PATIENCE:g} s")
        time.sleep(0.002 if nonce else 0.1)


def _free_ports(count: int) -> list[int]:
    """Returns ports that are free, each another one: all are held until the last is found."""
    with ExitStack() as held:
        taken = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
