"""The memory estimates: computed by hand for small sizes, and compared with the tensors that autograd saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from coat_core.sizing.advice import advise_training, largest_batch
from coat_core.sizing.memory import head_values, inference_memory, layer_bytes_per_token, lora_parameters, training_memory
from coat_core.sizing.workload import InferenceWorkload, ModelShape, TrainingWorkload

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPE = ModelShape(
    parameters=10_000, hidden=8, layers=3, heads=2, kv_heads=1, head_dim=4, intermediate=20, vocabulary=50, tower_width=6, tower_ffn=24,
    window_s=30.0, logits_everywhere=True,
)  # fmt: skip
WORKLOAD = TrainingWorkload(
    examples=2, audio_s=1.0, prompt_tokens=10, answer_tokens=5, dtype="bfloat16", precision="bfloat16", gradient_checkpointing=False,
    modules=("q_proj", "down_proj"), rank=2, rows=24, heads=100, head_values=7,
)  # fmt: skip
# A row has 25 + 10 + 5 = 40 tokens, the batch 80. LoRA: 3 layers x ((8 + 8) + (20 + 8)) x 2 = 264.
# Bytes per token that a layer saves: norms 2 x (8 x 4 + 4) = 72; attention 2 x 4 x 8 + 4 x 2 = 72; MLP 2 x 3 x 20 = 120;
# LoRA 2 x (8 + 20) for inputs and 2 x 2 x 2 for the outputs of A = 64. Sum 328. Mask: 2 x 40 x 40 x 2 = 6400.
PER_TOKEN, MASK, LORA = 328, 6_400, 264
STATIC = {"frozen weights": 20_000, "trained weights, gradients, AdamW": (264 + 24 + 100) * 16}
COMMON = {
    "16-bit copies of LoRA": 528,
    "embeddings and final norm": 80 * 8 * 6,
    "gradients in one layer": 80 * 20 * 10,
    "answer logits and their gradients": 2 * 5 * 50 * 16,
    "heads": 2 * 25 * 7 * 4,
    "CUDA context and libraries (assumed)": 1_000_000_000,
}


def lines(estimate):
    found = {line.name: line.bytes for line in estimate.lines}
    assert estimate.total == sum(found.values())
    return found


def test_lora_and_layer_by_hand():
    assert lora_parameters(SHAPE, WORKLOAD.modules, 2) == LORA
    assert layer_bytes_per_token(SHAPE, WORKLOAD) == PER_TOKEN


def test_training_without_checkpointing_by_hand():
    activations = 3 * (80 * PER_TOKEN + MASK)
    slack = int((activations + sum(COMMON.values()) - 1_000_000_000) * 0.05)
    assert lines(training_memory(SHAPE, WORKLOAD)) == {**STATIC, "activations": activations, **COMMON, "allocator slack (assumed)": slack}


def test_training_with_checkpointing_by_hand():
    kept = {"layer inputs": 80 * 3 * 8 * 2, "one layer recomputed": 80 * PER_TOKEN + MASK}
    slack = int((sum(kept.values()) + sum(COMMON.values()) - 1_000_000_000) * 0.05)
    found = lines(training_memory(SHAPE, replace(WORKLOAD, gradient_checkpointing=True)))
    assert found == {**STATIC, **kept, **COMMON, "allocator slack (assumed)": slack}


def test_dropout_adds_a_copy_and_a_mask_of_each_input():
    # In 16 bits the inputs are copied without dropout too: dropout adds a byte for each of 8 + 20 inputs.
    assert layer_bytes_per_token(SHAPE, replace(WORKLOAD, dropout=True)) == PER_TOKEN + 28
    float32 = replace(WORKLOAD, dtype="float32", precision="float32", modules=("q_proj", "k_proj", "o_proj"))
    # In float32, q and k share norm 1's output and o uses attention's output: with dropout three inputs of 8 instead of one.
    added = layer_bytes_per_token(SHAPE, replace(float32, dropout=True)) - layer_bytes_per_token(SHAPE, float32)
    assert added == 2 * 8 * 4 + 3 * 8


def test_float32_weights_under_autocast_keep_copies_of_the_frozen_weights():
    linears = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 20
    found = lines(training_memory(SHAPE, replace(WORKLOAD, dtype="float32")))
    assert found["16-bit copies of weights"] == 3 * linears * 2
    assert found["frozen weights"] == 40_000


def test_shards_divide_the_language_model_and_leave_the_tower_on_the_host():
    # Embedding and output layer 2 x 50 x 8, three layers of 2 x 8 x 8 + 2 x 8 x 4 + 3 x 8 x 20 = 672: 2816. Three processes hold 939 each.
    whole, sharded = (lines(training_memory(SHAPE, replace(WORKLOAD, shards=shards))) for shards in (1, 3))
    assert sharded.pop("frozen weights") == 939 * 2
    assert sharded.pop("gathered weights") == 2 * 50 * 8 * 2
    assert sharded == {name: size for name, size in whole.items() if name != "frozen weights"}


def test_inference_by_hand():
    workload = InferenceWorkload(examples=2, audio_s=31.0, prompt_tokens=10, new_tokens=7, dtype="bfloat16")
    length = 775 + 10
    stages = {
        "audio tower": 2 * 3000 * 2 * 30 * 2,  # two windows of 30 s at 50 positions per second
        "attention": 2 * length * (8 + 32) * 2 + 2 * length**2 * 2,
        "MLP": 2 * length * 68 * 2,
        "logits": 2 * length * 50 * 2 + 2 * 50 * 4,
    }
    largest = max(stages, key=lambda name: stages[name])
    assert largest == "attention"
    kv = 2 * (length + 7) * (2 * 3 * 1 * 4 * 2)
    assert lines(inference_memory(SHAPE, workload)) == {
        "weights": 20_000, "keys and values": kv, "prefill, at its largest in the attention": stages["attention"],
        "allocator slack (assumed)": int((kv + stages["attention"]) * 0.05), "CUDA context and libraries (assumed)": 1_000_000_000,
    }  # fmt: skip


def test_logits_are_counted_once_per_row_if_the_class_can_omit_the_others():
    shape = replace(SHAPE, vocabulary=1_000_000)
    workload = InferenceWorkload(examples=2, audio_s=1.0, prompt_tokens=5, new_tokens=1, dtype="bfloat16")
    name = "prefill, at its largest in the logits"
    assert lines(inference_memory(shape, workload))[name] == 60 * 2_000_000 + 2 * 4_000_000
    assert lines(inference_memory(replace(shape, logits_everywhere=False), workload))[name] == 2 * 2_000_000 + 2 * 4_000_000


# A full-size shape, so that the activations are not negligible.
BIG = ModelShape(8_000_000_000, 3584, 28, 28, 4, 128, 18944, 152064, 1280, 5120, None, True)
HEAVY = TrainingWorkload(16, 30.0, 100, 50, "bfloat16", "bfloat16", False, modules=ALL, rank=16)


def test_advice_recommends_the_first_change_that_fits():
    advice = advise_training(BIG, HEAVY, 80_000_000_000, base="backbones.x")
    assert not advice.fits
    assert advice.recommended is not None
    assert advice.recommended.settings == {"training.gradient_checkpointing": True}
    assert advice.recommended.total == training_memory(BIG, replace(HEAVY, gradient_checkpointing=True)).total
    by_seconds = next(change for change in advice.changes if "training.batch_seconds" in change.settings)
    fitting = by_seconds.workload.examples
    assert by_seconds.settings["training.batch_seconds"] == fitting * 30.0
    assert training_memory(BIG, replace(HEAVY, examples=fitting)).total <= 80_000_000_000
    assert training_memory(BIG, replace(HEAVY, examples=fitting + 1)).total > 80_000_000_000
    by_examples = next(change for change in advice.changes if "training.batch_size" in change.settings)
    assert by_examples.settings == {"training.batch_size": fitting, "training.accumulation": -(-16 // fitting)}
    assert "gradient_checkpointing: true" in str(advice)
    assert "GB too much" in str(advice)


def test_advice_combines_changes_if_no_single_one_fits():
    checkpointed = replace(HEAVY, gradient_checkpointing=True)
    budget = training_memory(BIG, replace(checkpointed, examples=3)).total
    advice = advise_training(BIG, HEAVY, budget)
    assert not any(change.fits for change in advice.changes)
    assert advice.recommended is not None
    assert advice.recommended.settings == {"training.gradient_checkpointing": True, "training.batch_seconds": 90.0}
    assert "(not enough alone)" in str(advice.changes[0])


def test_advice_for_float32_weights_includes_16_bits():
    advice = advise_training(BIG, replace(HEAVY, dtype="float32", precision="float32"), 30_000_000_000, base="backbones.x")
    assert advice.recommended is not None
    assert advice.recommended.settings["backbones.x.dtype"] == "bfloat16"
    assert advice.recommended.settings["training.precision"] == "bfloat16"


def test_advice_if_the_workload_fits_and_if_no_change_fits():
    fits = advise_training(BIG, replace(HEAVY, gradient_checkpointing=True), 80_000_000_000)
    assert fits.fits
    assert fits.changes == ()
    assert "to spare" in str(fits)
    hopeless = advise_training(BIG, HEAVY, 10_000_000_000)
    assert hopeless.recommended is None
    assert "use a larger GPU" in str(hopeless)
    assert largest_batch(BIG, HEAVY, 10_000_000_000) == 0


@contextmanager
def saved_bytes(skip) -> Iterator[dict[int, int]]:
    """Collect the bytes of every storage that autograd saves, except those of `skip`."""
    from torch.autograd.graph import saved_tensors_hooks

    own = {tensor.untyped_storage().data_ptr() for tensor in skip}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("modules", [ALL, ("q_proj", "v_proj"), ("o_proj", "down_proj"), ("gate_proj",)], ids=len)
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_decoder_layer_saves_the_bytes_of_the_formula(dtype, precision, modules, dropout):
    """The numbers are equal, for the CPU's SDPA (its dropout mask is float32, a GPU's has one byte)."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

    B, L, rank = 2, 48, 4
    config = Qwen2Config(hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1)
    config._attn_implementation = "sdpa"
    layer = Qwen2DecoderLayer(config, 0).to(getattr(torch, dtype)).requires_grad_(False)
    layer = inject_adapter_in_model(LoraConfig(r=rank, lora_dropout=dropout, target_modules=list(modules)), layer)
    for name, parameter in layer.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()  # as get_peft_model does
    rotary = Qwen2RotaryEmbedding(config)
    states = torch.randn(B, L, 64, dtype=getattr(torch, dtype)).requires_grad_()
    cos_sin = rotary(states, torch.arange(L)[None])
    mask = torch.ones(L, L, dtype=torch.bool).tril().expand(B, 1, L, L)
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with saved_bytes([*layer.parameters(), *cos_sin]) as sizes, autocast:
        layer(states * 1, attention_mask=mask, position_embeddings=cos_sin)
    shape = ModelShape(0, 64, 1, 4, 2, 16, 160, 10, 0, 0, None, True)
    workload = TrainingWorkload(B, 0.0, L, 0, dtype, precision, False, modules=modules, rank=rank, dropout=dropout > 0)
    expected = B * L * layer_bytes_per_token(shape, workload) + B * L * L * workload.compute_bytes
    if precision != "float32":
        expected += 2 * lora_parameters(shape, modules, rank)
        expected += 2 * sum(a * b for a, b in shape.linears.values()) if dtype == "float32" else 0
    if dropout:
        expected += 3 * B * L * sum(shape.linears[name][0] for name in modules)
    assert sum(sizes.values()) == expected


def test_heads_save_about_the_bytes_of_the_formula():
    """Within 15 %: masks, positions and the tensors of the interpolation are not in the formula."""
    import torch

    from coat_core.experts.catalogue import load_expert
    from coat_core.settings import HeadSettings, LossSettings
    from coat_core.thinking.heads import build_heads

    settings, seconds, B, D = HeadSettings(width=64, layers=2), 8.0, 2, 32
    for implementation in ("log_mel", "prosody", "f0_bins"):
        spec = load_expert(implementation).spec
        head = build_heads({"x": spec}, {"x": (torch.zeros(spec.dim), torch.ones(spec.dim))}, D, settings, 0)["x"]
        frames = int(seconds * spec.native_rate_hz)
        target = (torch.rand(frames, spec.dim), torch.ones(frames, dtype=torch.bool))
        states = torch.randn(B, 25, D).requires_grad_()
        with saved_bytes(head.parameters()) as sizes:
            head.loss(states, [seconds] * B, [target] * B, LossSettings())
        expected = B * 200 * head_values(64, 2, [spec.dim]) * 4
        assert sum(sizes.values()) == pytest.approx(expected, rel=0.15)
