"""The files of a merged checkpoint other than its weights: configuration, processor, tokenizer, chat template, generation config."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from coat_core.errors import ReleaseError
from coat_core.hub import INDEX
from coat_core.storage import read_json, write_json

CONFIG, TEMPLATE, GENERATION = "config.json", "chat_template.jinja", "generation_config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
SPEAKERS = "spk_dict.pt"
"""The talker's voices in the published Qwen2.5-Omni. It is a pickle and is copied on request only."""
FROM_BASE = ("*.json", "LICENSE*", "NOTICE*")
_REPLACED = frozenset({
    CONFIG, GENERATION, INDEX, *TOKENIZER, "vocab.json", "added_tokens.json", "special_tokens_map.json", "chat_template.json",
    "adapter_config.json", "export.json", "coat.json",
})  # fmt: skip
"""Files of the base that are not copied: the export writes its own, or (older tokenizer files) they lack the block's tokens."""
_FRONT_ENDS = ("preprocessor_config.json", "processor_config.json")


def write_merged_files(folder: Path, base: Path, release: Path, *, dtype: str | None, part: str | None, speakers: bool = False) -> None:
    """Write all files of a merged checkpoint except the weights.

    Args:
        folder: target of the files.
        base: source of configuration, processor files (including image and video settings) and licence.
        release: source of tokenizer, template and generation config.
        dtype: dtype to write into the configuration; None: unchanged.
        part: key of the configuration of the merged part, if the checkpoint has several parts (`thinker_config`).
        speakers: also copy `spk_dict.pt`.

    Raises:
        ReleaseError: `speakers` is true and the file is missing, or contains more than tensors.
    """
    for path in sorted(path for path in base.iterdir() if path.is_file() and path.name not in _REPLACED):
        if any(fnmatch(path.name, pattern) for pattern in FROM_BASE):
            _copy_without_template(path, folder / path.name)
    if not any((folder / name).exists() for name in _FRONT_ENDS):
        shutil.copyfile(release / _FRONT_ENDS[0], folder / _FRONT_ENDS[0])
    for name in (*TOKENIZER, TEMPLATE, GENERATION):
        shutil.copyfile(release / name, folder / name)
    if dtype is None:
        shutil.copyfile(base / CONFIG, folder / CONFIG)
    else:
        write_json(folder / CONFIG, _with_dtype(read_json(base / CONFIG), dtype, part))
    if speakers:
        _copy_speakers(base, folder)


def check_one_template(folder: Path) -> None:
    """Check that `chat_template.jinja` is the only chat template of a folder.

    Raises:
        ReleaseError: it is missing, or there is a second template, in its own file or inside another one.
    """
    second = [path.relative_to(folder).as_posix() for path in folder.rglob("*chat_template*") if path.name != TEMPLATE]
    second += [path.name for path in sorted(folder.glob("*.json")) if path.name != INDEX and _has_template(path)]
    if second or not (folder / TEMPLATE).is_file():
        raise ReleaseError(
            "an export must contain exactly one chat template", field="chat_template", value=second or None, allowed=TEMPLATE,
            next_step="fix the files of the base or of the release",
        )  # fmt: skip


def _has_template(path: Path) -> bool:
    value = read_json(path)
    return isinstance(value, dict) and "chat_template" in value


def _copy_without_template(source: Path, target: Path) -> None:
    """Copy a file byte for byte; a chat template inside a JSON file is removed."""
    if source.suffix == ".json" and _has_template(source):
        write_json(target, {key: value for key, value in read_json(source).items() if key != "chat_template"})
    else:
        shutil.copyfile(source, target)


def _with_dtype(config: dict[str, Any], dtype: str, part: str | None) -> dict[str, Any]:
    """Return the configuration with another dtype, in every section of the part whose weights were cast."""
    changed: dict[str, Any] = json.loads(json.dumps(config))
    sections = [changed]
    if part is not None:
        _set_dtype(changed, dtype)
        sections = [changed[part]]
    while sections:
        section = sections.pop()
        _set_dtype(section, dtype)
        sections += [value for key, value in section.items() if isinstance(value, dict) and key.endswith("_config")]
    return changed


def _set_dtype(section: dict[str, Any], dtype: str) -> None:
    section.pop("torch_dtype", None)
    section["dtype"] = dtype


def _copy_speakers(base: Path, folder: Path) -> None:
    import torch

    if not (base / SPEAKERS).is_file():
        raise ReleaseError(
            "the base has no speakers", field="--speakers", value=str(base / SPEAKERS),
            next_step="omit the option; or, if its repository has them, download the file: hf download ID spk_dict.pt --revision COMMIT",
        )  # fmt: skip
    try:
        torch.load(base / SPEAKERS, weights_only=True)
    except Exception as error:  # A damaged pickle can raise any exception.
        raise ReleaseError(f"{SPEAKERS} contains more than tensors and is not copied: {error}", field="--speakers") from error
    shutil.copyfile(base / SPEAKERS, folder / SPEAKERS)
