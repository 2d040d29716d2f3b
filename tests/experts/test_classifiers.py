"""The classifiers: input, network, labels, fit, and what the shipped ones recognise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coat_core.corpus.generated.mixing import coloured_noise, times
from coat_core.corpus.generated.sounds import SOUNDS, Source, make_sound
from coat_core.corpus.generated.speech import VOICES, Synthesiser
from coat_core.corpus.questions import seeded_generator
from coat_core.errors import ExpertError
from coat_core.experts.catalogue import load_expert
from coat_core.experts.classifiers.classifier import load_classifier, weights_path
from coat_core.experts.classifiers.context import CONTEXT_DIM, frame_context
from coat_core.experts.classifiers.network import ClassifierNetwork, read_network
from coat_core.experts.fitting.fit import average_precision, fit_classifier, fit_classifiers, scene_labels
from coat_core.experts.fitting.scenes import RECIPES, Scene, draw_scene

RATE = 16000


def _posteriors(name: str, waveform: np.ndarray) -> dict[str, np.ndarray]:
    expert = load_expert(name)
    features, mask = expert(waveform[None].astype(np.float32), np.array([len(waveform)]))
    assert mask.all()
    return dict(zip(expert.spec.dim_names, features[0].T, strict=True))


def test_a_network_worked_out_by_hand() -> None:
    one = np.array([1.0], np.float32)
    network = ClassifierNetwork(("a", "b"), one * 2, one * 4, ((one[None], -one), (np.array([[2.0, -2.0]], np.float32), np.zeros(2))))
    # 10 is 2 standardised, 1 after the bias and 2, -2 at the output; 2 is 0 and cut by the ReLU; 1000 is limited to 5.
    expected = 1 / (1 + np.exp(-np.array([[2.0, -2.0], [0.0, 0.0], [8.0, -8.0]])))
    np.testing.assert_allclose(network.posteriors(np.array([[10.0], [2.0], [1000.0]])), expected)


def test_a_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2)).astype(np.float16).astype(np.float32)
    network = ClassifierNetwork(("a", "b"), np.zeros(3, np.float32), np.ones(3, np.float32), ((weight, weight[0]),), {"seed": "1"})
    (tmp_path / "x.safetensors").write_bytes(network.to_bytes())
    found = read_network(tmp_path / "x.safetensors")
    assert (found.classes, found.facts) == (network.classes, network.facts)
    np.testing.assert_array_equal(found.layers[0][0], weight)
    (tmp_path / "x.safetensors").write_bytes(network.to_bytes()[:50])
    for path in (tmp_path / "x.safetensors", tmp_path / "absent"):
        with pytest.raises(ExpertError, match=r"cannot read a classifier.*coat classifiers"):
            load_classifier("sound", "events", path)


@pytest.mark.parametrize("samples", [1, 1280, 1281, 40000])
def test_the_context_has_a_frame_for_every_80_ms(samples: int) -> None:
    context = frame_context(np.random.default_rng(0).standard_normal(samples) * 0.1)
    assert context.shape == (-(-samples // 1280), CONTEXT_DIM)
    assert np.isfinite(context).all()


def test_the_context_sees_half_a_second_and_not_the_level() -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE)
    softer = sound.copy()
    softer[2 * RATE : 2 * RATE + 800] *= 0.2  # not louder: levels are relative to the loudest frame
    change = np.abs(frame_context(softer)[:, :200] - frame_context(sound)[:, :200]).max(axis=1)
    near = np.abs(np.arange(len(change)) * 0.08 - 2.025) < 0.55
    assert change[near].max() > 1.0
    assert change[~near].max() < 1e-6
    np.testing.assert_allclose(frame_context(4.0 * sound), frame_context(sound), atol=1e-5)


def test_labels_follow_the_time_line() -> None:
    scene = Scene(np.zeros(10 * 1280), (("a", 0.16, 0.30), ("b", 0.63, 0.70)))
    labels = scene_labels(scene, ("a", "b"))
    # Frames are centred on 0, 0.08, … s and reach 0.06 s.
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert labels[:, 1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_average_precision_is_the_mean_of_the_classes_that_occur() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    # First class: ranks 1 and 3 → (1 + 2/3) / 2; second: rank 2 → 1/2; the third never occurs.
    scores = np.array([[0.9, 0.8, 0.0], [0.8, 0.7, 0.0], [0.7, 0.1, 0.0], [0.1, 0.2, 0.0]])
    assert average_precision(scores, labels) == pytest.approx((5 / 6 + 1 / 2) / 2)


@pytest.mark.parametrize("name", RECIPES)
def test_a_scene_is_a_clip_with_its_classes_and_depends_on_its_seed_alone(name: str) -> None:
    recipe = RECIPES[name]
    with Synthesiser() as synthesiser:
        scenes = [draw_scene(recipe, index, seeded_generator("test", name, index), synthesiser) for index in (3, 11, 3)]
    np.testing.assert_array_equal(scenes[0].waveform, scenes[2].waveform)
    assert scenes[0].spans == scenes[2].spans
    assert scenes[0].spans
    assert not scenes[1].spans
    for scene in scenes:
        assert np.abs(scene.waveform).max() <= 0.951
        assert all(cls in recipe.classes and 0 <= start < stop <= scene.waveform.size / RATE for cls, start, stop in scene.spans)


def test_a_fit_gives_the_same_file_again_and_an_expert(tmp_path: Path) -> None:
    pair = [fit_classifier("sound", scenes=20, epochs=4, seed=3) for _ in range(2)]
    assert pair[0].to_bytes() == pair[1].to_bytes()
    fit_classifiers(tmp_path, scenes=20, epochs=4, seed=4, names=("sound",))
    assert (tmp_path / "sound.safetensors").read_bytes() != pair[0].to_bytes()
    expert = load_classifier("sound", "events", tmp_path / "sound.safetensors")
    features, mask = expert(np.zeros((1, 4000), np.float32), np.array([4000]))
    assert features.shape == (1, 4, len(RECIPES["sound"].classes))
    assert mask.all()
    with pytest.raises(ExpertError, match=r"'noise'.*sound, style, word"):
        fit_classifiers(tmp_path, names=("noise",))


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_networks_are_small_and_of_these_classes(name: str) -> None:
    assert weights_path(name).stat().st_size < 300_000
    spec = load_expert(f"{name}_classifier").spec
    assert spec.dim_names == RECIPES[name].classes == read_network(weights_path(name)).classes
    assert (spec.target, spec.native_rate_hz, spec.commercial_use) == ("posteriors", 12.5, True)
    assert "generated" in spec.fitted_on


def test_the_shipped_sound_classifier_names_sounds_of_new_sources() -> None:
    hits = 0
    for index, name in enumerate(SOUNDS):
        rng = seeded_generator("test of the sound classifier", index)
        sound = np.concatenate([np.zeros(4000), make_sound(name, Source.draw(rng), rng), np.zeros(4000)])
        found = _posteriors("sound_classifier", sound + 1e-3 * coloured_noise(sound.size, 0.5, rng))
        hits += max(found, key=lambda cls: float(found[cls].max())) == name
    assert hits >= 6


def test_the_shipped_word_classifier_names_digits_of_a_voice_that_it_was_not_fitted_on() -> None:
    words = ("zero", "two", "four", "five", "six", "seven", "eight", "nine")
    hits = 0
    with Synthesiser() as synthesiser:
        for word in words:
            speech = np.concatenate([np.zeros(4000), synthesiser.speak(word, VOICES["validation"][0]), np.zeros(4000)])
            found = _posteriors("word_classifier", speech)
            assert found["speech"][:3].max() < found["speech"].max()
            hits += max((cls for cls in found if cls != "speech"), key=lambda cls: float(found[cls].max())) == word
    assert hits >= 6


def test_silence_and_noise_have_no_class() -> None:
    for waveform in (np.zeros(RATE), 0.05 * coloured_noise(2 * RATE, 1.0, np.random.default_rng(0)), np.zeros(1)):
        assert _posteriors("word_classifier", waveform)["speech"].max() < 0.5


def test_the_style_classifier_separates_a_calm_voice_from_an_excited_one() -> None:
    from coat_core.corpus.generated.families.emotion import STYLES, speak_in_style
    from coat_core.corpus.generated.families.recipe import Performers

    voice = VOICES["validation"][1]
    performers = Performers("test", voice, voice, Source(1, 1, 1, 1))
    scores = {}
    with Synthesiser() as synthesiser:
        for name in ("sad", "bored", "happy", "angry"):
            rng = seeded_generator("test of the style classifier", name)
            spoken = speak_in_style(("one", "left", "stop"), STYLES[name], performers, rng, synthesiser)
            found = _posteriors("style_classifier", spoken)
            scores[name] = float(found["excited"].mean())
            assert found["high voice"].mean() > found["low voice"].mean()
    assert max(scores["sad"], scores["bored"]) < min(scores["happy"], scores["angry"])


def test_posteriors_of_a_tone_are_those_of_its_middle_everywhere() -> None:
    tone = 0.2 * np.sin(2 * np.pi * 440 * times(4.0))
    features = np.stack(list(_posteriors("sound_classifier", tone).values()), axis=1)
    np.testing.assert_allclose(features[10:40], np.broadcast_to(features[25], features[10:40].shape), atol=0.02)
