"""Waveforms agree with the answers, measured independently of the code that renders them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from coat_core.corpus.generated.corpus import render_clip
from coat_core.corpus.generated.families.catalogue import FAMILY_RECIPES
from coat_core.corpus.generated.plan import ClipPlan, find_recipe, plan_clips
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import seeded_generator
from coat_core.settings import CorpusSettings

RATE = 16000


@pytest.fixture(scope="module")
def synthesiser() -> Iterator[Synthesiser]:
    with Synthesiser() as synthesiser:
        yield synthesiser


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    return list(plan_clips(CorpusSettings(clips_per_family={"train": 1, "validation": 1, "test": 48}), "truth"))


def of(plans: list[ClipPlan], family: str, recipe: str) -> list[ClipPlan]:
    return [plan for plan in plans if (plan.family, plan.recipe, plan.split) == (family, recipe, "test")]


def content(plan: ClipPlan, synthesiser: Synthesiser) -> np.ndarray:
    """Return the clip's content before silence, background and level."""
    return find_recipe(plan.family, plan.recipe).render(plan.facts, plan.performers, seeded_generator(plan.seed), synthesiser)


def parts(waveform: np.ndarray, gap_s: float) -> list[np.ndarray]:
    """Split at silences of at least `gap_s`."""
    loud = np.flatnonzero(np.abs(waveform) > 1e-4)
    cuts = np.flatnonzero(np.diff(loud) > gap_s * RATE)
    return [waveform[group[0] : group[-1] + 1] for group in np.split(loud, cuts + 1)]


def pitch_hz(waveform: np.ndarray, low: float = 60.0, high: float = 1500.0) -> float:
    """Return the fundamental of the loudest 50 ms, by autocorrelation."""
    size = min(800, waveform.size)
    energy = np.convolve(waveform**2, np.ones(size), "valid")
    start = int(np.argmax(energy))
    frame = waveform[start : start + size] * np.hanning(size)
    lags = np.fft.irfft(np.abs(np.fft.rfft(frame, 4 * size)) ** 2)[: 2 * size]
    lags /= np.maximum(np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 4 * size)) ** 2)[: 2 * size], 1e-3)
    first, last = int(RATE / high), min(int(RATE / low), int(0.7 * size))
    peak = lags[first:last].max()
    # Multiples of the period have peaks of similar height; the shortest lag among them is the period.
    inner = lags[first:last]
    peaks = [i for i in range(1, inner.size - 1) if inner[i] >= inner[i - 1] and inner[i] >= inner[i + 1] and inner[i] > 0.85 * peak]
    return RATE / (first + (peaks[0] if peaks else int(np.argmax(inner))))


def onsets(waveform: np.ndarray) -> int:
    """Count the segments of a clip whose level is 6 dB above its background."""
    frame = 320
    level = 10 * np.log10(np.mean(waveform[: waveform.size // frame * frame].reshape(-1, frame) ** 2, axis=1) + 1e-12)
    loud = np.flatnonzero(level > np.percentile(level, 8) + 6.0)
    return 1 + int(np.sum(np.diff(loud) > 4))


def test_the_number_of_sounds_equals_the_answer(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    for plan in of(plans, "understanding", "repeated"):
        assert len(parts(content(plan, synthesiser), 0.12)) == plan.facts["times"]
    numbers = {"three": 3, "four": 4, "five": 5, "six": 6}
    for plan in of(plans, "reasoning", "mixture"):
        assert len(parts(content(plan, synthesiser), 0.12)) == numbers[plan.facts["total"]]
        assert plan.facts["sounds"][0] == plan.facts["first"]
        counts = [plan.facts["sounds"].count(plan.facts[which]) for which in ("more", "less")]
        assert counts[0] > counts[1]
        assert sum(counts) == numbers[plan.facts["total"]]


def test_repeated_sounds_can_be_counted_above_the_background(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    chosen = [plan for plan in of(plans, "understanding", "repeated") if plan.facts["sound"] not in ("bell", "rumble")]
    right = [onsets(render_clip(plan, synthesiser)) == plan.facts["times"] for plan in chosen]
    assert sum(right) / len(right) > 0.9, right


def test_the_number_of_words_equals_the_transcript(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    for plan in of(plans, "transcription", "words"):
        words = plan.facts["words"]
        spoken = content(plan, synthesiser)
        each = [synthesiser.speak(word, plan.performers.voice) for word in words]
        assert spoken.size >= 0.8 * sum(word.size for word in each)
        silent = np.concatenate([[0], (np.abs(spoken) < 1e-9).astype(int), [0]])
        edges = np.flatnonzero(np.diff(silent))
        assert int(np.sum(edges[1::2] - edges[::2] >= 0.08 * RATE)) == len(words) - 1


def test_pitch_duration_and_level_of_tones_agree_with_the_answers(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    for plan in of(plans, "reasoning", "tones"):
        tones = parts(content(plan, synthesiser), 0.15)
        assert len(tones) == 2
        measured = {
            "higher": [pitch_hz(tone) for tone in tones],
            "longer": [tone.size for tone in tones],
            "louder": [float(np.sqrt(np.mean(tone**2))) for tone in tones],
        }
        for name, (first, second) in measured.items():
            assert plan.facts[name] == ("first" if first > second else "second")
            assert max(first, second) > 1.3 * min(first, second)


def test_register_and_interval_of_notes_agree_with_the_answers(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    bounds = {"low": (80, 140), "middle": (240, 390), "high": (680, 1150)}
    for plan in of(plans, "music", "tune"):
        notes = np.array_split(content(plan, synthesiser), len(plan.facts["notes"]))
        low, high = bounds[plan.facts["register"]]
        assert low < np.median([pitch_hz(note) for note in notes]) < high, plan.facts
    for plan in of(plans, "music", "interval"):
        first, second = (pitch_hz(note) for note in np.array_split(content(plan, synthesiser), 2))
        semitones = 12 * np.log2(second / first)
        assert plan.facts["direction"] == ("up" if semitones > 0 else "down"), plan.facts
        assert plan.facts["size"] == ("large" if abs(semitones) > 6 else "small"), plan.facts


def test_tempi_do_not_overlap(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    spacing = {"slow": [], "medium": [], "fast": []}
    for plan in of(plans, "music", "tune"):
        spacing[plan.facts["tempo"]].append(content(plan, synthesiser).size / RATE / len(plan.facts["notes"]))
    assert max(spacing["fast"]) * 1.5 < min(spacing["medium"])
    assert max(spacing["medium"]) * 1.5 < min(spacing["slow"])


def test_two_speakers_differ_in_pitch(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    for plan in of(plans, "reasoning", "speakers"):
        pitches = [pitch_hz(part, 60.0, 400.0) for part in np.array_split(content(plan, synthesiser), 2)]
        apart = max(pitches) / min(pitches)
        assert plan.facts["same_speaker"] == ("no" if apart > 1.4 else "yes"), (plan.facts, plan.performers, pitches)


def test_styles_differ_in_level_rate_and_brightness(plans: list[ClipPlan], synthesiser: Synthesiser) -> None:
    levels: dict[str, list[float]] = {}
    lengths: dict[str, list[float]] = {}
    for plan in of(plans, "emotion", "single"):
        waveform = content(plan, synthesiser)
        levels.setdefault(plan.facts["style"], []).append(float(np.sqrt(np.mean(waveform[np.abs(waveform) > 1e-3] ** 2))))
        lengths.setdefault(plan.facts["style"], []).append(waveform.size / RATE)
    assert np.mean(levels["angry"]) > 2 * np.mean(levels["calm"]) > 3 * np.mean(levels["sad"])
    assert np.mean(lengths["bored"]) > 1.3 * np.mean(lengths["calm"]) > 1.5 * np.mean(lengths["fearful"])


def test_every_recipe_renders_within_the_limit() -> None:
    longest: dict[str, float] = defaultdict(float)
    with Synthesiser() as synthesiser:
        for plan in plan_clips(CorpusSettings(clips_per_family={"train": 12, "validation": 1, "test": 1}), "limits"):
            waveform = render_clip(plan, synthesiser)
            longest[f"{plan.family} {plan.recipe}"] = max(longest[f"{plan.family} {plan.recipe}"], waveform.size / 16000)
            assert abs(waveform).max() <= 0.951
    assert len(longest) == sum(len(recipes) for recipes in FAMILY_RECIPES.values())
    assert max(longest.values()) <= 6.5, longest
