"""The ledger: what it adds to a round of federated averaging, how fast miners agree, how fast a chain is replayed."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.engine import fleet_of
from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.ledger.chain import Chain
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.transactions import Transaction
from privet.ledger.verification import verify
from privet.ledger.votes import Certificate, Vote
from privet.randomness import seeded
from privet.study.consensus_speed import speed
from privet.study.consortium import Consortium
from privet.study.sections import Ledger
from privet.tensors import flatten

ROUNDS, PAIRS = 3, 3
FINALITY_GOALS_MS = {4: 50, 16: 250, 64: 1500}
BLOCKS = 10_000


def round_share(miners: int) -> None:
    """Rounds of 10 devices with 600 rows each, LeNet, with and without a ledger, in turns; wall time."""
    ratios = []
    for _ in range(PAIRS):
        seconds = {}
        for on_ledger in (False, True):
            coordinator, state, _ = fleet_of(10, 600)
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                if on_ledger:
                    names = [device.identity for device in coordinator.devices]
                    initial = flatten(state)
                    settings = Ledger(miners=miners)
                    consortium = Consortium(Path(folder), settings, names, ROUNDS, "mean", 0, initial, bytes(32))
                    coordinator = replace(coordinator, settle=consortium.settle)
                for _ in coordinator.rounds(state, 1, ROUNDS, seeded(1)):
                    pass
                seconds[on_ledger] = time.perf_counter() - begun
        ratios.append(seconds[True] / seconds[False])
    row = {
        "name": f"a round of federated averaging, LeNet, {miners} miners / without a ledger, wall time",
        "ratio": statistics.median(ratios),
        "goal": 1.25,
        "of": f"{min(ratios):.2f} to {max(ratios):.2f}",
    }
    print(json.dumps(row))


def agreement(miners: int) -> None:
    """Finality of blocks of 20 payments; transactions a second in blocks of 200."""
    for batch in (20, 200):
        with tempfile.TemporaryDirectory() as folder:
            found = speed(miners, Path(folder), blocks=10, batch=batch)
        goal = FINALITY_GOALS_MS[miners]
        row = {
            "name": f"{miners} miners in one process, {batch} transactions a block: finality p95 / {goal} ms",
            "ratio": found["finality_ms_p95"] / goal,
            "goal": 1.0,
            "transactions_per_second": round(found["transactions_per_second"]),
        }
        print(json.dumps(row))


def replayed() -> None:
    """Blocks of one payment and four votes, replayed from the genesis."""
    seeds = [bytes([at]) * 32 for at in range(1, 10)]
    keys = [public_key(seed) for seed in seeds]
    miners = tuple(Miner(keys[at], ecvrf.public_key(seeds[at + 4])) for at in range(4))
    genesis = Genesis("bench", miners, {keys[8]: 1 << 40})
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain.create(Path(folder), genesis)
        for height in range(1, BLOCKS + 1):
            body = {"to": keys[0], "amount": 1}
            one = Transaction.signed(seeds[8], genesis.hash, height - 1, "pay", body)  # type: ignore[arg-type]
            block, _ = chain.propose(seeds[0], seeds[4], (one,))
            place = (genesis.name, genesis.hash, height, 0, "certify", block.header.hash)
            votes = [Vote.signed(seed, *place) for seed in seeds[:4]]
            chain.append(block, Certificate.of(votes))
        chain.close()
        begun = time.perf_counter()
        found = verify(Path(folder))
        seconds = time.perf_counter() - begun
    if found.height != BLOCKS or found.first_wrong is not None:
        raise SystemExit(f"the chain does not verify: {found}")
    print(json.dumps({"name": f"replay of {BLOCKS:,} blocks / 30 s", "ratio": seconds / 30, "goal": 1.0}))


if __name__ == "__main__":
    for count in (1, 4, 7):
        round_share(count)
    for count in FINALITY_GOALS_MS:
        agreement(count)
    replayed()
