"""From samples to log-mel pictures, and clips: what was recorded, or one of the synthesised names, at one length."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from studio.audio.sounds import SOUNDS, sound
from studio.audio.speech import RATE, WORDS, Wave, peak_to_one, random_voice, say
from studio.core.errors import LoomError

SECONDS = 1.28
SAMPLES = round(SECONDS * RATE)
BINS, WINDOW, HOP = 40, 256, 80
FRAMES = SAMPLES // HOP
NAMES = (*WORDS, *SOUNDS)
_LOW, _HIGH, _FLOOR = 60.0, 3900.0, 1e-4
_MAX_SECONDS = 60.0

Floats = np.ndarray[Any, np.dtype[np.float32]]


def clip(name: str, seed: int) -> Wave:
    """A synthesised clip of `SAMPLES` samples: a word or sound at a random place and level, over faint noise."""
    if name not in NAMES:
        raise LoomError(f"There is no sound {name!r}", next=f"choose from {', '.join(NAMES)}")
    rng = np.random.default_rng([seed, NAMES.index(name)])
    if name in WORDS:
        made = say(name, random_voice(rng), rng)[:SAMPLES]
        start = int(rng.integers(0, SAMPLES - len(made) + 1))
        made = np.pad(made, (start, SAMPLES - len(made) - start))
    else:
        made = sound(name, SECONDS, rng)
    level, noise = rng.uniform(0.3, 1.0), 10 ** rng.uniform(-2.6, -1.6)
    return np.asarray(level * made + noise * rng.standard_normal(SAMPLES), np.float32)


def recorded(rate: int, samples: np.ndarray[Any, Any]) -> Wave:
    """What a person recorded, as a clip: one channel, resampled to `RATE`, the loudest `SECONDS` of it.

    Raises `LoomError` for what is not a recording: no samples, too long, not finite, silent.
    """
    wave = np.asarray(samples, np.float64)
    wave = wave.mean(-1) if wave.ndim == 2 else wave
    if wave.ndim != 1 or not len(wave) or not 1000 <= rate <= 400_000:
        raise LoomError("That is not a recording", f"it has shape {list(np.shape(samples))} at {rate} Hz")
    if len(wave) > _MAX_SECONDS * rate:
        raise LoomError(f"The recording has {len(wave) / rate:.0f} seconds", f"the limit is {_MAX_SECONDS:.0f}")
    if not np.isfinite(wave).all() or not np.abs(wave).max() > 0:
        raise LoomError("The recording is silent", next="record again, nearer to the microphone")
    wave = peak_to_one(_resampled(wave - wave.mean(), rate)).astype(np.float64)
    start = _loudest(wave) if len(wave) > SAMPLES else 0
    part = wave[start : start + SAMPLES]
    return np.asarray(np.pad(part, (0, SAMPLES - len(part))), np.float32)


def _loudest(wave: np.ndarray[Any, np.dtype[np.float64]]) -> int:
    """Where the `SAMPLES` samples of most energy begin."""
    energy = np.cumsum(np.pad(wave**2, (1, SAMPLES)))
    return int((energy[SAMPLES:] - energy[:-SAMPLES]).argmax())


def log_mel(waves: Floats) -> Floats:
    """Log-mel pictures (n, BINS, FRAMES) of clips (n, SAMPLES), about zero mean and unit spread; louder is larger."""
    padded = np.pad(waves, ((0, 0), (WINDOW // 2, WINDOW // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP][:, :FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=-1)) ** 2
    mel = np.log(np.maximum(power @ _filters().T, _FLOOR))
    return np.asarray((mel / 4.0).transpose(0, 2, 1), np.float32)


@cache
def _filters() -> Floats:
    """Triangles on the mel scale, (BINS, WINDOW // 2 + 1)."""
    edges = _hertz(np.linspace(_mel(_LOW), _mel(_HIGH), BINS + 2))
    frequency = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.minimum(rise, fall).clip(0), np.float32)


def _mel(hertz: float) -> float:
    return 2595.0 * math.log10(1 + hertz / 700.0)


def _hertz(mel: Any) -> Any:
    return 700.0 * (10 ** (mel / 2595.0) - 1)


def _resampled(wave: np.ndarray[Any, np.dtype[np.float64]], rate: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """At `RATE`, by cutting or padding the spectrum: exact for what both rates can hold."""
    if rate == RATE:
        return wave
    length = max(1, round(len(wave) * RATE / rate))
    made: np.ndarray[Any, np.dtype[np.float64]] = np.fft.irfft(np.fft.rfft(wave)[: length // 2 + 1], length)
    return made
