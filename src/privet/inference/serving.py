"""Answers questions of many callers with one frozen model, several at a time.

Questions wait in one queue, first come first served. A batch begins when enough samples wait or the first has waited
long enough. What waits is bounded, in all and for each caller, and what comes on top is turned away at once. One thread
computes; whoever asks gets a future.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import torch

from privet.errors import InputError, UnreachableError
from privet.inference.questions import BusyError, Values, require_samples
from privet.inference.versions import Version

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much a service takes on.

    Attributes:
        batch: most samples that are computed at once.
        wait: seconds that the first of a batch waits for others, at most.
        samples: most of one question.
        waiting: most samples in the queue.
        share: most samples of one caller in the queue.
        patience: seconds in the queue after which a question is given up.
    """

    batch: int = 64
    wait: float = 0.002
    samples: int = 16
    waiting: int = 2048
    share: int = 256
    patience: float = 5.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if not 0 <= getattr(self, each.name) < 1e9:
                raise InputError(f"{each.name} is {getattr(self, each.name)}", allowed="a figure from 0 on")
        if not 1 <= self.samples <= min(self.batch, self.share) or max(self.batch, self.share) > self.waiting:
            raise InputError(
                f"limits of {self.samples} samples a question, {self.batch} a batch, {self.share} a caller, "
                f"{self.waiting} in all",
                allowed="samples <= batch <= waiting, samples <= share <= waiting",
            )


class Scored(NamedTuple):
    """The answer to one question.

    Attributes:
        digest: of the version that gave it, 32 bytes.
        scores: (n, classes).
    """

    digest: bytes
    scores: Values


@dataclass(eq=False)
class _Question:
    caller: str
    samples: Values
    came: float
    future: Future[Scored] = field(default_factory=Future)


class Batcher:
    """Answers questions until it is closed.

    Args:
        version: the model.
        limits: how much it takes on.
        threads: of torch, for one batch.
        told: is called with the samples of each batch and the seconds that it took.

    Attributes:
        version: the model that answers now.
        limits: how much it takes on.
    """

    def __init__(
        self,
        version: Version,
        limits: Limits = Limits(),
        threads: int = 1,
        told: Callable[[int, float], None] = lambda samples, seconds: None,
    ) -> None:
        self.version, self.limits = version, limits
        self._told = told
        self._queue: deque[_Question] = deque()
        self._samples, self._shares = 0, Counter[str]()
        self._changed = threading.Condition()
        self._closing = False
        self._pace = 0.001  # seconds for a sample, learnt as it goes
        self._thread = threading.Thread(target=self._work, args=(threads,), name="privet-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Samples in the queue."""
        return self._samples

    def ask(self, caller: str, samples: Values) -> Future[Scored]:
        """Puts a question into the queue; a future that is cancelled in time costs no computation.

        Args:
            caller: who asks, for its share of the queue.
            samples: (n, *shape) of the version, checked.

        Raises:
            BusyError: the queue is full, the caller has its share in it, or the service is closing.
            InputError: these are no samples for the model, or too many at once.
        """
        count = len(samples)
        require_samples(samples.shape, self.version.manifest.shape, "a question", self.limits.samples)
        asked = _Question(caller, samples, time.monotonic())
        with self._changed:
            if self._closing:
                raise BusyError("the service is stopping", 1.0)
            full = self._samples + count > self.limits.waiting
            if full or self._shares[caller] + count > self.limits.share:
                why = "the service is busy" if full else f"{caller} has {self._shares[caller]} samples waiting"
                raise BusyError(why, max(0.05, self._samples * self._pace))
            self._queue.append(asked)
            self._samples += count
            self._shares[caller] += count
            if len(self._queue) == 1 or self._samples >= self.limits.batch:
                self._changed.notify()
        return asked.future

    def switch(self, version: Version) -> None:
        """Lets another version answer from the next batch on; no question is lost.

        Raises:
            InputError: it takes other samples or gives other scores, so clients have to know first.
        """
        before, after = self.version.manifest, version.manifest
        if (before.shape, before.classes, before.span) != (after.shape, after.classes, after.span):
            raise InputError(
                f"version {after.name} takes samples of {after.shape} in {after.span} and gives {after.classes} scores",
                allowed=f"{before.shape} in {before.span} and {before.classes}, as before",
                do="start another service for it",
            )
        self.version = version

    def close(self) -> None:
        """Answers what waits, and takes nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Question]:
        """Returns the next batch, whole questions in the order in which they came; empty when all is done."""
        with self._changed:
            while True:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return []
                until = self._queue[0].came + self.limits.wait
                while self._samples < self.limits.batch and not self._closing:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if taken := self._taken():
                    return taken

    def _taken(self) -> list[_Question]:
        taken, count, now = list[_Question](), 0, time.monotonic()
        while self._queue and count + len(self._queue[0].samples) <= self.limits.batch:
            asked = self._queue.popleft()
            self._samples -= len(asked.samples)
            self._shares[asked.caller] -= len(asked.samples)
            if not self._shares[asked.caller]:
                del self._shares[asked.caller]
            if not asked.future.set_running_or_notify_cancel():
                continue
            if now - asked.came > self.limits.patience:
                asked.future.set_exception(UnreachableError("the question waited too long", do="try again later"))
                continue
            taken.append(asked)
            count += len(asked.samples)
        return taken

    def _answer(self, batch: list[_Question]) -> None:
        version, begin = self.version, time.monotonic()
        try:
            with torch.inference_mode():
                samples = torch.from_numpy(np.concatenate([asked.samples for asked in batch]))
                scores: Values = version.network(samples).numpy()
        except Exception:
            _LOG.exception("a batch of %d questions failed", len(batch))
            for asked in batch:
                asked.future.set_exception(UnreachableError("the service failed", do="tell who runs it"))
            return
        seconds = time.monotonic() - begin
        self._pace += 0.1 * (seconds / len(scores) - self._pace)
        self._told(len(scores), seconds)
        at = 0
        for asked in batch:
            own = scores[at : at + len(asked.samples)]
            at += len(asked.samples)
            if np.isfinite(own).all():
                asked.future.set_result(Scored(version.digest, own))
            else:
                wrong = "the model's scores of these values are no numbers"
                asked.future.set_exception(InputError(wrong, do="give smaller values"))
