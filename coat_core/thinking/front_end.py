"""The front end of a release: tokenizer, chat template, feature extractor and generation config, readable by stock libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from coat_core.backbones.base import Backbone
from coat_core.errors import ReleaseError
from coat_core.storage import read_json, write_json
from coat_core.thinking.block import ThinkingBlock

TEMPLATE, EXTRACTOR = "chat_template.jinja", "preprocessor_config.json"
FILES = ("tokenizer.json", "tokenizer_config.json", EXTRACTOR, "generation_config.json", TEMPLATE)


def write_front_end(folder: Path, backbone: Backbone, block: ThinkingBlock | None) -> None:
    """Write the files that turn a question into ids and mel features, and the generation config.

    Raises:
        ReleaseError: the backbone did not save exactly one chat template.
    """
    backbone.save(str(folder), weights=False)
    _name_processor(folder, backbone)
    _generation_config(backbone, block).save_pretrained(folder)
    second = (folder / "chat_template.json").exists() or "chat_template" in read_json(folder / "tokenizer_config.json")
    if second or not (folder / TEMPLATE).is_file():
        raise ReleaseError(
            "a release must have exactly one chat template", field="release", allowed=TEMPLATE, next_step="fix the backbone's `save`"
        )


def load_front_end(folder: Path, backbone: Backbone, block: ThinkingBlock | None) -> None:
    """Load the release's tokenizer, template and generation config into the backbone.

    Raises:
        ReleaseError: the block's ids differ from the tokenizer's, or are outside the base's embedding.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    backbone.tokenizer = tokenizer
    cast(Any, backbone.model).generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    if block is None:
        return
    texts = [block.start_token, *block.think_tokens, block.end_token]
    ids = [block.start_id, *block.think_ids, block.end_id]
    if tokenizer.convert_tokens_to_ids(texts) != ids or max(ids) >= backbone.embedding.num_embeddings:
        raise ReleaseError(
            "the block's ids are invalid for this base", field="block", value=ids, allowed=f"< {backbone.embedding.num_embeddings}"
        )


def _name_processor(folder: Path, backbone: Backbone) -> None:
    """Write the class of the stock processor, so that `AutoProcessor` finds it without the base's `config.json`."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(cast(Any, backbone.model).config.model_type)
    if name is not None:
        write_json(folder / EXTRACTOR, {**read_json(folder / EXTRACTOR), "processor_class": name})


def _generation_config(backbone: Backbone, block: ThinkingBlock | None) -> Any:
    """Return a config of greedy decoding that never generates the block's ids.

    Sampling parameters and penalties are set to neutral values, not omitted: `generate` fills omitted fields from the config
    of the base's folder (Qwen2-Audio publishes a repetition penalty).
    """
    from transformers import GenerationConfig

    base = cast(Any, backbone.model).generation_config
    tokenizer = backbone.tokenizer
    end = int(tokenizer.convert_tokens_to_ids(backbone.end_of_turn))
    stops = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    pad = base.pad_token_id if base.pad_token_id is not None else tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        bos_token_id=base.bos_token_id,
        eos_token_id=sorted({end, *(int(stop) for stop in stops if stop is not None)}),
        pad_token_id=end if pad is None else pad,
        suppress_tokens=list(block.trainable_token_ids) if block is not None else None,
    )
