from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import Example
from coat_core.errors import ReleaseError
from coat_core.evaluation.answer_losses import answer_losses
from coat_core.probing.choice_likelihood import choice_losses
from coat_core.probing.probe import probe_release
from coat_core.settings import HeadSettings, LossSettings, ProbeSettings
from coat_core.storage import sha256_file
from tests.testing.evaluations import EXPERTS, KEY, make_example, write_random_release, write_stores

PROBES = ProbeSettings(items=8, train_items=24, steps=2, seed=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> Path:
    """Tones with two possible answers, stores of four experts, and releases with random weights of the arms sft, block and coat."""
    folder = tmp_path_factory.mktemp("probing")
    examples: list[Example] = []
    for split, count in (("train", 24), ("validation", 8)):
        for number in range(count):
            name = f"audio/{split}{number}.flac"
            hz, samples = 200 + 300 * (number % 2) + 10 * number, 6_400 + 320 * number
            time = np.arange(samples) / 16_000
            write_flac(folder / "corpus" / name, (0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32))
            fields: dict[str, Any] = {"audio": name, "sha256": sha256_file(folder / "corpus" / name), "duration_s": samples / 16_000}
            answer = "a horn" if number % 2 else "a drum"
            examples.append(make_example(number, "music", split, answer=answer, **fields))
    write_stores(folder / "features", folder / "corpus", examples)
    for arm in ("sft", "block", "coat"):
        write_random_release(folder / "models" / arm, tiny_bases[KEY], KEY, arm, folder / "features")
    (folder / "examples.json").write_text(json.dumps([example.to_row() for example in examples]))
    return folder


def _examples(world: Path) -> list[Example]:
    from coat_core.corpus.examples import example_from_row

    return [example_from_row(row) for row in json.loads((world / "examples.json").read_text())]


def _probe(world: Path, release: str, baseline: str | None, target: Path) -> dict[str, Any]:
    return probe_release(
        world / "models" / release, None if baseline is None else world / "models" / baseline, _examples(world), world / "corpus",
        {key: world / "features" / key for key in EXPERTS}, target,
        probes=PROBES, heads=HeadSettings(width=16, attention_heads=2), losses=LossSettings(),
    )  # fmt: skip


def test_a_probe_covers_both_releases_and_is_equal_from_run_to_run(world: Path, tmp_path: Path) -> None:
    result = _probe(world, "coat", "sft", tmp_path / "first.json")
    _probe(world, "coat", "sft", tmp_path / "second.json")
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    assert json.loads((tmp_path / "first.json").read_text()) == result
    assert (result["trial"], result["baseline"], result["items"], result["train_items"]) == ("coat-0", "sft-0", 8, 24)
    assert set(result["knock_out"]) == {"none", "block", "audio", "both"}
    assert result["verdict"]["knock_out_cost"] == result["knock_out"]["block"]["cost"]["value"] != 0.0
    assert result["knock_out"]["block"]["loss"]["value"] == pytest.approx(
        result["knock_out"]["none"]["loss"]["value"] + result["knock_out"]["block"]["cost"]["value"], abs=2e-6
    )
    assert set(result["skill"]) == set(EXPERTS)
    assert all(entry["skills"]["head"] is not None for entry in result["skill"].values())
    linear = result["linear"]
    assert {label["name"] for label in linear["labels"]} >= {"reconstruction", "pitch", "music task"}
    assert (set(linear["trial"]), set(linear["baseline"])) == ({"audio", "think", "answer"}, {"audio", "answer"})
    assert all(len(found["pitch"]["score"]) == linear["layers"] for found in linear["trial"].values())
    # Even random weights pass the pitch of a tone on to the audio positions: a linear map finds which of two answers it is.
    scores = linear["trial"]["audio"]["music task"]
    assert max(scores["score"]) == 1.0
    assert max(scores["control"]) < 0.9
    assert result["choices"]["trial"]["families"]["music"]["chance"] == 0.25


def test_a_release_without_heads_is_compared_with_nothing(world: Path, tmp_path: Path) -> None:
    result = _probe(world, "block", None, tmp_path / "probe.json")
    assert (result["baseline"], result["linear"]["baseline"], result["choices"]["baseline"]) == (None, {}, {})
    assert all(entry["skills"]["head"] is None and entry["skills"]["fresh_on_audio"] for entry in result["skill"].values())


def test_a_release_without_a_block_cannot_be_probed(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="without a block"):
        _probe(world, "sft", None, tmp_path / "probe.json")
    assert not (tmp_path / "probe.json").exists()


def test_the_loss_of_the_right_choice_is_the_answer_loss(world: Path) -> None:
    from coat_core.thinking.release import load_release
    from coat_core.training.dataset import AudioEmbeddingCache

    backbone = load_release(world / "models/block").backbone
    examples = _examples(world)[:3]
    rows = choice_losses(backbone, examples, world / "corpus", AudioEmbeddingCache(backbone, 10))
    losses = answer_losses(backbone, examples, world / "corpus")
    assert [row.sums[row.right] for row in rows] == pytest.approx([row.loss for row in losses], abs=1e-4)
    assert [row.tokens[row.right] for row in rows] == [row.tokens for row in losses]
    assert [len(row.sums) for row in rows] == [4, 4, 4]
