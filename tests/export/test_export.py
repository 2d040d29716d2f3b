"""Exports: loaded by the stock libraries alone, in the layout of their base, and never half there."""

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
"""Linear layers of six decoder layers, and the embedding."""


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="session")
def trained(tiny_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function (key, arm) → a release on a tiny base, made once; read it, never write."""
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
def test_stock_libraries_alone_load_exports_think_and_answer_as_we_do(trained: Callable[..., Path], tmp_path: Path) -> None:
    exports, ours, texts = [], [], []
    for key, arm, thinking in [
        *((key, "coat", {"placement": "before_answer"}) for key in KEYS), ("qwen2_audio", "coat", {"placement": "after_audio"}),
        ("audio_flamingo_3", "coat", {"rows": "distinct"}), ("qwen2_5_omni", "sft", {}),
    ]:  # fmt: skip
        release = trained(key, arm, **thinking)
        folder = tmp_path / release.name
        merged = export(str(release), folder / "merged", merge=True, dtype="float32", max_shard_size="2MB", say=quiet)
        adapter = export(str(release), folder / "adapter", dtype="float32", say=quiet)
        assert len(list(merged.folder.glob("model-*.safetensors"))) > 2
        assert (merged.folder / INDEX).is_file()
        exports += [merged.folder, adapter.folder]
        ours += [our_answer(release)] * 2
        texts += [json.loads((release / "coat.json").read_text())["block"]] * 2
    for folder, answer, (prompt, said), block in zip(exports, stock_answers(tmp_path, exports), ours, texts, strict=True):
        where = str(folder.relative_to(tmp_path))
        assert (answer["input_ids"], answer["said"]) == (prompt, said), where
        if block is not None:
            written = block["start_token"] + "".join(block["think_tokens"] * (block["tokens"] if len(block["think_tokens"]) == 1 else 1))
            assert answer["text"].count(written + block["end_token"]) == 1, where
            assert not {block["start_id"], *block["think_ids"], block["end_id"]} & {*answer["said"]}, where
        else:
            assert "think" not in answer["text"]


def test_an_adapter_of_a_kind_that_is_never_made_is_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    from coat_core.export.merge import read_changes

    release = shutil.copytree(trained(), tmp_path / "release")
    assert len(read_changes(release)) == CHANGED
    config = json.loads((release / "adapter_config.json").read_text())
    for change in ({"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 4}}):
        (release / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ReleaseError, match="cannot be merged here"):
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
    done = export(str(release), tmp_path / "out", merge=True, say=quiet)
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


def test_the_merge_is_done_in_float32_and_cast_once(trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    release = trained()
    export(str(release), tmp_path / "out", merge=True, say=quiet)
    adapter, name = load_file(release / "adapter_model.safetensors"), "model.language_model.layers.2.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    stored = "language_model.model.layers.2.mlp.up_proj.weight"
    expected = (tensors_of(tiny_bases["qwen2_audio"])[stored].float() + 4 / 2 * b @ a).bfloat16()
    assert torch.equal(tensors_of(tmp_path / "out")[stored], expected)


def test_the_gate_computes_in_what_the_release_was_trained_on_where_the_base_is_stored_finer(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_bases["audio_flamingo_3"], tmp_path / "base")
    stored = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    release = write_trained("audio_flamingo_3", base, tmp_path / "release")
    info = json.loads((release / "coat.json").read_text())
    (release / "coat.json").write_text(json.dumps({**info, "base": {**info["base"], "dtype": "bfloat16"}}))
    done = export(str(release), tmp_path / "out", merge=True, say=quiet)
    assert done.record["parity"]["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in tensors_of(done.folder).values()} == {torch.float32}
    strict = export(str(release), tmp_path / "strict", merge=True, dtype="float32", say=quiet)
    assert strict.record["parity"]["dtype"] == "float32"
    assert all(pair["largest"] <= 1e-4 for pair in strict.record["parity"]["pairs"])


def test_what_an_export_says_of_itself(trained: Callable[..., Path], tmp_path: Path) -> None:
    lines: list[str] = []
    done = export(str(trained()), tmp_path / "out", merge=True, dtype="float32", say=lines.append)
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


def test_the_adapters_usage_finds_the_base_from_anywhere(
    trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "release"
    shutil.copytree(tiny_bases["qwen2_5_omni"], tmp_path / "bases/mine")
    monkeypatch.chdir(tmp_path)
    write_trained("qwen2_5_omni", Path("bases/mine"), release)
    done = export("release", Path("out"), say=quiet)
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


def test_shards_are_no_larger_than_asked_and_the_index_knows_every_tensor(
    trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    done = export(str(trained()), tmp_path / "out", merge=True, max_shard_size="500KB", say=quiet)
    index = json.loads((done.folder / INDEX).read_text())
    base = tensors_of(tiny_bases["qwen2_audio"])
    assert {*index["weight_map"]} == {*base}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in base.values())
    files = {path.name: load_file(path) for path in done.folder.glob("*.safetensors")}
    assert {*files} == {*index["weight_map"].values()}
    assert all(index["weight_map"][name] == file for file, tensors in files.items() for name in tensors)
    assert all(sum(tensor.nbytes for tensor in tensors.values()) <= 500_000 or len(tensors) == 1 for tensors in files.values())


@pytest.mark.slow
def test_a_whole_omni_keeps_its_talker_bit_for_bit_and_loads_whole(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2_5OmniForConditionalGeneration, WhisperFeatureExtractor

    from coat_core.export.stock import FrontEnd, quiet_loading

    base = save_whole_omni(tiny_bases["qwen2_5_omni"], tmp_path / "base")
    release = write_trained("qwen2_5_omni", base, tmp_path / "release")
    plain = export(str(release), tmp_path / "plain", merge=True, say=quiet)
    assert not (plain.folder / "spk_dict.pt").exists(), "no pickle unless it is asked for"
    assert (plain.folder / "config.json").read_bytes() == (base / "config.json").read_bytes()
    done = export(str(release), tmp_path / "out", merge=True, dtype="float32", speakers=True, say=quiet)
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
    prompt, said = our_answer(release)
    answer = stock_answers(tmp_path, [done.folder])[0]
    assert (answer["input_ids"], answer["said"]) == (prompt, said)
    with quiet_loading():
        whole: Any = Qwen2_5OmniForConditionalGeneration.from_pretrained(done.folder, dtype=torch.float32)
    assert (whole.has_talker, [*whole.speaker_map]) == (True, ["Chelsie"])
    from tests.testing.exports import make_query

    tokenizer, extractor = AutoTokenizer.from_pretrained(done.folder), WhisperFeatureExtractor.from_pretrained(done.folder)
    inputs = FrontEnd(tokenizer, None, extractor, "<|AUDIO|>").inputs(make_query())
    written = whole.generate(**inputs, generation_mode="text", thinker_max_new_tokens=12, thinker_do_sample=False)
    assert written[0, inputs["input_ids"].shape[1] :].tolist() == said


@pytest.mark.parametrize(("content", "message"), [(None, "has no speakers"), (b"no pickle of tensors", "more than tensors")])
def test_speakers_that_are_not_there_or_are_more_than_tensors_are_refused(
    tiny_bases: dict[str, Path], tmp_path: Path, content: bytes | None, message: str
) -> None:
    base = save_whole_omni(tiny_bases["qwen2_5_omni"], tmp_path / "base", speakers=False)
    if content is not None:
        (base / "spk_dict.pt").write_bytes(content)
    release = write_trained("qwen2_5_omni", base, tmp_path / "release")
    with pytest.raises(ReleaseError, match=message):
        export(str(release), tmp_path / "out", merge=True, speakers=True, say=quiet)
    assert not (tmp_path / "out").exists()


def test_bfloat16_gives_the_same_answers_ties_aside(trained: Callable[..., Path], tmp_path: Path, backbone_key: str) -> None:
    done = export(str(trained(backbone_key)), tmp_path / "out", merge=True, dtype="bfloat16", say=quiet)
    parity = done.record["parity"]
    assert parity["dtype"] == "bfloat16"
    for pair in parity["pairs"]:
        assert pair["answers"] + pair["ties"] == 6
        assert pair["answers"] >= 4
    assert parity["pairs"][1]["largest"] > 1e-4, "16 bits show: the bound of float32 would not hold"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gate_stops_an_export_whose_weights_changed_and_leaves_the_earlier_one(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    earlier = export(str(trained()), tmp_path / "earlier", merge=True, dtype="float32", say=quiet)
    kept = {path.name: path.read_bytes() for path in earlier.folder.iterdir()}
    true_write = exporting._write_merged

    def broken(folder: Path, *arguments: Any) -> None:
        true_write(folder, *arguments)
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "layers.1.self_attn.v_proj.weight" in name and "language" in name)
        # One wrong number shows in float32; in 16 bits it takes a wrong matrix.
        if dtype == "float32":
            weights[name][3, 5] += 0.5
        else:
            weights[name] = weights[name].flip(0).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "_write_merged", broken)
    for target in (tmp_path / "new", earlier.folder):
        with pytest.raises(ReleaseError, match=r"the parity gate failed, nothing was written: live and merged"):
            export(str(trained()), target, merge=True, dtype=dtype, say=quiet)
    assert {path.name: path.read_bytes() for path in earlier.folder.iterdir()} == kept
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


def test_the_gate_stops_an_adapter_that_changed(trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_write = exporting._write_adapter

    def broken(folder: Path, *arguments: Any) -> None:
        true_write(folder, *arguments)
        weights = load_file(folder / "adapter_model.safetensors")
        name = next(name for name in weights if "trainable_tokens_delta" in name)
        save_file({**weights, name: weights[name].flip(0).contiguous()}, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "_write_adapter", broken)
    with pytest.raises(ReleaseError, match="the parity gate failed"):
        export(str(trained()), tmp_path / "out", dtype="float32", say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_arm_base_is_copied_and_has_no_adapter(trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    release = trained("audio_flamingo_3", "base")
    with pytest.raises(ReleaseError, match=r"no adapter to export.*--merge"):
        export(str(release), tmp_path / "out", say=quiet)
    done = export(str(release), tmp_path / "out", merge=True, say=quiet)
    assert (done.folder / "model.safetensors").read_bytes() == (tiny_bases["audio_flamingo_3"] / "model.safetensors").read_bytes()
    assert [(pair["first"], pair["second"], pair["largest"]) for pair in done.record["parity"]["pairs"]] == [("live", "merged", 0.0)]
    assert done.record["block"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "no such number format.*float32, bfloat16, float16"),
        ({"max_shard_size": "5"}, "no size of a file"),
        ({"max_shard_size": "0GB"}, "no size of a file"),
        ({"device": "abacus"}, "no such device here"),
        ({"device": "cuda:99"}, "no such device here"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CoatError, match=message):
        export("anything", tmp_path / "out", merge=True, say=quiet, **options)


def test_a_full_disk_is_noticed_before_anything_is_written(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "free_bytes", lambda folder: 65 << 20)
    monkeypatch.setattr(exporting, "new_folder", lambda path: pytest.fail("nothing may be written"))
    with pytest.raises(CoatError, match=r"disk is too small for the export: 0\.00 GB are to be written, 0\.07 GB are free.*larger disk"):
        export(str(trained()), tmp_path / "out", merge=True, say=quiet)


def test_a_device_that_is_too_small_says_which_lever_to_pull(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    release = str(trained())
    for place, name in ((exporting, "_read_live"), (Qwen2AudioForConditionalGeneration, "to")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, exhausted)
            with pytest.raises(OutOfMemoryError, match=r"tried to allocate 2 GiB.*--dtype bfloat16.*--device cpu"):
                export(release, tmp_path / "out", merge=True, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_gone_an_unknown_model_and_a_folder_that_is_no_release(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_bases["qwen2_audio"], tmp_path / "base")
    write_trained("qwen2_audio", tmp_path / "base", tmp_path / "release")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CoatError, match=f"no such folder.*field: base.*{tmp_path / 'base'}"):
        export(str(tmp_path / "release"), tmp_path / "out", merge=True, say=quiet)
    with pytest.raises(ReleaseError, match="not a release"):
        export(str(tmp_path), tmp_path / "out", merge=True, say=quiet)
    with pytest.raises(ReleaseError, match="not a release"):
        export("models/nothing", tmp_path / "out", merge=True, say=quiet)
    assert not (tmp_path / "out").exists()


def test_an_incomplete_base_and_another_base_are_refused(trained: Callable[..., Path], tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_bases["qwen2_audio"], tmp_path / "base")
    release = write_trained("qwen2_audio", tmp_path / "base", tmp_path / "release")
    weights = load_file(tmp_path / "base/model.safetensors")
    lost = next(name for name in weights if "layers.3.mlp.up_proj" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, tmp_path / "base/model.safetensors")
    with pytest.raises(ReleaseError, match=r"lacks 1 of the model's weights, first .*layers\.3\.mlp\.up_proj"):
        export(str(release), tmp_path / "out", merge=True, say=quiet)
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(ReleaseError, match=r"model\.safetensors"):
        export(str(release), tmp_path / "out", merge=True, say=quiet)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(tiny_bases["audio_flamingo_3"], tmp_path / "base")
    with pytest.raises(ReleaseError, match="of another model"):
        export(str(release), tmp_path / "out", merge=True, say=quiet)


def test_a_folder_with_anything_else_in_it_is_left_alone(trained: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    with pytest.raises(CoatError, match="something that is no export"):
        export(str(trained()), tmp_path / "notes", merge=True, say=quiet)
    (tmp_path / "notes/export.json").write_text("{}")
    write_trained_here = shutil.copytree(trained(), tmp_path / "notes/release")
    with pytest.raises(CoatError, match="holds what is exported"):
        export(str(write_trained_here), tmp_path / "notes", merge=True, say=quiet)
    assert (tmp_path / "notes/mine.txt").read_text() == "mine"
