from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coat_core.experts.base import ExpertSpec
from coat_core.report.figures import choose_dims, draw_read_out, pitch_line, pitch_note, verdict_of
from coat_core.report.read_out import ReadOut, Track, first_of_each_family
from coat_core.report.style import drawable
from tests.testing.evaluations import make_example


def spec(kind: str, target: str, names: tuple[str, ...], rate_hz: float = 50.0) -> ExpertSpec:
    return ExpertSpec("made_up", kind, target, len(names), rate_hz, 16000, "1", "CC0-1.0", True, "tests", names)


def track(measured: np.ndarray, predicted: np.ndarray, names: tuple[str, ...], kind: str = "affect", target: str = "regression") -> Track:
    return Track(spec(kind, target, names), predicted.astype(np.float32), 0.04, measured.astype(np.float32))


def one_hot(bins: list[int | None], count: int = 5) -> np.ndarray:
    """Frames of a pitch in these bins; None is unvoiced."""
    frames = np.zeros((len(bins), count + 1))
    for row, place in enumerate(bins):
        if place is not None:
            frames[row, place] = frames[row, -1] = 1.0
    return frames


def test_measured_frames_are_pooled_over_the_predicted_frames_without_invalid_ones() -> None:
    measured = np.asarray([[1.0], [3.0], [5.0], [np.nan], [np.nan], [np.nan], [7.0]])
    pooled = track(measured, np.zeros((3, 1)), ("a",)).pooled
    assert pooled[:2, 0].tolist() == [2.0, 5.0]
    assert pooled[2, 0] == 7.0
    assert np.isnan(track(measured[:6], np.zeros((3, 1)), ("a",)).pooled[2, 0])


def test_the_correlation_is_over_time() -> None:
    rise = np.repeat(np.arange(10.0), 2)[:, None]
    assert track(rise, np.arange(10.0)[:, None] * 3 + 1, ("a",)).correlation(0) == pytest.approx(1.0)
    assert track(rise, -np.arange(10.0)[:, None], ("a",)).correlation(0) == pytest.approx(-1.0)
    assert track(rise, np.zeros((10, 1)), ("a",)).correlation(0) is None


def test_the_pitch_line_follows_the_bins_and_breaks_where_unvoiced() -> None:
    line = pitch_line(one_hot([2, 3, None]).astype(np.float32))
    assert line[:2].tolist() == [2.0, 3.0]
    assert np.isnan(line[2])
    between = np.asarray([[0, 0.5, 0.5, 0, 0, 1.0]], dtype=np.float32)
    assert pitch_line(between).tolist() == [1.5]


NAMES = ("A1", "A#1", "B1", "C2", "C#2", "voicing")


@pytest.mark.parametrize(
    ("predicted", "note"),
    [
        ([1, 1, 3, None], "both voiced on 75% of voiced frames, 67% of those within a semitone"),
        ([None] * 4, "no pitch in the read-out"),
    ],
)
def test_the_pitch_note_counts_frames(predicted: list[int | None], note: str) -> None:
    measured = one_hot([b for b in [1, 1, 1, 1] for _ in range(2)])
    assert pitch_note(track(measured, one_hot(predicted), NAMES, "pitch", "pitch_bins")) == note


def test_the_pitch_note_of_a_clip_without_pitch() -> None:
    assert pitch_note(track(one_hot([None] * 4), one_hot([1, 1]), NAMES, "pitch", "pitch_bins")) == "no voiced frames"


def test_dims_are_chosen_by_name_or_else_by_their_variation() -> None:
    varying = np.asarray([[0.0, 0.0, 0.0, 0, 0], [1.0, 5.0, 0.1, 2, 0]])
    some = track(varying, np.zeros((1, 5)), ("still", "wild", "calm", "fair", "none"))
    assert choose_dims(some, ("calm", "absent", "still")) == [2, 0]
    assert choose_dims(some, ("absent",)) == [0, 1, 2, 3]


def test_text_is_made_drawable() -> None:
    assert drawable("a\x11b\n $5 龍") == r"a□b \$5 □"


def test_the_first_example_of_each_family_is_chosen() -> None:
    examples = [make_example(0, "music", "train"), make_example(1), make_example(2), make_example(3, "emotion")]
    assert [example.id for example in first_of_each_family(examples, "test")] == ["test-music-1", "test-emotion-3"]


@pytest.mark.parametrize(
    ("answer", "score", "verdict"),
    [("a horn", 1.0, "right"), ("a horn", 0.0, "wrong"), ("a horn", 0.4, "score 0.40"), ("a horn", None, "unscored"), ("", None, "")],
)
def test_the_verdict_needs_an_answer(answer: str, score: float | None, verdict: str) -> None:
    example = make_example(0, answer=answer)
    assert verdict_of(ReadOut(example, np.zeros(10, np.float32), "qwen2_audio", "coat-0", "a horn", score, {}))[0] == verdict


@pytest.mark.parametrize("score", [0.4, None])
def test_a_figure_is_drawn_with_and_without_tracks(score: float | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    waveform = rng.normal(0, 0.1, 16_000).astype(np.float32)
    mel = spec("reconstruction", "representation", tuple(f"mel {i} ({100 * 2**i:.0f} Hz)" for i in range(6)))
    tracks = {
        "reconstruction": Track(mel, rng.random((25, 6)).astype(np.float32), 0.04, rng.random((50, 6)).astype(np.float32)),
        "pitch": track(one_hot([1, 2] * 25), one_hot([1] * 25), NAMES, "pitch", "pitch_bins"),
        "affect": track(rng.random((50, 2)), rng.random((25, 2)), ("loudness re clip (dB)", "other")),
    }  # fmt: skip
    example = make_example(0, question="How many $ are there? " * 12)
    read_out = ReadOut(example, waveform, "qwen2_audio", "coat-0", "五 " * 90, score, tracks if score is not None else {})
    images = []
    for name in ("a.png", "b.png"):
        draw_read_out(read_out, tmp_path / name)
        images.append((tmp_path / name).read_bytes())
    assert images[0] == images[1]
    assert 10_000 < len(images[0]) <= 300_000
