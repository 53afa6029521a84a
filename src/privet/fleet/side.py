"""What a real device decides by itself: its rows, what it permits, what it has spent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from privet.accounting import Guarantee


class DeviceSide(Protocol):
    """The device's side of a fleet across machines; whatever asks the device for work goes through it.

    The order for a round's work is fixed: :meth:`verify`, :meth:`permit`, then :meth:`spent`, and only then are
    rows read and noise drawn. Whoever raises leaves the work undone; the coordinator is told the reason.

    Attributes:
        identity: the device's name in the fleet.
        folder: a private folder of the device, for what must outlive a restart (its memory, its last reply).
    """

    identity: str
    folder: Path

    def verify(self, signed: bytes, signature: bytes) -> None:
        """Refuses work that the coordinator of this device's fleet did not sign.

        Args:
            signed: the bytes that were signed: the work and the digest of the tensors that came with it.
            signature: of the coordinator; empty if there was none.

        Raises:
            RefusedError: the signature is missing or not the coordinator's.
        """
        ...

    def permit(self, work: Mapping[str, Any]) -> None:
        """Refuses work that the device's consent, profile or state does not allow.

        Args:
            work: names and fields only, see :func:`privet.study.work.work_of`: ``release`` (of the run),
                ``round``, ``rounds``, ``purpose``, ``model``, ``training``, ``on_device``, ``parameters``,
                ``bytes``, ``keep``.

        Raises:
            RefusedError: with the reason, which the coordinator is told.
        """
        ...

    def spent(self, work: Mapping[str, Any], guarantee: Guarantee | None) -> None:
        """Writes down what a run costs this device, before any noise is drawn; once a release, however often called.

        Args:
            work: as for :meth:`permit`; ``release`` tells runs apart.
            guarantee: what the whole run (all its rounds) costs, which the device derived by itself from the
                mechanisms; None where nothing formal is guaranteed.

        Raises:
            RefusedError: the budget that is left does not cover it; nothing was written.
        """
        ...

    def rows(self) -> tuple[Tensor, Tensor]:
        """Returns the device's inputs, float32 (n, ...), and labels, int64 (n,)."""
        ...
