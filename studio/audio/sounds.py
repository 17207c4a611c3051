"""Noises of the world: each drawn from a seed, at the rate of `studio.audio.speech`, with its numbers varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from studio.audio.speech import RATE, Doubles, Wave, band_noise, peak_to_one

Random = np.random.Generator


def sound(name: str, seconds: float, rng: Random) -> Wave:
    """A sound of this length as samples in [-1, 1]. Raises `KeyError` for a name not in `SOUNDS`."""
    return peak_to_one(SOUNDS[name](np.arange(round(seconds * RATE)) / RATE, rng))


def _bell(t: Doubles, rng: Random) -> Doubles:
    """The partials of a church bell over its hum note; the high ones die first."""
    partials = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.0, 4.0])
    strike = float(rng.uniform(350, 700))
    decay = rng.uniform(2.0, 4.0) * np.sqrt(partials)
    loud = rng.uniform(0.5, 1.0, len(partials)) / np.sqrt(partials)
    waves = loud[:, None] * np.exp(-decay[:, None] * t) * np.sin(2 * np.pi * strike * partials[:, None] * t)
    rung: Doubles = waves.sum(0)
    return rung


def _rain(t: Doubles, rng: Random) -> Doubles:
    """A hiss and many drops."""
    drops = np.zeros(len(t))
    for at in rng.integers(0, len(t), int(rng.uniform(60, 140))):
        drop = np.exp(-np.arange(120) / rng.uniform(8, 25)) * rng.standard_normal(120) * rng.uniform(1, 4)
        drops[at : at + 120] += drop[: len(t) - at]
    return band_noise(len(t), 1200, 3800, rng) + drops


def _wind(t: Doubles, rng: Random) -> Doubles:
    """Low noise in gusts, and a whistle that follows them."""
    gust = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.5, 1.2) * t + rng.uniform(0, 6))
    whistle = rng.uniform(350, 600) * (1 + 0.3 * gust)
    tone = np.sin(2 * np.pi * np.cumsum(whistle) / RATE)
    return gust * (band_noise(len(t), 80, 700, rng) + 0.5 * gust * tone)


def _clock(t: Doubles, rng: Random) -> Doubles:
    """Tick, tock."""
    wave = np.zeros(len(t))
    step, tone = int(rng.uniform(0.22, 0.36) * RATE), float(rng.uniform(1400, 2200))
    for number, at in enumerate(range(int(rng.integers(0, step)), len(t), step)):
        click = np.arange(400) / RATE
        tick = np.exp(-click * 160) * np.sin(2 * np.pi * tone * (0.8 if number % 2 else 1.0) * click)
        wave[at : at + 400] += tick[: len(t) - at]
    return wave


def _bird(t: Doubles, rng: Random) -> Doubles:
    """A few quick chirps, each a tone that sweeps."""
    wave, at = np.zeros(len(t)), int(rng.integers(0, RATE // 8))
    while at < len(t) - 400:
        length = int(rng.uniform(0.06, 0.13) * RATE)
        low, high = float(rng.uniform(1900, 2400)), float(rng.uniform(2900, 3600))
        sweep = np.linspace(low, high, length) if rng.random() < 0.6 else np.linspace(high, low, length)
        chirp = np.sin(2 * np.pi * np.cumsum(sweep) / RATE) * np.hanning(length)
        wave[at : at + length] += chirp[: len(t) - at]
        at += length + int(rng.uniform(0.03, 0.12) * RATE)
    return wave


def _bee(t: Doubles, rng: Random) -> Doubles:
    """A buzz: many harmonics of a low tone that wavers."""
    pitch = rng.uniform(170, 260) * (1 + 0.06 * np.sin(2 * np.pi * rng.uniform(3, 7) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    buzz: Doubles = np.sum([np.sin(k * phase) / k**0.7 for k in range(1, 13)], axis=0)
    return buzz


def _siren(t: Doubles, rng: Random) -> Doubles:
    """A wail that rises and falls."""
    turn = np.sin(2 * np.pi * rng.uniform(0.7, 1.8) * t + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(rng.uniform(750, 1000) * (1 + 0.4 * turn)) / RATE
    return np.asarray(np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase))


SOUNDS: Mapping[str, Callable[[Doubles, Random], Doubles]] = MappingProxyType(
    {
        "bell": _bell,
        "rain": _rain,
        "wind": _wind,
        "clock": _clock,
        "bird": _bird,
        "bee": _bee,
        "siren": _siren,
    }
)
