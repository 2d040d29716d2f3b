"""Helpers for the tests of exports: trained releases, a complete Omni with a talker, and a process without our package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coat_core.backbones.base import Query

QUESTION = "Which sound is this? Choices: dog bark, siren."


def write_trained(
    key: str,
    base: Path,
    target: Path,
    arm: str = "coat",
    *,
    base_id: str = "",
    revision: str | None = None,
    scale: float = 0.05,
    **thinking: Any,
) -> Path:
    """Write a release of an arm with random trained values on a base."""
    from torch import nn

    from coat_core.backbones.catalogue import load_backbone
    from coat_core.settings import LoraSettings, LossSettings, ThinkingSettings
    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.info import BaseInfo, ReleaseInfo
    from coat_core.thinking.model import ThinkingModel
    from coat_core.thinking.release import write_release
    from tests.testing.releases import info_of

    backbone = load_backbone(key, str(base))
    if arm == "base":
        write_release(target, info_of(backbone, "base", base), backbone)
        return target
    block = None if arm == "sft" else ThinkingBlock.install(backbone, ThinkingSettings(**{"tokens": 4, **thinking}))
    lora, losses = LoraSettings(rank=2, alpha=4), LossSettings()
    model = ThinkingModel(backbone, block, nn.ModuleDict(), lora, losses, 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    info = ReleaseInfo(
        key, "block" if arm == "coat" else arm, 0, BaseInfo(base_id or str(base), revision, "Apache-2.0"), "f" * 64, block,
        lora=lora, losses=losses,
    )  # fmt: skip
    write_release(target, info, backbone, model)
    return target


def make_query() -> Query:
    waveform = (np.random.default_rng(3).standard_normal(12_000) * 0.1).astype(np.float32)
    return Query("clip", waveform, QUESTION)


@torch.no_grad()
def our_answer(release: Path, dtype: str = "float32") -> tuple[list[int], list[int]]:
    """Return prompt and greedy answer (ids) of a release, loaded by our code, unmerged."""
    from coat_core.thinking.release import load_release

    backbone: Any = load_release(release, merge=False, dtype=dtype).backbone
    inputs = backbone.generation_inputs(backbone.encode([make_query()], generation=True))
    width = inputs["input_ids"].shape[1]
    return inputs["input_ids"][0].tolist(), backbone.model.generate(**inputs, max_new_tokens=12)[0, width:].tolist()


def stock_answers(folder: Path, exports: list[Path]) -> list[dict[str, Any]]:
    """Return the results of stock libraries for exports, from a new process where our package cannot be imported."""
    np.save(folder / "waveform.npy", make_query().waveform)
    jobs = [{"folder": str(path), "waveform": str(folder / "waveform.npy"), "text": QUESTION} for path in exports]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).parent / "stock_export.py"), str(folder / "jobs.json")],
        capture_output=True, text=True, cwd=elsewhere, check=False, timeout=1800,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return answers


def save_whole_omni(thinker: Path, folder: Path, *, speakers: bool = True) -> Path:
    """Write a complete tiny Qwen2.5-Omni: the thinker of a tiny base, with a talker, a vocoder and voices of the real classes."""
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniTalkerConfig, Qwen2_5OmniToken2WavConfig
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniTalkerForConditionalGeneration, Qwen2_5OmniToken2WavModel

    shutil.copytree(thinker, folder)
    config = json.loads((thinker / "config.json").read_text())
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}
    ids = config["thinker_config"]["audio_token_index"]
    talker = Qwen2_5OmniTalkerConfig(
        vocab_size=64, embedding_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, rope_parameters=rope, audio_token_index=ids, image_token_index=1, video_token_index=2,
        tts_text_start_token_id=3, tts_text_end_token_id=4, tts_text_pad_token_id=5, tts_codec_start_token_id=6, tts_codec_end_token_id=7,
        tts_codec_pad_token_id=8, tts_codec_mask_token_id=9, vision_start_token_id=10, vision_end_token_id=11, audio_start_token_id=12,
        audio_end_token_id=13,
    )  # fmt: skip
    vocoder = Qwen2_5OmniToken2WavConfig(
        dit_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 32, "emb_dim": 16, "num_embeds": 65,
            "mel_dim": 8,
            "enc_emb_dim": 8, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24], "enc_attention_channels": 8, "enc_se_channels": 8,
        },
        bigvgan_config={
            "mel_dim": 8, "upsample_initial_channel": 16, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4],
            "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]],
        },
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {
            "talker": Qwen2_5OmniTalkerForConditionalGeneration._from_config(talker, dtype=torch.bfloat16),
            "token2wav": Qwen2_5OmniToken2WavModel._from_config(vocoder, dtype=torch.float32),
        }
    others = {f"{part}.{name}": tensor.contiguous() for part, model in parts.items() for name, tensor in model.state_dict().items()}
    own = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {"model-00001-of-00002.safetensors": own, "model-00002-of-00002.safetensors": others}
    for name, tensors in files.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    index = {name: file for file, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    whole = Qwen2_5OmniConfig(thinker_config=config["thinker_config"], talker_config=talker.to_dict(), token2wav_config=vocoder.to_dict())
    written = {**whole.to_dict(), "architectures": ["Qwen2_5OmniModel"], "dtype": "bfloat16", "enable_audio_output": True}
    (folder / "config.json").write_text(json.dumps(written))
    front = json.loads((thinker / "preprocessor_config.json").read_text())
    front |= {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136}
    (folder / "preprocessor_config.json").write_text(json.dumps(front))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": (thinker / "chat_template.jinja").read_text()}))
    (folder / "LICENSE").write_text("Apache-2.0")
    if speakers:
        torch.save({"Chelsie": {"cond": torch.zeros(1, 8), "ref_mel": torch.zeros(1, 4, 8), "bos_token": 1}}, folder / "spk_dict.pt")
    return folder
