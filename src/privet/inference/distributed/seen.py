"""All that a helper received, as a View that attacks take."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from privet.engines.view import View
from privet.errors import RefusedError

MOST = 2 << 30
"""Bytes that are kept."""


class Seen:
    """What a helper received, by layer and by the number of the first image of a batch.

    Args:
        party: whose it is, for example ``helper/a``.
    """

    def __init__(self, party: str = "helper") -> None:
        self.party = party
        self._batches: dict[str, dict[int, Tensor]] = {}
        self._size, self._guard = 0, threading.Lock()

    def add(self, name: str, number: int, values: Tensor) -> None:
        """Keeps what came for images ``number`` and on; what comes again replaces it.

        Raises:
            RefusedError: it would take too much memory.
        """
        with self._guard:
            batches = self._batches.setdefault(name, {})
            before = batches.get(number)
            self._size += values.nbytes - (0 if before is None else before.nbytes)
            if self._size > MOST:
                raise RefusedError("the record of what was received is full", do="record fewer images")
            batches[number] = values.clone()

    def view(self) -> View:
        """Returns the view: by name, what came, images in order of their numbers.

        Whoever received a part in another shape (after another helper failed) has two names for it.
        """
        seen: dict[str, Tensor] = {}
        with self._guard:
            for name, batches in sorted(self._batches.items()):
                shapes: dict[tuple[int, ...], list[int]] = {}
                for number in sorted(batches):
                    shapes.setdefault(tuple(batches[number].shape[1:]), []).append(number)
                for place, numbers in enumerate(shapes.values()):
                    label = name if place == 0 else f"{name}.{place}"
                    seen[label] = torch.cat([batches[number] for number in numbers])
                    images = [torch.arange(number, number + len(batches[number])) for number in numbers]
                    seen[f"{label}.images"] = torch.cat(images)
        return View(self.party, seen)

    def save(self, path: Path) -> None:
        """Writes the view as a safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.view().seen.items()}, path)
