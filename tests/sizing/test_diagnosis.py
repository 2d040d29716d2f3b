"""`coat doctor --published`: every number is compared with arithmetic in this file."""

from __future__ import annotations

import json

import pytest

from coat_core.backbones.lalm import Lalm
from coat_core.errors import BackboneError, CheckpointError
from coat_core.settings import BackboneSettings, ExpertSettings, LoraSettings, ThinkingSettings, TrainingSettings
from coat_core.settings.base import is_commit
from coat_core.sizing.diagnosis import SizingRequest, block_rows, diagnose, weights_line
from coat_core.sizing.memory import training_memory
from coat_core.sizing.page import to_json
from coat_core.sizing.params import Params
from coat_core.sizing.published import PUBLISHED, published_base

# Whisper large v3's encoder: two convolutions, 32 layers (no bias on k), a last norm.
CONVOLUTIONS = (128 * 1280 * 3 + 1280) + (1280 * 1280 * 3 + 1280)
TOWER_LAYER = (4 * 1280**2 + 3 * 1280) + (1280 * 5120 + 5120) + (5120 * 1280 + 1280) + 2 * 2 * 1280
WHISPER = CONVOLUTIONS + 32 * TOWER_LAYER + 2 * 1280
# Qwen2-Audio's decoder: 32 heads of 128 for queries, keys and values. Qwen2.5's: 28 query heads, 4 key and value heads of 128.
QWEN2_LAYER = (4 * 4096**2 + 3 * 4096) + 3 * 4096 * 11008 + 2 * 4096
QWEN25_LAYER = (2 * 3584**2 + 3584) + 2 * (3584 * 512 + 512) + 3 * 3584 * 18944 + 2 * 3584
# Omni's vision tower: patches of 2 x 14 x 14 x 3, 32 blocks with biases everywhere, a merger of 2 x 2 patches.
VISION_BLOCK = 2 * 1280 + 4 * (1280**2 + 1280) + 3 * 1280 * 3420 + 2 * 3420 + 1280
VISION = 3 * 2 * 14 * 14 * 1280 + 32 * VISION_BLOCK + 1280 + (5120 * 5120 + 5120) + (5120 * 3584 + 3584)

PARTS = {
    "qwen2_audio": {
        "projector": 1280 * 4096 + 4096,
        "audio tower": WHISPER + 1500 * 1280,
        "embeddings": 156032 * 4096,
        "language model layers": 32 * QWEN2_LAYER,
        "final norm": 4096,
        "language model head": 156032 * 4096,
    },
    "qwen2_5_omni": {
        "projector": 1280 * 3584 + 3584,
        "audio tower": WHISPER + 2 * 3584,  # computed positions, trained begin and end
        "vision tower": VISION,
        "embeddings": 152064 * 3584,
        "language model layers": 28 * QWEN25_LAYER,
        "final norm": 3584,
        "language model head": 152064 * 3584,
    },
    "audio_flamingo_3": {
        "projector": (1280 * 3584 + 3584) + (3584 * 3584 + 3584),
        "audio tower": WHISPER + 1500 * 1280,
        "embeddings": 151672 * 3584,
        "language model layers": 28 * QWEN25_LAYER,
        "final norm": 3584,
        "language model head": 151672 * 3584,
    },
}
TOTALS = {"qwen2_audio": 8_397_094_912, "qwen2_5_omni": 8_931_813_888, "audio_flamingo_3": 8_267_215_360}
"""Parameters in the repositories' files, from public catalogues (Omni: without talker and token-to-wave)."""
QWEN2_LORA = 32 * 16 * (4 * (4096 + 4096) + 2 * (4096 + 11008) + (11008 + 4096))
QWEN25_LORA = 28 * 16 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 2 * (3584 + 18944) + (18944 + 3584))
LORA = {"qwen2_audio": (224, QWEN2_LORA), "qwen2_5_omni": (196, QWEN25_LORA), "audio_flamingo_3": (196, QWEN25_LORA)}
HIDDEN = {"qwen2_audio": 4096, "qwen2_5_omni": 3584, "audio_flamingo_3": 3584}
SPARE = {"qwen2_audio": (4_383, False), "qwen2_5_omni": (399, True), "audio_flamingo_3": (0, True)}
DIMS = {"reconstruction": 64, "speech": 39, "events": 25, "affect": 16, "pitch": 62}
GB = 1e9


def test_parameters_by_part(diagnoses, backbone_key):
    found = diagnoses[backbone_key]
    assert found.parameters == PARTS[backbone_key]
    assert found.total == sum(PARTS[backbone_key].values()) == TOTALS[backbone_key] == found.checkpoint.parameters_known


def test_trainable_parameters(diagnoses, backbone_key):
    found, D = diagnoses[backbone_key], HIDDEN[backbone_key]
    assert (found.lora_modules, found.lora) == LORA[backbone_key]
    assert found.block_parameters == 3 * D
    # A norm, D -> 64, query, place and content of the time attention, one layer (two norms, qkv, out, up, down), a norm, 64 -> d.
    time = 3 * 64 * 64 + 2 * 64
    layer = 2 * 2 * 64 + (64 * 192 + 192) + (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64)
    heads = {key: D + (D * 64 + 64) + time + layer + 2 * 64 + (64 * dim + dim) for key, dim in DIMS.items()}
    assert found.heads == heads
    assert found.unknown_heads == {}
    assert found.trainable == LORA[backbone_key][1] + 3 * D + sum(heads.values())


def test_block_rows(diagnoses, backbone_key):
    rows = diagnoses[backbone_key].rows
    assert (rows.spare, rows.exact) == SPARE[backbone_key]
    assert rows.needed == 3
    assert rows.think_tokens == 25
    reserved = backbone_key == "audio_flamingo_3"
    assert rows.source == ("reserved tokens" if reserved else "spare rows")
    assert rows.taken == (("<|object_ref_start|>", "<|box_start|>", "<|object_ref_end|>") if reserved else ())


def test_training_memory_by_hand(diagnoses):
    """Qwen2-Audio, 8 examples of 30 s, bfloat16, gradient checkpointing."""
    lines = {line.name: line.bytes for line in diagnoses["qwen2_audio"].training.estimate.lines}
    length = 750 + 96 + 27 + 64
    tokens = 8 * length
    # Norms in float32, attention's q, k, v and output, three tensors of the MLP, LoRA's seven inputs and seven outputs of A.
    token = 2 * (4 * 4096 + 4) + (2 * 4 * 4096 + 4 * 32) + 2 * 3 * 11008 + 2 * (6 * 4096 + 11008 + 7 * 16)
    assert lines["frozen weights"] == TOTALS["qwen2_audio"] * 2
    assert lines["trained weights, gradients, AdamW"] == diagnoses["qwen2_audio"].trainable * 16
    assert lines["layer inputs"] == tokens * 32 * 4096 * 2
    assert lines["one layer recomputed"] == tokens * token + 8 * length**2 * 2
    assert lines["answer logits and their gradients"] == 8 * 64 * 156032 * 16
    # Inputs of norms and linear layers, q, k, v, out, activation: 17 x 64 per layer; 2 x 64 at the end; 6 per dimension.
    assert lines["heads"] == 8 * 750 * (5 * (17 * 64 + 2 * 64) + 6 * sum(DIMS.values())) * 4
    total = diagnoses["qwen2_audio"].training.estimate.total
    assert total == sum(lines.values())
    assert 20 * GB < total < 30 * GB


def test_inference_memory_by_hand(diagnoses):
    """Keys and values: 32 x 32 x 128 per token for Qwen2-Audio, 28 x 4 x 128 for the two models with Qwen2.5."""
    for key, width in (("qwen2_audio", 32 * 32 * 128), ("qwen2_5_omni", 28 * 4 * 128), ("audio_flamingo_3", 28 * 4 * 128)):
        lines = {line.name: line.bytes for line in diagnoses[key].inference.lines}
        assert lines["keys and values"] == 8 * (750 + 96 + 27 + 64) * 2 * width * 2
        assert lines["weights"] == TOTALS[key] * 2
    # Only Audio Flamingo 3's class can compute the logits of the last position only.
    lines = {line.name: line.bytes for line in diagnoses["qwen2_audio"].inference.lines}
    assert lines["prefill, at its largest in the logits"] == 8 * 873 * 156032 * 2 + 8 * 156032 * 4
    assert "prefill, at its largest in the MLP" in {line.name for line in diagnoses["audio_flamingo_3"].inference.lines}


def test_an_export_is_as_large_as_the_files_of_its_base(diagnoses):
    """Omni: 21,327 MiB with talker and token-to-wave, which are copied; Audio Flamingo 3: float32, 4 x 8,267,215,360."""
    for key, expected in (("qwen2_5_omni", 22_362_980_352), ("audio_flamingo_3", 33_068_861_440)):
        lines = {line.name: line.bytes for line in diagnoses[key].disk}
        assert lines["checkpoint"] == lines["merged export"] == expected


def test_a_note_reports_a_tokenizer_of_unknown_length(diagnoses):
    noted = {
        key: any("the number of spare rows is known only with the tokenizer" in note for note in diagnoses[key].notes) for key in diagnoses
    }
    assert noted == {key: key == "qwen2_audio" for key in diagnoses}


def test_the_weights_of_a_folder_are_measured(tmp_path):
    checkpoint = published_base("qwen2_5_omni")
    assert weights_line(checkpoint, tmp_path).bytes == checkpoint.file_bytes
    index = {"weight_map": {"thinker.a": "model-1.safetensors", "talker.a": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"x")
    assert weights_line(checkpoint, tmp_path).bytes == checkpoint.file_bytes, "an incomplete download"
    (tmp_path / "model-2.safetensors").write_bytes(b"xx")
    assert weights_line(checkpoint, tmp_path).bytes == 3


def test_disk(diagnoses):
    lines = {line.name: line.bytes for line in diagnoses["qwen2_audio"].disk}
    trained = QWEN2_LORA + 3 * 4096
    heads = sum(diagnoses["qwen2_audio"].heads.values())
    assert lines == {
        "checkpoint": 16_794_189_824, "release: adapter": trained * 4, "release: heads": heads * 4, "merged export": 16_794_189_824,
        "resume state": (trained + heads) * 12, "audio store, an hour of audio": 25 * 3600 * 4096 * 2,
        **{f"features {key}, an hour of audio": 50 * 3600 * dim * 2 for key, dim in DIMS.items()},
    }  # fmt: skip


def test_the_advice_of_a_workload_that_does_not_fit():
    found = diagnose("qwen2_5_omni", Params(training=TrainingSettings(batch_size=16, precision="bfloat16")), SizingRequest(audio_s=30.0))
    assert not found.training.fits
    assert found.training.recommended is not None
    assert found.training.recommended.settings == {"training.gradient_checkpointing": True}
    report = to_json(found)
    assert report["training"]["recommended"] == {"training.gradient_checkpointing": True}
    assert not report["training"]["fits"]


def test_batch_seconds_limit_the_batch_and_options_take_precedence():
    params = Params(training=TrainingSettings(batch_size=16, batch_seconds=100.0))
    assert diagnose("audio_flamingo_3", params, SizingRequest(audio_s=30.0)).workload.examples == 3
    assert params.batch(200.0) == 1
    assert diagnose("audio_flamingo_3", params, SizingRequest(examples=5, audio_s=30.0)).workload.examples == 5


def test_published_bases_have_a_commit_and_a_licence():
    assert all(is_commit(one.commit) and one.key == key for key, one in PUBLISHED.items())
    assert {key for key, one in PUBLISHED.items() if not one.commercial_use} == {"audio_flamingo_3"}


def test_published_ids(diagnoses):
    from coat_core.sizing.meta import read_config

    qwen2, omni, af3 = (read_config(PUBLISHED[key]) for key in PUBLISHED)
    assert (qwen2.audio_token_id, omni.audio_token_id, af3.audio_token_id) == (151646, 151646, 151669)
    assert (omni.audio_start_token_id, omni.audio_end_token_id) == (151647, 151648)
    assert (omni.bos_token_id, omni.eos_token_id, qwen2.text_config.eos_token_id) == (151644, 151645, 151645)
    assert af3.text_config.rope_parameters["rope_theta"] == 1000000.0
    assert omni.text_config.rope_parameters["mrope_section"] == [16, 24, 24]


def test_lora_that_matches_the_tower_too_is_an_error(monkeypatch):
    monkeypatch.setattr(Lalm, "lora_targets", lambda self, modules: r".*\.q_proj")
    with pytest.raises(
        BackboneError, match=r"matches 64 modules, 32 of them outside the language model's layers.*32 modules: 32 layers x 1"
    ):
        diagnose("qwen2_audio", Params(lora=LoraSettings(modules=("q_proj",))), SizingRequest())


def test_lora_that_matches_some_layers_only_is_an_error(monkeypatch):
    monkeypatch.setattr(Lalm, "lora_targets", lambda self, modules: r"model\.language_model\.layers\.\d\.self_attn\.q_proj")
    with pytest.raises(BackboneError, match="matches 10 modules, 0 of them outside"):
        diagnose("qwen2_5_omni", Params(lora=LoraSettings(modules=("q_proj",))), SizingRequest())


def test_lora_that_matches_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(Lalm, "lora_targets", lambda self, modules: "nothing")
    with pytest.raises(BackboneError, match="LoRA cannot be added to this model"):
        diagnose("audio_flamingo_3", Params(lora=LoraSettings(modules=("q_proj",))), SizingRequest())


def test_distinct_rows():
    omni, af3 = PUBLISHED["qwen2_5_omni"], PUBLISHED["audio_flamingo_3"]
    assert block_rows(ThinkingSettings(tokens=397, rows="distinct"), omni, 152064).needed == 399
    with pytest.raises(BackboneError, match="needs 400 ids; there are 399 spare"):
        block_rows(ThinkingSettings(tokens=398, rows="distinct"), omni, 152064)
    assert block_rows(ThinkingSettings(tokens=4, rows="distinct"), af3, 151672).taken[-1] == "<|object_ref_end|>"
    with pytest.raises(BackboneError, match="0 spare embedding rows and 6 reserved"):
        block_rows(ThinkingSettings(tokens=5, rows="distinct"), af3, 151672)


@pytest.mark.parametrize(
    ("key", "matrix", "tokens", "needed"),
    [
        ("qwen2_5_omni", 152064, 397, 399),
        ("qwen2_5_omni", 152064, 398, 3),
        ("audio_flamingo_3", 151672, 4, 6),
        ("audio_flamingo_3", 151672, 5, 3),
    ],
)
def test_auto_rows_are_distinct_where_there_are_enough_ids(key, matrix, tokens, needed):
    """As `ThinkingBlock.install` chooses: 399 spare rows, or none and 6 reserved tokens."""
    assert block_rows(ThinkingSettings(tokens=tokens, rows="auto"), PUBLISHED[key], matrix).needed == needed


def test_the_configuration_of_a_folder_replaces_the_built_in_one(tiny_bases, backbone_key):
    from transformers import AutoTokenizer

    found = diagnose(backbone_key, Params(), SizingRequest(base=str(tiny_bases[backbone_key])))
    assert found.total < 5_000_000
    assert str(tiny_bases[backbone_key]) in found.config_source
    assert any("the published checkpoint has" in note for note in found.notes)
    vocabulary = AutoTokenizer.from_pretrained(tiny_bases[backbone_key]).get_vocab()
    assert found.rows.exact
    assert found.rows.tokens == max(vocabulary.values()) + 1
    assert found.rows.source == ("reserved tokens" if backbone_key == "audio_flamingo_3" else "spare rows")


def test_a_missing_base_and_one_of_another_model_are_refused(tiny_bases, tmp_path):
    with pytest.raises(CheckpointError, match="neither a folder nor in the hub's cache"):
        diagnose("qwen2_audio", Params(), SizingRequest(base="someone/something"))
    with pytest.raises(BackboneError, match="of another model"):
        diagnose("qwen2_audio", Params(), SizingRequest(base=str(tiny_bases["qwen2_5_omni"])))
    with pytest.raises(BackboneError, match="cannot read a configuration"):
        diagnose("qwen2_audio", Params(), SizingRequest(base=str(tmp_path)))
    with pytest.raises(BackboneError, match="allowed: qwen2_audio"):
        diagnose("qwen3", Params(), SizingRequest())


def test_dtype_and_precision_of_params_apply_to_a_hub_id(tmp_path):
    hub = BackboneSettings(base="Qwen/Qwen2-Audio-7B-Instruct", revision="0" * 40, dtype="float32")
    params = Params(backbones={"qwen2_audio": hub}, training=TrainingSettings(precision="float32"))
    assert params.dtype("qwen2_audio")[:2] == ("float32", "float32")
    (tmp_path / "tiny").mkdir()
    local = Params(backbones={"qwen2_audio": BackboneSettings(base="tiny")}, workspace=tmp_path)
    assert local.dtype("qwen2_audio")[:2] == ("bfloat16", "bfloat16")


def test_an_expert_of_unknown_width_is_reported_and_omitted(tmp_path):
    experts = {
        "speech": ExpertSettings(implementation="speech_encoder", checkpoint="me/mine", revision="0" * 40),
        "events": ExpertSettings(implementation="audio_events"),
        "pitch": ExpertSettings(implementation="f0_bins"),
    }
    params = Params(experts=experts, workspace=tmp_path)
    known, unknown = params.specs()
    assert {key: spec.dim for key, spec in known.items()} == {"events": 527, "pitch": 62}
    assert "features/speech" in unknown["speech"]
    assert any(
        "the widths of events are those of the default" in note for note in diagnose("audio_flamingo_3", params, SizingRequest()).notes
    )


def test_a_revision_of_another_commit_is_noted():
    hub = BackboneSettings(base="nvidia/audio-flamingo-3-hf", revision="0" * 40, dtype="bfloat16")
    assert any(
        "0" * 40 in note for note in diagnose("audio_flamingo_3", Params(backbones={"audio_flamingo_3": hub}), SizingRequest()).notes
    )


def test_the_estimate_agrees_with_a_small_model(tiny_bases):
    """The bytes that autograd saves in a forward pass with block and heads are within 5 % of the estimated lines."""
    import numpy as np
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from coat_core.backbones.base import Query
    from coat_core.backbones.catalogue import load_backbone
    from coat_core.experts.catalogue import load_expert
    from coat_core.settings import HeadSettings, LossSettings
    from coat_core.sizing.memory import head_values
    from coat_core.sizing.meta import shape_of
    from coat_core.sizing.workload import TrainingWorkload
    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.heads import build_heads
    from coat_core.thinking.losses import StageWeights
    from coat_core.thinking.model import ThinkingModel
    from tests.testing.totals import count_totals

    backbone = load_backbone("qwen2_5_omni", str(tiny_bases["qwen2_5_omni"]))
    backbone.model.eval()
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=8))
    specs = {key: load_expert(name).spec for key, name in (("speech", "mfcc"), ("affect", "prosody"))}
    blank = {key: (torch.zeros(spec.dim), torch.ones(spec.dim)) for key, spec in specs.items()}
    heads = build_heads(specs, blank, backbone.hidden_size, HeadSettings(), 0)
    lora = LoraSettings(rank=4)
    shape = shape_of(backbone)
    model = ThinkingModel(backbone, block, heads, lora, LossSettings(), 0)
    wave = np.random.default_rng(0).normal(0, 0.1, 4 * 16_000).astype(np.float32)
    clips = [wave, wave[: 4 * 15_000]]  # different lengths, so that there is padding and a mask
    batch = backbone.encode([Query(str(i), clip, "What sound is this?", "rain and siren", str(i)) for i, clip in enumerate(clips)])
    with torch.no_grad():
        audio = backbone.embed_audio(backbone.mel(clips))
    targets = {key: [(torch.rand(200, spec.dim), torch.ones(200, dtype=torch.bool))] * 2 for key, spec in specs.items()}
    sizes: dict[int, int] = {}
    alive = []
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(batch, audio, targets, StageWeights(1.0, 1.0), count_totals(batch, targets))
    answers = int(batch.answer_mask.sum())
    workload = TrainingWorkload(
        2, 4.0, batch.input_ids.shape[1] - 100 - answers // 2, answers // 2, "float32", "float32", False, modules=lora.modules, rank=4,
        head_values=head_values(64, 1, [spec.dim for spec in specs.values()]),
    )  # fmt: skip
    assert workload.length == batch.input_ids.shape[1]
    named = {line.name: line.bytes for line in training_memory(shape, workload).lines}
    # Of the logits, autograd saves only the float32 log-softmax.
    expected = named["activations"] + named["embeddings and final norm"] + named["heads"] + answers * shape.vocabulary * 4
    assert sum(sizes.values()) == pytest.approx(expected, rel=0.05)
