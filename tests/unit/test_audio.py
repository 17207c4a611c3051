"""Synthesised words and sounds, recordings brought to one shape, and log-mel pictures."""

from __future__ import annotations

import numpy as np
import pytest

from studio.audio.features import BINS, FRAMES, NAMES, SAMPLES, clip, log_mel, recorded
from studio.audio.sounds import SOUNDS
from studio.audio.speech import PHONEMES, RATE, WORDS, Voice, say
from studio.core.errors import LoomError


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def loudest(wave: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """The frequency of the largest line of the spectrum, in hertz."""
    return float(np.fft.rfftfreq(len(wave), 1 / RATE)[np.abs(np.fft.rfft(wave)).argmax()])


@pytest.mark.parametrize("name", NAMES)
def test_every_clip_is_sound_and_repeats_with_its_seed(name: str) -> None:
    wave = clip(name, 3)
    assert wave.shape == (SAMPLES,)
    assert wave.dtype == np.float32
    assert np.isfinite(wave).all()
    assert 0.2 < np.abs(wave).max() < 1.2
    np.testing.assert_array_equal(wave, clip(name, 3))
    assert not np.array_equal(wave, clip(name, 4))


def test_every_word_is_made_of_known_phonemes_and_fits_a_clip() -> None:
    assert {part for parts in WORDS.values() for part in parts} <= set(PHONEMES)
    slow = Voice(tempo=0.8)
    assert max(len(say(word, slow, np.random.default_rng(0))) for word in WORDS) <= SAMPLES
    assert set(NAMES) == {*WORDS, *SOUNDS}


def test_a_voice_speaks_at_its_pitch() -> None:
    for pitch in (100.0, 200.0):
        wave = say("one", Voice(pitch, glide=1.0), np.random.default_rng(0)).astype(float)
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
        on, off = (spectrum[np.abs(frequency - h * pitch).argmin()] for h in (2, 2.5))
        assert on > 10 * off


def test_vowels_have_their_formants() -> None:
    """The second formant of "three" lies far above that of "two"."""

    def share_above(word: str) -> float:
        power = np.abs(np.fft.rfft(say(word, Voice(), np.random.default_rng(0)))) ** 2
        frequency = np.fft.rfftfreq(2 * (len(power) - 1), 1 / RATE)
        middle = (frequency > 700) & (frequency < 2800)
        return float(power[middle & (frequency > 1700)].sum() / power[middle].sum())

    assert share_above("three") > 2 * share_above("two")


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_a_recording_keeps_its_pitch_whatever_its_rate(rate: int) -> None:
    wave = (tone(440, 1.28, rate) * 20000).astype(np.int16)
    found = recorded(rate, np.stack([wave, wave], 1))
    assert found.shape == (SAMPLES,)
    assert loudest(found) == pytest.approx(440, abs=2)
    assert np.abs(found).max() == pytest.approx(1.0, abs=0.05)


def test_the_loudest_part_of_a_long_recording_is_taken() -> None:
    quiet = 0.01 * tone(300, 3, RATE)
    found = recorded(RATE, np.concatenate([quiet, tone(1000, 1.28, RATE), quiet]))
    assert loudest(found) == pytest.approx(1000, abs=2)
    short = recorded(RATE, tone(500, 0.2, RATE))
    assert np.abs(short[RATE // 4 :]).max() == 0


@pytest.mark.parametrize(
    ("rate", "samples"),
    [
        (8000, np.zeros(0)),
        (8000, np.zeros(4000)),
        (8000, np.full(4000, np.nan)),
        (8000, np.ones((2, 2, 2))),
        (10, np.ones(100)),
        (1000, np.ones(61_000)),
    ],
)
def test_what_is_no_recording_is_refused(rate: int, samples: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    with pytest.raises(LoomError):
        recorded(rate, samples)
    with pytest.raises(LoomError, match="no sound 'thunder'"):
        clip("thunder", 0)


def test_a_tone_lights_its_own_bin() -> None:
    mel = log_mel(np.stack([tone(hertz, 1.28, RATE) for hertz in (300, 1000, 3000)]).astype(np.float32))
    assert mel.shape == (3, BINS, FRAMES)
    rows = mel.mean(-1).argmax(-1)
    assert rows[0] < rows[1] < rows[2]
    assert log_mel(np.zeros((1, SAMPLES), np.float32)).std() == pytest.approx(0, abs=1e-6)
