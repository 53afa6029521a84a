"""A whole chain as tables, for spreadsheets and other programs; the format has a name and keeps its columns."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from privet.errors import InputError, RunError
from privet.ledger import snapshot
from privet.ledger.genesis import Genesis
from privet.ledger.replay import Replay
from privet.ledger.show import blocks
from privet.ledger.state import State
from privet.ledger.verification import find, follow, genesis_bytes

FORMAT = "privet-ledger-export/1"
"""What the field ``format`` of an export says; another set of columns would get another name."""

COLUMNS = {
    "blocks": "height hash previous period proposer transactions votes root state seed",
    "transactions": "height position id kind sender nonce body",
    "customers": "customer reputation balance",
    "reputations": "height task round customer before after",
    "rewards": "height task round customer amount claimed",
    "offences": "miner height period step",
    "falsehoods": "miner task round kind transaction",
}
"""Table -> its columns. Hashes, keys and addresses are hexadecimal."""


def export(run: Path) -> dict[str, Any]:
    """Returns a chain as JSON values, after checking all of it: some facts about it, and each table as a list of rows.

    Raises:
        RunError: there is no chain, or it does not verify.
    """
    folder = find(run)
    replay = Replay(Genesis.decode(genesis_bytes(folder)))
    wrong, _ = follow(replay, folder)
    if wrong is not None:
        raise RunError(
            f"block {wrong.height} is wrong ({wrong.file}): {wrong.reason}", do="run: privet ledger verify RUN"
        )
    shown = list(blocks(run))
    tables = {
        "blocks": [_block(each) for each in shown],
        "transactions": [
            {"height": each["height"], "position": position, **transaction}
            for each in shown
            for position, transaction in enumerate(each["transactions"])
        ],
        **_settled(replay.state, shown),
        **_known(replay.state),
    }
    facts = {
        "format": FORMAT,
        "name": replay.genesis.name,
        "genesis": replay.genesis.hash.hex(),
        "height": replay.state.height,
        "since": replay.since,
    }
    return {**facts, **{name: tables[name] for name in COLUMNS}}


def write_json(exported: dict[str, Any], file: Path) -> None:
    """Writes an export as one JSON file, whole or not at all."""
    snapshot.write(file, json.dumps(exported, indent=1).encode() + b"\n")


def write_csv(exported: dict[str, Any], folder: Path) -> None:
    """Writes each table of an export as ``TABLE.csv`` into a new folder, whole or not at all.

    Raises:
        InputError: the folder is there already.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already", allowed="a new folder, one CSV file a table")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as made:
        inside = Path(made) / folder.name
        inside.mkdir()
        for name, columns in COLUMNS.items():
            snapshot.write(inside / f"{name}.csv", _csv(exported[name], columns.split()).encode())
        inside.rename(folder)


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()})
    return text.getvalue()


def _block(shown: dict[str, Any]) -> dict[str, Any]:
    counts = {"transactions": len(shown["transactions"]), "votes": len(shown["certificate"]["votes"])}
    return {name: {**shown, **counts}[name] for name in COLUMNS["blocks"].split()}


def _settled(state: State, shown: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns what the settlements say; a reward is claimed when the state owes nothing of it any more."""
    reputations, rewards = [], []
    for block in shown:
        for body in (each["body"] for each in block["transactions"] if each["kind"] == "settle"):
            task, round = body["task"], body["round"]
            place = {"height": block["height"], "task": task, "round": round}
            for customer, before, after in body["reputations"]:
                reputations.append({**place, "customer": customer, "before": before, "after": after})
            for customer, amount in body["rewards"]:
                claimed = amount > 0 and state.entries.get(f"due/{task}/{round}/{customer}") == 0
                rewards.append({**place, "customer": customer, "amount": amount, "claimed": claimed})
    return {"reputations": reputations, "rewards": rewards}


def _known(state: State) -> dict[str, list[dict[str, Any]]]:
    customers = sorted(key.removeprefix("reputation/") for key in state.entries if key.startswith("reputation/"))
    offences = [each.split("/") for each in state.offences()]
    falsehoods = [each.split("/") for each in state.falsehoods()]
    return {
        "customers": [
            {
                "customer": each,
                "reputation": state.reputation(key := bytes.fromhex(each)),
                "balance": state.balance(key),
            }
            for each in customers
        ],
        "offences": [
            {"miner": miner, "height": int(height), "period": int(period), "step": step}
            for miner, height, period, step in offences
        ],
        "falsehoods": [
            {
                "miner": miner,
                "task": int(task),
                "round": int(round),
                "kind": kind,
                "transaction": bytes(state.entries[f"falsehood/{miner}/{task}/{round}/{kind}"]).hex(),  # type: ignore[arg-type]
            }
            for miner, task, round, kind in falsehoods
        ],
    }
