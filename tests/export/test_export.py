"""Exports: loaded with stock libraries only, in the layout of their base, complete or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioForConditionalGeneration

from coat_core.errors import CoatError, OutOfMemoryError, ReleaseError
from coat_core.export import export as exporting
from coat_core.export.export import export
from coat_core.export.weights import WeightFiles
from tests.testing.exports import our_answer, save_whole_omni, stock_answers, write_trained

KEYS = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3")
INDEX = "model.safetensors.index.json"
CHANGED = 6 * 7 + 1
"""Number of changed tensors: the linear layers of six decoder layers, and the embedding."""


def discard(line: str) -> None:
    """Print nothing."""


@pytest.fixture(scope="session")
def trained(tiny_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function (key, arm) → read-only release on a tiny base, written once."""
    made: dict[tuple[str, str], Path] = {}
    root = tmp_path_factory.mktemp("releases")

    def make(key: str = "qwen2_audio", arm: str = "coat", **thinking: Any) -> Path:
        name = f"{key}-{arm}-{'-'.join(thinking.values())}"
        if (key, name) not in made:
            made[key, name] = write_trained(key, tiny_bases[key], root / name, arm, **thinking)
        return made[key, name]

    return make


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    files = WeightFiles(folder)
    return {name: files.read(name) for name in files.tensors}


@pytest.mark.slow
def test_stock_libraries_load_exports_and_give_the_same_prompts_and_answers(trained: Callable[..., Path], tmp_path: Path) -> None:
    exports, ours, texts = [], [], []
    for key, arm, thinking in [
        *((key, "coat", {"placement": "before_answer"}) for key in KEYS), ("qwen2_audio", "coat", {"placement": "after_audio"}),
        ("audio_flamingo_3", "coat", {"rows": "shared"}), ("qwen2_5_omni", "sft", {}),
    ]:  # fmt: skip
        release = trained(key, arm, **thinking)
        folder = tmp_path / release.name
        merged = export(str(release), folder / "merged", merge=True, dtype="float32", max_shard_size="2MB", progress=discard)
        adapter = export(str(release), folder / "adapter", dtype="float32", progress=discard)
        assert len(list(merged.folder.glob("model-*.safetensors"))) > 2
        assert (merged.folder / INDEX).is_file()
        exports += [merged.folder, adapter.folder]
        ours += [our_answer(release)] * 2
        texts += [json.loads((release / "coat.json").read_text())["block"]] * 2
    for folder, answer, (prompt, ids), block in zip(exports, stock_answers(tmp_path, exports), ours, texts, strict=True):
        where = str(folder.relative_to(tmp_path))
        assert (answer["input_ids"], answer["answer_ids"]) == (prompt, ids), where
        if block is not None:
            written = block["start_token"] + "".join(block["think_tokens"] * (block["tokens"] if len(block["think_tokens"]) == 1 else 1))
            assert answer["text"].count(written + block["end_token"]) == 1, where
            assert not {block["start_id"], *block["think_ids"], block["end_id"]} & {*answer["answer_ids"]}, where
        else:
            assert "think" not in answer["text"]


def test_an_adapter_with_unsupported_options_is_an_error(trained: Callable[..., Path], tmp_path: Path) -> None:
    from coat_core.export.merge import read_changes

    release = shutil.copytree(trained(), tmp_path / "release")
    assert len(read_changes(release)) == CHANGED
    config = json.loads((release / "adapter_config.json").read_text())
    for change in ({"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 4}}):
        (release / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ReleaseError, match="options that cannot be merged"):
            read_changes(release)
    (release / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(release / "adapter_model.safetensors")
    save_file({**weights, "base_model.model.lm_head.weight": torch.zeros(2, 2)}, release / "adapter_model.safetensors")
    with pytest.raises(ReleaseError, match=r"cannot be merged.*lm_head"):
        read_changes(release)


@pytest.mark.parametrize("key", KEYS)
def test_a_merged_export_has_the_layout_of_its_base(
    trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path, key: str
) -> None:
    release = trained(key)
    done = export(str(release), tmp_path / "out", merge=True, progress=discard)
    assert {path.name for path in done.folder.iterdir()} == {path.name for path in tiny_bases[key].iterdir()} | {"README.md", "export.json"}
    for name in ("config.json", "preprocessor_config.json"):
        assert (done.folder / name).read_bytes() == (tiny_bases[key] / name).read_bytes()
    base, merged = tensors_of(tiny_bases[key]), tensors_of(done.folder)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in merged.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in base.items()
    }
    changed = [name for name in base if not torch.equal(base[name], merged[name])]
    assert len(changed) == CHANGED
    assert all(".layers." in name or name.endswith("embed_tokens.weight") for name in changed)
    embedding = next(name for name in changed if "embed_tokens" in name)
    rows = (base[embedding] != merged[embedding]).any(dim=1).nonzero().flatten().tolist()
    block = json.loads((release / "coat.json").read_text())["block"]
    assert rows == sorted({block["start_id"], *block["think_ids"], block["end_id"]})
    generation = json.loads((done.folder / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["suppress_tokens"]) == (False, rows)
    assert "chat_template" not in json.loads((done.folder / "tokenizer_config.json").read_text())


def test_the_adapter_is_merged_in_float32_and_cast_once(trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    release = trained()
    export(str(release), tmp_path / "out", merge=True, progress=discard)
    adapter, name = load_file(release / "adapter_model.safetensors"), "model.language_model.layers.2.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    stored = "language_model.model.layers.2.mlp.up_proj.weight"
    expected = (tensors_of(tiny_bases["qwen2_audio"])[stored].float() + 4 / 2 * b @ a).bfloat16()
    assert torch.equal(tensors_of(tmp_path / "out")[stored], expected)


def test_the_gate_computes_in_the_dtype_of_training_if_the_base_is_stored_in_float32(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_bases["audio_flamingo_3"], tmp_path / "base")
    stored = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    release = write_trained("audio_flamingo_3", base, tmp_path / "release")
    info = json.loads((release / "coat.json").read_text())
    (release / "coat.json").write_text(json.dumps({**info, "base": {**info["base"], "dtype": "bfloat16"}}))
    done = export(str(release), tmp_path / "out", merge=True, progress=discard)
    assert done.record["parity"]["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in tensors_of(done.folder).values()} == {torch.float32}
    strict = export(str(release), tmp_path / "strict", merge=True, dtype="float32", progress=discard)
    assert strict.record["parity"]["dtype"] == "float32"
    assert all(pair["largest"] <= 1e-4 for pair in strict.record["parity"]["pairs"])


def test_the_record_and_the_model_card_of_an_export(trained: Callable[..., Path], tmp_path: Path) -> None:
    lines: list[str] = []
    done = export(str(trained()), tmp_path / "out", merge=True, dtype="float32", progress=lines.append)
    record = json.loads((done.folder / "export.json").read_text())
    assert record == done.record
    assert (record["kind"], record["class"], record["release"]) == ("merged", "Qwen2AudioForConditionalGeneration", "f" * 64)
    assert record["base"]["licence"] == "Apache-2.0"
    pairs = record["parity"]["pairs"]
    assert [(pair["first"], pair["second"], pair["answers"]) for pair in pairs] == [
        ("live", "adapter", 6), ("live", "merged", 6), ("adapter", "merged", 6),
    ]  # fmt: skip
    assert 0 < pairs[1]["largest"] <= 1e-4
    assert done.size_bytes == sum(path.stat().st_size for path in done.folder.iterdir())
    card = (done.folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert done.usage in card
    assert "prompt" in card
    exec(compile(done.usage, "usage", "exec"), scope := {})
    assert type(scope["model"]).__name__ == record["class"]
    assert scope["processor"].chat_template == (done.folder / "chat_template.jinja").read_text()
    assert any("merged" in line for line in lines)


def test_the_usage_code_of_an_adapter_works_in_any_working_directory(
    trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "release"
    shutil.copytree(tiny_bases["qwen2_5_omni"], tmp_path / "bases/mine")
    monkeypatch.chdir(tmp_path)
    write_trained("qwen2_5_omni", Path("bases/mine"), release)
    done = export("release", Path("out"), progress=discard)
    monkeypatch.chdir(tmp_path.parent)
    exec(compile(done.usage, "usage", "exec"), scope := {})
    assert type(scope["model"]).__name__ == "PeftModel"
    block = json.loads((release / "coat.json").read_text())["block"]
    greedy = scope["model"].generation_config
    assert not greedy.do_sample
    assert greedy.suppress_tokens == sorted({block["start_id"], *block["think_ids"], block["end_id"]})
    assert done.folder == tmp_path / "out"
    assert {path.name for path in done.folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "export.json", "generation_config.json",
        "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_shards_are_within_the_limit_and_the_index_contains_every_tensor(
    trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    done = export(str(trained()), tmp_path / "out", merge=True, max_shard_size="500KB", progress=discard)
    index = json.loads((done.folder / INDEX).read_text())
    base = tensors_of(tiny_bases["qwen2_audio"])
    assert {*index["weight_map"]} == {*base}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in base.values())
    files = {path.name: load_file(path) for path in done.folder.glob("*.safetensors")}
    assert {*files} == {*index["weight_map"].values()}
    assert all(index["weight_map"][name] == file for file, tensors in files.items() for name in tensors)
    assert all(sum(tensor.nbytes for tensor in tensors.values()) <= 500_000 or len(tensors) == 1 for tensors in files.values())


@pytest.mark.slow
def test_a_complete_omni_keeps_its_talker_bit_for_bit_and_loads_completely(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2_5OmniForConditionalGeneration, WhisperFeatureExtractor

    from coat_core.export.stock import FrontEnd, suppress_loading_messages

    base = save_whole_omni(tiny_bases["qwen2_5_omni"], tmp_path / "base")
    release = write_trained("qwen2_5_omni", base, tmp_path / "release")
    default = export(str(release), tmp_path / "default", merge=True, progress=discard)
    assert not (default.folder / "spk_dict.pt").exists(), "the pickle is copied on request only"
    assert (default.folder / "config.json").read_bytes() == (base / "config.json").read_bytes()
    done = export(str(release), tmp_path / "out", merge=True, dtype="float32", speakers=True, progress=discard)
    for name in ("preprocessor_config.json", "LICENSE", "spk_dict.pt", "model-00002-of-00002.safetensors"):
        assert (done.folder / name).read_bytes() == (base / name).read_bytes(), name
    assert not (done.folder / "chat_template.json").exists()
    before, after = tensors_of(base), tensors_of(done.folder)
    others = [name for name in before if not name.startswith("thinker.")]
    assert len(others) > 100
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in others)
    assert {after[name].dtype for name in after if name.startswith("thinker.")} == {torch.float32}
    config = json.loads((done.folder / "config.json").read_text())
    assert (config["dtype"], config["thinker_config"]["dtype"], config["thinker_config"]["text_config"]["dtype"]) == ("float32",) * 3
    assert config["talker_config"] == json.loads((base / "config.json").read_text())["talker_config"]
    prompt, ids = our_answer(release)
    answer = stock_answers(tmp_path, [done.folder])[0]
    assert (answer["input_ids"], answer["answer_ids"]) == (prompt, ids)
    with suppress_loading_messages():
        whole: Any = Qwen2_5OmniForConditionalGeneration.from_pretrained(done.folder, dtype=torch.float32)
    assert (whole.has_talker, [*whole.speaker_map]) == (True, ["Chelsie"])
    from tests.testing.exports import make_query

    tokenizer, extractor = AutoTokenizer.from_pretrained(done.folder), WhisperFeatureExtractor.from_pretrained(done.folder)
    inputs = FrontEnd(tokenizer, None, extractor, "<|AUDIO|>").inputs(make_query())
    written = whole.generate(**inputs, generation_mode="text", thinker_max_new_tokens=12, thinker_do_sample=False)
    assert written[0, inputs["input_ids"].shape[1] :].tolist() == ids


@pytest.mark.parametrize(("content", "message"), [(None, "has no speakers"), (b"no pickle of tensors", "more than tensors")])
def test_speakers_that_are_missing_or_contain_more_than_tensors_are_an_error(
    tiny_bases: dict[str, Path], tmp_path: Path, content: bytes | None, message: str
) -> None:
    base = save_whole_omni(tiny_bases["qwen2_5_omni"], tmp_path / "base", speakers=False)
    if content is not None:
        (base / "spk_dict.pt").write_bytes(content)
    release = write_trained("qwen2_5_omni", base, tmp_path / "release")
    with pytest.raises(ReleaseError, match=message):
        export(str(release), tmp_path / "out", merge=True, speakers=True, progress=discard)
    assert not (tmp_path / "out").exists()


def test_bfloat16_gives_the_same_answers_except_for_ties(trained: Callable[..., Path], tmp_path: Path, backbone_key: str) -> None:
    done = export(str(trained(backbone_key)), tmp_path / "out", merge=True, dtype="bfloat16", progress=discard)
    parity = done.record["parity"]
    assert parity["dtype"] == "bfloat16"
    for pair in parity["pairs"]:
        assert pair["answers"] + pair["ties"] == 6
        assert pair["answers"] >= 4
    assert parity["pairs"][1]["largest"] > 1e-4, "the difference in 16 bits is above the limit for float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gate_refuses_changed_weights_and_the_earlier_export_stays(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    earlier = export(str(trained()), tmp_path / "earlier", merge=True, dtype="float32", progress=discard)
    kept = {path.name: path.read_bytes() for path in earlier.folder.iterdir()}
    true_write = exporting._write_merged

    def broken(folder: Path, *arguments: Any) -> None:
        true_write(folder, *arguments)
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "layers.1.self_attn.v_proj.weight" in name and "language" in name)
        # float32 detects one wrong number, 16 bits a wrong matrix.
        if dtype == "float32":
            weights[name][3, 5] += 0.5
        else:
            weights[name] = weights[name].flip(0).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "_write_merged", broken)
    for target in (tmp_path / "new", earlier.folder):
        with pytest.raises(ReleaseError, match=r"the parity gate failed, nothing was written: live and merged"):
            export(str(trained()), target, merge=True, dtype=dtype, progress=discard)
    assert {path.name: path.read_bytes() for path in earlier.folder.iterdir()} == kept
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


def test_the_gate_refuses_a_changed_adapter(trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_write = exporting._write_adapter

    def broken(folder: Path, *arguments: Any) -> None:
        true_write(folder, *arguments)
        weights = load_file(folder / "adapter_model.safetensors")
        name = next(name for name in weights if "trainable_tokens_delta" in name)
        save_file({**weights, name: weights[name].flip(0).contiguous()}, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "_write_adapter", broken)
    with pytest.raises(ReleaseError, match="the parity gate failed"):
        export(str(trained()), tmp_path / "out", dtype="float32", progress=discard)
    assert list(tmp_path.iterdir()) == []


def test_arm_base_is_copied_and_has_no_adapter(trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    release = trained("audio_flamingo_3", "base")
    with pytest.raises(ReleaseError, match=r"no adapter to export.*--merge"):
        export(str(release), tmp_path / "out", progress=discard)
    done = export(str(release), tmp_path / "out", merge=True, progress=discard)
    assert (done.folder / "model.safetensors").read_bytes() == (tiny_bases["audio_flamingo_3"] / "model.safetensors").read_bytes()
    assert [(pair["first"], pair["second"], pair["largest"]) for pair in done.record["parity"]["pairs"]] == [("live", "merged", 0.0)]
    assert done.record["block"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "unknown dtype.*float32, bfloat16, float16"),
        ({"max_shard_size": "5"}, "not a file size"),
        ({"max_shard_size": "0GB"}, "not a file size"),
        ({"device": "abacus"}, "no such device here"),
        ({"device": "cuda:99"}, "no such device here"),
    ],
)
def test_an_invalid_option_is_an_error(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CoatError, match=message):
        export("anything", tmp_path / "out", merge=True, progress=discard, **options)


def test_a_full_disk_is_an_error_before_anything_is_written(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "free_bytes", lambda folder: 65 << 20)
    monkeypatch.setattr(exporting, "new_folder", lambda path: pytest.fail("nothing may be written"))
    with pytest.raises(CoatError, match=r"disk is too small for the export: it needs 0\.00 GB, 0\.07 GB are free.*larger disk"):
        export(str(trained()), tmp_path / "out", merge=True, progress=discard)


def test_the_error_of_a_device_that_is_too_small_contains_advice(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    release = str(trained())
    for place, name in ((exporting, "_run_live"), (Qwen2AudioForConditionalGeneration, "to")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, exhausted)
            with pytest.raises(OutOfMemoryError, match=r"tried to allocate 2 GiB.*--dtype bfloat16.*--device cpu"):
                export(release, tmp_path / "out", merge=True, progress=discard)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_base_or_release_is_an_error(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_bases["qwen2_audio"], tmp_path / "base")
    write_trained("qwen2_audio", tmp_path / "base", tmp_path / "release")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CoatError, match=f"no such folder.*field: base.*{tmp_path / 'base'}"):
        export(str(tmp_path / "release"), tmp_path / "out", merge=True, progress=discard)
    with pytest.raises(ReleaseError, match="not a release"):
        export(str(tmp_path), tmp_path / "out", merge=True, progress=discard)
    with pytest.raises(ReleaseError, match="not a release"):
        export("models/nothing", tmp_path / "out", merge=True, progress=discard)
    assert not (tmp_path / "out").exists()


def test_an_incomplete_base_or_another_base_is_an_error(trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_bases["qwen2_audio"], tmp_path / "base")
    release = write_trained("qwen2_audio", tmp_path / "base", tmp_path / "release")
    weights = load_file(tmp_path / "base/model.safetensors")
    lost = next(name for name in weights if "layers.3.mlp.up_proj" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, tmp_path / "base/model.safetensors")
    with pytest.raises(ReleaseError, match=r"lacks 1 of the model's weights, first .*layers\.3\.mlp\.up_proj"):
        export(str(release), tmp_path / "out", merge=True, progress=discard)
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(ReleaseError, match=r"model\.safetensors"):
        export(str(release), tmp_path / "out", merge=True, progress=discard)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(tiny_bases["audio_flamingo_3"], tmp_path / "base")
    with pytest.raises(ReleaseError, match="is another model"):
        export(str(release), tmp_path / "out", merge=True, progress=discard)


def test_a_folder_with_other_content_is_not_changed(trained: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    with pytest.raises(CoatError, match="something that is not an export"):
        export(str(trained()), tmp_path / "notes", merge=True, progress=discard)
    (tmp_path / "notes/export.json").write_text("{}")
    release = shutil.copytree(trained(), tmp_path / "notes/release")
    with pytest.raises(CoatError, match="contains the model to export"):
        export(str(release), tmp_path / "notes", merge=True, progress=discard)
    assert (tmp_path / "notes/mine.txt").read_text() == "mine"
