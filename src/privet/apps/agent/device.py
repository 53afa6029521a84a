"""A device that decides for itself: consent, budget, surroundings and rows, behind :class:`DeviceSide`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.accounting import Guarantee
from privet.apps.agent.conditions import Conditions, Limits, look, mind
from privet.apps.agent.identity import Identity
from privet.apps.agent.rows import read_rows
from privet.apps.agent.state import State
from privet.errors import DataError, RefusedError
from privet.governance.consent import Books, NotAllowedError
from privet.governance.work import check_work

if TYPE_CHECKING:
    from torch import Tensor


class OwnDevice:
    """What asks this device for work goes through it; each refusal and each spend is logged.

    Args:
        identity: who the device is.
        look: tells the surroundings; the system's when None.

    Attributes:
        identity: the device's name in the fleet.
        folder: of the device.
    """

    def __init__(self, identity: Identity, look: Callable[[Limits], Conditions] = look) -> None:
        self.identity, self.folder = identity.name, identity.folder
        self.books = Books(identity.folder, identity.name)
        self._state, self._look, self._work_key = State(identity.folder), look, identity.work_key
        self._rows: tuple[Tensor, Tensor] | None = None

    def verify(self, signed: bytes, signature: bytes) -> None:
        """Refuses work that the coordinator of this device's fleet did not sign.

        Raises:
            NotAllowedError: ``signature``.
        """
        with self._logging({}):
            try:
                check_work(self._work_key, signed, signature)
            except RefusedError as refusal:
                raise NotAllowedError("signature", f"{self.identity}: {refusal.wrong}") from None

    def permit(self, work: Mapping[str, Any]) -> None:
        """Refuses work that consent, limits or what was done before don't allow.

        Args:
            work: with ``purpose``, ``release``, ``round``, ``rounds`` and ``bytes`` of the model.

        Raises:
            NotAllowedError: ``purpose``, ``consent``, ``model-size``, ``battery``, ``metered``, ``window``, or
                ``round`` when the device is past that round.
        """
        with self._logging(work):
            self.books.allowed(str(work["purpose"]))
            limits = Limits.of(self._state.settings().get("limits", {}))
            mind(limits, self._look(limits), int(work["bytes"]))
            release, number, rounds = str(work["release"]), int(work["round"]), int(work["rounds"])
            before = self._state.begun(release)
            # A run is paid for by its number of rounds, so each gets one release of noise and none a second.
            if before is not None and (number < before[0] or rounds != before[1]):
                raise NotAllowedError(
                    "round", f"{self.identity}: round {number} of {rounds}, after round {before[0]} of {before[1]}"
                )
            self._state.begin(release, number, rounds)

    def spent(self, work: Mapping[str, Any], guarantee: Guarantee | None) -> None:
        """Pays for a run on the disk, before any of its noise is drawn; once a release.

        Raises:
            NotAllowedError: ``budget``, ``unbounded``, ``unit``, ``purpose`` or ``consent``; nothing was paid.
        """
        with self._logging(work):
            self.books.spend(str(work["release"]), str(work["purpose"]), guarantee)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Returns the device's inputs, float32 (n, ...), and labels, int64 (n,).

        Raises:
            DataError: the owner named no file, or it can't be used.
        """
        import torch

        if self._rows is None:
            told = self._state.settings().get("data")
            if not told:
                raise DataError(f"{self.identity} has no rows", do="run: privet agent settings --data FILE")
            inputs, labels = read_rows(Path(told["path"]), told.get("target"))
            self._rows = torch.from_numpy(inputs), torch.from_numpy(labels)
        return self._rows

    @contextmanager
    def _logging(self, work: Mapping[str, Any]) -> Iterator[None]:
        try:
            yield
        except NotAllowedError as refusal:
            self.books.refuse(refusal, work)
            raise
