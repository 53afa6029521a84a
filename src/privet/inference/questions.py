"""A question and its answer as bytes, the same over every transport.

A question is the values of one sample or of a few: float32, little endian, one sample after the other, and nothing
else. The model fixes the shape, so the length says how many there are, and it is known before a byte is read. There is
no field that could say what a sample is: an original and an obfuscated one differ in their values only.

An answer is the digest of the model version that gave it (32 bytes), then the scores of each sample, float32, little
endian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privet.errors import InputError, UnreachableError

Values: TypeAlias = NDArray[np.float32]
"""Samples (n, ...) or scores (n, classes)."""

DIGEST = 32
"""Bytes of a version's digest."""

_VALUE = np.dtype("<f4")


class BusyError(UnreachableError):
    """A service has too much to do.

    Args:
        wrong: what is wrong.
        after: seconds after which to ask again.
    """

    def __init__(self, wrong: str, after: float) -> None:
        super().__init__(wrong, do=f"try again after {after:.3g} s")
        self.after = after


def width(shape: tuple[int, ...]) -> int:
    """Returns the bytes of one sample.

    >>> width((1, 28, 28))
    3136
    """
    return _VALUE.itemsize * math.prod(shape)


def require_samples(found: Sequence[int], shape: tuple[int, ...], called: str, most: int | None = None) -> None:
    """Refuses what is not one sample or more of a shape.

    Args:
        found: the shape of all of them.
        shape: of one.
        called: what the error calls them.
        most: how many there may be.

    Raises:
        InputError: they are of another shape, none, or too many.
    """
    if tuple(found[1:]) != shape or not found or not 1 <= found[0] <= (most or found[0]):
        allowed = f"({', '.join(map(str, ('n', *shape)))}), n from 1 {f'to {most}' if most else 'up'}"
        raise InputError(f"{called} of shape {tuple(found)}", allowed=allowed)


def question(samples: NDArray[Any]) -> bytes:
    """Returns samples (n, ...) as they travel."""
    return np.ascontiguousarray(samples, _VALUE).tobytes()


def samples_in(body: bytes, shape: tuple[int, ...], span: tuple[float, float] | None, most: int) -> Values:
    """Returns the samples (n, *shape) in a question; they can't be written to.

    Args:
        body: what came.
        shape: of one sample.
        span: smallest and largest value that is allowed; None allows every finite one.
        most: samples of one question.

    Raises:
        InputError: the length does not fit, or a value is NaN, infinite or out of range.
    """
    count, rest = divmod(len(body), width(shape))
    if rest or not 1 <= count <= most:
        form = f"1 to {most} samples of {width(shape)} bytes, float32 of shape {shape}, little endian"
        raise InputError(f"a question of {len(body)} bytes", allowed=form)
    return within(np.frombuffer(body, _VALUE).reshape(count, *shape), span)


def within(samples: Values, span: tuple[float, float] | None) -> Values:
    """Returns samples whose values are all in range.

    Raises:
        InputError: one is not.
    """
    limits = span or (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))
    # NaN is passed on by both, and compares as false.
    if not samples.size or not (limits[0] <= float(samples.min()) and float(samples.max()) <= limits[1]):
        allowed = f"{limits[0]:g} to {limits[1]:g}" if span else "one finite value or more"
        raise InputError("there is no value, or one is NaN, infinite or out of range", allowed=allowed)
    return samples


def answered(digest: bytes, scores: Values) -> bytes:
    """Returns an answer as it travels."""
    return digest + np.ascontiguousarray(scores, _VALUE).tobytes()


@dataclass(frozen=True, eq=False)
class Answer:
    """What a service answered.

    Attributes:
        version: digest of the model version, hexadecimal.
        scores: the model's outputs (n, classes), before any softmax.
    """

    version: str
    scores: Values

    @property
    def classes(self) -> list[int]:
        """The likeliest class of each sample."""
        return [int(each) for each in self.scores.argmax(axis=1)]

    @classmethod
    def of(cls, body: bytes, count: int, classes: int) -> Answer:
        """Returns the answer to a question of ``count`` samples.

        Raises:
            UnreachableError: it is none.
        """
        if len(body) != DIGEST + _VALUE.itemsize * count * classes:
            raise UnreachableError("the service's answer does not fit the question", do="ask again")
        scores = np.frombuffer(body, _VALUE, offset=DIGEST).reshape(count, classes)
        if not np.isfinite(scores).all():
            raise UnreachableError("the service's scores are no numbers", do="tell who runs it")
        return cls(body[:DIGEST].hex(), scores.astype(np.float32))
