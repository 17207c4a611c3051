"""The training modules compute what diffusers computes, under the same tensor names."""

from __future__ import annotations

import pytest
import torch

from studio.vision.latents import all_positions, pack, positions, sigmas, strip, unpack
from training.vision.autoencoder import Autoencoder, AutoencoderConfig
from training.vision.transformer import Transformer, TransformerConfig, rotation


def _randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.08 if weight.dim() > 1 else 0.3))
    return module.eval()


def _from_config(kind: type, config: dict[str, object]) -> torch.nn.Module:
    return kind(**{key: value for key, value in config.items() if not key.startswith("_")}).eval()


@torch.no_grad()
def test_autoencoder_equals_diffusers() -> None:
    from diffusers import AutoencoderKL

    config = AutoencoderConfig(channels=(16, 32), latent_channels=4, groups=8)
    ours = _randomise(Autoencoder(config))
    theirs = _from_config(AutoencoderKL, config.to_diffusers(16, 1.0, 0.0))
    assert theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, log_variance = ours.distribution(images)
    posterior = theirs.encode(images).latent_dist
    torch.testing.assert_close(mean, posterior.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_variance, posterior.logvar, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.decoder(mean), theirs.decode(mean).sample, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_transformer_equals_diffusers() -> None:
    from diffusers import FluxTransformer2DModel

    config = TransformerConfig(
        channels=16, single_blocks=2, heads=2, head_width=16, text_width=8, pooled_width=8, axes=(4, 6, 6)
    )
    ours = _randomise(Transformer(config))
    theirs = _from_config(FluxTransformer2DModel, config.to_diffusers())
    assert theirs.load_state_dict(ours.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(2)
    target, context = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 4, 4, 12, generator=generator)
    text, pooled = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 8, generator=generator)
    time, tokens = torch.tensor([0.25, 1.0]), torch.cat([pack(target), pack(context)], 1)
    ids = all_positions(target, context, 3)
    expected = theirs(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=time,
        img_ids=ids[3:],
        txt_ids=ids[:3],
        return_dict=False,
    )[0]
    torch.testing.assert_close(
        ours(tokens, text, pooled, time, rotation(ids, config.axes)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_fresh_transformer_predicts_nothing() -> None:
    config = TransformerConfig(
        channels=16, single_blocks=1, heads=2, head_width=16, text_width=8, pooled_width=8, axes=(4, 6, 6)
    )
    net = Transformer(config).initialise()
    ids = torch.zeros(6, 3)
    velocity = net(
        torch.randn(1, 4, 16), torch.randn(1, 2, 8), torch.randn(1, 8), torch.ones(1), rotation(ids, config.axes)
    )
    torch.testing.assert_close(velocity, net.proj_out.bias.expand_as(velocity))


def test_packing_returns_and_positions_follow_it() -> None:
    latents = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    assert torch.equal(unpack(pack(latents), 4, 6), latents)
    assert positions(4, 6, 1).tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2], [1, 1, 0], [1, 1, 1], [1, 1, 2]]
    assert strip(latents, latents, latents).shape == (2, 3, 4, 18)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sigmas_are_the_schedulers(steps: int) -> None:
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    torch.testing.assert_close(torch.tensor(sigmas(steps)), scheduler.sigmas)
