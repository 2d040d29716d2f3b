"""Output of a diagnosis: tables or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coat_core.sizing.diagnosis import TEXT_TOKENS, BlockRows, Diagnosis, SizingRequest, diagnose
from coat_core.sizing.memory import Estimate, Line
from coat_core.sizing.params import Params
from coat_core.sizing.published import published_keys

if TYPE_CHECKING:
    from rich.table import Table


def print_published(key: str, params: Path | None, request: SizingRequest, *, as_json: bool) -> None:
    """Diagnose one published backbone, or `all`, and print the results.

    Raises:
        BackboneError: see `diagnose`.
        SettingsError: the params file is missing or invalid.
    """
    settings = Params.read(params)
    diagnoses = [diagnose(one, settings, request) for one in published_keys(key)]
    if as_json:
        print(json.dumps([to_json(one) for one in diagnoses], indent=2))
        return
    for one in diagnoses:
        print_tables(one)


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as JSON; sizes in parameters and bytes."""
    checkpoint, advice = diagnosis.checkpoint, diagnosis.training
    return {
        "backbone": checkpoint.key,
        "checkpoint": {
            "id": checkpoint.id, "commit": checkpoint.commit, "licence": checkpoint.licence, "commercial_use": checkpoint.commercial_use,
            "configuration": diagnosis.config_source,
        },
        "parameters": {**diagnosis.parameters, "total": diagnosis.total, "frozen": diagnosis.total},
        "trainable": {
            "lora_modules": diagnosis.lora_modules, "lora": diagnosis.lora, "rows": diagnosis.block_parameters, "heads": diagnosis.heads,
            "heads_unknown": diagnosis.unknown_heads, "total": diagnosis.trainable,
        },
        "block": {**asdict(diagnosis.rows), "spare": diagnosis.rows.spare},
        "training": {
            "load": asdict(diagnosis.workload), **_estimate(advice.estimate), "budget": advice.budget,
            "fits": advice.fits, "advice": str(advice),
            "levers": [{"settings": change.settings, "total": change.total, "fits": change.fits} for change in advice.changes],
            "recommended": advice.recommended.settings if advice.recommended else None,
        },
        "inference": {
            "load": asdict(diagnosis.inference_workload), **_estimate(diagnosis.inference),
            "fits": diagnosis.inference.total <= diagnosis.gpu_bytes,
        },
        "disk": [asdict(line) for line in diagnosis.disk],
        "notes": list(diagnosis.notes),
    }  # fmt: skip


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"lines": [asdict(line) for line in estimate.lines], "total": estimate.total}


def print_tables(diagnosis: Diagnosis) -> None:
    """Print a diagnosis as tables."""
    from rich.console import Console

    console = Console(soft_wrap=False, highlight=False)
    checkpoint, workload, advice = diagnosis.checkpoint, diagnosis.workload, diagnosis.training
    console.print(f"\n[bold]{checkpoint.id}[/bold] at {checkpoint.commit}")
    console.print(f"licence {checkpoint.licence}{'' if checkpoint.commercial_use else ' (no commercial use)'}; {diagnosis.config_source}")
    rows = [(name, f"{count:,}", "") for name, count in diagnosis.parameters.items()]
    console.print(_table("parameters, all frozen", [*rows, ("total", f"{diagnosis.total:,}", "")]))
    trained = [
        ("LoRA", f"{diagnosis.lora:,}", f"{diagnosis.lora_modules} modules matched, as expected, rank {workload.rank}"),
        ("trainable tokens of the block", f"{diagnosis.block_parameters:,}", _rows_text(diagnosis.rows)),
        *((f"head {key}", f"{count:,}", "") for key, count in diagnosis.heads.items()),
        *((f"head {key}", "?", why) for key, why in diagnosis.unknown_heads.items()),
        ("total", f"{diagnosis.trainable:,}", f"{diagnosis.trainable / diagnosis.total:.2%} of the base"),
    ]
    console.print(_table("trainable", trained))
    text, inference = f"{workload.audio_s:g} s, {TEXT_TOKENS} text", diagnosis.inference_workload
    shape = f"{workload.examples} examples of {text} and {workload.answer_tokens} answer tokens, {workload.dtype}"
    checkpointing = f"{'with' if workload.gradient_checkpointing else 'without'} gradient checkpointing"
    console.print(_table(f"training memory, GB: {shape}, precision {workload.precision}, {checkpointing}", _gb(advice.estimate.lines)))
    console.print(f"{'' if advice.fits else 'DOES NOT FIT: '}{advice}", style=None if advice.fits else "red")
    for change in advice.changes:
        console.print(f"  {change}")
    console.print(
        _table(
            f"inference memory, GB: {inference.examples} examples of {text} and {inference.new_tokens} new tokens, {inference.dtype}",
            _gb(diagnosis.inference.lines),
        )
    )
    fits = diagnosis.inference.total <= diagnosis.gpu_bytes
    console.print(
        f"{'fits' if fits else 'DOES NOT FIT'}: {diagnosis.inference.total / 1e9:.1f} of {diagnosis.gpu_bytes / 1e9:.1f} GB",
        style=None if fits else "red",
    )
    console.print(_table("disk, GB", _gb(diagnosis.disk, total=False)))
    for note in diagnosis.notes:
        console.print(f"note: {note}")


def _rows_text(rows: BlockRows) -> str:
    at_most = "" if rows.exact else "at most "
    tokens = f"{rows.matrix:,} rows - {'' if rows.exact else 'at least '}{rows.tokens:,} tokens = {at_most}{rows.spare:,} spare"
    used = f"the block uses reserved tokens: {' '.join(rows.taken)}" if rows.taken else f"the block uses {rows.needed} of them"
    return f"K = {rows.think_tokens}; {tokens}; {used}"


def _gb(lines: Iterable[Line], *, total: bool = True) -> list[tuple[str, str, str]]:
    shown = [(line.name, f"{line.bytes / 1e9:.3f}", line.arithmetic) for line in lines]
    return [*shown, ("peak", f"{sum(line.bytes for line in lines) / 1e9:.3f}", "")] if total else shown


def _table(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells))
    return table
