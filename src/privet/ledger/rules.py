"""The rules: what each kind of transaction needs, and what it changes.

Every rule checks first and writes last; what it refuses has a reason and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from privet.errors import InputError, RefusedError
from privet.ledger.book import Book
from privet.ledger.encoding import Value, from_natural, natural
from privet.ledger.miner_rules import epoch, evidence, refute, upgrade
from privet.ledger.reputation import UNSOUND, evaluate, needed, next_reputation
from privet.ledger.transactions import admitted

Rule = Callable[[Book, bytes, dict[str, Any]], None]
"""Looks at one transaction: book, sender, body."""


def task(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A manufacturer posts a task and sets aside what all its rewards can cost."""
    if sender not in book.genesis.manufacturers:
        raise RefusedError("only a manufacturer named in the genesis posts tasks")
    least = needed(body["rule"], book.genesis.f)
    if body["places"] < least:
        raise RefusedError(f"{body['places']} place(s) for {body['rule']}", allowed=f"{least} or more")
    escrow = body["rounds"] * body["places"] * book.genesis.gamma_max
    book.move(sender, -escrow)
    number = book.number("tasks") + 1
    book.put("tasks", number)
    book.put(f"cid/{body['model'].hex()}", sender)
    begun: dict[str, Value] = {"manufacturer": sender, "round": 1, "opened": book.height, "phase": "open"}
    book.put(f"task/{number}", {**body, **begun, "customers": 0, "posted": 0, "escrow": escrow, "owed": 0})


def enrol(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A customer whom the manufacturer admitted takes a place."""
    found = _unfinished(book, body["task"])
    if f"enrolled/{body['task']}/{sender.hex()}" in book.entries:
        raise RefusedError("this customer is enrolled already")
    if found["customers"] >= found["places"]:
        raise RefusedError(f"all {found['places']} places of task {body['task']} are taken")
    if not admitted(found["manufacturer"], book.genesis.hash, body["task"], sender, body["admission"]):
        raise RefusedError("the admission is not the manufacturer's for this customer and task")
    book.put(f"enrolled/{body['task']}/{sender.hex()}", book.height)
    book.put(f"reputation/{sender.hex()}", book.number(f"reputation/{sender.hex()}", book.genesis.h))
    book.put(f"task/{body['task']}", {**found, "customers": found["customers"] + 1})


def update(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """An enrolled customer names the content address of its update of the open round."""
    number = body["task"]
    found = _unfinished(book, number)
    if f"enrolled/{number}/{sender.hex()}" not in book.entries:
        raise RefusedError(f"the sender is not enrolled in task {number}")
    _round(found, body)
    last = found["opened"] + found["window"]
    if found["phase"] != "open" or book.height > last:
        raise RefusedError(f"round {found['round']} took updates up to height {last}: this one is late")
    if f"posted/{number}/{found['round']}/{sender.hex()}" in book.entries:
        raise RefusedError(f"the sender has an update of round {found['round']} already")
    if body["size"] > found["max_bytes"]:
        raise RefusedError(f"an update of {body['size']} bytes is oversize", allowed=f"up to {found['max_bytes']}")
    if f"cid/{body['cid'].hex()}" in book.entries:
        raise RefusedError("this content address was used before: an update counts once, for who came first")
    row = {"customer": sender, **{name: body[name] for name in ("cid", "profile", "digest", "size")}}
    book.put(f"update/{number}/{found['round']}/{found['posted']}", row)
    book.put(f"posted/{number}/{found['round']}/{sender.hex()}", found["posted"])
    book.put(f"cid/{body['cid'].hex()}", sender)
    book.put(f"task/{number}", {**found, "posted": found["posted"] + 1})


def verdict(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A miner gives the score of every update; selection and evaluation follow from the scores."""
    found = _closed(book, sender, body)
    updates = book.updates(body["task"], found)
    if [row[0] for row in body["scores"]] != [each["customer"] for each in updates]:
        raise RefusedError("the scores are not those of exactly the updates of the round")
    try:
        scores = [from_natural(row[1]) for row in body["scores"]]
    except InputError as error:
        raise RefusedError(error.wrong) from None
    if found["rule"] == "mean" and any(score not in (0, UNSOUND) for score in scores):
        raise RefusedError("under the mean every score is 0")
    judged = evaluate(scores, found["rule"], book.genesis.f, book.genesis.kappa)
    rows: list[Value] = [
        [each["customer"], natural(score), one.selected, one.high]
        for each, score, one in zip(updates, scores, judged, strict=True)
    ]
    book.put(f"judged/{body['task']}/{found['round']}", rows)
    book.put(f"task/{body['task']}", {**found, "phase": "judged"})


def model(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A miner names the new global model."""
    found = _of_miner(book, sender, body, "judged")
    row = {"miner": sender, **{name: body[name] for name in ("cid", "profile", "digest")}}
    book.put(f"model/{body['task']}/{found['round']}", row)
    if f"cid/{body['cid'].hex()}" not in book.entries:
        book.put(f"cid/{body['cid'].hex()}", sender)
    book.put(f"task/{body['task']}", {**found, "phase": "aggregated"})


def settlement(book: Book, number: int) -> dict[str, Any]:
    """Returns the body of the one settlement that a round with a verdict allows.

    A reward is the sender's reputation before the round for a high evaluation, else 0: tokens come
    from what the manufacturer set aside.

    Raises:
        RefusedError: there is no such task, or its round has no verdict.
    """
    found = book.task(number)
    judged: Any = book.entries.get(f"judged/{number}/{found['round']}")
    if judged is None:
        raise RefusedError(f"round {found['round']} of task {number} has no verdict")
    reputations, rewards = [], []
    for customer, _, _, high in judged:
        before = book.number(f"reputation/{customer.hex()}")
        after = next_reputation(before, high, book.genesis.h, book.genesis.gamma_max)
        reputations.append([customer, before, after])
        rewards.append([customer, before if high else 0])
    return {"task": number, "round": found["round"], "reputations": reputations, "rewards": rewards}


def settle(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A miner writes down the reputations and rewards of the round, which must be those of the rules."""
    found = _of_miner(book, sender, body, "aggregated")
    expected = settlement(book, body["task"])
    for part in ("reputations", "rewards"):
        if body[part] != expected[part]:
            raise RefusedError(f"the {part} are not those that follow from the verdict")
    for customer, _, after in expected["reputations"]:
        book.put(f"reputation/{customer.hex()}", after)
    for customer, amount in expected["rewards"]:
        if amount:
            book.put(f"due/{body['task']}/{found['round']}/{customer.hex()}", amount)
    found["owed"] += sum(amount for _, amount in expected["rewards"])
    _advance(book, body["task"], found)


def void(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A miner ends a round in which too few updates came in time."""
    found = _of_miner(book, sender, body, "open")
    least = needed(found["rule"], book.genesis.f)
    if book.height <= found["opened"] + found["window"] or found["posted"] >= least:
        raise RefusedError("a round is void only when its time is over", allowed=f"with fewer than {least} updates")
    _advance(book, body["task"], found)


def claim(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A customer takes the reward of one round, once."""
    found = book.task(body["task"])
    key = f"due/{body['task']}/{body['round']}/{sender.hex()}"
    if key not in book.entries:
        raise RefusedError(f"the sender has no reward of round {body['round']} of task {body['task']}")
    amount = book.number(key)
    if amount == 0:
        raise RefusedError(f"the reward of round {body['round']} of task {body['task']} is claimed already")
    book.put(key, 0)
    book.put(f"task/{body['task']}", {**found, "owed": found["owed"] - amount, "escrow": found["escrow"] - amount})
    book.move(sender, amount)


def pay(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """Somebody gives tokens to somebody."""
    book.move(sender, -body["amount"])
    book.move(body["to"], body["amount"])


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (task, enrol, update, verdict, model, settle, void, claim, pay, evidence, refute, epoch, upgrade)
}
"""Kind of transaction -> its rule."""


def _unfinished(book: Book, number: int) -> dict[str, Any]:
    found = book.task(number)
    if found["phase"] == "done":
        raise RefusedError(f"task {number} is done")
    return found


def _round(found: dict[str, Any], body: dict[str, Any]) -> None:
    if body["round"] != found["round"]:
        raise RefusedError(f"this is for the wrong round, {body['round']}", allowed=f"round {found['round']}")


def _of_miner(book: Book, sender: bytes, body: dict[str, Any], phase: str) -> dict[str, Any]:
    if sender not in book.genesis.weights:
        raise RefusedError("the sender is no miner of this chain")
    found = _unfinished(book, body["task"])
    _round(found, body)
    if found["phase"] != phase:
        raise RefusedError(f"round {found['round']} is {found['phase']}", allowed=f"this counts while it is {phase}")
    return found


def _closed(book: Book, sender: bytes, body: dict[str, Any]) -> dict[str, Any]:
    found = _of_miner(book, sender, body, "open")
    last = found["opened"] + found["window"]
    if book.height <= last and found["posted"] < found["customers"]:
        raise RefusedError(f"round {found['round']} takes updates up to height {last}", do="send the verdict later")
    return found


def _advance(book: Book, number: int, found: dict[str, Any]) -> None:
    if found["round"] == found["rounds"]:
        left = found["escrow"] - found["owed"]
        book.move(found["manufacturer"], left)
        ended = {"phase": "done", "escrow": found["owed"]}
    else:
        ended = {"phase": "open", "round": found["round"] + 1, "opened": book.height, "posted": 0}
    book.put(f"task/{number}", {**found, **ended})
