"""A helper process that lies or dawdles: python odd_helper.py FOLDER lies|slow HOW_MUCH."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from privet.inference.distributed.fixed_point import Kernel
from privet.inference.distributed.multiplier import Helper, serve
from privet.transport.identity import Identity


class Odd(Helper):
    """Adds so many steps to a value of every product, or answers so many seconds later."""

    def product(self, kernel: Kernel, values: Tensor) -> Tensor:
        made: Tensor = super().product(kernel, values)
        if sys.argv[2] == "lies":
            made[0, 0].view(-1)[0] += int(sys.argv[3])
        if sys.argv[2] == "slow":
            time.sleep(float(sys.argv[3]))
        return made


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    server = serve(Odd(folder / "held"), Identity.load(folder), "127.0.0.1:0")
    print(f"it listens at 127.0.0.1:{server.port}", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
