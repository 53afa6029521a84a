"""What the owner of a device allows, by purpose, and what is left of it: a device's own books.

Two files. ``consent.jsonl`` is the account: consents, budgets and what was paid, written through to the disk before
noise is drawn. ``log.jsonl`` is what the owner reads: one record a spend and one a refusal, each with the hash of the
one before. A crash between the two is made good when the books are opened next, from the account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privet.accounting import Guarantee, Unit
from privet.errors import InputError, RefusedError, RunError
from privet.governance.budget import Book, Budget
from privet.ledger import Log, Record
from privet.transport.held_file import held

_PATIENCE = 20.0
_SPENT, _UNBOUNDED, _REFUSED, _CONSENT = "spent", "unbounded", "refused", "consent"


class NotAllowedError(RefusedError):
    """A device's no.

    Args:
        code: one word for programs, such as ``budget`` or ``consent``.
        wrong, allowed, do: as for every error.
    """

    def __init__(self, code: str, wrong: str, *, allowed: str = "", do: str = "") -> None:
        super().__init__(wrong, allowed=allowed, do=do)
        self.code = code


@dataclass(frozen=True)
class Consent:
    """What the owner allows for one purpose.

    Attributes:
        purpose: what the data may be used for.
        epsilon: the most that all releases together may cost; None sets no limit, which the owner has to say.
        delta: at which epsilon counts.
        unit: who is protected.
        since: when it was granted, ISO 8601.
        revoked: when it was taken back; "" while it holds.
    """

    purpose: str
    epsilon: float | None
    delta: float
    unit: Unit
    since: str = ""
    revoked: str = ""


class Books:
    """A device's consents, budgets and log; processes take turns.

    Args:
        folder: of the device.
        device: its name.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device
        self.account, self.log = folder / "consent.jsonl", folder / "log.jsonl"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        refusal = RefusedError("another process holds this device's books", do="end it")
        with held(self.account.with_name("books.lock"), refusal, _PATIENCE):
            self._make_good()
            yield

    def _make_good(self) -> None:
        """Brings into the log what was paid when a crash came before it was logged."""
        paid = [record for record in Log(self.account).records if record.kind in (_SPENT, _UNBOUNDED)]
        log = Log(self.log)
        logged = {record.body["release"] for record in log.of(_SPENT)}
        for record in paid:
            if record.body["release"] not in logged:
                log.append(_SPENT, self._told(record))

    def _told(self, paid: Record) -> dict[str, Any]:
        told = {key: paid.body[key] for key in ("release", "purpose", "event")}
        with Book(self.account) as book:
            purpose = paid.body["purpose"]
            total = book.spent(self.device, purpose) if paid.kind == _SPENT else None
        consent = self._consents().get(purpose)
        return told | {
            "device": self.device,
            "unit": consent.unit if consent else None,
            "epsilon_spent": total,
            "epsilon": consent.epsilon if consent and paid.kind == _SPENT else None,
        }

    def grant(self, consent: Consent) -> None:
        """Records a consent, and its budget if it has one.

        Raises:
            RefusedError: this purpose has a budget with other figures: what was promised is not raised.
            InputError: a figure is out of range.
        """
        if not consent.purpose or len(consent.purpose) > 64 or not consent.purpose.isprintable():
            raise InputError(f"{consent.purpose[:80]!r} is no purpose", allowed="1 to 64 printable characters")
        with self._alone():
            if consent.epsilon is not None:
                figures = Budget(self.device, consent.purpose, consent.epsilon, consent.delta, consent.unit)
                Book(self.account, [figures]).close()
            body = {key: value for key, value in asdict(consent).items() if key not in ("since", "revoked")}
            Log(self.account).append(_CONSENT, body | {"granted": True})

    def revoke(self, purpose: str) -> None:
        """Records that a consent is taken back; no work for its purpose is done from now on.

        Raises:
            InputError: there is no consent for this purpose.
        """
        with self._alone():
            if purpose not in self._consents():
                raise InputError(f"no consent for {purpose!r}", allowed=", ".join(self._consents()) or "none was given")
            Log(self.account).append(_CONSENT, {"purpose": purpose, "granted": False})

    def consents(self) -> dict[str, Consent]:
        """Returns the consents that were ever given, by purpose."""
        with self._alone():
            return self._consents()

    def _consents(self) -> dict[str, Consent]:
        found: dict[str, Consent] = {}
        for record in Log(self.account).of(_CONSENT):
            body = dict(record.body)
            if body.pop("granted"):
                found[body["purpose"]] = Consent(**body, since=record.time)
            else:
                before = found[body["purpose"]]
                found[body["purpose"]] = Consent(**asdict(before) | {"revoked": record.time})
        return found

    def spent(self) -> dict[str, float | None]:
        """Returns the epsilon spent so far by purpose; None where no limit is set."""
        with self._alone(), Book(self.account) as book:
            return {
                purpose: None if consent.epsilon is None else book.spent(self.device, purpose)
                for purpose, consent in self._consents().items()
            }

    def allowed(self, purpose: str) -> Consent:
        """Returns the consent in force for a purpose.

        Raises:
            NotAllowedError: ``purpose`` when none was ever given, ``consent`` when it was taken back.
        """
        found = self.consents().get(purpose)
        if found is None:
            raise NotAllowedError("purpose", f"{self.device}: the owner has not allowed {purpose!r}")
        if found.revoked:
            raise NotAllowedError("consent", f"{self.device}: the owner took the consent for {purpose!r} back")
        return found

    def spend(self, release: str, purpose: str, guarantee: Guarantee | None) -> None:
        """Pays for a run, on the disk, before any of its noise is drawn; the same release is paid for once.

        Raises:
            NotAllowedError: ``purpose`` or ``consent``; ``unit`` or ``unbounded`` where what the run guarantees
                can't be counted against the budget; ``budget`` where too little is left. Nothing was paid.
        """
        consent = self.allowed(purpose)
        with self._alone():
            if consent.epsilon is None:
                self._note_unbounded(release, purpose, guarantee)
            else:
                self._pay(release, consent, guarantee)
            self._make_good()

    def _note_unbounded(self, release: str, purpose: str, guarantee: Guarantee | None) -> None:
        account = Log(self.account)
        if not any(record.body["release"] == release for record in account.of(_UNBOUNDED)):
            event = str(guarantee.event) if guarantee is not None else None
            account.append(_UNBOUNDED, {"release": release, "purpose": purpose, "event": event})

    def _pay(self, release: str, consent: Consent, guarantee: Guarantee | None) -> None:
        who = f"{self.device}, {consent.purpose!r}"
        if guarantee is None or guarantee.event is None:
            raise NotAllowedError(
                "unbounded",
                f"{who}: the run guarantees nothing per {consent.unit}",
                allowed=f"an epsilon of at most {consent.epsilon:g} per {consent.unit}",
            )
        if guarantee.unit != consent.unit:
            raise NotAllowedError("unit", f"{who}: the run counts per {guarantee.unit}, the consent per {consent.unit}")
        try:
            with Book(self.account) as book:
                book.spend(release, self.device, consent.purpose, guarantee.event, unit=guarantee.unit)
        except (RefusedError, InputError) as refusal:
            raise NotAllowedError("budget", refusal.wrong, allowed=refusal.allowed, do=refusal.do) from None

    def refuse(self, refusal: NotAllowedError, work: Mapping[str, Any]) -> None:
        """Logs a refusal.

        Args:
            refusal: what was said.
            work: to what; its release, round and purpose are kept.
        """
        asked = {key: work[key] for key in ("release", "round", "purpose") if isinstance(work.get(key), str | int)}
        short = {key: value[:64] if isinstance(value, str) else value for key, value in asked.items()}
        with self._alone():
            body = {"device": self.device, "refused": refusal.code, "why": refusal.advice()} | short
            Log(self.log).append(_REFUSED, body)

    def records(self) -> list[Record]:
        """Returns the log: spends and refusals, oldest first.

        Raises:
            RunError: the log or the account was changed.
        """
        with self._alone():
            return Log(self.log).records

    def verify(self) -> list[Record]:
        """Returns the log once the whole of it is known to be as it was written.

        Spends that are missing at the log's end come back from the account; an account that was cut shows.

        Raises:
            RunError: a record was changed, removed, inserted or reordered, or the two files don't agree.
        """
        with self._alone():
            records, account = Log(self.log).records, Log(self.account).records
        paid = [record.body["release"] for record in account if record.kind in (_SPENT, _UNBOUNDED)]
        told = [record.body["release"] for record in records if record.kind == _SPENT]
        if paid != told:
            raise RunError(
                f"{self.log} names {len(told)} spends, {self.account.name} {len(paid)}",
                allowed="the same releases in the same order",
                do="restore both files; this device's budget can't be trusted as it is",
            )
        return records
