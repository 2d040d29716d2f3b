"""The report: results, tables, figures and one page that opens without a server."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import Example
from coat_core.report.results import CLAIM, collect, headline, metrics_for_dvc
from coat_core.report.tables import (
    DIFFERENCES,
    LATENCY_ROWS,
    accuracy_csv,
    entries,
    markdown_tables,
    name_of,
    ratio_text,
    training_csv,
    training_rows,
)
from coat_core.settings import BackboneKey, Settings, parse_trial
from coat_core.storage import new_folder, write_json, write_text


def write_report(workspace: Path, settings: Settings, examples: Sequence[Example], target: Path) -> dict[str, Any]:
    """Write `results.json`, `report.html`, `tables.md`, `figures/`, `metrics.json` and `plots/` to a new folder.

    Reads the evaluations, latencies, runs, releases and features of the backbones, trials and experts that the settings name;
    the sections `runtime`, `backbones`, `trials`, `experts`, `evaluation` and `training` are used.

    Args:
        workspace: where the stages left their outputs.
        settings: all of params.
        examples: rows of the accepted manifest.
        target: folder to make; an older one is replaced.

    Returns:
        What `results.json` holds.

    Raises:
        EvaluationError: an evaluation is missing, or the trials did not answer the same set.
        ReleaseError: a coat release cannot be loaded for its pictures.
    """
    results = collect(workspace, settings.backbones, settings.trials, examples, settings.evaluation, facts_of(settings))
    with new_folder(target) as folder:
        write_json(folder / "results.json", results)
        write_json(folder / "metrics.json", metrics_for_dvc(results))
        write_text(folder / "tables.md", markdown_tables(results))
        write_text(folder / "plots" / "accuracy.csv", accuracy_csv(results))
        write_text(folder / "plots" / "training.csv", training_csv(workspace, results))
        draw_charts(workspace, results, folder / "figures")
        for key in settings.backbones:
            draw_thoughts(workspace, settings, key, examples, folder / "figures")
        write_text(folder / "report.html", render_page(results, folder / "figures"))
    return results


def facts_of(settings: Settings) -> dict[str, Any]:
    """Return what else to say about how the trials were made."""
    training = settings.training
    return {
        "device": settings.runtime.device, "threads": settings.runtime.threads, "ground_steps": training.ground_steps,
        "respond_steps": training.respond_steps, "examples_per_step": training.batch_size * training.accumulation,
        "experts": {key: expert.implementation for key, expert in settings.experts.items()},
        "bases": {key: backbone.base for key, backbone in settings.backbones.items()},
    }  # fmt: skip


def draw_charts(workspace: Path, results: Mapping[str, Any], folder: Path) -> None:
    """Draw the charts that the results have data for."""
    from coat_core.report.charts import draw_accuracy, draw_differences, draw_training

    draw_accuracy(results, folder / "accuracy.png")
    if any(CLAIM in backbone["differences"] for backbone in results["backbones"].values()):
        draw_differences(results, folder / "differences.png")
    if any(backbone["training"] for backbone in results["backbones"].values()):
        draw_training(results, training_rows(workspace, results), folder / "training.png")


def draw_thoughts(workspace: Path, settings: Settings, backbone: BackboneKey, examples: Sequence[Example], folder: Path) -> None:
    """Draw what the first `coat` trial of a backbone heard in the first clip of each family."""
    trial = next((trial for trial in settings.trials if parse_trial(trial)[0] == "coat"), None)
    if trial is None:
        return
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.evaluate import RESPONSES, SCORES
    from coat_core.evaluation.responses import read_responses, read_scores
    from coat_core.report.figures import draw_heard
    from coat_core.report.read_out import listen, sample, stores_of
    from coat_core.thinking.release import load_release

    name = f"{backbone}-{trial}"
    answers = {row.id: row.response for row in read_responses(workspace / "evaluation" / name / RESPONSES) if row.audio == "own"}
    scores = {row.id: row.score for row in read_scores(workspace / "evaluation" / name / SCORES) if row.audio == "own"}
    chosen = settings.backbones[backbone]
    base = workspace / chosen.base
    release = load_release(
        workspace / "models" / name, device=settings.runtime.device, dtype=chosen.dtype, attention=chosen.attention,
        base=str(base) if base.is_dir() else None,
    )  # fmt: skip
    stores = stores_of(workspace, list(settings.experts))
    for example in sample(examples, settings.evaluation.split):
        waveform = decode(workspace / "data/corpus" / example.audio)
        heard = listen(release, example, waveform, stores, trial=trial, response=answers[example.id], score=scores[example.id])
        draw_heard(heard, folder / f"heard-{backbone}-{example.family}.png")


def render_page(results: Mapping[str, Any], figures: Path) -> str:
    """Return the page, with the figures of a folder inside it."""
    from jinja2 import Environment, StrictUndefined

    from coat_core.report.page import PAGE

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    measured = results["measured"]
    columns = [*results["families"], "mean"]
    charts = {name: _picture(figures / f"{name}.png") for name in ("accuracy", "differences", "training")}
    first = next(iter(results["backbones"].values()))
    arms = next(iter(first["arms"].values()))
    return environment.from_string(PAGE).render(
        results=results, measured=measured, columns=columns, charts=charts, corpus=results["corpus"], n=arms["mean"]["n"],
        confidence=f"{measured['confidence']:.0%}", cards=[_card(results, key) for key in results["backbones"]],
        heard=[group for key in results["backbones"] if (group := _heard(key, figures))["pictures"]],
        tables=[_table(results, key) for key in results["backbones"]], latency=_latency(results),
        latency_labels=list(LATENCY_ROWS.values()),
        contract=results["contract"], facts=_facts(measured),
    )  # fmt: skip


def _picture(path: Path) -> str | None:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None


def _card(results: Mapping[str, Any], key: str) -> dict[str, Any]:
    claim = results["backbones"][key]["differences"].get(CLAIM)
    points = "n/a" if claim is None else _points(claim["mean"]["difference"])
    # `shown`, for Jinja would take `clear` for the method of dict.
    shown = claim is not None and not claim["mean"]["includes_zero"]
    return {"name": name_of(key), "points": points, "shown": shown, "headline": headline(results, key)}


def _heard(key: str, figures: Path) -> dict[str, Any]:
    prefix = f"heard-{key}-"
    paths = sorted(figures.glob(f"{prefix}*.png"))
    pictures = [{"alt": f"What {name_of(key)} heard: {path.stem.removeprefix(prefix)}", "data": _picture(path)} for path in paths]
    return {"name": name_of(key), "pictures": pictures}


def _table(results: Mapping[str, Any], key: str) -> dict[str, Any]:
    backbone = results["backbones"][key]
    arm = next((arm for arm in ("coat", "sft") if arm in backbone["arms"]), next(iter(backbone["arms"])))
    column = entries(results, backbone["arms"][arm])
    return {
        "name": name_of(key),
        "counts": [entry["n"] if entry else 0 for entry in column],
        "arms": [
            {"name": name, "cells": [_accuracy(e) for e in entries(results, values)], "unscored": f"{values['mean']['unscored_share']:.1%}"}
            for name, values in backbone["arms"].items()
        ],
        "chance_arm": arm,
        "chance": [f"{entry['chance']:.3f}" if entry and entry["chance"] is not None else "" for entry in column],
        "differences": [
            {"name": DIFFERENCES.get(name, name), "cells": [_difference(e) for e in entries(results, values)]}
            for name, values in backbone["differences"].items()
        ],
        "drawn": [f"{entry['resampling']} ({entry['units']})" if entry else "" for entry in column],
    }


def _accuracy(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
    return {"value": f"{entry['accuracy']:.3f}", "interval": interval, "at_chance": entry["clear_of_chance"] is False}


def _difference(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    interval = f"{_signed(entry['low'])} to {_signed(entry['high'])}"
    return {"value": _signed(entry["difference"]), "interval": interval, "shown": not entry["includes_zero"]}


def _latency(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for key, backbone in results["backbones"].items():
        if not (latency := backbone["latency"]):
            continue
        for number, trial in enumerate((latency["baseline"], latency["candidate"])):
            values = latency["trials"][trial]
            cells = [f"{1000 * values[name]:.1f} ms" for name in LATENCY_ROWS]
            counts = [f"{values[name]:g}" for name in ("prompt_tokens", "decoded_tokens")]
            rows.append({"name": "" if number else name_of(key), "trial": trial, "cells": cells + counts})
        rows.append({"name": "", "trial": "ratio", "cells": [*(ratio_text(latency["ratios"].get(name)) for name in LATENCY_ROWS), "", ""]})
    return rows


def _facts(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = []
    for name, value in measured.items():
        text = ", ".join(f"{key}: {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)
        shown.append((name.replace("_", " "), "no limit" if value is None else text))
    return shown


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "\u2212")
