"""The report stage: results, tables, figures and one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import Example
from coat_core.evaluation.metrics import bootstrap_of
from coat_core.report.conclusion import conclusion
from coat_core.report.confusion import COLUMNS, confusion_rows
from coat_core.report.diagnostics import choice_rows, diagnostics_markdown, draw_heat_maps, knock_out_rows, probed, skill_rows
from coat_core.report.items import SampleItem, sample_items
from coat_core.report.results import HEADLINE, collect, headline, metrics_for_dvc
from coat_core.report.suites import NOTE, collect_suites, suite_rows, suites_markdown
from coat_core.report.tables import (
    BRIEF_NOTE,
    DIFFERENCES,
    LATENCY_ROWS,
    accuracy_csv,
    csv_text,
    described_latency,
    entries,
    markdown_tables,
    name_of,
    ratio_text,
    signed,
    training_csv,
    training_rows,
)
from coat_core.report.templates import template
from coat_core.settings import CLAIM, BackboneKey, Settings, parse_trial
from coat_core.storage import new_folder, write_json, write_text


def write_report(workspace: Path, settings: Settings, examples: Sequence[Example], target: Path) -> dict[str, Any]:
    """Write `results.json`, `report.html`, `tables.md`, `figures/`, `metrics.json` and `plots/` to a new folder.

    Reads the evaluations, latencies, runs, releases and features of the backbones, trials and experts that the settings name;
    the sections `runtime`, `backbones`, `trials`, `experts`, `evaluation`, `probes` and `training` are used.

    Args:
        workspace: folder with the outputs of the other stages.
        settings: all of params.
        examples: rows of the accepted manifest.
        target: folder to write; an existing one is replaced.

    Returns:
        The content of `results.json`.

    Raises:
        EvaluationError: an evaluation or responses are missing, or the trials have different evaluation sets.
        AudioError: a clip of the page cannot be decoded.
        ReleaseError: a release with heads cannot be loaded for its read-outs.
    """
    results = collect(
        workspace, settings.backbones, settings.trials, examples, settings.evaluation, facts_of(settings), settings.probes.trials
    )
    if chosen := settings.evaluation.suites:
        bootstrap = bootstrap_of(settings.evaluation)
        results["suites"] = collect_suites(workspace, list(settings.backbones), settings.trials, list(chosen), bootstrap)
    with new_folder(target) as folder:
        write_json(folder / "results.json", results)
        write_json(folder / "metrics.json", metrics_for_dvc(results))
        write_text(folder / "tables.md", markdown_tables(results) + diagnostics_markdown(results) + suites_markdown(results))
        write_text(folder / "plots" / "accuracy.csv", accuracy_csv(results))
        write_text(folder / "plots" / "training.csv", training_csv(workspace, results))
        write_text(folder / "plots" / "confusion.csv", csv_text([COLUMNS, *confusion_rows(workspace, results, examples)]))
        draw_charts(workspace, results, folder / "figures")
        for key in settings.backbones:
            draw_read_outs(workspace, settings, key, examples, folder / "figures")
        items = sample_items(workspace, settings.backbones, settings.trials, examples, settings.evaluation.split)
        write_text(folder / "report.html", render_page(results, folder / "figures", items))
    return results


def facts_of(settings: Settings) -> dict[str, Any]:
    """Return the facts about training and runtime that the page lists."""
    training = settings.training
    return {
        "device": settings.runtime.device, "threads": settings.runtime.threads, "ground_steps": training.ground_steps,
        "respond_steps": training.respond_steps, "examples_per_step": training.batch_size * training.accumulation,
        "experts": {key: expert.implementation for key, expert in settings.experts.items()},
        "bases": {key: backbone.base for key, backbone in settings.backbones.items()},
    }  # fmt: skip


def draw_charts(workspace: Path, results: Mapping[str, Any], folder: Path) -> None:
    """Draw every chart for which the results contain data."""
    from coat_core.report.charts import draw_accuracy, draw_differences, draw_training

    draw_accuracy(results, folder / "accuracy.png")
    if any(HEADLINE in backbone["differences"] for backbone in results["backbones"].values()):
        draw_differences(results, folder / "differences.png")
    if any(backbone["training"] for backbone in results["backbones"].values()):
        draw_training(results, training_rows(workspace, results), folder / "training.png")
    draw_heat_maps(results, folder)


def draw_read_outs(workspace: Path, settings: Settings, backbone: BackboneKey, examples: Sequence[Example], folder: Path) -> None:
    """Draw the read-outs of the first trial with heads of a backbone, on the first clip of each family."""
    trial = next((trial for trial in settings.trials if parse_trial(trial)[0].heads), None)
    if trial is None:
        return
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.metrics import SCORES
    from coat_core.evaluation.responses import read_responses
    from coat_core.evaluation.scores import read_scores
    from coat_core.report.figures import draw_read_out
    from coat_core.report.read_out import first_of_each_family, open_stores, predict_clip
    from coat_core.thinking.release import load_release

    name = f"{backbone}-{trial}"
    answers = {row.id: row.response for row in read_responses(workspace / "responses" / f"{name}.jsonl") if row.audio == "own"}
    scores = {row.id: row.score for row in read_scores(workspace / "evaluation" / name / SCORES) if row.audio == "own"}
    chosen = settings.backbones[backbone]
    base = workspace / chosen.base
    release = load_release(
        workspace / "models" / name, device=settings.runtime.device, dtype=chosen.dtype, attention=chosen.attention,
        base=str(base) if base.is_dir() else None,
    )  # fmt: skip
    stores = open_stores(workspace, list(settings.experts))
    for example in first_of_each_family(examples, settings.evaluation.split):
        waveform = decode(workspace / "data/corpus" / example.audio)
        read_out = predict_clip(release, example, waveform, stores, trial=trial, response=answers[example.id], score=scores[example.id])
        draw_read_out(read_out, folder / f"read-out-{backbone}-{example.family}.png")


def render_page(results: Mapping[str, Any], figures: Path, items: Sequence[SampleItem] = ()) -> str:
    """Return the HTML page; the figures of the folder and the clips of the items are embedded."""
    measured = results["measured"]
    columns = [*results["families"], "mean"]
    charts = {name: _picture(figures / f"{name}.png") for name in ("accuracy", "differences", "training")}
    first = next(iter(results["backbones"].values()))
    arm = next(iter(first["arms"].values()))
    read_outs = [group for key in results["backbones"] if (group := _read_outs(key, figures))["pictures"]]
    latency, diagnostics, suites = _latency(results), _diagnostics(results, figures), _suites(results)
    present = {
        "accuracy": "Accuracy", "suites": suites and "Public benchmarks", "items": items and "Sample items",
        "read-out": read_outs and "Read-out", "latency": latency and "Latency", "diagnostics": diagnostics and "Diagnostics",
        "training": charts["training"] and "Training", "data": "Data", "promotion": "Promotion", "measured": "How it was measured",
    }  # fmt: skip
    return template("report.html.j2").render(
        results=results, measured=measured, columns=columns, charts=charts, corpus=results["corpus"], n=arm["mean"]["n"],
        confidence=f"{measured['confidence']:.0%}", cards=[_card(results, key) for key in results["backbones"]],
        sections=[(anchor, title) for anchor, title in present.items() if title], conclusion=conclusion(results),
        items=[_item(item) for item in items], item_models=[name_of(key) for key in results["backbones"]],
        silent=sum(item.audio is None for item in items), audio_megabytes=round(sum(len(item.audio or "") for item in items) / 1e6),
        read_outs=read_outs, brief_note=BRIEF_NOTE, tables=[_table(results, key) for key in results["backbones"]], latency=latency,
        latency_labels=list(LATENCY_ROWS.values()),
        described_latency=[
            f"{name_of(key)}: {described_latency(found)}"
            for key, backbone in results["backbones"].items()
            for found in backbone.get("latency_described", ())
        ],
        contract=results["contract"], facts=_facts(measured), diagnostics=diagnostics, runs=_runs(results),
        suites=suites, suites_note=NOTE.replace("*", ""),
    )  # fmt: skip


def _picture(path: Path) -> str | None:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None


def _card(results: Mapping[str, Any], key: str) -> dict[str, Any]:
    claim = results["backbones"][key]["differences"].get(HEADLINE)
    points = "n/a" if claim is None else _points(claim["mean"]["difference"])
    # Not `clear`: in Jinja, `card.clear` is the method of dict.
    shown = claim is not None and not claim["mean"]["includes_zero"] and not claim["mean"].get("too_few")
    return {"name": name_of(key), "points": points, "shown": shown, "headline": headline(results, key)}


def _item(item: SampleItem) -> dict[str, Any]:
    of_arm = zip(*item.answers.values(), strict=True)
    rows = [{"arm": parse_trial(answers[0].trial)[0].name, "answers": answers} for answers in of_arm]
    return {"example": item.example, "audio": item.audio, "rows": rows}


def _runs(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{name_of(key)}, {trial}",
            "steps": run["steps"],
            "minutes": f"{run['seconds'] / 60:.1f}",
            "loss": "n/a" if (loss := run["losses"].get("answer", {}).get("last")) is None else f"{loss:.3f}",
            "validation": "n/a" if run["validation"] is None else f"{run['validation']:.3f}",
            "id": run["run_id"] or "n/a",
        }
        for key, backbone in results["backbones"].items()
        for trial, run in backbone["training"].items()
    ]


def _read_outs(key: str, figures: Path) -> dict[str, Any]:
    prefix = f"read-out-{key}-"
    paths = sorted(figures.glob(f"{prefix}*.png"))
    pictures = [{"alt": f"Read-out of {name_of(key)}: {path.stem.removeprefix(prefix)}", "data": _picture(path)} for path in paths]
    return {"name": name_of(key), "pictures": pictures}


def _table(results: Mapping[str, Any], key: str) -> dict[str, Any]:
    backbone = results["backbones"][key]
    arm = next((arm for arm in CLAIM if arm in backbone["arms"]), next(iter(backbone["arms"])))
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
        "units": [f"{entry['resampling']} ({entry['units']})" if entry else "" for entry in column],
    }


def _accuracy(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
    return {"value": f"{entry['accuracy']:.3f}", "interval": interval, "at_chance": entry["clear_of_chance"] is False}


def _difference(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    interval = f"{signed(entry['low'])} to {signed(entry['high'])}"
    return {"value": signed(entry["difference"]), "interval": interval, "shown": not entry["includes_zero"] and not entry.get("too_few")}


def _diagnostics(results: Mapping[str, Any], figures: Path) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{name_of(key)}, {trial}",
            "sentence": probe["verdict"]["sentence"],
            "bypassed": probe["verdict"]["bypassed"],
            "items": f"{probe['items']} validation and {probe['train_items']} training examples",
            "tables": [rows for rows in (knock_out_rows(probe), skill_rows(probe), choice_rows(probe)) if rows],
            "picture": _picture(figures / f"probes-{key}-{trial}.png"),
        }
        for key, trial, probe in probed(results)
    ]


def _suites(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name_of(key), "rows": suite_rows(results, key)} for key in results["backbones"]] if results.get("suites") else []


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
