"""LoRA on a backbone's language model, by PEFT, with a seeded start."""

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
    """Put LoRA into `backbone.model` in place and return the PEFT model around it.

    Each A starts Kaiming-uniform (LoRA, arXiv 2106.09685) from a generator of its own, a function of seed and layer name, so
    that all arms start equal; each B starts at zero.

    Raises:
        BackboneError: the targets match no layer.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none", target_modules=backbone.lora_targets(lora.modules)
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5 by a deprecated name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        try:
            peft = get_peft_model(cast(Any, backbone.model), config)
        except ValueError as error:
            raise BackboneError(
                f"LoRA cannot be put into this model: {error}",
                field="lora.modules",
                value=list(lora.modules),
                next_step="name the model's linear layers",
            ) from error
    with torch.no_grad():
        for name, parameter in sorted(peft.named_parameters()):
            if ".lora_A." in name:
                start = torch.empty(parameter.shape, dtype=torch.float32)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=make_generator("lora", seed, name))
                parameter.copy_(start)
    return peft


def lora_linears(peft: Any) -> list[str]:
    """Return the names, within the stock model, of the linear layers that carry LoRA, in model order."""
    prefix = "base_model.model."
    ending = ".lora_A.default.weight"
    return [name.removeprefix(prefix).removesuffix(ending) for name, _ in peft.named_parameters() if name.endswith(ending)]


def standard_config(peft: Any, base: str, revision: str | None, row_ids: Sequence[int]) -> Any:
    """Return the config that stock PEFT loads LoRA and rows with.

    Args:
        peft: the PEFT model.
        base: hub id or path of the base.
        revision: of the hub repository.
        row_ids: the block's ids, in the order of the rows; empty without a block.
    """
    config = copy.deepcopy(peft.peft_config["default"])
    stock = type(peft.get_base_model())
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    config.auto_mapping = {"base_model_class": stock.__name__, "parent_library": stock.__module__}
    config.trainable_token_indices = list(row_ids) or None
    return config


def adapter_names(backbone: Backbone, names: Iterable[str]) -> dict[str, str]:
    """Return, for each parameter of LoRA and rows by its name in a `ThinkingModel`, the name that PEFT saves it under.

    Args:
        backbone: finds the embedding's name.
        names: trainable names; those of heads are passed over.
    """
    embedding = next(name for name, module in backbone.model.named_modules() if module is backbone.embedding)
    saved = {}
    for name in names:
        if name == "rows":
            saved[name] = f"base_model.model.{embedding}.token_adapter.trainable_tokens_delta"
        elif not name.startswith("heads."):
            saved[name] = name.removeprefix("peft.").replace(".default.weight", ".weight")
    return saved
