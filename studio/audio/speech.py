"""Spoken words by formant synthesis: harmonics of a gliding pitch under the resonances of each phoneme, and noise.

A word is a sequence of phonemes; a `Voice` says how high, how fast and how long a throat. Everything is numpy at
`RATE`. Source: the mean formants of vowels in G. Peterson and H. Barney, Control Methods Used in a Study of the Vowels,
1952; consonants are rough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

RATE = 8000  # samples a second
_FRAME = 80  # samples between two points of the envelopes: 10 ms
_TOP = 3800.0  # hertz; nothing is made above

Wave = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Phoneme:
    """One sound of speech: seconds, loudness of its voice and of its noise, formants and noise band in hertz."""

    seconds: float
    voice: float
    formants: tuple[float, float, float] = (500.0, 1500.0, 2500.0)
    noise: float = 0.0
    band: tuple[float, float] = (1000.0, 3800.0)


def _vowel(*formants: float) -> Phoneme:
    return Phoneme(0.13, 1.0, (formants[0], formants[1], formants[2]))


def _murmur(*formants: float) -> Phoneme:
    return Phoneme(0.08, 0.45, (formants[0], formants[1], formants[2]))


PHONEMES: Mapping[str, Phoneme] = MappingProxyType(
    {
        "IY": _vowel(270, 2290, 3010),
        "IH": _vowel(390, 1990, 2550),
        "EH": _vowel(530, 1840, 2480),
        "AA": _vowel(730, 1090, 2440),
        "AH": _vowel(640, 1190, 2390),
        "AO": _vowel(570, 840, 2410),
        "UH": _vowel(440, 1020, 2240),
        "UW": _vowel(300, 870, 2240),
        "ER": _vowel(490, 1350, 1690),
        "W": _murmur(300, 610, 2200),
        "R": _murmur(310, 1060, 1380),
        "L": _murmur(310, 1050, 2880),
        "N": _murmur(250, 1450, 2300),
        "M": _murmur(250, 1000, 2200),
        "S": Phoneme(0.11, 0.0, noise=0.5, band=(2900, 3800)),
        "Z": Phoneme(0.09, 0.35, (250, 1500, 2500), 0.35, (2900, 3800)),
        "SH": Phoneme(0.11, 0.0, noise=0.55, band=(1900, 3300)),
        "F": Phoneme(0.09, 0.0, noise=0.22, band=(1000, 3800)),
        "TH": Phoneme(0.09, 0.0, noise=0.18, band=(1400, 3000)),
        "V": Phoneme(0.06, 0.4, (250, 1100, 2200), 0.12, (1000, 3800)),
        "-": Phoneme(0.05, 0.0),
        "T": Phoneme(0.025, 0.0, noise=0.6, band=(2300, 3800)),
        "K": Phoneme(0.03, 0.0, noise=0.6, band=(1200, 2200)),
        "P": Phoneme(0.02, 0.0, noise=0.5, band=(400, 1400)),
        "B": Phoneme(0.03, 0.3, (200, 800, 2100)),
        "D": Phoneme(0.03, 0.3, (200, 1700, 2600)),
        "G": Phoneme(0.03, 0.3, (200, 2000, 2400)),
    }
)
# A closure, "-", stands before each stop.
WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        word: tuple(spelled.split())
        for word, spelled in {
            "zero": "Z IH R AO UW",
            "one": "W AH N",
            "two": "- T UW",
            "three": "TH R IY",
            "four": "F AO R",
            "five": "F AA IY V",
            "six": "S IH - K S",
            "seven": "S EH V AH N",
            "eight": "EH IY - T",
            "nine": "N AA IY N",
            "color": "- K AH L ER",
            "shape": "SH EH IY - P",
            "number": "N AH M - B ER",
            "ground": "- G R AA UH N - D",
        }.items()
    }
)


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: pitch in hertz and its glide over the word as a factor, tempo, and the formants' factor."""

    pitch: float = 130.0
    glide: float = 0.85
    tempo: float = 1.0
    throat: float = 1.0


def random_voice(rng: np.random.Generator) -> Voice:
    """A voice between a low slow one and a high quick one."""
    pitch = float(rng.uniform(90, 240))
    throat = 0.92 + 0.16 * (pitch - 90) / 150 + float(rng.uniform(-0.05, 0.05))
    return Voice(pitch, float(rng.uniform(0.7, 1.15)), float(rng.uniform(0.8, 1.25)), throat)


def say(word: str, voice: Voice, rng: np.random.Generator) -> Wave:
    """The word as samples in about [-1, 1]; `rng` draws the noise. Raises `KeyError` for a word not in `WORDS`."""
    parts = [PHONEMES[name] for name in WORDS[word]]
    lengths = [max(2, round(part.seconds * RATE / _FRAME / voice.tempo)) for part in parts]
    voiced = _smooth(np.repeat([part.voice for part in parts], lengths))
    formants = _smooth(np.repeat([part.formants for part in parts], lengths, axis=0)) * voice.throat
    wave = _harmonics(voiced, formants, voice)
    noise = np.zeros_like(wave)
    for name in dict.fromkeys(WORDS[word]):
        part = PHONEMES[name]
        if part.noise:
            own = np.repeat([part.noise * (other == name) for other in WORDS[word]], lengths)
            noise += _upsample(_smooth(own), len(wave)) * band_noise(len(wave), *part.band, rng)
    return peak_to_one(wave + noise)


def band_noise(samples: int, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """White noise between two frequencies in hertz, of root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    spectrum[(frequency < low) | (frequency > high)] = 0
    wave: Doubles = np.fft.irfft(spectrum, samples)
    return wave / max(float(np.sqrt(np.mean(wave**2))), 1e-9)


def peak_to_one(wave: Doubles) -> Wave:
    """Scaled so that the largest sample has magnitude 1; silence stays silence."""
    return np.asarray(wave / max(float(np.abs(wave).max(initial=0.0)), 1e-9), np.float32)


def _harmonics(voiced: Doubles, formants: Doubles, voice: Voice) -> Doubles:
    """The voice: a sine for each harmonic below `_TOP`, as loud as the resonances let it be; frames to samples."""
    frames = len(voiced)
    pitch = voice.pitch * np.linspace(1.0, voice.glide, frames)
    count = int(_TOP // pitch.min())
    frequency = pitch[:, None] * np.arange(1, count + 1)
    width = 60.0 + 0.05 * formants
    distance = (frequency[:, :, None] - formants[:, None, :]) / width[:, None, :]
    gain = (np.array([1.0, 0.7, 0.45]) / (1 + distance**2)).sum(-1) + 0.03
    gain *= (frequency < _TOP) * voiced[:, None]
    samples = frames * _FRAME
    phase = 2 * np.pi * np.cumsum(_upsample(pitch, samples)) / RATE
    wave = np.zeros(samples)
    for number in range(1, count + 1):
        wave += _upsample(gain[:, number - 1], samples) * np.sin(number * phase)
    return wave


def _smooth(values: Doubles, width: int = 3) -> Doubles:
    """A moving average over frames along the first axis, the ends held."""
    padded = np.pad(values.astype(float), [(width, width)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1, axis=0)
    smoothed: Doubles = windows.mean(-1)
    return smoothed


def _upsample(frames: Doubles, samples: int) -> Doubles:
    return np.interp(np.linspace(0, len(frames) - 1, samples), np.arange(len(frames)), frames)
