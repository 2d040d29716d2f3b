"""The model card of an export, and the stock code that loads the export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.settings import find_arm

RECORD, CARD = "export.json", "README.md"
_KNOWN_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "bsd-3-clause")
"""Licences that have an identifier in model cards; any other is written as `other` with its name."""


def usage(model_class: Any, folder: Path | str, *, merge: bool) -> str:
    """Return stock code that loads an export."""
    name = model_class.__name__
    needs_torchvision = {"image", "video"} & {*model_class.input_modalities}
    front = "AutoTokenizer, WhisperFeatureExtractor" if needs_torchvision else "AutoProcessor"
    where = f'"{folder}"'
    lines = [f"from transformers import {front}, {'' if merge else 'GenerationConfig, '}{name}"]
    if merge:
        lines.append(f"model = {name}.from_pretrained({where})")
    else:
        lines.insert(0, "from peft import PeftConfig, PeftModel")
        lines.append(f"config = PeftConfig.from_pretrained({where})")
        lines.append(f"base = {name}.from_pretrained(config.base_model_name_or_path, revision=config.revision)")
        lines.append(f"model = PeftModel.from_pretrained(base, {where})")
        lines.append(f"base.generation_config = GenerationConfig.from_pretrained({where})  # the base's config samples")
    lines += [f"{_variable(loader)} = {loader}.from_pretrained({where})" for loader in front.split(", ")]
    return "\n".join(lines)


def card(record: Mapping[str, Any], code: str, sections: str = "", licence_link: str | None = None) -> str:
    """Return the model card: licence, base, code to load the export, results of the parity gate.

    Args:
        record: content of `export.json`.
        code: stock code that loads the export; see `usage`.
        sections: Markdown of further sections, before the parity gate.
        licence_link: link to the text of a licence without an identifier.
    """
    base, block, parity = record["base"], record["block"], record["parity"]
    licence = base["licence"] or "unknown"
    at = f" at revision `{base['revision']}`" if base["revision"] else ""
    thinks = (
        "It has no thinking block."
        if block is None
        else f"Every prompt contains a block of {block['tokens']} think tokens, which the chat template writes: use it for all prompts. "
        f"The ids {', '.join(map(str, block['ids']))} must not be generated: `generation_config.json` of this folder suppresses them."
    )
    pairs = "\n".join(
        f"| {pair['first']} / {pair['second']} | {pair['largest']:.2e} | {pair['answers']} of {pair['probes']} | {pair['ties']} |"
        for pair in parity["pairs"]
    )
    return f"""---
{_metadata(record, licence, licence_link)}---

# {record["class"]}, {record["kind"]}

Made from `{base["id"]}`{at} (licence of its weights: {licence}), trial `{record["arm"]}-{record["seed"]}`.
{thinks} With that file decoding is greedy. Use one audio per prompt.

```python
{code}
```

With Qwen2.5-Omni, `AutoProcessor` replaces tokenizer and feature extractor if torchvision is installed.

{sections}| parity on {parity["device"]}, {parity["dtype"]} | largest difference of a logit | equal greedy answers | differ at a tie |
|:--|--:|--:|--:|
{pairs}

`export.json` contains the same figures and the key of the release.
"""


def _metadata(record: Mapping[str, Any], licence: str, link: str | None) -> str:
    """Return the YAML that the hub reads. A base without a revision is a folder, which the hub does not know."""
    from yaml import safe_dump

    base, merged = record["base"], record["kind"] == "merged"
    fields: dict[str, Any] = {"license": licence.lower()}
    if licence.lower() not in _KNOWN_LICENCES:
        # An identifier such as `my-license-1.0`; the text below the metadata has the name as it is.
        fields = {"license": "other", "license_name": re.sub("[^a-z0-9.]+", "-", licence.lower()).strip("-")}
        fields |= {"license_link": link} if link else {}
    if base["revision"]:
        relation = "adapter" if not merged else "finetune"
        fields |= {"base_model": base["id"], **({"base_model_relation": relation} if find_arm(record["arm"]).lora else {})}
    fields |= {"library_name": "transformers" if merged else "peft", "pipeline_tag": "audio-text-to-text"}
    return str(safe_dump(fields, sort_keys=False, allow_unicode=True))


def _variable(loader: str) -> str:
    return {"AutoProcessor": "processor", "AutoTokenizer": "tokenizer", "WhisperFeatureExtractor": "extractor"}[loader]
