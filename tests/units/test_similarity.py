"""SSIM and PSNR against scikit-image, and at their ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from privet.errors import InputError
from privet.evidence.similarity import psnr, ssim


def some(shape, seed=0):
    mine = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=mine)
    return a, (a + 0.2 * torch.randn(shape, generator=mine)).clamp(0, 1)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 32, 20), (300, 1, 11, 11)])
def test_ssim_is_that_of_scikit_image(shape):
    a, b = some(shape)
    slow = [
        structural_similarity(
            x.double().numpy(), y.double().numpy(), gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=1, channel_axis=0,
        )
        for x, y in zip(a, b, strict=True)
    ]  # fmt: skip
    found = ssim(a, b)
    assert found.shape == (shape[0],)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), atol=1e-6, rtol=0)


def test_psnr_is_that_of_scikit_image():
    a, b = some((4, 3, 8, 9))
    slow = [
        peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=1) for x, y in zip(a.double(), b.double(), strict=True)
    ]
    torch.testing.assert_close(psnr(a, b), torch.tensor(slow, dtype=torch.float64))


def test_equal_images_and_black_against_white():
    a, _ = some((2, 1, 28, 28))
    assert ssim(a, a).tolist() == pytest.approx([1, 1])
    assert psnr(a, a).tolist() == [100, 100]
    black, white = torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)
    assert ssim(black, white).item() == pytest.approx(0.0001 / 1.0001)
    assert psnr(black, white).item() == 0


def test_symmetric_and_inputs_untouched():
    a, b = some((2, 1, 12, 12))
    kept = a.clone(), b.clone()
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
    torch.testing.assert_close(psnr(a, b), psnr(b, a))
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


def test_an_image_smaller_than_the_window_takes_the_largest_odd_one():
    a, b = some((1, 1, 8, 8))
    bell = [math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-3, 4)]
    weights = torch.tensor([[p * q for q in bell] for p in bell], dtype=torch.float64) / sum(bell) ** 2
    slow = []
    for row, column in itertools.product(range(2), range(2)):
        x, y = (image[0, 0, row : row + 7, column : column + 7].double() for image in (a, b))
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
        covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
        means = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        slow.append(means * (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2))
    assert ssim(a, b).item() == pytest.approx(float(sum(slow) / 4))


@pytest.mark.parametrize("shapes", [((2, 1, 8, 8), (1, 1, 8, 8)), ((2, 8), (2, 8)), ((0, 1, 8, 8), (0, 1, 8, 8))])
def test_other_shapes_are_refused(shapes):
    for measure in (ssim, psnr):
        with pytest.raises(InputError, match="cannot compare"):
            measure(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
