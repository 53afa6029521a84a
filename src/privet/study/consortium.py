"""A run on a ledger: devices post signed updates, miners judge and combine them, and anybody can replay it.

The chain is the run's: one task, one round of it for each round of the plan. Miners, customers and the manufacturer
are simulated in this process, so what protects them from each other is a rehearsal; the chain, its signatures and
proofs, and what ``privet ledger verify`` finds are real.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privet.aggregation.exact import SCALE, Steps, quantise, to_bytes
from privet.aggregation.share_checks import Terms
from privet.aggregation.shared import Customer
from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.errors import RunError
from privet.ledger.chain import Chain
from privet.ledger.content import DEFAULT, decode_cid, encode_cid
from privet.ledger.encoding import Value, from_natural
from privet.ledger.folder_store import FolderStore
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.reputation import UNSOUND, needed
from privet.ledger.sealing import EpochKeys, Sealed, seal
from privet.ledger.state import State
from privet.ledger.transactions import Transaction, admit, binding
from privet.ledger.verification import CONTENTS
from privet.study import sharing
from privet.study.committee import Committee, Keys
from privet.study.openings import Record, Statement
from privet.study.sections import Ledger
from privet.study.updates import purpose
from privet.training.coordinator import Settled

TASK = 1
"""The run's only task."""

LIARS_FILE = "liars.txt"
"""Who opened wrong shares, a line each."""

WINDOW = 3
"""Blocks for which a round takes updates; it closes at once when all devices have posted."""


class Consortium:
    """The ledger of one run.

    Args:
        folder: of the run; the chain is begun there, or gone on with.
        settings: of the plan.
        devices: identities of the fleet.
        rounds: of the plan.
        rule: ``mean`` or ``multi-krum``; every device counts the same.
        byzantine: hostile updates that the rule withstands.
        initial: the first global model, float32 (d,).
        secret: of the run; all keys are derived from it.

    Raises:
        RunError: the chain in the folder does not verify, or is of another run.
    """

    def __init__(
        self,
        folder: Path,
        settings: Ledger,
        devices: Sequence[str],
        rounds: int,
        rule: str,
        byzantine: int,
        initial: Tensor,
        secret: bytes,
    ) -> None:
        self._settings, self._secret = settings, secret
        self._maker, self._next = self._key("manufacturer"), Counter[bytes]()
        self._customers = {device: self._key("customer", device) for device in devices}
        lies: list[str] = [group.behaviour for group in settings.hostile for _ in range(group.miners)]
        lies = [""] * (settings.miners - len(lies)) + lies
        keys = [Keys(self._key("miner", str(at)), self._key("vrf", str(at)), lie) for at, lie in enumerate(lies, 1)]
        self._miners = {public_key(each.signing): f"miner-{at}" for at, each in enumerate(keys, 1)}
        self._lies = {f"miner-{at}": lie for at, lie in enumerate(lies, 1)}
        home = folder / "ledger"
        self._folder, self._contents = home, FolderStore(home / CONTENTS)
        if not home.is_dir():
            Chain.create(folder, self._genesis(keys, rounds, byzantine)).close()
        self._chain = Chain(folder)
        names = [] if settings.updates == "plain" else self._miners.values()
        self._epochs = [EpochKeys(home / "epochs" / name) for name in names]
        self._size = initial.numel()
        self._committee = Committee(keys, self._chain, self._contents, self._epochs, DEFAULT, shared=self._shared)
        self._committee.customers = self._answers
        self._begin(initial, rule, rounds)

    def settle(self, number: int, identities: Sequence[str], updates: Sequence[Tensor]) -> Settled:
        """Posts a round's updates, lets the miners agree on what they give, and pays who deserves it.

        A round that the chain has already is not posted again: what it says counts, for a run too that was stopped
        before it wrote the round down.

        Args:
            number: of the round, from 1.
            identities: whose update each is, of the fleet.
            updates: (d,) each, finite.

        Raises:
            RefusedError: the miners agree on nothing, since too many of them lie.
        """
        started, before, sent, posted = time.perf_counter(), self._state.height, self._committee.messages, 0
        if not self._over(self._state, number):
            posts = [self._post(number, who, update) for who, update in zip(identities, updates, strict=True)]
            new = [(one, size) for one, size in posts if one is not None]
            posted = sum(size for _, size in new)
            self._committee.submit(*(one for one, _ in new), *self._claims())
            self._committee.grow(lambda state: self._over(state, number))
            self._note_liars(number)
        facts = {
            "height": self._state.height,
            "blocks": self._state.height - before,
            "messages": self._committee.messages - sent,
            "bytes_posted": posted,
            "seconds": time.perf_counter() - started,
        }
        return self._settled(number, identities, facts)

    def finish(self) -> dict[str, Any]:
        """Pays the last rewards, erases what opens sealed updates, closes the chain, and returns what it says."""
        claims, before = self._claims(), self._state.height
        self._committee.submit(*claims)
        self._committee.grow(
            lambda state: (
                state.height > before
                and all(state.nonce(one.sender) > one.nonce for one in claims)
                # Whoever lies at every height gives cause for one more block at every height.
                and (not self._committee.wishes or state.height > before + len(self._miners))
            )
        )
        for keys in self._epochs:
            keys.end(max(keys.epochs, default=0))
        for folder in ("epochs", "dealt"):
            shutil.rmtree(self._folder / folder, ignore_errors=True)
        found = self._summary()
        self._chain.close()
        return found

    @property
    def _state(self) -> State:
        return self._chain.state

    @property
    def _shared(self) -> bool:
        return self._settings.updates == "shared"

    def _key(self, *path: str) -> bytes:
        return hmac.digest(self._secret, "/".join(("privet/consortium/1", *path)).encode(), "sha256")

    def _signed(self, key: bytes, kind: str, body: dict[str, Value]) -> Transaction:
        sender = public_key(key)
        nonce = max(self._state.nonce(sender), self._next[sender])
        self._next[sender] = nonce + 1
        return Transaction.signed(key, self._chain.genesis.hash, nonce, kind, body)

    # The chain's beginning

    def _genesis(self, keys: Sequence[Keys], rounds: int, byzantine: int) -> Genesis:
        settings = self._settings
        return Genesis(
            "privet-run",
            tuple(Miner(public_key(each.signing), ecvrf.public_key(each.vrf)) for each in keys),
            {public_key(self._maker): rounds * len(self._customers) * settings.gamma_max},
            h=settings.h,
            gamma_max=settings.gamma_max,
            kappa=settings.kappa,
            f=byzantine,
        )

    def _begin(self, initial: Tensor, rule: str, rounds: int) -> None:
        """Registers keys, posts the task and enrols the devices, as far as that was not done before."""
        model, state = initial.numpy().astype("<f4").tobytes(), self._state
        for member in self._committee.members.values():
            if member.key not in state.epochs():
                self._committee.submit(*member.duty.signed(member.duty.keys()))
        if "task/1" not in state.entries:
            body: dict[str, Value] = {
                "model": decode_cid(self._contents.put(model)),
                "profile": DEFAULT,
                "digest": hashlib.sha256(model).digest(),
                "rule": rule,
                "rounds": rounds,
                "places": len(self._customers),
                "window": WINDOW,
                "max_bytes": sharing.largest(self._terms(1)) if self._shared else len(model) + (1 << 16),
            }
            self._committee.submit(self._signed(self._maker, "task", body))
            self._committee.grow(lambda state: "task/1" in state.entries)
        if self._epochs:
            self._committee.grow(lambda state: len(state.epochs()) == len(self._miners))
        if hashlib.sha256(model).digest() != state.task(TASK)["digest"]:
            raise RunError("the chain in this folder begins with another model", do="start the run again")
        for key in self._customers.values():
            if f"enrolled/{TASK}/{public_key(key).hex()}" not in state.entries:
                admission = admit(self._maker, self._chain.genesis.hash, TASK, public_key(key))
                self._committee.submit(self._signed(key, "enrol", {"task": TASK, "admission": admission}))

    # A round

    def _post(self, number: int, device: str, update: Tensor) -> tuple[Transaction | None, int]:
        """Stores a device's update; returns its transaction and size, or None when it is on the chain already."""
        key, chain = self._customers[device], self._chain.genesis.hash
        customer = public_key(key)
        if f"posted/{TASK}/{number}/{customer.hex()}" in self._state.entries:
            return None, 0
        content, commitment = self._content(number, customer, quantise(update.numpy()))
        body: dict[str, Value] = {
            "task": TASK,
            "round": number,
            "cid": decode_cid(self._contents.put(content)),
            "profile": DEFAULT,
            "digest": binding(chain, TASK, number, customer, commitment),
            "size": len(content),
        }
        return self._signed(key, "update", body), len(content)

    def _content(self, number: int, customer: bytes, steps: Steps) -> tuple[bytes, bytes]:
        """Returns what a device stores, and what its digest commits to."""
        plain, recipients = to_bytes(steps), {miner: public for miner, (_, public) in self._state.epochs().items()}
        if self._settings.updates == "plain":
            return plain, hashlib.sha256(plain).digest()
        if not self._shared:
            sealed = seal(plain, recipients, purpose(self._chain.genesis.hash, TASK, number, customer))
            return sealed, Sealed.decode(sealed).digest
        terms = self._terms(number)
        dealing = Customer(steps, terms, customer).dealing
        kept = self._kept(number, customer)
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.with_suffix(".part").write_bytes(sharing.Dealer(terms, dealing.messages).kept())
        kept.with_suffix(".part").replace(kept)  # before anybody can ask for what is in it
        miners = [miner.key for miner in self._chain.genesis.miners]
        content = sharing.Dealt.sealed(terms, customer, dealing, miners, recipients).encode()
        return content, sharing.commitment(content)

    def _terms(self, number: int) -> Terms:
        return sharing.terms(len(self._miners), self._size, self._chain.genesis.hash, TASK, number)

    def _kept(self, number: int, customer: bytes) -> Path:
        """Returns where a device keeps what it shared until the round is over."""
        return self._folder / "dealt" / f"{number}-{customer.hex()}"

    def _answers(self, step: str, record: Record) -> list[Statement]:
        """Returns what devices say in a step of opening what they shared."""
        found, number = [], self._state.task(TASK)["round"]
        for key in self._customers.values():
            name = public_key(key)
            value: Value = None
            if name not in record.customers or not self._kept(number, name).exists():
                continue
            if step == "masks":
                value = self._dealer(number, name).choose(record.key)
            elif step == "answers" and name in record.asked:
                messages = self._dealer(number, name).messages
                value = [list[Value]((at, messages[at])) for at in record.asked[name]]
            if value is not None:
                found.append(Statement.signed(key, record.terms.context, step, value))
        return found

    def _dealer(self, number: int, customer: bytes) -> sharing.Dealer:
        return sharing.Dealer.load(self._terms(number), self._kept(number, customer).read_bytes())

    def _over(self, state: State, number: int) -> bool:
        task = state.task(TASK)
        return bool(task["phase"] == "done" or task["round"] > number)

    def _claims(self) -> list[Transaction]:
        """Returns what claims every reward that nobody has claimed yet."""
        due, found = f"due/{TASK}/", []
        owners = {public_key(key).hex(): key for key in self._customers.values()}
        for entry, amount in self._state.entries.items():
            if entry.startswith(due) and amount:
                number, owner = entry.removeprefix(due).split("/")
                found.append(self._signed(owners[owner], "claim", {"task": TASK, "round": int(number)}))
        return found

    def _settled(self, number: int, identities: Sequence[str], facts: dict[str, Any]) -> Settled:
        judged: Any = self._state.entries.get(f"judged/{TASK}/{number}")
        if judged is None:
            least = needed(self._state.task(TASK)["rule"], self._chain.genesis.f)
            return Settled(None, {}, f"{len(identities)} updates on the ledger, a round needs {least}", facts)
        reputations = {device: self._state.reputation(public_key(key)) for device, key in self._customers.items()}
        left_out, facts = self._left_out(number, judged), facts | {"reputations": reputations}
        opened = self._committee.opened.get((TASK, number))
        if opened is not None and opened.failed:
            return Settled(None, left_out, opened.failed, facts)
        row: Any = self._state.entries[f"model/{TASK}/{number}"]
        model = np.frombuffer(self._contents.get(encode_cid(row["cid"])), "<f4").astype(np.float32)
        return Settled(torch.from_numpy(model), left_out, "", facts)

    def _left_out(self, number: int, judged: Any) -> dict[str, str]:
        """Returns device -> why its update is not part of a round's model."""
        names = {public_key(key): device for device, key in self._customers.items()}
        opened = self._committee.opened.get((TASK, number))
        sound = sorted(score for _, data, _, _ in judged if (score := from_natural(data)) != UNSOUND)
        median, found = float(sound[len(sound) // 2]) / SCALE**2 if sound else 0.0, {}
        for customer, data, selected, high in judged:
            if (score := from_natural(data)) == UNSOUND:
                reason = "" if opened is None else f": {opened.left_out.get(customer, '')}"
                found[names[customer]] = f"failed the miners' checks{reason}"
            elif not selected:
                why = "not selected" if high else "evaluated low"
                steps = float(score) / SCALE**2
                found[names[customer]] = f"{why} by the miners: score {steps:.3g}, the median is {median:.3g}"
        return found

    def _note_liars(self, number: int) -> None:
        """Writes down who opened wrong shares: it takes what all miners said to show it, so the chain names nobody."""
        opened = self._committee.opened.get((TASK, number))
        for device in self._customers.values():
            self._kept(number, public_key(device)).unlink(missing_ok=True)
        if opened is not None and opened.caught:
            with (self._folder / LIARS_FILE).open("a", encoding="utf-8") as file:
                for at, reason in sorted(opened.caught.items()):
                    file.write(f"{opened.miners[at].hex()} {reason} in round {number}; in the run's record only\n")

    def _summary(self) -> dict[str, Any]:
        """Returns what the chain says in the end: who led, who was named and why, who earned what."""
        state = self._state
        finals = [self._chain.final(height) for height in range(1, state.height + 1)]
        blocks = [final.block for final in finals if final is not None]
        led = Counter(block.header.proposer for block in blocks)
        return {
            "genesis": self._chain.genesis.hash.hex(),
            "head": self._chain.head.hex(),
            "height": state.height,
            "transactions": sum(len(block.transactions) for block in blocks),
            "updates": self._settings.updates,
            "miners": [
                {
                    "name": name,
                    "key": key.hex(),
                    "lie": self._lies[name],
                    "led": led[key],
                    "named": self._charges(key),
                }
                for key, name in self._miners.items()
            ],
            "customers": [
                {
                    "device": device,
                    "key": public_key(key).hex(),
                    "reputation": state.reputation(public_key(key)),
                    "reward": state.balance(public_key(key)),
                }
                for device, key in self._customers.items()
            ],
        }

    def _charges(self, miner: bytes) -> list[str]:
        """Returns for what the chain or the run's record names a miner, one line each."""
        path, found = self._folder / LIARS_FILE, []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            who, reason = line.split(" ", 1)
            if who == miner.hex():
                found.append(reason)
        for entry in self._state.falsehoods():
            who, _, number, kind = entry.split("/")
            if who == miner.hex():
                found.append(f"signed a wrong {kind} in round {number}")
        for entry in self._state.offences():
            who, height, period, step = entry.split("/")
            if who == miner.hex():
                found.append(f"voted twice at height {height}, period {period}, in step {step}")
        return found
