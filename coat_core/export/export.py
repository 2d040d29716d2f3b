"""`coat export`: writes a release as a stock PEFT adapter or as a merged checkpoint, after the parity gate."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coat_core.device import check_device
from coat_core.errors import CoatError, OutOfMemoryError
from coat_core.export.card import CARD, RECORD, card, usage
from coat_core.export.source import ExportSource, find_source
from coat_core.hub import free_bytes
from coat_core.storage import copy_tree, new_folder, read_json, write_json, write_text

BASE = "base"
MAX_SHARD_SIZE = "5GB"
DTYPES = ("float32", "bfloat16", "float16")
_HEADROOM_BYTES = 64 << 20
_ADAPTER_FILES = (
    "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json",
    "generation_config.json", "chat_template.jinja",
)  # fmt: skip
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: folder of the export; that of one in a bucket is removed after the upload.
        address: the folder, or `s3://bucket/prefix`.
        size_bytes: size of all files of the export.
        record: content of `export.json`.
        usage: stock code that loads it.
    """

    folder: Path
    address: str
    size_bytes: int
    record: Mapping[str, Any]
    usage: str


def export(
    model: str,
    target: Path,
    *,
    merge: bool = False,
    dtype: str | None = None,
    device: str = "cpu",
    max_shard_size: str = MAX_SHARD_SIZE,
    speakers: bool = False,
    address: str | None = None,
    progress: Progress = print,
) -> Export:
    """Export a model for stock `transformers` and `peft`; the folder appears only after the parity gate has passed.

    Args:
        model: `models:/name@alias`, `models:/name/version`, or a release folder.
        target: folder to create; an earlier export there is replaced, any other content is an error.
        merge: write a merged checkpoint of the stock class instead of the adapter.
        dtype: dtype of a merged checkpoint and of the gate. None: the checkpoint has the dtype of the base's files, and the gate uses
            that dtype, or the dtype of training if that has 16 bits.
        device: device on which the gate runs.
        max_shard_size: largest file of a merged checkpoint, e.g. `5GB`; the base's division into files is kept if no file is larger.
        speakers: Qwen2.5-Omni: also copy `spk_dict.pt`, a pickle.
        address: what the model card calls the folder; None: its path.
        progress: called with one line of text at each step.

    Raises:
        CoatError: the model or its base does not exist, the disk is too small, or the folder contains something else.
        ReleaseError: the release cannot be loaded, has no adapter to export, or the parity gate failed.
        OutOfMemoryError: the device is too small for one model.
    """
    from coat_core.export import parity

    if dtype is not None and dtype not in DTYPES:
        raise CoatError("unknown dtype", field="--dtype", value=dtype, allowed=DTYPES)
    check_device(device, "--device")
    shard_bytes = _shard_bytes(max_shard_size)
    target = target.absolute()
    _check_target(target)
    source = find_source(model, merge=merge, speakers=speakers)
    if any(target in (folder, *folder.parents) for folder in (source.release.resolve(), source.base.resolve())):
        raise CoatError("the folder contains the model to export", field="--to", value=str(target), next_step="choose a new folder")
    progress(f"{model}: {source.info.backbone}, arm {source.info.arm}, on {source.info.base.id}")
    weights = source.plan(dtype, shard_bytes) if merge else None
    gate_dtype = dtype or _gate_dtype(source.base_dtype(), source.info.base.dtype)
    packed_bytes = _size(source.base) if source.packed else 0
    _check_disk(target, weights.total_bytes if weights is not None else _size(source.release) + packed_bytes)
    with new_folder(target) as folder:
        if weights is not None:
            progress(f"writing the merged checkpoint, {weights.total_bytes / 1e9:.2f} GB of weights")
            _write_merged(folder, source, weights, dtype, speakers, progress)
        else:
            progress("writing the adapter")
            _write_adapter(folder, source, target)
        with _memory_advice(gate_dtype, device):
            results = _run_models(folder, source, merge, gate_dtype, device, progress)
        pairs = parity.compare(results, gate_dtype)
        for pair in pairs:
            progress(f"  {parity.describe(pair)}")
        parity.check(pairs, gate_dtype)
        record = _record(source, merge, gate_dtype, device, [asdict(pair) for pair in pairs])
        code = usage(source.model_class, address or target, merge=merge)
        write_json(folder / RECORD, record)
        write_text(folder / CARD, card(record, code))
        size = _size(folder)
    return Export(target, str(target), size, record, code)


def _gate_dtype(stored: str, trained: str) -> str:
    """Return the dtype of the gate: 16 bits if the base's files or the training have 16 bits."""
    return stored if trained == "float32" else trained


def _shard_bytes(text: str) -> int:
    from huggingface_hub.serialization._base import parse_size_to_int

    try:
        size = int(parse_size_to_int(text))
    except ValueError as error:
        size, text = 0, f"{text} ({error})"
    if size < 1:
        raise CoatError("not a file size", field="--max-shard-size", value=text, allowed="a number with KB, MB, GB or TB, e.g. 5GB")
    return size


@contextmanager
def _memory_advice(dtype: str, device: str) -> Iterator[None]:
    """Add advice to an error of a device that is too small for one model."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, OutOfMemoryError) as error:
        raise OutOfMemoryError(
            f"the parity gate needs one complete model in memory: {error}", field="--device", value=f"{device}, {dtype}",
            next_step="use --dtype bfloat16 (half the memory of float32), or --device cpu",
        ) from error  # fmt: skip


def _check_target(target: Path) -> None:
    if not target.exists() or (target.is_dir() and (not any(target.iterdir()) or (target / RECORD).is_file())):
        return
    raise CoatError(
        "the folder contains something that is not an export", field="--to", value=str(target),
        allowed="a new or empty folder, or an earlier export", next_step="choose another folder",
    )  # fmt: skip


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_disk(target: Path, required: int) -> None:
    free = free_bytes(target)
    if required + _HEADROOM_BYTES > free:
        raise CoatError(
            f"the disk is too small for the export: it needs {required / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            field="--to", value=str(target), next_step="free space, or choose a folder on a larger disk",
        )  # fmt: skip


def _write_merged(folder: Path, source: ExportSource, weights: Any, dtype: str | None, speakers: bool, progress: Progress) -> None:
    from coat_core.export.files import check_one_template, write_merged_files

    write_merged_files(folder, source.base, source.release, dtype=dtype, part=source.part, speakers=speakers)
    weights.write(folder, progress)
    check_one_template(folder)


def _write_adapter(folder: Path, source: ExportSource, target: Path) -> None:
    """Copy the files of a release that stock libraries read; the adapter config names a base folder by its absolute path."""
    for name in _ADAPTER_FILES:
        shutil.copyfile(source.release / name, folder / name)
    if source.packed:
        copy_tree(source.base, folder / BASE)
    if source.packed or Path(source.info.base.id).is_dir():
        base = target / BASE if source.packed else source.base.resolve()
        config = folder / "adapter_config.json"
        write_json(config, {**read_json(config), "base_model_name_or_path": str(base)})


def _run_live(source: ExportSource, dtype: str, device: str) -> list[Any]:
    from coat_core.export.parity import reference_queries, run_queries
    from coat_core.thinking.release import load_release

    backbone: Any = load_release(source.release, merge=False, device=device, dtype=dtype, base=str(source.base)).backbone
    return run_queries(
        backbone.model,
        backbone.model.generation_config,
        lambda query: backbone.generation_inputs(backbone.encode([query], generation=True)),
        reference_queries(),
        dtype=dtype,
    )


def _run_models(folder: Path, source: ExportSource, merge: bool, dtype: str, device: str, progress: Progress) -> dict[str, Any]:
    """Return the results of the live model, its adapter under stock PEFT and the merged checkpoint; one model is in memory at a time."""
    from transformers import GenerationConfig

    from coat_core.device import release_memory
    from coat_core.export import parity
    from coat_core.export.stock import load_front_end, load_stock

    queries = parity.reference_queries()
    progress(f"parity gate, {len(queries)} reference queries in {dtype} on {device}: the live model")
    live = _run_live(source, dtype, device)
    release_memory()
    stock, results = source.model_class, {"live": live}
    front = load_front_end(folder, stock, source.architecture.audio_token)
    generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
    written = {"adapter": (source.base, source.release if merge else folder), "merged": (folder, None)}
    for name in ("adapter",) * source.info.trained + ("merged",) * merge:
        progress(f"parity gate: the {name} under stock libraries")
        checkpoint, adapter = written[name]
        model = load_stock(stock, checkpoint, dtype=dtype, device=device, adapter=adapter)
        results[name] = parity.run_queries(model, generation, front.inputs, queries, dtype=dtype, live=live)
        del model
        release_memory()
    return results


def _record(source: ExportSource, merge: bool, dtype: str, device: str, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    from importlib.metadata import version

    info = source.info
    block = info.block and {"tokens": info.block.tokens, "placement": info.block.placement, "ids": list(info.block.trainable_token_ids)}
    return {
        "kind": "merged" if merge else "adapter",
        "backbone": info.backbone,
        "arm": info.arm,
        "seed": info.seed,
        "class": source.model_class.__name__,
        "release": info.fingerprint,
        "base": {"id": info.base.id, "revision": info.base.revision, "licence": info.base.licence},
        "block": block,
        "parity": {"dtype": dtype, "device": device, "pairs": pairs},
        "versions": {name: version(name) for name in ("transformers", "peft", "torch")},
    }
