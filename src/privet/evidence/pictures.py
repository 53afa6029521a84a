"""Originals beside reconstructions, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load

from privet.errors import RunError

Pixels = npt.NDArray[np.uint8]
ROWS = {
    "originals": "What the devices held",
    "noisy": "What was seen",
    "reconstructions": "What the attack made of it",
}
"""Tensors of a pictures file, in the order shown, and what the page calls them."""
MOST = 10


@dataclass(frozen=True)
class Strip:
    """One row of pictures.

    Attributes:
        caption: what the row shows.
        uri: the row as one PNG, in a ``data:`` URI.
        count: pictures in it.
        width: width of the PNG in pixels.
    """

    caption: str
    uri: str
    count: int
    width: int


def strips(folder: Path) -> dict[str, list[Strip]]:
    """Returns, by attack, the rows of pictures that a run kept.

    Args:
        folder: the run's ``pictures`` folder; absent means none.

    Raises:
        RunError: a file is not safetensors, or its tensors are not uint8 of shape (k, channels, height, width).
    """
    return {path.stem: _strips(path) for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def _strips(path: Path) -> list[Strip]:
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{path} is damaged ({error})", allowed="a safetensors file", do="run it again") from None
    rows = []
    for name, caption in ROWS.items():
        if name not in tensors or not tensors[name].size:
            continue
        pixels = tensors[name]
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise RunError(
                f"{path}: {name} is {pixels.dtype} of shape {pixels.shape}",
                allowed="uint8 of shape (k, channels, height, width)",
            )
        strip = side_by_side(pixels[:MOST])
        rows.append(Strip(caption, png(strip), min(len(pixels), MOST), strip.shape[1]))
    return rows


def side_by_side(pixels: Pixels) -> Pixels:
    """Returns pictures (k, channels, height, width) in one row, (height, width', 4), with clear gaps between.

    One channel is grey, three are red, green and blue; of any other number the mean is shown.
    """
    count, channels, height, width = pixels.shape
    if channels not in (1, 3):
        pixels, channels = pixels.mean(axis=1, keepdims=True).astype(np.uint8), 1
    colour = np.repeat(pixels, 3, axis=1) if channels == 1 else pixels
    gap = max(1, width // 10)
    row = np.zeros((height, count * (width + gap) - gap, 4), dtype=np.uint8)
    for index, picture in enumerate(colour):
        left = index * (width + gap)
        row[:, left : left + width, :3] = picture.transpose(1, 2, 0)
        row[:, left : left + width, 3] = 255
    return row


def png(pixels: Pixels) -> str:
    """Returns pixels (height, width, 4) as a PNG in a ``data:`` URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
