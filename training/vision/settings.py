"""Every number of a training run in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.vision.autoencoder import AutoencoderConfig
from training.vision.transformer import TransformerConfig


@dataclass(frozen=True, slots=True)
class Settings:
    """Budgets in seconds on the clock (compilation not counted), sizes, and learning rates."""

    autoencoder_seconds: float = 75
    encoder_seconds: float = 40
    base_seconds: float = 300
    compare_seconds: float = 60
    main_seconds: float = 540

    groups: int = 900
    pair_groups: int = 110
    wide_groups: int = 40
    region_groups: int = 170
    members: int = 4
    batch: int = 256
    per_task: int = 24
    max_tasks: int | None = None
    max_steps: int | None = None
    compiled: bool = True
    seed: int = 0

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    adapters: int = 20
    rank: int = 4
    key_width: int = 20
    basis_scale: float = 2.0  # alpha / r in training; folded into B when written

    autoencoder_rate: float = 2e-3
    encoder_rate: float = 8e-4
    base_rate: float = 1e-3
    basis_rate: float = 3e-3
    single_rate: float = 4e-3
    router_rate: float = 1e-3
    tuned_encoder_rate: float = 2e-4


TOY = Settings(
    groups=2,
    pair_groups=1,
    wide_groups=0,
    region_groups=0,
    members=2,
    batch=8,
    per_task=1,
    max_tasks=2,
    max_steps=6,
    compiled=False,
    autoencoder=AutoencoderConfig((16, 16, 32), 8, 8),
    transformer=TransformerConfig(single_blocks=1, heads=1),
    adapters=4,
    rank=2,
)
