"""The files of a plain checkpoint beside its weights: configuration, processor, tokenizer, one template, greedy generation."""

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
"""The talker's voices in the published Qwen2.5-Omni, a pickle: it is copied only where it is asked for."""
FROM_BASE = ("*.json", "LICENSE*", "NOTICE*")
_OURS = frozenset({
    CONFIG, GENERATION, INDEX, *TOKENIZER, "vocab.json", "added_tokens.json", "special_tokens_map.json", "chat_template.json",
    "adapter_config.json", "export.json", "coat.json",
})  # fmt: skip
"""What is written from the release or by us. The older tokenizer files of a base do not know the block's tokens."""
_FRONT_ENDS = ("preprocessor_config.json", "processor_config.json")


def write_plain_files(folder: Path, base: Path, release: Path, *, dtype: str | None, part: str | None, speakers: bool = False) -> None:
    """Write everything but the weights.

    Args:
        folder: gets the files.
        base: gives configuration, processor files (image and video settings too) and licence.
        release: gives tokenizer, template and generation config.
        dtype: what the configuration shall say; None leaves it as it is.
        part: key of the configuration of the part that is merged, where the checkpoint holds several (`thinker_config`).
        speakers: copy `spk_dict.pt` too.

    Raises:
        ReleaseError: the speakers are asked for and are not there, or are more than tensors.
    """
    for path in sorted(path for path in base.iterdir() if path.is_file() and path.name not in _OURS):
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
    """Refuse a folder with any other chat template than `chat_template.jinja`.

    Raises:
        ReleaseError: there is none, or a second one in a file of its own or inside another.
    """
    second = [path.relative_to(folder).as_posix() for path in folder.rglob("*chat_template*") if path.name != TEMPLATE]
    second += [path.name for path in sorted(folder.glob("*.json")) if path.name != INDEX and _holds_template(path)]
    if second or not (folder / TEMPLATE).is_file():
        raise ReleaseError(
            "an export holds exactly one chat template", field="chat_template", value=second or None, allowed=TEMPLATE,
            next_step="mend the base's or the release's files",
        )  # fmt: skip


def _holds_template(path: Path) -> bool:
    value = read_json(path)
    return isinstance(value, dict) and "chat_template" in value


def _copy_without_template(source: Path, target: Path) -> None:
    """Copy a file byte for byte; a JSON file that holds a chat template loses it."""
    if source.suffix == ".json" and _holds_template(source):
        write_json(target, {key: value for key, value in read_json(source).items() if key != "chat_template"})
    else:
        shutil.copyfile(source, target)


def _with_dtype(config: dict[str, Any], dtype: str, part: str | None) -> dict[str, Any]:
    """Return the configuration with the number format that its weights now have, in every section of the part that was cast."""
    changed: dict[str, Any] = json.loads(json.dumps(config))
    sections = [changed]
    if part is not None:
        _name_dtype(changed, dtype)
        sections = [changed[part]]
    while sections:
        section = sections.pop()
        _name_dtype(section, dtype)
        sections += [value for key, value in section.items() if isinstance(value, dict) and key.endswith("_config")]
    return changed


def _name_dtype(section: dict[str, Any], dtype: str) -> None:
    section.pop("torch_dtype", None)
    section["dtype"] = dtype


def _copy_speakers(base: Path, folder: Path) -> None:
    import torch

    if not (base / SPEAKERS).is_file():
        raise ReleaseError(
            "the base has no speakers", field="--speakers", value=str(base / SPEAKERS),
            next_step="leave the option out; or, if its repository has them, fetch the file: hf download ID spk_dict.pt --revision COMMIT",
        )  # fmt: skip
    try:
        torch.load(base / SPEAKERS, weights_only=True)
    except Exception as error:  # A damaged pickle makes the reader fail in any way.
        raise ReleaseError(f"{SPEAKERS} holds more than tensors; it is not copied: {error}", field="--speakers") from error
    shutil.copyfile(base / SPEAKERS, folder / SPEAKERS)
