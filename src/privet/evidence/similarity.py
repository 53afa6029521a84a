"""How much two images resemble each other: SSIM and PSNR, one number a pair, float64.

References:
    Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to Structural
    Similarity (IEEE TIP 2004), equation 13.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from privet.errors import InputError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_LEAST_ERROR = 1e-10
_CHUNK = 256


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Returns the structural similarity of pairs of images whose pixels lie in [0, 1]; 1 means equal.

    The window is Gaussian, 11 x 11, sigma 1.5; windows that would leave the image are left out;
    an image smaller than that has the largest odd window that fits. Channels are averaged.

    Args:
        a: shape (n, channels, height, width).
        b: the same shape.

    Returns:
        Shape (n,), float64, at most 1.

    Raises:
        InputError: the shapes differ or are no images.
    """
    _check(a, b)
    return torch.cat([_ssim(x, y) for x, y in zip(torch.split(a, _CHUNK), torch.split(b, _CHUNK), strict=True)])


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    n, _, height, width = a.shape
    side = min(_WINDOW, *((edge - 1) // 2 * 2 + 1 for edge in (height, width)))
    bell = torch.exp(-(torch.arange(side, dtype=torch.float64) - side // 2).square() / (2 * _SIGMA**2))
    bell /= bell.sum()

    def blur(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))

    x, y = (images.double().reshape(-1, 1, height, width) for images in (a, b))
    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    means = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return (means * (2 * covariance + _C2) / (variances + _C2)).reshape(n, -1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of pairs of images with pixels in [0, 1], in dB.

    Args:
        a: shape (n, channels, height, width).
        b: the same shape.

    Returns:
        Shape (n,), float64, at most 100 dB, which stands for equal.

    Raises:
        InputError: the shapes differ or are no images.
    """
    _check(a, b)
    return -10 * (a.double() - b.double()).square().flatten(1).mean(1).clamp_min(_LEAST_ERROR).log10()


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() != 4 or not a.numel():
        raise InputError(
            f"cannot compare images of shapes {tuple(a.shape)} and {tuple(b.shape)}",
            allowed="twice (n, channels, height, width)",
        )
