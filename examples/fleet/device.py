"""One device of a loopback fleet: holds the rows that a plan deals to it, and works for a coordinator.

A real device runs ``privet agent run`` with rows of its own. This one is a simulated device in a real process: it
joins with a token, has its own key and certificate, and speaks to the coordinator over mutual TLS.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from privet.accounting import Guarantee
from privet.apps.agent.edge import way_to_edge
from privet.apps.agent.identity import Identity, join, load
from privet.engines.flower.environment import prepare_flower
from privet.errors import PrivetError, RefusedError
from privet.fleet.device import Device
from privet.governance.enrolment import COORDINATOR
from privet.governance.work import check_work
from privet.study.experiment import prepare
from privet.study.plan import Plan
from privet.study.remote import Worker
from privet.transport.certificates import host_of


class DealtSide:
    """A device's side that permits whatever its own coordinator signed; its rows are those that the plan deals.

    Args:
        identity: in the fleet.
        folder: of the device.
        work_key: of the coordinator.
        inputs, labels: its rows.
    """

    def __init__(self, identity: str, folder: Path, work_key: bytes, inputs: Tensor, labels: Tensor) -> None:
        self.identity, self.folder = identity, folder
        self._work_key, self._inputs, self._labels = work_key, inputs, labels

    def verify(self, signed: bytes, signature: bytes) -> None:
        check_work(self._work_key, signed, signature)

    def permit(self, work: Mapping[str, Any]) -> None:
        print(f"{self.identity}: round {work['round']} of {work['release']}", flush=True)
        while self._held(int(work["round"])):  # a test makes the device slow, or unwilling, while it runs
            time.sleep(0.05)
        if (refusal := self.folder / "refuse").is_file():
            raise RefusedError(refusal.read_text())

    def _held(self, number: int) -> bool:
        """Whether a file in the folder holds rounds up, from the one on that it names."""
        try:
            return number >= int((self.folder / "hold").read_text())
        except (FileNotFoundError, ValueError):
            return False

    def spent(self, work: Mapping[str, Any], guarantee: Guarantee | None) -> None:
        pass

    def rows(self) -> tuple[Tensor, Tensor]:
        return self._inputs, self._labels


def dealt(plan: Plan, identity: Identity) -> tuple[DealtSide, Device]:
    """Returns the side of a device of a plan, and the device as the plan has it."""
    experiment = prepare(plan)
    device = next(one for one in experiment.devices if one.identity == identity.name)
    rows = torch.from_numpy(device.shard)
    inputs, labels = experiment.task.inputs[rows].clone(), experiment.task.labels[rows].clone()
    return DealtSide(identity.name, identity.folder, identity.work_key, inputs, labels), device


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--name", required=True)
    parser.add_argument("--token", default="")
    parser.add_argument("--port", type=int, default=8440)
    parser.add_argument("--gate", type=int, help="port for work; the one after --port if left out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.token:
        join(given.folder, given.token, ("127.0.0.1", given.port), given.name)
    identity = load(given.folder)
    prepare_flower(identity.folder / "flower")
    from privet.engines.flower.node import Coordinator, serve

    certificate, key, authority = identity.files
    side, device = dealt(Plan.load(given.plan).with_settings(given.settings), identity)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    coordinator = Coordinator(
        f"127.0.0.1:{given.gate or given.port + 1}", host_of(COORDINATOR), authority, certificate, key
    )
    try:
        serve(
            coordinator,
            Worker(side, device, way_to_edge(identity)).answer,
            stop,
            joined=lambda: print("joined", flush=True),
        )
    except PrivetError as error:
        print(error.advice(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
