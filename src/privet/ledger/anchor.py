"""An anchor: block hashes, reputations and rewards copied to an EVM chain, where nobody here can take them back.

A chain can't show by itself that its last blocks are missing, or that all of it was written anew. Copies elsewhere can:
:func:`check` compares them with the chain. An anchor proves as much as the EVM chain's own finality does.

The copies are events of a contract of 15 bytes, so that anybody lists them with ``eth_getLogs``. It keeps nothing, owns
nothing and treats all callers alike; each event says who called. Its code, assembled by hand::

    36        CALLDATASIZE     size
    60 00     PUSH1 0          size 0
    60 00     PUSH1 0          size 0 0
    37        CALLDATACOPY     memory[0:size] = what was sent
    33        CALLER           caller                            second topic
    60 00     PUSH1 0          caller 0
    35        CALLDATALOAD     caller genesis                    first topic: the first 32 bytes sent
    36        CALLDATASIZE     caller genesis size
    60 00     PUSH1 0          caller genesis size 0
    a2        LOG2             the event: two topics, and what was sent
    00        STOP

What is sent is the hash of the genesis, 32 bytes, and a map in canonical CBOR (:mod:`privet.ledger.encoding`):
``height``, ``block`` (its hash) and ``settlements``, each [transaction's id, task, round, reputations, rewards] as in
``settle``.

References: Ethereum Yellow Paper, appendix H (operations); EIP-155 (signatures are bound to one EVM chain).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import InputError, MissingExtraError, RefusedError, RunError, UnreachableError
from privet.ledger import snapshot
from privet.ledger.blocks import Block
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import Field, digest, read, whole
from privet.ledger.genesis import Genesis
from privet.ledger.replay import Replay
from privet.ledger.store import Store
from privet.ledger.verification import CHAIN_FILE, find, follow, genesis_bytes

CODE = bytes.fromhex("36600060003733600035366000a200")
"""What the contract runs."""

DEPLOY = bytes.fromhex("6e") + CODE + bytes.fromhex("600052600f6011f3")
"""What makes the contract: PUSH15 code, PUSH1 0, MSTORE, PUSH1 15, PUSH1 17, RETURN."""

ANCHOR_FILE = "anchor.json"
"""Beside the chain: where its anchors are. Keep a copy elsewhere: who can change the chain can change this file."""

LARGEST = 1 << 16
"""Longest message, in bytes; where reputations and rewards would make it longer, the settlement's id stands alone."""


@dataclass(frozen=True)
class Place:
    """Where anchors of a chain are.

    Attributes:
        chain_id: number of the EVM chain.
        contract: address of the contract.
        sender: address of who anchors.
        since: EVM block from which on there can be any.
    """

    chain_id: int
    contract: str
    sender: str
    since: int = 0


@dataclass(frozen=True)
class Anchored:
    """One anchor, as the EVM chain has it.

    Attributes:
        height: of the block.
        block: hash of the block.
        settlements: as in the message.
        transaction: hash of the EVM transaction.
    """

    height: int
    block: bytes
    settlements: list[Value]
    transaction: bytes


def connect(url: str) -> Any:
    """Returns a ``web3.Web3`` for the RPC interface of an EVM node.

    Raises:
        MissingExtraError: web3 is not installed.
        InputError: ``url`` is no address.
        UnreachableError: the node does not answer.
    """
    try:
        from web3 import HTTPProvider, Web3
    except ImportError:
        raise MissingExtraError("web3", "web3") from None
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no address of an EVM node", allowed="http://... or https://...")
    web3 = Web3(HTTPProvider(url, request_kwargs={"timeout": 30}))
    if not web3.is_connected():
        raise UnreachableError(f"the EVM node at {url} does not answer", do="start it, or check the address")
    return web3


def account_of(file: Path) -> Any:
    """Returns the ``eth_account`` account whose secret key, 64 hexadecimal digits, a file holds.

    Raises:
        MissingExtraError: web3 is not installed.
        InputError: the file holds no key, or others may read it.
    """
    try:
        from eth_account import Account
    except ImportError:
        raise MissingExtraError("web3", "web3") from None
    if file.stat().st_mode & 0o077:
        raise InputError(f"others may read the key in {file}", do=f"run: chmod 600 {file}")
    try:
        return Account.from_key(bytes.fromhex(file.read_text("ascii").strip().removeprefix("0x")))
    except Exception:  # whatever the library says may hold the key
        raise InputError(f"{file} holds no secret key", allowed="64 hexadecimal digits") from None


def anchor(web3: Any, account: Any, run: Path) -> tuple[Place, list[Anchored]]:
    """Anchors what is new on the chain in a run's folder: each block with a settlement, and the last block.

    Makes the contract the first time, and writes where it is into ``anchor.json`` beside the chain.

    Raises:
        RunError: there is no chain, it does not verify, or it was anchored elsewhere or by somebody else.
        RefusedError: the EVM chain refuses, or earlier anchors contradict the chain.
        UnreachableError: the EVM node does not answer.
    """
    folder, messages = find(run), _messages(run)
    with _talking():
        place = where(run)
        if place is None:
            place = _deploy(web3, account)
            snapshot.write(folder / ANCHOR_FILE, json.dumps(vars(place), indent=1).encode() + b"\n")
        if (place.chain_id, place.sender) != (web3.eth.chain_id, account.address):
            raise RunError(
                f"{folder / ANCHOR_FILE} is for chain {place.chain_id} and {place.sender}, not for"
                f" chain {web3.eth.chain_id} and {account.address}",
                do="use that key and node, or move the file away to begin anew",
            )
        done = anchored(web3, place, _genesis(run).hash)
        _compare(done, messages)
        last = max((each.height for each in done), default=0)
        made = []
        for height, message in messages.items():
            if height > last and (height == max(messages) or message["settlements"]):
                sent = _send(web3, account, place.contract, _genesis(run).hash + encode(message))
                made.append(_anchored(message, bytes(sent["transactionHash"])))
        return place, made


def check(web3: Any, run: Path, place: Place | None = None) -> list[Anchored]:
    """Compares the anchors of a chain with the chain; returns them, oldest first.

    Args:
        web3: from :func:`connect`.
        run: the folder of the chain.
        place: where the anchors are, from elsewhere than the run; None takes ``anchor.json``.

    Raises:
        RunError: there is no chain, it does not verify, it has no anchor, or it is not what was anchored.
        UnreachableError: the EVM node does not answer.
    """
    place = place or where(run)
    if place is None:
        raise RunError(
            f"the chain in {run} was never anchored", do="run: privet ledger anchor RUN --rpc URL --key-file F"
        )
    messages = _messages(run)
    with _talking():
        if web3.eth.chain_id != place.chain_id:
            raise RunError(f"the node is of EVM chain {web3.eth.chain_id}, the anchors of chain {place.chain_id}")
        if bytes(web3.eth.get_code(place.contract)) != CODE:
            raise RunError(f"{place.contract} is not the contract that anchors are events of")
        found = anchored(web3, place, _genesis(run).hash)
    if not found:
        raise RunError(f"{place.sender} anchored no chain of genesis {_genesis(run).hash.hex()} at {place.contract}")
    _compare(found, messages)
    return found


def where(run: Path) -> Place | None:
    """Returns where the anchors of a chain are, or None when there are none yet.

    Raises:
        RunError: the file that says so is damaged.
    """
    path = find(run) / ANCHOR_FILE
    if not path.is_file():
        return None
    try:
        return Place(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise RunError(f"{path} is damaged", do="restore it") from None


def anchored(web3: Any, place: Place, genesis: bytes) -> list[Anchored]:
    """Returns the anchors of a genesis by one sender, in the order of the EVM chain; what is no anchor is left out."""
    topics = ["0x" + genesis.hex(), "0x" + place.sender.removeprefix("0x").lower().rjust(64, "0")]
    logs = web3.eth.get_logs({"address": place.contract, "topics": topics, "fromBlock": place.since})
    found = []
    for log in logs:
        try:
            found.append(_anchored(decode(bytes(log["data"])[32:]), bytes(log["transactionHash"])))
        except InputError:
            continue
    return found


_MESSAGE: dict[str, Field] = {
    "height": whole(1),
    "block": digest,
    "settlements": lambda value: isinstance(value, list),
}


def _anchored(message: Value, transaction: bytes) -> Anchored:
    return Anchored(**read("anchor", message, _MESSAGE), transaction=transaction)


def _compare(found: list[Anchored], messages: dict[int, dict[str, Any]]) -> None:
    for each in found:
        here = messages.get(each.height)
        if here is None and each.height > max(messages):
            raise RunError(f"block {each.height} was anchored, and the chain ends at {max(messages)}: it was cut")
        if here is not None and (each.block, each.settlements) != (here["block"], here["settlements"]):
            raise RunError(f"block {each.height} is not the one that was anchored: the chain was written anew")


def _messages(run: Path) -> dict[int, dict[str, Any]]:
    """Returns what an anchor of each height says, after checking the chain."""
    folder = find(run)
    replay = Replay(_genesis(run))
    wrong, _ = follow(replay, folder)
    if wrong is not None:
        raise RunError(
            f"block {wrong.height} is wrong ({wrong.file}): {wrong.reason}", do="run: privet ledger verify RUN"
        )
    made: dict[int, dict[str, Any]] = {}
    with closing(Store(folder / CHAIN_FILE)) as store:
        for height in range(store.base(), replay.state.height + 1):
            row = store.block(height)
            if row is not None and height:
                made[height] = _message(Block.decode(row[0]))
    if not made:
        raise RunError(f"the chain in {run} has no block yet")
    return made


def _message(block: Block) -> dict[str, Any]:
    settled = [(each.id, each.body) for each in block.transactions if each.kind == "settle"]
    message: dict[str, Value] = {"height": block.header.height, "block": block.header.hash}
    full: list[Value] = [
        [id, body["task"], body["round"], body["reputations"], body["rewards"]] for id, body in settled
    ]
    if len(encode({**message, "settlements": full})) <= LARGEST:
        return {**message, "settlements": full}
    return {**message, "settlements": [[id, body["task"], body["round"]] for id, body in settled]}


def _genesis(run: Path) -> Genesis:
    return Genesis.decode(genesis_bytes(find(run)))


def _deploy(web3: Any, account: Any) -> Place:
    receipt = _send(web3, account, None, DEPLOY)
    return Place(web3.eth.chain_id, receipt["contractAddress"], account.address, receipt["blockNumber"])


def _send(web3: Any, account: Any, to: str | None, data: bytes) -> Any:
    """Signs a transaction here, sends it, waits until the EVM chain has it and returns the receipt."""
    if not web3.eth.get_balance(account.address):
        raise RefusedError(f"{account.address} holds nothing to pay the EVM chain's fees with")
    made = {
        "from": account.address,
        "data": "0x" + data.hex(),
        "value": 0,
        "nonce": web3.eth.get_transaction_count(account.address),
        "chainId": web3.eth.chain_id,
        "gasPrice": web3.eth.gas_price,
        **({} if to is None else {"to": to}),
    }
    made["gas"] = web3.eth.estimate_gas(made) * 6 // 5
    signed = account.sign_transaction(made)
    receipt = web3.eth.wait_for_transaction_receipt(web3.eth.send_raw_transaction(signed.raw_transaction), timeout=120)
    if receipt["status"] != 1:
        raise RefusedError("the EVM chain refused the anchor", do="look the transaction up on that chain")
    return receipt


@contextmanager
def _talking() -> Iterator[None]:
    """Turns what goes wrong on the way to the EVM chain into one line."""
    import requests
    from web3.exceptions import Web3Exception

    try:
        yield
    except (requests.RequestException, OSError) as error:
        raise UnreachableError(f"the EVM node does not answer: {type(error).__name__}", do="try again") from None
    except Web3Exception as error:
        raise RefusedError(f"the EVM chain refuses: {error}", do="does the account hold enough for the fees?") from None
