"""Rewards and reputations of section VI.D, by the state machine: docs/figures/paper_002_figure_11 and _12.

    python examples/ledger/reputation.py      some seconds; writes .json and .svg of both

Seven customers of one task; their updates are drawn around one direction, a poisoned one is far from it. Miners score
them exactly, and reputations and rewards follow on the chain. Nothing here says what they should be.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from privet.aggregation.exact import aggregate, quantise, to_bytes
from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.ledger.content import cid_of, decode_cid
from privet.ledger.encoding import natural
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.state import State
from privet.ledger.transactions import Transaction, admit, binding

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
COMMAND = "python examples/ledger/reputation.py"
DOCUMENT = 'Y. Zhao and others, "Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices", section VI.D'
EPOCHS, COORDINATES = 10, 1000
HONEST, FIRST, FOURTH = "honest customer", "poisoning at epoch 1", "poisoning at epoch 4"
WITHOUT = "no incentive mechanism"
CUSTOMERS = {HONEST: 0, FIRST: 1, FOURTH: 4} | {f"another honest customer {number}": 0 for number in range(1, 5)}
PROFILE = "unixfs-v0-2015"


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def named(content: bytes) -> dict[str, object]:
    return {"cid": decode_cid(cid_of(content, PROFILE)), "profile": PROFILE, "digest": hashlib.sha256(content).digest()}


class Chain:
    """One miner's state machine; each call is a transaction in a block of its own."""

    def __init__(self) -> None:
        miner = Miner(public_key(secret("miner")), ecvrf.public_key(secret("miner vrf")))
        self.state = State(Genesis("section VI.D", (miner,), {public_key(secret("maker")): 10_000}, f=2))
        self.chain = self.state.genesis.hash

    def send(self, name: str, kind: str, **body: object) -> None:
        draft = self.state.draft()
        nonce = self.state.nonce(public_key(secret(name)))
        draft.apply(Transaction.signed(secret(name), self.chain, nonce, kind, body))
        self.state.accept(draft)


def simulate() -> dict[str, dict[str, list[int]]]:
    """Returns reputation and reward of each customer in each epoch, read from the chain."""
    chain, names = Chain(), {public_key(secret(name)): name for name in CUSTOMERS}
    first = named(b"initial model")
    task = {"model": first.pop("cid"), **first, "rule": "multi-krum", "rounds": EPOCHS, "places": 7}
    chain.send("maker", "task", **task, window=100, max_bytes=1 << 20)
    for name in CUSTOMERS:
        who = public_key(secret(name))
        chain.send(name, "enrol", task=1, admission=admit(secret("maker"), chain.chain, 1, who))
    found = {name: {"reputation": [], "reward": []} for name in CUSTOMERS}
    random = np.random.default_rng(0)
    for epoch in range(1, EPOCHS + 1):
        good, updates = random.normal(0, 0.01, COORDINATES), []
        for who, name in sorted(names.items()):
            drawn = good + random.normal(0, 0.005, COORDINATES)
            steps = quantise(-10 * drawn if CUSTOMERS[name] == epoch else drawn)
            stored = named(to_bytes(steps))
            stored["digest"] = binding(chain.chain, 1, epoch, who, stored["digest"])
            chain.send(name, "update", task=1, round=epoch, size=4 * COORDINATES, **stored)
            updates.append(steps)
        done = aggregate(updates, "multi-krum", f=2, kappa=chain.state.genesis.kappa)
        scores = [[who, natural(score)] for who, score in zip(sorted(names), done.scores, strict=True)]
        chain.send("miner", "verdict", task=1, round=epoch, scores=scores)
        chain.send("miner", "model", task=1, round=epoch, **named(to_bytes(done.update)))
        settled = chain.state.settlement(1)
        chain.send("miner", "settle", **settled)
        for (who, before, _), (_, amount) in zip(settled["reputations"], settled["rewards"], strict=True):
            found[names[who]]["reputation"].append(before)
            found[names[who]]["reward"].append(amount)
    if chain.state.tokens() != 10_000:
        raise SystemExit("tokens came from nowhere, or were lost")
    return found


CLAIMS = {
    "reward": {
        "without the mechanism every epoch pays the same": lambda lines: len(set(lines[WITHOUT])) == 1,
        "an honest customer earns more as epochs go on": lambda lines: lines[HONEST] == sorted(set(lines[HONEST])),
        "a poisoned update earns 0": lambda lines: lines[FIRST][0] == lines[FOURTH][3] == 0,
        "poisoning at reputation h leaves small rewards afterwards": lambda lines: lines[FIRST][1:3] == [0, 1],
        "poisoning above h lowers the next reward by 1": lambda lines: lines[FOURTH][4] == lines[HONEST][3] - 1,
    },
    "reputation": {
        "without the mechanism it is 0": lambda lines: set(lines[WITHOUT]) == {0},
        "an honest customer's rises": lambda lines: lines[HONEST] == sorted(set(lines[HONEST])),
        "poisoning at h = 5 drops it to 0": lambda lines: lines[FIRST][:2] == [5, 0],
        "poisoning above h drops it by 1": lambda lines: lines[FOURTH][4] == lines[FOURTH][3] - 1,
    },
}


def table(number: int, what: str, found: dict[str, dict[str, list[int]]]) -> dict[str, object]:
    """Returns a figure's file."""
    lines = {WITHOUT: [5 if what == "reward" else 0] * EPOCHS}
    lines |= {name: found[name][what] for name in (HONEST, FIRST, FOURTH)}
    claims = {claim: holds(lines) for claim, holds in CLAIMS[what].items()}
    return {
        "document": f"{DOCUMENT}, figure {number}",
        "title": f"Comparison of {what}s",
        "command": COMMAND,
        "rules": "h = 5, gamma_max = 100; a reward is the sender's reputation before the epoch, "
        "0 for a poisoned update",
        "reading": "H: min(gamma_max, gamma + 1); L at gamma = h: 0; L elsewhere: max(0, gamma - 1)",
        "epochs": list(range(1, EPOCHS + 1)),
        "lines": lines,
        "claims": claims,
        "verdict": "reproduced" if all(claims.values()) else "in part" if any(claims.values()) else "not reproduced",
    }


STYLES = {WITHOUT: ("#000000", "", "--"), HONEST: ("#0072B2", "o", "-"), FIRST: ("#D55E00", "s", "-")}
STYLES |= {FOURTH: ("#009E73", "^", "-")}


def draw(data: dict, what: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "privet", "font.size": 11})
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, values in data["lines"].items():
        colour, marker, line = STYLES[name]
        axes.plot(data["epochs"], values, color=colour, marker=marker, linestyle=line, label=name)
    axes.set(xlabel="global epoch", ylabel=f"{what} of a customer", xticks=data["epochs"], ylim=(-0.5, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    simulated = simulate()
    for number, what in ((11, "reward"), (12, "reputation")):
        data = table(number, what, simulated)
        path = FIGURES / f"paper_002_figure_{number}.json"
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        draw(data, what, path.with_suffix(".svg"))
        print(number, data["verdict"], data["lines"])
