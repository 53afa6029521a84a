"""Weights by the sha256 of their bytes: whoever has them once is not sent them again.

On disk each is one file in a folder, named by its address and checked when it is read; in memory the least recently
used go first.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from privet.errors import InputError, RefusedError
from privet.inference.distributed.fixed_point import Kernel
from privet.inference.distributed.networks import Conv2d, Linear

PIECE = 2 << 20
"""Bytes of weights in one message."""
_ADDRESS = re.compile("[0-9a-f]{64}")


def address_of(content: bytes) -> str:
    """Returns the address of bytes: their sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def whole_content(kernel: Kernel) -> bytes:
    """Returns the whole weights of a layer as a safetensors file."""
    geometry = torch.tensor([*kernel.stride, *kernel.padding], dtype=torch.int32)
    return save({"geometry": geometry, "weight": kernel.weight.to(torch.int32)})


def float_content(layer: Conv2d | Linear) -> bytes:
    """Returns the weights of a layer as a safetensors file, as they are."""
    stride, padding = (layer.stride, layer.padding) if isinstance(layer, Conv2d) else ((1, 1), (0, 0))
    geometry = torch.tensor([*stride, *padding], dtype=torch.int32)
    return save({"geometry": geometry, "weight": layer.weight.float().contiguous()})


class Contents:
    """Weights that a helper holds.

    Args:
        folder: where they are kept; made when absent.
        memory: the most bytes of weights in memory, as float64.
        disk: the most bytes in the folder.
    """

    def __init__(self, folder: Path, memory: int = 1 << 30, disk: int = 4 << 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob("*.part"):
            part.unlink()
        self._folder, self._memory, self._disk = folder, memory, disk
        self._kernels: OrderedDict[str, Kernel] = OrderedDict()
        self._guard = threading.RLock()

    def lacks(self, address: str) -> bool:
        """Returns whether it has not got an address.

        Raises:
            InputError: it is none.
        """
        return not self._path(address).exists()

    def put(self, address: str, offset: int, total: int, piece: bytes) -> bool:
        """Takes one piece of a content, in order, and returns whether it is whole now.

        Raises:
            InputError: the piece doesn't fit, or the whole has another address.
            RefusedError: there is no room for it.
        """
        path = self._path(address)
        with self._guard:
            if path.exists():
                return True
            held = sum(file.stat().st_size for file in self._folder.glob("*.safetensors"))
            if 2 * total > self._memory or total + held > self._disk:
                raise RefusedError(f"weights of {total} bytes find no room", allowed=f"{self._memory} bytes in memory")
            part = path.with_suffix(".part")
            with part.open("ab" if offset else "wb") as file:
                if file.tell() != offset or len(piece) > PIECE or offset + len(piece) > total:
                    raise InputError("a piece of weights does not fit", do="begin anew")
                file.write(piece)
            if offset + len(piece) < total:
                return False
            if address_of(part.read_bytes()) != address:
                part.unlink()
                raise InputError("weights are not what their address names", do="send them again")
            os.replace(part, path)
            return True

    def kernel(self, address: str) -> Kernel:
        """Returns weights of an address, ready to multiply.

        Raises:
            InputError: it has not got them, or they are damaged (and removed then).
        """
        with self._guard:
            if address in self._kernels:
                self._kernels.move_to_end(address)
                return self._kernels[address]
            kernel = self._loaded(self._path(address), address)
            self._kernels[address] = kernel
            while len(self._kernels) > 1 and self._size() > self._memory:
                self._kernels.popitem(last=False)
            return kernel

    def _loaded(self, path: Path, address: str) -> Kernel:
        if not path.exists():
            raise InputError("these weights are not here", do="send them")
        content = path.read_bytes()
        try:
            if address_of(content) != address:
                raise ValueError
            tables: dict[str, Tensor] = load(content)
            weight, geometry = tables["weight"], [int(number) for number in tables["geometry"]]
            if weight.ndim not in (2, 4) or len(geometry) != 4 or min(geometry) < 0 or 0 in geometry[:2]:
                raise ValueError
        except (ValueError, KeyError, SafetensorError):
            path.unlink(missing_ok=True)
            raise InputError("these weights are damaged", do="send them again") from None
        ready = weight.double() if weight.dtype == torch.int32 else weight.float()
        return Kernel(ready, (geometry[0], geometry[1]), (geometry[2], geometry[3]))

    def _size(self) -> int:
        return sum(kernel.weight.numel() * 8 for kernel in self._kernels.values())

    def _path(self, address: str) -> Path:
        if not _ADDRESS.fullmatch(address):
            raise InputError("an address of weights is malformed", allowed="sha256 in hexadecimal")
        return self._folder / f"{address}.safetensors"
