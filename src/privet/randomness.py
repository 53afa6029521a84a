"""Where random numbers come from: the operating system for noise, a seed for everything else.

Noise that carries a guarantee comes from :func:`system`: AES-256 in counter mode, keyed by the
operating system, drawn as 53-bit uniforms. A plan that says ``reproducible = true`` takes
:func:`seeded` for noise too; whoever knows the seed can then subtract the noise.
Floating-point noise leaves the gaps between floats that Mironov (CCS 2012) describes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from abc import ABC, abstractmethod

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

_CHUNK = bytes(1 << 20)


class Source(ABC):
    """A stream of random numbers.

    Attributes:
        reproducible: whether the same seed gives the same stream again.
        repeats: whether the same path gives the same child again.
    """

    reproducible: bool
    repeats: bool = True

    @abstractmethod
    def child(self, *path: str | int) -> Source:
        """Returns an independent stream named by ``path``; the same path gives the same stream."""

    @abstractmethod
    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Returns uniforms in (0, 1], never 0, so that a logarithm of them is finite."""

    @abstractmethod
    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Returns standard normals, float32."""

    def laplace(self, shape: tuple[int, ...]) -> Tensor:
        """Returns Laplace numbers of scale 1, float32."""
        signed = self.uniform(shape).mul_(2).sub_(1)
        # 1 - |signed| keeps 53 bits, so that the tail reaches 36 scales; only then is it rounded.
        tail = signed.abs().neg_().add_(1).float().clamp_min_(2.0**-53)
        return tail.log_().neg_().copysign_(signed.float())

    @abstractmethod
    def integers(self, high: int, size: int) -> np.ndarray:
        """Returns ``size`` integers in [0, high)."""

    @abstractmethod
    def permutation(self, n: int) -> Tensor:
        """Returns 0..n-1 in random order, int64."""

    @abstractmethod
    def numpy(self) -> np.random.Generator:
        """Returns a NumPy generator, for uses that carry no guarantee (partitions, delays)."""

    @abstractmethod
    def generator(self) -> torch.Generator:
        """Returns a torch generator, for uses that carry no guarantee (initial weights)."""


class _Seeded(Source):
    reproducible = True

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._torch: torch.Generator | None = None
        self._numpy: np.random.Generator | None = None

    def child(self, *path: str | int) -> Source:
        return _Seeded(hashlib.sha256(self._key + repr(path).encode()).digest())

    def generator(self) -> torch.Generator:
        if self._torch is None:
            self._torch = torch.Generator().manual_seed(int.from_bytes(self._key[:8], "big") >> 1)
        return self._torch

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator(), dtype=torch.float64).neg_().add_(1)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator())

    def integers(self, high: int, size: int) -> np.ndarray:
        return torch.randint(high, (size,), generator=self.generator()).numpy()

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator())

    def numpy(self) -> np.random.Generator:
        if self._numpy is None:
            self._numpy = np.random.default_rng(int.from_bytes(self._key, "big"))
        return self._numpy


class _System(Source):
    reproducible = False
    repeats = False
    _process: int | None

    def __init__(self) -> None:
        self._encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
        self._process = os.getpid()

    def _bytes(self, count: int) -> bytearray:
        if self._process not in (None, os.getpid()):  # a forked worker must not repeat its parent's stream
            self.__init__()  # type: ignore[misc]
        out = bytearray(count + 16)  # the cipher wants room for one block more
        done = 0
        while done < count:
            step = min(len(_CHUNK), count - done)
            done += self._encryptor.update_into(_CHUNK[:step], memoryview(out)[done:])
        return out

    def child(self, *path: str | int) -> Source:
        return _System()

    def _words(self, count: int) -> Tensor:
        return torch.frombuffer(self._bytes(8 * count), dtype=torch.int64)[:count]

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        words = self._words(int(np.prod(shape)))
        return words.bitwise_and_((1 << 53) - 1).double().add_(1).mul_(2.0**-53).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        count = int(np.prod(shape))
        half = (count + 1) // 2
        radius = self.uniform((half,)).log_().mul_(-2).sqrt_()
        angle = self.uniform((half,)).mul_(2 * torch.pi).float()
        both = torch.cat((angle.cos(), angle.sin())).mul_(radius.float().repeat(2))
        return both[:count].reshape(shape)

    def integers(self, high: int, size: int) -> np.ndarray:
        unit = self.uniform((size,)).neg_().add_(1)
        return unit.mul_(high).long().numpy()

    def permutation(self, n: int) -> Tensor:
        return self.uniform((n,)).argsort()

    def numpy(self) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(os.urandom(32), "big"))

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)


class _Keyed(_System):
    repeats = True

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._encryptor = Cipher(algorithms.AES(self._derived("stream")), modes.CTR(bytes(16))).encryptor()
        self._process = None  # a forked worker repeats it on purpose

    def _derived(self, label: str) -> bytes:
        return hmac.digest(self._key, label.encode(), "sha256")

    def child(self, *path: str | int) -> Source:
        return _Keyed(self._derived(f"child:{path!r}"))

    def numpy(self) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(self._derived("numpy"), "big"))

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int.from_bytes(self._derived("torch")[:8], "big") >> 1)


def seeded(seed: int, *path: str | int) -> Source:
    """Returns the reproducible stream of a seed; ``path`` names an independent sub-stream."""
    return _Seeded(hashlib.sha256(f"privet:{seed}".encode()).digest()).child(*path)


def system() -> Source:
    """Returns a fresh stream keyed by the operating system; for noise that carries a guarantee."""
    return _System()


def keyed(secret: bytes, *path: str | int) -> Source:
    """Returns the stream of a secret: as unpredictable as the secret, and the same whenever it is asked for.

    For noise that must be drawn again exactly, by the same party: over rounds that share it, or after an
    interruption. Keys are derived by HMAC-SHA256, numbers drawn from AES-256 in counter mode. Using one
    path for two different values gives both away.

    Args:
        secret: 32 bytes from the operating system, known to nobody else.
        path: names an independent sub-stream.
    """
    return _Keyed(secret).child(*path)
