from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import read_manifest
from coat_core.errors import BackboneError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_tree
from coat_core.tiny_bases import config, small
from coat_core.tiny_bases.build import training_examples
from coat_core.tiny_bases.projector import ProjectorConfig
from coat_core.tiny_bases.small import SmallBaseOptions, build_small_bases
from tests.testing.recordings import RECORDINGS, needs_recordings

GENERATED = CorpusSettings(seed=7, clips_per_family={"train": 2})
TRAINING = ProjectorConfig(probe_steps=2, probe_batch_size=4, steps=2, batch_size=4, warmup=1)


def options(encoder: Path, language_model: Path | None = None, **changes: Any) -> SmallBaseOptions:
    given = None if language_model is None else str(language_model)
    return SmallBaseOptions(str(encoder), given, clips_per_family=2, training=TRAINING, **changes)


def test_bases_are_built_and_a_stopped_build_continues(encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("audio_flamingo_3", "qwen2_audio")
    build_small_bases(keys, tmp_path / "whole", GENERATED, options(encoder_folder))
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == sorted(keys)

    built: list[str] = []
    save = config.save_base

    def stop_at_the_second(key: str, *rest: Any) -> None:
        built.append(key)
        if len(built) == 2:
            raise KeyboardInterrupt
        save(key, *rest)

    monkeypatch.setattr(small, "save_base", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build_small_bases(keys, tmp_path / "stopped", GENERATED, options(encoder_folder))
    assert (tmp_path / "stopped/.scratch").is_dir()
    build_small_bases(keys, tmp_path / "stopped", GENERATED, options(encoder_folder))
    assert built == ["audio_flamingo_3", "qwen2_audio", "qwen2_audio"]
    assert sha256_tree(tmp_path / "whole") == sha256_tree(tmp_path / "stopped")
    with pytest.raises(BackboneError, match="there already"):
        build_small_bases(keys, tmp_path / "stopped", GENERATED, options(encoder_folder))
    for key in keys:
        backbone = load_backbone(key, str(tmp_path / "whole" / key))
        assert (backbone.hidden_size, backbone.layer_count) == (256, 6)
        assert backbone.tokenizer.decode(backbone.tokenizer("What's 12?\n")["input_ids"]) == "What's 12?\n"
        assert len(backbone.tokenizer(" Which sound is this?", add_special_tokens=False)["input_ids"]) <= 8


def test_a_published_language_model_keeps_its_tokenizer(encoder_folder: Path, language_model_folder: Path, tmp_path: Path) -> None:
    build_small_bases(["qwen2_5_omni"], tmp_path / "bases", GENERATED, options(encoder_folder, language_model_folder, dtype="bfloat16"))
    backbone = load_backbone("qwen2_5_omni", str(tmp_path / "bases/qwen2_5_omni"))
    assert (backbone.hidden_size, backbone.layer_count) == (64, 3)
    assert backbone.tokenizer.convert_tokens_to_ids("<repo_name>") == 3


def test_audio_of_the_corpus_is_refused(encoder_folder: Path, tmp_path: Path) -> None:
    clips = training_examples(GENERATED, tmp_path / "corpus", 2, "small-bases", ())
    with pytest.raises(BackboneError, match="overlaps"):
        build_small_bases(["qwen2_audio"], tmp_path / "bases", GENERATED, options(encoder_folder), avoid={clips[0].sha256})
    assert not (tmp_path / "bases/qwen2_audio").exists()


def test_training_on_recordings_needs_their_folder(encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="--recordings"):
        build_small_bases(["qwen2_audio"], tmp_path, GENERATED, options(encoder_folder, recording_clips=2))


@needs_recordings
def test_further_recordings_are_of_the_training_groups_only(encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coat_core.corpus.imported.corpus import import_corpus

    settings = GENERATED.model_copy(
        update={"kind": "recordings", "path": str(RECORDINGS), "clips_per_family": {"train": 2, "validation": 2, "test": 2}}
    )
    import_corpus(settings, RECORDINGS, tmp_path / "corpus")
    corpus = read_manifest(tmp_path / "corpus/manifest.jsonl")
    monkeypatch.setattr(small, "_TEXT_ONLY_CLIPS", 1)
    used: list[Any] = []

    def stop(examples: list[Any]) -> None:
        used.extend(examples)
        raise KeyboardInterrupt

    monkeypatch.setattr(small, "audio_items", stop)
    with pytest.raises(KeyboardInterrupt):
        build_small_bases(
            ["qwen2_audio"], tmp_path / "bases", settings, options(encoder_folder, recording_clips=3), recordings=RECORDINGS,
            avoid={example.sha256 for example in corpus},
        )  # fmt: skip
    recorded = [example for example in used if example.audio.startswith("recordings/")]
    assert len({example.audio for example in recorded}) == 15
    assert not {example.sha256 for example in used} & {example.sha256 for example in corpus}
    held_out = {group for example in corpus if example.split != "train" for group in example.groups}
    assert not {group for example in recorded for group in example.groups} & held_out
