"""The experts' outputs as text, with descriptions worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.corpus.examples import Example
from coat_core.description import (
    SEPARATOR,
    ExpertOutput,
    describe,
    describe_clip,
    described_answers,
    description_target,
    split_description,
)
from coat_core.errors import ExpertError
from coat_core.experts.base import ExpertSpec, Kind, Target
from coat_core.experts.store.store import ExpertStore, Normaliser
from tests.testing.evaluations import EXPERTS, write_clips, write_stores


def output(
    kind: Kind, target: Target, names: tuple[str, ...], frames: Any, mask: Any = None, rate: float = 10.0, **fields: Any
) -> ExpertOutput:
    features = np.asarray(frames, dtype=np.float32)
    spec = ExpertSpec("invented", kind, target, len(names), 10.0, 16_000, "1", "CC0-1.0", True, "invented", names)
    valid = np.ones(len(features), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    return ExpertOutput(spec, features, valid, **fields)


def active(frames: int, *spans: tuple[int, int]) -> np.ndarray:
    """Return posteriors `[frames]` that are 0.9 within the spans (end not included) and 0.1 elsewhere."""
    values = np.full(frames, 0.1)
    for start, end in spans:
        values[start:end] = 0.9
    return values


def sounds(*columns: np.ndarray, mask: Any = None) -> str:
    names = ("bell", "horn", "drum", "flute", "rain", "wind", "dog")[: len(columns)]
    return describe({"events": output("events", "posteriors", names, np.stack(columns, axis=1), mask)})


def test_classes_are_named_in_order_of_time() -> None:
    # Ten frames a second: the horn in frames 2 to 5 lasts from 0.2 to 0.6 s.
    assert sounds(active(20, (12, 15)), active(20, (2, 6))) == "Sounds: horn 0.2 to 0.6 s, bell 1.2 to 1.5 s."
    assert sounds(active(20, (1, 3), (10, 14))) == "Sounds: bell 0.1 to 0.3 s, bell 1.0 to 1.4 s."


def test_a_short_gap_divides_no_sound_and_a_class_of_the_whole_clip_has_no_times() -> None:
    assert sounds(active(20, (3, 5), (6, 9))) == "Sounds: bell 0.3 to 0.9 s."
    assert sounds(active(20, (0, 19)), active(20, (4, 6))) == "Sounds: bell, horn 0.4 to 0.6 s."


def test_only_the_longest_sounds_are_named() -> None:
    columns = [active(40, (5 * i, 5 * i + 2 + (i != 3))) for i in range(6)]
    assert sounds(*columns) == ("Sounds: bell 0.0 to 0.3 s, horn 0.5 to 0.8 s, drum 1.0 to 1.3 s, rain 2.0 to 2.3 s, wind 2.5 to 2.8 s.")


def test_frames_outside_the_mask_say_nothing() -> None:
    assert sounds(active(20, (2, 6), (12, 15)), mask=[i < 10 for i in range(20)]) == "Sounds: bell 0.2 to 0.6 s."
    assert sounds(active(20)) == "Sounds: none."
    assert sounds(active(20, (2, 6)), mask=np.zeros(20)) == "Sounds: unknown."


def test_regressions_are_levels_by_the_training_split() -> None:
    # Means of 1, -2 and 0.2 standard deviations; the third dimension rises by 1.2 from its first to its last third.
    frames = np.stack([np.full(9, 14.0), np.full(9, -4.0), np.repeat([-0.4, 0.2, 0.8], 3) + 1.0], axis=1)
    normaliser = Normaliser(np.asarray([10, 0, 1], dtype=np.float32), np.asarray([4, 2, 1], dtype=np.float32))
    names = ("loudness (dB)", "F0 (semitones)", "rate")
    said = describe({"affect": output("affect", "regression", names, frames, normaliser=normaliser)})
    assert said == "Voice: F0 very low, loudness high, rate medium rising."


def test_neighbouring_dimensions_are_named_once() -> None:
    names = ("band 50-150 Hz (dB)", "band 150-300 Hz (dB)", "level (dB)", "tilt", "crest")
    normaliser = Normaliser(np.zeros(5, dtype=np.float32), np.ones(5, dtype=np.float32))
    frames = np.tile([3.0, 2.9, -1.0, 0.8, 0.7], (4, 1))
    said = describe({"events": output("events", "regression", names, frames, normaliser=normaliser)})
    assert said == "Sounds: band 50-150 Hz very high, level low, tilt high."


def pitch(positions: list[float], voicing: list[float]) -> str:
    """Describe one-hot bins A1, A#1, … A6 at those positions."""
    notes = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")
    names = (*(f"{notes[i % 12]}{1 + (i + 9) // 12}" for i in range(61)), "voicing")
    frames = np.zeros((len(positions), 62))
    frames[range(len(positions)), np.asarray(positions, dtype=int)] = 1.0
    frames[:, -1] = voicing
    return describe({"pitch": output("pitch", "pitch_bins", names, frames)})


def test_pitch_is_a_frequency_a_direction_and_the_voiced_share() -> None:
    # A1 is 55 Hz and every 12 bins an octave: A3, 24 bins higher, is 220 Hz.
    assert pitch([24] * 8, [1.0] * 6 + [0.0] * 2) == "Pitch: 220 Hz, flat, range 0 semitones, 75 % voiced."
    assert pitch([22, 22, 22, 24, 24, 24, 26, 26, 26], [0.9] * 9) == "Pitch: 220 Hz, rising, range 4 semitones, 100 % voiced."
    assert pitch([15] * 3 + [3] * 3, [0.9] * 6).startswith("Pitch: 92 Hz, falling, range 12 semitones")
    assert pitch([24] * 4, [0.2] * 4) == "Pitch: 0 % voiced."


def test_kinds_have_one_order_and_representations_are_left_out() -> None:
    names = ("a", "b")
    outputs = {
        "z": output("pitch", "pitch_bins", ("A1", "A#1", "voicing"), [[1, 0, 1]]),
        "a": output("reconstruction", "representation", names, [[1, 2]]),
        "words": output("speech", "posteriors", names, np.tile([0.9, 0.1], (5, 1))),
        "b": output("events", "posteriors", names, np.tile([0.9, 0.1], (5, 1))),
        "c": output("events", "posteriors", names, np.tile([0.1, 0.9], (5, 1))),
    }
    assert describe(outputs) == "Sounds: a, b. Speech: a. Pitch: 55 Hz, flat, range 0 semitones, 100 % voiced."
    assert describe({"a": outputs["a"]}) == ""


def test_embedded_experts_give_a_short_line(tmp_path: Path) -> None:
    examples = write_clips(tmp_path)
    write_stores(tmp_path / "features", tmp_path, examples)
    stores = {key: ExpertStore.open(tmp_path / "features" / key) for key in EXPERTS}
    for example in examples:
        text = describe_clip(stores, example.sha256)
        assert "\n" not in text
        assert 15 <= len(text.split()) <= 50
    # The first test clip is a tone of 210 Hz.
    tone = next(example for example in examples if example.split == "test")
    assert "Pitch: 210 Hz, flat" in describe_clip(stores, tone.sha256)
    unlabelled = examples[0].model_copy(update={"answer": None})
    targets = described_answers(stores, [unlabelled, examples[1]])
    assert targets == {examples[1].id: f"{describe_clip(stores, examples[1].sha256)}{SEPARATOR}{examples[1].answer}"}
    with pytest.raises(ExpertError, match="no features"):
        described_answers(stores, [Example(**{**examples[1].model_dump(), "sha256": "0" * 64})])


@pytest.mark.parametrize("answer", ["a bell", "two\nAnswer: three", "Answer: x", "an answer: 4", ""])
@pytest.mark.parametrize("description", ["Sounds: bell.", ""])
def test_a_target_is_split_into_its_parts(description: str, answer: str) -> None:
    target = description_target(description, answer)
    assert split_description(target) == (description or None, answer)
    # A generated text has no white space at its ends.
    assert split_description(target.strip()) == (description or None, answer)


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        pytest.param("Sounds: bell. Pitch: 2", ("Sounds: bell. Pitch: 2", ""), id="cut-off"),
        pytest.param("Sounds: bell. Answer: horn", ("Sounds: bell. Answer: horn", ""), id="not-on-its-own-line"),
        pytest.param("a horn", ("a horn", ""), id="an-answer-alone"),
        pytest.param("", (None, ""), id="empty"),
        pytest.param("Sounds: bell.\n  Answer:horn ", ("Sounds: bell.", "horn"), id="other-spaces"),
    ],
)
def test_a_response_without_separator_has_no_answer(response: str, parts: tuple[str | None, str]) -> None:
    assert split_description(response) == parts
