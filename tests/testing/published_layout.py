"""Small checkpoints of the three LALMs in their published layout: names, ids, files and shards are equal, width and depth are smaller.

Sources: the chat templates of Qwen2-Audio's stock processor, of Qwen2.5-Omni's `chat_template.json`, and of the script that converted
Audio Flamingo 3 (transformers); ids and vocabulary sizes of the three `config.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT_TOKENS = 151_643
"""Size of Qwen's byte-level BPE without special tokens. Ids beyond the trained ones are fillers that no text contains."""
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN25 = (
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_TOOLS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
_OMNI = (
    "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>",
    "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip
_OMNI_NAMES = {
    "audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>", "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
}  # fmt: skip

OMNI_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_bos|><|IMAGE|><|vision_eos|>{% elif content['type'] == 'audio' or 'audio' in content or 'audio_url' in content %}"
    "{% set audio_count.value = audio_count.value + 1 %}{% if add_audio_id %}Audio {{ audio_count.value }}: {% endif %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_bos|><|VIDEO|><|vision_eos|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
AF3_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages if m['content'] is not none %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% set audio = namespace(found=False) %}{% set text_buf = namespace(v='') %}{% for c in m['content'] %}"
    "{% if c.get('type') == 'audio' or 'audio' in c %}{% set audio.found = True %}{% elif c.get('type') == 'text' or 'text' in c %}"
    "{% set text_buf.v = text_buf.v + c['text'] %}{% endif %}{% endfor %}{% if audio.found %}{{ '<sound>' }}{% endif %}{{ text_buf.v }}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
AF3_TEXT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages if message['content'] is not none %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Layout:
    """The differences between the repositories of the LALMs."""

    repository: str
    commit: str
    special_tokens: tuple[str, ...]
    tokens: int
    """Length of the tokenizer."""
    vocabulary: int
    """Rows of the embedding."""
    names: dict[str, str]
    generation: dict[str, Any]


PUBLISHED = {
    "qwen2_audio": Layout(
        "Qwen/Qwen2-Audio-7B-Instruct", "0a095220c30b7b31434169c3086508ef3ea5bf0a",
        (*_QWEN, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"), 155_947, 156_032, {},
        {"do_sample": True, "top_k": 20, "top_p": 0.5, "temperature": 0.7, "repetition_penalty": 1.1},
    ),
    "qwen2_5_omni": Layout(
        "Qwen/Qwen2.5-Omni-7B", "ae9e1690543ffd5c0221dc27f79834d0294cba00", (*_QWEN, *_OMNI, *_TOOLS), 151_665, 152_064, _OMNI_NAMES,
        {"do_sample": True, "top_k": 40, "top_p": 0.8, "temperature": 1.0, "repetition_penalty": 1.05},
    ),
    "audio_flamingo_3": Layout(
        "nvidia/audio-flamingo-3-hf", "7d4bae64ee29878af6504ae6f6bb3e40492838ad",
        (*_QWEN, *_QWEN25, *_TOOLS, "<vila/sentinel>", "<image>", "<vila/video>", "<speech>", "<sound>"), 151_672, 151_672, {},
        {"max_new_tokens": 2048, "do_sample": True, "temperature": 0.6},
    ),
}  # fmt: skip


def save_published(key: str, folder: Path, *, texts: Sequence[str] = (), seed: int = 0, layers: int = 3) -> None:
    """Write a small checkpoint with random weights in the published layout, in two or more shards."""
    import torch

    from coat_core.backbones.catalogue import load_architecture

    published = PUBLISHED[key]
    tokenizer = _tokenizer(published, texts)
    config = _CONFIGS[key](published, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_architecture(key).model_class()._from_config(config, dtype=torch.bfloat16)
    # With the usual initialisation a small random model gives the same answer to every input: larger weights make it depend on the input.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "language_model" in name and "embed" not in name:
                weight.mul_(4.0)
    folder.mkdir(parents=True)
    model.generation_config = _generation(published)
    model.save_pretrained(folder, max_shard_size="16MB")
    tokenizer.save_pretrained(folder)
    _FRONT_ENDS[key](folder, tokenizer)
    if key == "qwen2_5_omni":
        _as_omni(folder)


def put_in_cache(repository: str, commit: str, folder: Path, cache: Path) -> Path:
    """Copy a checkpoint folder into the layout of the hub's cache (`HF_HUB_CACHE`) and return the snapshot."""
    place = cache / f"models--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    (place / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        blob = place / "blobs" / f"{len(list((place / 'blobs').iterdir())):040x}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../..") / "blobs" / blob.name)
    return snapshot


def _tokenizer(published: Layout, texts: Sequence[str]) -> Any:
    from transformers import AddedToken, Qwen2Tokenizer

    from coat_core.tiny_bases.tokenizer import make_tokenizer

    small = make_tokenizer(texts, ("<|endoftext|>",), {})
    model = json.loads(small.backend_tokenizer.to_str())["model"]
    vocabulary = {token: index for token, index in model["vocab"].items() if token != "<|endoftext|>"}
    vocabulary |= {f"<filler {index}>": index for index in range(len(vocabulary), TEXT_TOKENS)}
    others = published.tokens - TEXT_TOKENS - len(published.special_tokens)
    special = (*published.special_tokens, *(f"<|{index / 100:.2f}|>" for index in range(others)))
    vocabulary |= {token: TEXT_TOKENS + index for index, token in enumerate(special)}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token="<|im_end|>", extra_special_tokens=dict(published.names))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    assert len(tokenizer) == published.tokens
    return tokenizer


def _generation(published: Layout) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(bos_token_id=151643, eos_token_id=[151645, 151643], pad_token_id=151643, **published.generation)


def _text(published: Layout, layers: int, kv_heads: int) -> dict[str, Any]:
    return {
        "vocab_size": published.vocabulary, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": kv_heads, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "bos_token_id": 151643, "eos_token_id": 151645, "use_cache": True,
    }  # fmt: skip


def _qwen2_audio(published: Layout, layers: int) -> Any:
    from transformers import Qwen2AudioConfig

    audio = {
        "num_mel_bins": 128, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
        "max_source_positions": 1500, "model_type": "qwen2_audio_encoder",
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = {**_text(published, layers, 4), "model_type": "qwen2", "rope_parameters": rope}
    return Qwen2AudioConfig(text_config=text, audio_config=audio, audio_token_index=151646, tie_word_embeddings=False)


def _omni(published: Layout, layers: int) -> Any:
    from transformers import Qwen2_5OmniThinkerConfig

    text = _text(published, layers, 2)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}
    audio = {
        "num_mel_bins": 128, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
        "max_source_positions": 1500, "n_window": 100, "output_dim": 64,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64, "fullatt_block_indexes": [0]}
    return Qwen2_5OmniThinkerConfig(
        text_config=text, audio_config=audio, vision_config=vision, audio_token_index=151646, image_token_index=151655,
        video_token_index=151656, audio_start_token_id=151647, audio_end_token_id=151648, vision_start_token_id=151652,
        vision_end_token_id=151653, user_token_id=872, tie_word_embeddings=False,
    )  # fmt: skip


def _flamingo(published: Layout, layers: int) -> Any:
    from transformers import AudioFlamingo3Config

    audio = {
        "num_mel_bins": 128, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "max_source_positions": 1500, "model_type": "audioflamingo3_encoder",
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    text = {**_text(published, layers, 2), "model_type": "qwen2", "rope_parameters": rope}
    return AudioFlamingo3Config(text_config=text, audio_config=audio, audio_token_id=151669, tie_word_embeddings=False)


_CONFIGS = {"qwen2_audio": _qwen2_audio, "qwen2_5_omni": _omni, "audio_flamingo_3": _flamingo}

_WHISPER = {
    "chunk_length": 30, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "hop_length": 160, "n_fft": 400,
    "n_samples": 480000, "nb_max_frames": 3000, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
    "sampling_rate": 16000,
}  # fmt: skip


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _change(path: Path, **values: Any) -> None:
    _write(path, {**json.loads(path.read_text()), **values})


def _qwen2_audio_front_end(folder: Path, tokenizer: Any) -> None:
    """Write the files. The tokenizer's template is for text only; the template for audio is part of the stock processor's code."""
    _write(folder / "preprocessor_config.json", {**_WHISPER, "processor_class": "Qwen2AudioProcessor"})
    text = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    )
    _change(folder / "tokenizer_config.json", chat_template=text, processor_class="Qwen2AudioProcessor")


def _omni_front_end(folder: Path, tokenizer: Any) -> None:
    vision = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711], "max_pixels": 12845056, "merge_size": 2, "min_pixels": 3136, "patch_size": 14,
        "temporal_patch_size": 2,
    }  # fmt: skip
    long = {"chunk_length": 300, "n_samples": 4800000, "nb_max_frames": 30000, "dither": 0.0}
    _write(folder / "preprocessor_config.json", {**_WHISPER, **long, **vision, "processor_class": "Qwen2_5OmniProcessor"})
    _write(folder / "chat_template.json", {"chat_template": OMNI_TEMPLATE})
    _change(folder / "tokenizer_config.json", chat_template=OMNI_TEMPLATE, processor_class="Qwen2_5OmniProcessor")


def _flamingo_front_end(folder: Path, tokenizer: Any) -> None:
    """Write the files with the stock processor, as the conversion script did."""
    from transformers import AudioFlamingo3Processor, WhisperFeatureExtractor

    tokenizer.chat_template = AF3_TEXT_TEMPLATE
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    AudioFlamingo3Processor(extractor, tokenizer, chat_template=AF3_TEMPLATE).save_pretrained(folder)


_FRONT_ENDS = {"qwen2_audio": _qwen2_audio_front_end, "qwen2_5_omni": _omni_front_end, "audio_flamingo_3": _flamingo_front_end}


def _as_omni(folder: Path) -> None:
    """Prefix every name with `thinker.`, add a shard with tensors of a talker and a vocoder, and wrap the configuration."""
    import torch
    from safetensors.torch import load_file, save_file

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    total = len(shards) + 1
    names: dict[str, str] = {}
    for number, shard in enumerate([*shards, ""], 1):
        tensors = (
            {f"thinker.{name.removeprefix('thinker.')}": tensor for name, tensor in load_file(folder / shard).items()}
            if shard
            else {
                "talker.model.norm.weight": torch.arange(8, dtype=torch.bfloat16),
                "talker.codec_head.weight": torch.ones(4, 8, dtype=torch.bfloat16),
                "token2wav.code2wav_dit_model.proj_out.bias": torch.zeros(3),
            }
        )
        if shard:
            (folder / shard).unlink()
        file = f"model-{number:05d}-of-{total:05d}.safetensors"
        save_file(tensors, folder / f"new-{file}", metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, file)
    for path in folder.glob("new-*"):
        path.rename(folder / path.name.removeprefix("new-"))
    _write(folder / "model.safetensors.index.json", {"metadata": index["metadata"], "weight_map": dict(sorted(names.items()))})
    (folder / "spk_dict.pt").write_bytes(b"the talker's voices, a pickle in the published repository")
    thinker = json.loads((folder / "config.json").read_text())
    outer = {name: thinker.pop(name) for name in ("dtype", "transformers_version") if name in thinker}
    _write(
        folder / "config.json",
        {
            "architectures": ["Qwen2_5OmniModel"], "enable_audio_output": True, "enable_talker": True, "model_type": "qwen2_5_omni",
            "thinker_config": thinker, "talker_config": {"model_type": "qwen2_5_omni_talker", "hidden_size": 8, "num_hidden_layers": 1},
            "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"}, **outer,
        },
    )  # fmt: skip
