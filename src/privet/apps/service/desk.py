"""Where the three transports meet: checks a question, puts it into the queue, counts what became of it.

What is counted is the transport, the outcome, sizes and times; never who asked, and never a value. A question does not
say whether its samples are obfuscated, so neither do the figures.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import CancelledError, Future
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from privet.errors import InputError, PrivetError, RefusedError
from privet.inference.asking import told
from privet.inference.questions import BusyError, Values, samples_in, width, within
from privet.inference.serving import Batcher, Limits, Scored
from privet.inference.versions import Version

_LOG = logging.getLogger(__name__)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Desk:
    """Takes questions for a model.

    Args:
        version: the model.
        limits: how much it takes on.
        threads: of torch.
    """

    def __init__(self, version: Version, limits: Limits, threads: int) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._outcomes = Counter("privet_questions", "Questions", ["transport", "outcome"], registry=own)
        self._seconds = Histogram("privet_answer_seconds", "Until answered", buckets=_SECONDS, registry=own)
        self._sizes = Histogram("privet_batch_samples", "Samples of a batch", buckets=_SIZES, registry=own)
        self._computing = Histogram("privet_batch_seconds", "To compute a batch", buckets=_SECONDS, registry=own)
        waiting = Gauge("privet_waiting_samples", "Samples in the queue", registry=own)
        self._model = Gauge("privet_model_version", "The version that answers", ["name", "digest"], registry=own)
        self._guard, self._open = threading.Condition(), 0
        self.batcher = Batcher(version, limits, threads, self._batch)
        waiting.set_function(lambda: self.batcher.waiting)
        self._show(version)

    @property
    def longest(self) -> int:
        """Bytes of the longest question."""
        return self.batcher.limits.samples * width(self.batcher.version.manifest.shape)

    def offer(self) -> bytes:
        """Returns the signed manifest, and how many samples a question may have."""
        return told(self.batcher.version.signed, self.batcher.limits.samples)

    def ask(self, transport: str, caller: str, body: bytes) -> Future[Scored]:
        """Puts a question into the queue; the future raises what a transport tells its caller.

        Args:
            transport: over which it came.
            caller: who asks.
            body: a question.
        """
        manifest = self.batcher.version.manifest
        take = partial(samples_in, body, manifest.shape, manifest.span, self.batcher.limits.samples)
        return self._ask(transport, caller, take)

    def ask_values(self, transport: str, caller: str, samples: Values) -> Future[Scored]:
        """Puts samples into the queue; as :meth:`ask`."""
        return self._ask(transport, caller, partial(within, samples, self.batcher.version.manifest.span))

    def refused(self, transport: str, outcome: str) -> None:
        """Counts a question that did not come so far."""
        self._outcomes.labels(transport, outcome).inc()

    def switch(self, version: Version) -> None:
        """Lets another version answer.

        Raises:
            InputError: it takes other samples, or gives other scores.
        """
        self.batcher.switch(version)
        self._show(version)

    def metrics(self) -> bytes:
        """Returns the figures in Prometheus's text format."""
        return generate_latest(self.registry)

    def close(self, patience: float = 10.0) -> None:
        """Answers what waits, and returns once every answer was handed over, or patience ends."""
        self.batcher.close()
        with self._guard:
            self._guard.wait_for(lambda: self._open == 0, patience)

    def _ask(self, transport: str, caller: str, take: partial[Values]) -> Future[Scored]:
        came = time.monotonic()
        try:
            asked = self.batcher.ask(caller, take())
        except PrivetError as error:
            self._count(transport, came, error)
            asked = Future()
            asked.set_exception(error)
            return asked
        with self._guard:
            self._open += 1
        asked.add_done_callback(partial(self._done, transport, came))
        return asked

    def _done(self, transport: str, came: float, asked: Future[Scored]) -> None:
        try:
            self._count(transport, came, asked.exception(0))
        except CancelledError:
            self._outcomes.labels(transport, "given up").inc()
        with self._guard:
            self._open -= 1
            self._guard.notify_all()

    def _count(self, transport: str, came: float, error: BaseException | None) -> None:
        kinds = ((BusyError, "busy"), (InputError, "wrong"), (RefusedError, "refused"), (Exception, "failed"))
        outcome = next((word for kind, word in kinds if isinstance(error, kind)), "answered")
        self._outcomes.labels(transport, outcome).inc()
        if error is None:
            self._seconds.observe(time.monotonic() - came)

    def _batch(self, samples: int, seconds: float) -> None:
        self._sizes.observe(samples)
        self._computing.observe(seconds)

    def _show(self, version: Version) -> None:
        self._model.clear()
        self._model.labels(version.manifest.name, version.digest.hex()).set(1)
