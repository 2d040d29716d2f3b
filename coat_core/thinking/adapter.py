"""LoRA on a backbone's language model, by PEFT, with seeded initial weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from coat_core.backbones.base import Backbone
from coat_core.errors import BackboneError
from coat_core.seeding import make_generator
from coat_core.settings import LoraSettings


def add_lora(backbone: Backbone, lora: LoraSettings, seed: int) -> Any:
    """Add LoRA to `backbone.model` in place and return the PEFT model that wraps it.

    Each A is initialised Kaiming-uniform (LoRA, arXiv 2106.09685) by its own generator, seeded with the trial's seed and the
    layer's name, so that all arms start from equal weights. Each B is initialised to zero.

    Raises:
        BackboneError: the targets match no layer.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none", target_modules=backbone.lora_targets(lora.modules)
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5 has deprecated.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        try:
            peft = get_peft_model(cast(Any, backbone.model), config)
        except ValueError as error:
            raise BackboneError(
                f"LoRA cannot be added to this model: {error}",
                field="lora.modules",
                value=list(lora.modules),
                next_step="name the model's linear layers",
            ) from error
    with torch.no_grad():
        for name, parameter in sorted(peft.named_parameters()):
            if ".lora_A." in name:
                initial = torch.empty(parameter.shape, dtype=torch.float32)
                nn.init.kaiming_uniform_(initial, a=math.sqrt(5), generator=make_generator("lora", seed, name))
                parameter.copy_(initial)
    return peft


def standard_config(peft: Any, base: str, revision: str | None, token_ids: Sequence[int]) -> Any:
    """Return the config with which stock PEFT loads LoRA and the trainable tokens.

    Args:
        peft: the PEFT model.
        base: hub id or path of the base.
        revision: revision of the hub repository.
        token_ids: ids of the trainable tokens, in the order of their embeddings; empty without a block.
    """
    config = copy.deepcopy(peft.peft_config["default"])
    stock = type(peft.get_base_model())
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    config.auto_mapping = {"base_model_class": stock.__name__, "parent_library": stock.__module__}
    config.trainable_token_indices = list(token_ids) or None
    return config


def adapter_names(backbone: Backbone, names: Iterable[str]) -> dict[str, str]:
    """Map the names of LoRA and trainable-token parameters in a `ThinkingModel` to the names under which PEFT saves them.

    Args:
        backbone: model whose embedding layer is adapted.
        names: names of trainable parameters; parameters of heads are skipped.
    """
    embedding = next(name for name, module in backbone.model.named_modules() if module is backbone.embedding)
    saved = {}
    for name in names:
        if name == "trainable_tokens":
            saved[name] = f"base_model.model.{embedding}.token_adapter.trainable_tokens_delta"
        elif not name.startswith("heads."):
            saved[name] = name.removeprefix("peft.").replace(".default.weight", ".weight")
    return saved
