"""Synthetic sounds of the environment and of orchestral winds, as signal models; no recording is used.

The models follow textbook descriptions (Farnell, Designing Sound, 2010; Fletcher and Rossing, The Physics of Musical Instruments, 1998):
drops and crackles are random pulses, animals and infants gliding harmonics under formants, machines modulated noise, winds harmonics
under a spectral envelope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.generated.mixing import Waveform, normalise, sequence, times
from coat_core.corpus.generated.sounds import band_pass, envelope, harmonics


def _formants(frequency_hz: Waveform, formants: Sequence[tuple[float, float]], tilt: float, count: int = 40) -> Waveform:
    """Return harmonics `[N]` under formants (centre in Hz, width in octaves), the k-th lowered by k^-tilt."""
    order = np.arange(1, count + 1)[:, None]
    heights = sum(np.exp(-0.5 * (np.log2(order * frequency_hz.mean() / centre) / width) ** 2) for centre, width in formants)
    return harmonics(frequency_hz, (heights + 0.02) * order**-tilt)


def _pulses(size: int, rate_hz: float, decay_s: tuple[float, float], band_hz: tuple[float, float], rng: Generator) -> Waveform:
    """Return random decaying noise pulses `[size]`, on average `rate_hz` a second."""
    out = np.zeros(size)
    for at in rng.integers(0, size, size=max(1, rng.poisson(rate_hz * size / SAMPLE_RATE_HZ))):
        t = np.arange(min(size - int(at), round(0.06 * SAMPLE_RATE_HZ))) / SAMPLE_RATE_HZ
        out[at : at + t.size] += rng.exponential(1.0) * np.exp(-t / rng.uniform(*decay_s)) * rng.standard_normal(t.size)
    return band_pass(out, *band_hz)


def _glide(points_hz: Sequence[float], t: Waveform) -> Waveform:
    """Return a frequency `[N]` that passes through the points at equal distances in time."""
    return np.asarray(np.exp(np.interp(np.linspace(0, len(points_hz) - 1, t.size), np.arange(len(points_hz)), np.log(points_hz))))


def _noise(t: Waveform, low_hz: float, high_hz: float, rng: Generator) -> Waveform:
    noise = band_pass(rng.standard_normal(t.size), low_hz, high_hz)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def _rain(rng: Generator) -> Waveform:
    t = times(rng.uniform(1.0, 3.0))
    drops = _pulses(t.size, rng.uniform(20, 150), (0.002, 0.008), (1000.0, 7500.0), rng)
    return np.asarray(_noise(t, rng.uniform(300, 1500), 7800.0, rng) + rng.uniform(0.2, 1.5) * drops / np.sqrt(np.mean(drops**2)))


def _sea_waves(rng: Generator) -> Waveform:
    t = times(rng.uniform(1.5, 3.5))
    swell = 0.15 + (0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.1, 0.5) * t + rng.uniform(0, 6.3))) ** 2
    return _noise(t, 80.0, rng.uniform(1500, 5000), rng) * swell + 0.3 * _noise(t, 60.0, 400.0, rng)


def _fire_crackling(rng: Generator) -> Waveform:
    t = times(rng.uniform(1.0, 3.0))
    crackle = _pulses(t.size, rng.uniform(6, 30), (0.0005, 0.006), (500.0, 7500.0), rng)
    return np.asarray(crackle / np.abs(crackle).max() + rng.uniform(0.005, 0.05) * _noise(t, 50.0, rng.uniform(300, 3000), rng))


def _clock_tick(rng: Generator) -> Waveform:
    t = times(rng.uniform(1.5, 3.0))
    out, gap, tones = np.zeros(t.size), rng.uniform(0.25, 1.0), rng.uniform(900, 5000, size=(2, 2))
    for index, start in enumerate(np.arange(rng.uniform(0, 0.3), t[-1] - 0.05, gap)):
        tick = times(0.05)
        ring = sum(np.sin(2 * np.pi * tone * tick) for tone in tones[index % 2]) + rng.standard_normal(tick.size)
        at = round(start * SAMPLE_RATE_HZ)
        out[at : at + tick.size] += (ring * np.exp(-tick / rng.uniform(0.004, 0.015)))[: t.size - at]
    return out


def _dog_bark(rng: Generator) -> Waveform:
    base, formant, barks = rng.uniform(180, 600), rng.uniform(700, 1600), []
    for _ in range(int(rng.integers(1, 5))):
        t = times(rng.uniform(0.1, 0.3))
        bark = _formants(_glide((base, base * rng.uniform(1.4, 2.0), base * 0.9), t), ((formant, 0.6), (2.2 * formant, 0.5)), 0.3)
        barks.append((normalise(bark) + 0.06 * _noise(t, 400.0, 4000.0, rng)) * envelope(t, 0.015, 0.08))
    return sequence(barks, list(rng.uniform(0.08, 0.6, size=len(barks) - 1)))


def _baby_cry(rng: Generator) -> Waveform:
    base, cries = rng.uniform(350, 550), []
    for _ in range(int(rng.integers(1, 4))):
        t = times(rng.uniform(0.5, 1.2))
        tremble = 1.0 + 0.02 * np.sin(2 * np.pi * rng.uniform(5, 9) * t)
        f0 = _glide((base * 0.85, base * rng.uniform(1.05, 1.3), base, base * 0.75), t) * tremble
        cry = _formants(f0, ((rng.uniform(1000, 1500), 0.5), (rng.uniform(2800, 3800), 0.35)), 0.2)
        cries.append(np.tanh(rng.uniform(0.5, 3.0) * cry / np.abs(cry).max()) * envelope(t, 0.06, 0.15))
    return sequence(cries, list(rng.uniform(0.15, 0.4, size=len(cries) - 1)))


def _rooster(rng: Generator) -> Waveform:
    base, formant = rng.uniform(450, 800), (rng.uniform(1200, 2600), 0.5)
    shapes = ((0.15, (0.8, 1.0)), (0.15, (1.0, 1.1, 0.9)), (0.25, (1.0, 1.25, 1.2)), (rng.uniform(0.6, 1.1), (1.1, 1.3, 1.15, 0.7)))
    calls = []
    for length, points in shapes:
        t = times(length * rng.uniform(0.8, 1.2))
        calls.append(_formants(_glide([base * point for point in points], t), (formant, (4000.0, 0.5)), 0.1) * envelope(t, 0.02, 0.05))
    return sequence(calls, list(rng.uniform(0.02, 0.1, size=3)))


def _person_sneeze(rng: Generator) -> Waveform:
    breath, burst, rest = times(rng.uniform(0.15, 0.5)), times(rng.uniform(0.1, 0.25)), times(rng.uniform(0.1, 0.35))
    vowel = _formants(np.full(rest.size, rng.uniform(120, 350)), ((600.0, 0.5), (1200.0, 0.4)), 0.5)
    parts = (
        0.12 * _noise(breath, 500.0, 4000.0, rng) * np.linspace(0.1, 1.0, breath.size),
        _noise(burst, rng.uniform(800, 2000), 7500.0, rng) * envelope(burst, 0.005, 0.06),
        (0.3 * _noise(rest, 600.0, 6000.0, rng) + rng.uniform(0, 0.6) * normalise(vowel, -10.0)) * np.exp(-rest / 0.12),
    )
    return sequence(parts, [rng.uniform(0.0, 0.1), 0.0])


def _helicopter(rng: Generator) -> Waveform:
    t = times(rng.uniform(1.5, 3.0))
    blades = (0.5 + 0.5 * np.cos(2 * np.pi * rng.uniform(8, 25) * t)) ** rng.uniform(1, 6)
    engine = harmonics(np.full(t.size, rng.uniform(60, 160)), np.arange(1, 15) ** -0.8)
    return _noise(t, 40.0, rng.uniform(400, 2500), rng) * (0.15 + blades) + rng.uniform(0, 0.15) * engine


def _chainsaw(rng: Generator) -> Waveform:
    t = times(rng.uniform(1.0, 3.0))
    wander = band_pass(rng.standard_normal(t.size), 0.5, 8.0)
    speed = rng.uniform(70, 220) * (1.0 + 0.1 * wander / np.abs(wander).max())
    rough = 1.0 + 0.4 * np.sin(np.cumsum(speed) * np.pi / SAMPLE_RATE_HZ)
    motor = harmonics(speed, np.arange(1, 60) ** -rng.uniform(0.2, 0.7)) * rough
    return normalise(np.tanh(1.5 * motor)) + rng.uniform(0.02, 0.1) * _noise(t, 800.0, 7500.0, rng)


def _wind(even: float, formant_hz: float, width: float, attack_s: float, breath: float) -> Callable[[Waveform, float, Generator], Waveform]:
    """Return the model of a wind: weight of even harmonics, spectral envelope, attack, breath noise."""

    def play(t: Waveform, frequency: float, rng: Generator) -> Waveform:
        order = np.arange(1, 31)
        shape = np.log2(order * frequency / (formant_hz * rng.uniform(0.85, 1.15))) / (width * rng.uniform(0.8, 1.2))
        amplitudes = np.exp(-0.5 * np.maximum(shape, 0.25 * shape) ** 2) * np.where(order % 2 == 0, even, 1.0)
        onset = np.clip(t[None, :] / (attack_s * rng.uniform(0.6, 1.6) * (0.5 + 0.1 * order[:, None])), 0.0, 1.0)
        vibrato = 1.0 + rng.choice([0.0, 0.004, 0.01]) * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * t)
        air = breath * rng.uniform(0.3, 2.0) * _noise(t, frequency, 7000.0, rng)
        return (normalise(harmonics(frequency * vibrato, amplitudes[:, None] * onset), -10.0) + air) * envelope(t, 0.01, 0.06)

    return play


ENVIRONMENT: dict[str, Callable[[Generator], Waveform]] = {
    "rain": _rain, "sea waves": _sea_waves, "fire crackling": _fire_crackling, "clock tick": _clock_tick, "dog bark": _dog_bark,
    "baby cry": _baby_cry, "rooster": _rooster, "person sneeze": _person_sneeze, "helicopter": _helicopter, "chainsaw": _chainsaw,
}  # fmt: skip
"""Sounds of the environment: name → model, which returns `[N]` at any level."""

WINDS: dict[str, tuple[Callable[[Waveform, float, Generator], Waveform], tuple[int, int]]] = {
    "clarinet": (_wind(0.15, 1500.0, 0.9, 0.03, 0.01), (50, 89)),
    "oboe": (_wind(1.2, 1400.0, 0.8, 0.02, 0.01), (58, 88)),
    "bassoon": (_wind(1.0, 480.0, 0.9, 0.03, 0.015), (34, 68)),
    "saxophone": (_wind(0.9, 900.0, 1.2, 0.03, 0.03), (44, 80)),
    "trombone": (_wind(1.0, 600.0, 1.0, 0.04, 0.01), (40, 70)),
    "french horn": (_wind(1.0, 400.0, 0.75, 0.05, 0.01), (40, 77)),
}
"""Winds: name → model (sample times, frequency in Hz) and the range of MIDI notes."""
