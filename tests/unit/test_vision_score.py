"""The measures agree with their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from studio.evaluation.image_quality import perceptual, psnr, ssim
from training.vision.autoencoder import Autoencoder, AutoencoderConfig


def test_psnr_of_a_known_error() -> None:
    truth = torch.full((1, 3, 8, 8), 0.5)
    assert float(psnr(truth + 0.1, truth)) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr(truth, truth)) == pytest.approx(60.0)


def test_ssim_is_its_formula_window_by_window() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 12, 13, generator=generator)
    noisy = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    values = []
    for channel, top, left in itertools.product(range(3), range(2), range(3)):
        x, y = (image[0, channel, top : top + 11, left : left + 11] for image in (noisy, truth))
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert float(ssim(truth, truth)) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(noisy, truth)) == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)


@torch.no_grad()
def test_perceptual_grows_with_the_difference() -> None:
    torch.manual_seed(0)
    encoder = Autoencoder(AutoencoderConfig((16, 16), 4, 8)).encoder
    truth = torch.rand(2, 3, 16, 16)
    near, far = (truth + scale * torch.randn_like(truth) for scale in (0.05, 0.3))
    assert torch.equal(perceptual(truth, truth, encoder), torch.zeros(2))
    assert (perceptual(near, truth, encoder) < perceptual(far, truth, encoder)).all()
