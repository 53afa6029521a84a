"""The rules for what names a miner for good, and for what miners say about themselves: keys and upgrades."""

from __future__ import annotations

from typing import Any

from nacl import bindings as sodium

from privet.errors import InputError, RefusedError
from privet.ledger.book import Book
from privet.ledger.transactions import Transaction
from privet.ledger.votes import Vote, contradict, is_quorum

NOTICE = 10
"""So many heights lie at least between asking for new rules and their beginning."""


def evidence(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """Two votes show that a miner voted twice in one step; it is named for good, by whoever shows it first."""
    try:
        first, second = Vote.decode(body["first"]), Vote.decode(body["second"])
    except InputError as error:
        raise RefusedError(error.wrong) from None
    if (first.chain, first.genesis) != (book.genesis.name, book.genesis.hash):
        raise RefusedError("the votes are of another chain")
    if first.voter not in book.genesis.weights:
        raise RefusedError("the votes are of a stranger")
    if not contradict(first, second):
        raise RefusedError("the votes don't contradict each other, or a signature is wrong")
    key = f"offence/{first.voter.hex()}/{first.height}/{first.period}/{first.step}"
    if key in book.entries:
        raise RefusedError("this offence is recorded already")
    book.put(key, [first.block, second.block])


def refute(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A signed verdict or model shows that a miner claims another result than the round's; it is named for good.

    This can't hit an honest miner. It signs a verdict only from final blocks, and the same updates give the same
    scores on every machine; it signs a model only after the verdict is final, which determines it. A verdict on the
    updates that came first may be older than the last of them, and is not held against anybody. Whether the claim
    ever stood in a block makes no difference, so its nonce is not looked at.
    """
    try:
        claim = Transaction.decode(body["transaction"])
    except InputError as error:
        raise RefusedError(error.wrong) from None
    if claim.kind not in ("verdict", "model"):
        raise RefusedError(f"a {claim.kind} can't be refuted", allowed="verdict, model")
    if claim.chain != book.genesis.hash:
        raise RefusedError("what is refuted is of another chain")
    if claim.sender not in book.genesis.weights:
        raise RefusedError("what is refuted is of a stranger")
    said: dict[str, Any] = claim.body
    key = f"falsehood/{claim.sender.hex()}/{said['task']}/{said['round']}/{claim.kind}"
    if key in book.entries:
        raise RefusedError("this falsehood is recorded already")
    if not (_false_scores if claim.kind == "verdict" else _false_model)(book, said):
        raise RefusedError("what is refuted says the same as the chain")
    if not claim.authentic:
        raise RefusedError("the signature of what is refuted is not its sender's")
    book.put(key, claim.id)


def _false_scores(book: Book, said: dict[str, Any]) -> bool:
    number, round = said["task"], said["round"]
    rows: Any = book.entries.get(f"judged/{number}/{round}")
    if rows is None:
        raise RefusedError(f"round {round} of task {number} has no verdict yet")
    came = sorted((row[0] for row in rows), key=lambda each: book.number(f"posted/{number}/{round}/{each.hex()}"))
    named = [row[0] for row in said["scores"]]
    if len(named) < len(came) and named == sorted(came[: len(named)]):
        raise RefusedError("the verdict is on the updates that came first: it may be older than the last of them")
    return bool(said["scores"] != [row[:2] for row in rows])


def _false_model(book: Book, said: dict[str, Any]) -> bool:
    row = book.row(f"model/{said['task']}/{said['round']}")
    if row is None:
        raise RefusedError(f"round {said['round']} of task {said['task']} has no model yet")
    return bool(said["digest"] != row["digest"])


def epoch(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A miner registers the next X25519 key to which customers seal what it shall read."""
    _miner(book, sender)
    last = book.row(f"epoch/{sender.hex()}") or {"number": 0}
    if body["number"] != last["number"] + 1:
        raise RefusedError(f"epoch {body['number']} does not follow", allowed=f"{last['number'] + 1}")
    if _low_order(body["key"]):
        raise RefusedError("the key is of low order: what is sealed for it anybody could open")
    book.put(f"epoch/{sender.hex()}", dict(body))


def _low_order(public: bytes) -> bool:
    """Says whether an X25519 key gives everybody the same shared secret, 0 (RFC 7748 section 6.1)."""
    try:
        sodium.crypto_scalarmult(bytes(32), public)  # any scalar: clamping makes it a multiple of 8, and not 0
    except RuntimeError:
        return True
    return False


def upgrade(book: Book, sender: bytes, body: dict[str, Any]) -> None:
    """A miner asks for other rules from a height on; they hold once more than two thirds of the weight ask the same.

    A miner asks for one thing at a time; asking anew takes back what it asked before.
    """
    _miner(book, sender)
    if body["height"] < book.height + NOTICE:
        raise RefusedError(f"height {body['height']} is too near", allowed=f"{book.height + NOTICE} or higher")
    agreed = decided(book)
    if agreed and not (body["height"] > agreed[-1][0] and body["version"] > agreed[-1][1]):
        raise RefusedError(f"version {agreed[-1][1]} from height {agreed[-1][0]} is decided; versions only rise")
    if book.row(f"upgrade/{sender.hex()}") == body:
        raise RefusedError("the sender asked for this already")
    book.put(f"upgrade/{sender.hex()}", dict(body))
    weights = book.genesis.weights
    asked = sum(weight for key, weight in weights.items() if book.row(f"upgrade/{key.hex()}") == body)
    if is_quorum(asked, sum(weights.values())):
        book.put("versions", [*agreed, [body["height"], body["version"]]])


def decided(book: Book) -> list[Any]:
    """Returns the upgrades that miners decided: [height, version], both rising."""
    found = book.entries.get("versions", [])
    return found if isinstance(found, list) else []


def _miner(book: Book, sender: bytes) -> None:
    if sender not in book.genesis.weights:
        raise RefusedError("the sender is no miner of this chain")
