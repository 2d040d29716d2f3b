"""The diagnostics of the report: tables of knock-out, head skill and choices, and the heat map of the linear probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.report.style import FAINT, INK, MUTED, PREDICTED, PREDICTED_SOFT, new_figure, save_png, sequential
from coat_core.report.tables import markdown, name_of, signed

CONDITIONS = {"none": "nothing", "block": "the block", "audio": "the audio", "both": "both"}
"""Labels of what question and answer cannot attend to, by key."""
GROUPS = {"experts": "what the experts measure (R²)", "answers": "answers of tasks with few answers (accuracy)"}
"""Titles of the groups of labels by key."""
_ORDER = ("audio", "think", "answer")
"""Positions as they stand in the prompt."""
_ANNOTATED_LAYERS = 16


def probed(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield backbone, trial and probes of every probed trial."""
    for key, backbone in results["backbones"].items():
        for trial, probe in backbone.get("probes", {}).items():
            yield key, trial, probe


def knock_out_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """Return a header, and for each condition its loss per token and the difference from that with nothing cut off, ± 2 standard errors."""
    rows = [["cut off from question and answer", "loss per token", "difference (± 2 s.e.)"]]
    for name, label in CONDITIONS.items():
        entry = probe["knock_out"][name]
        cost = entry.get("cost")
        rows.append([label, f"{entry['loss']['value']:.3f}", f"{signed(cost['value'])} ± {2 * cost['error']:.3f}" if cost else ""])
    return rows


def skill_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """Return a header, and for each expert the skill of the release's head, the clip mean and a fresh head on the audio positions."""
    rows = [["expert", "head", "clip mean (oracle)", "fresh head on audio positions", "clips"]]
    for key, entry in probe["skill"].items():
        skills = [entry["skills"][name] for name in ("head", "clip_mean", "fresh_on_audio")]
        rows.append([key, *("n/a" if value is None else signed(value) for value in skills), str(entry["clips"])])
    return rows


def choice_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """Return a header, and for each family the loss-based accuracy of the trial and the baseline, and chance; no rows without choices."""
    trial, baseline = probe["choices"]["trial"], probe["choices"]["baseline"]
    if not trial:
        return []
    rows = [["family", probe["trial"], "per token", *([probe["baseline"], "per token"] if baseline else []), "chance", "items"]]
    for family, entry in [*trial["families"].items(), ("mean", trial["mean"])]:
        other = (baseline["mean"] if family == "mean" else baseline["families"][family]) if baseline else None
        cells = [f"{part[name]:.3f}" for part in (entry, other) if part for name in ("accuracy", "accuracy_per_token")]
        rows.append([family, *cells, f"{entry['chance']:.3f}", str(entry["n"])])
    return rows


def diagnostics_markdown(results: Mapping[str, Any]) -> str:
    """Return a Markdown section for each probed trial; empty if there is none."""
    parts = []
    for key, trial, probe in probed(results):
        tables = "\n".join(markdown(rows) for rows in (knock_out_rows(probe), skill_rows(probe), choice_rows(probe)) if rows)
        parts.append(f"### Diagnostics of {name_of(key)}, {trial}\n\n{probe['verdict']['sentence']}\n\n{tables}")
    return "\n" + "\n".join(parts) if parts else ""


def draw_heat_maps(results: Mapping[str, Any], folder: Path) -> None:
    """Draw `probes-<backbone>-<trial>.png` for each probed trial."""
    for key, trial, probe in probed(results):
        draw_heat_map(probe, folder / f"probes-{key}-{trial}.png")


def draw_heat_map(probe: Mapping[str, Any], path: Path) -> None:
    """Draw score − control of the linear probes, layer × position: a row for each group of labels, a column for each release."""
    linear = probe["linear"]
    releases = {probe["trial"]: linear["trial"], **({probe["baseline"]: linear["baseline"]} if linear["baseline"] else {})}
    groups = [group for group in GROUPS if group_means(linear["trial"], linear["labels"], group)]
    layers = linear["layers"]
    with new_figure(max(6.4, 3.3 * len(releases) + 0.6), max(len(groups), 1) * (0.21 * layers + 1.15) + 0.75) as figure:
        panels = figure.subplots(max(len(groups), 1), len(releases), squeeze=False, sharey=True)
        height = figure.get_figheight()
        figure.subplots_adjust(left=0.09, right=0.9, top=1 - 0.95 / height, bottom=0.35 / height, wspace=0.12, hspace=0.5)
        for row, group in enumerate(groups):
            maps = {trial: group_means(found, linear["labels"], group) for trial, found in releases.items()}
            top = max(max(map(max, means.values())) for means in maps.values())
            for column, (trial, means) in enumerate(maps.items()):
                _panel(panels[row][column], means, max(top, 0.05))
                panels[row][column].set_title(f"{trial}: {GROUPS[group]}" if not column else trial, fontsize=9, pad=6)
                if not column:
                    panels[row][column].set_ylabel("layer")
                if trial == probe["trial"]:
                    _mark(panels[row][column], list(means), probe["read_layer"])
        title = "Linear probes by layer and position, above shuffled labels"
        figure.text(0.09, 1 - 0.3 / height, title, fontsize=11, weight="bold", va="center")
        save_png(figure, path)


def group_means(probes: Mapping[str, Any], labels: Sequence[Mapping[str, Any]], group: str) -> dict[str, list[float]]:
    """Return for each position, by layer, the mean over a group's labels of score − control; {} if the group has no label.

    Args:
        probes: position → label → `score` and `control` by layer.
        labels: `name` and `group` of each label.
        group: `experts` or `answers`.
    """
    names = [label["name"] for label in labels if label["group"] == group]
    if not names:
        return {}
    return {
        position: [
            sum(found[name]["score"][layer] - found[name]["control"][layer] for name in names) / len(names)
            for layer in range(len(found[names[0]]["score"]))
        ]
        for position, found in sorted(probes.items(), key=lambda item: _ORDER.index(item[0]))
    }


def _panel(axes: Any, means: Mapping[str, list[float]], top: float) -> None:
    values = np.asarray(list(means.values())).T
    axes.imshow(values, origin="lower", aspect="auto", cmap=sequential(PREDICTED_SOFT, PREDICTED), vmin=0.0, vmax=1.15 * top)
    axes.set_xticks(range(len(means)), list(means))
    step = max(1, len(values) // 8)
    axes.set_yticks(range(0, len(values), step), [str(layer + 1) for layer in range(0, len(values), step)])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_color(FAINT)
    if len(values) <= _ANNOTATED_LAYERS:
        for layer, column in np.ndindex(*values.shape):
            value = values[layer, column]
            axes.text(column, layer, f"{value:.2f}", ha="center", va="center", fontsize=7, color=INK if value < 0.75 * top else "white")


def _mark(axes: Any, positions: list[str], read_layer: int) -> None:
    """Draw a frame around the state that the heads read."""
    from matplotlib.patches import Rectangle

    if "think" in positions:
        corner = (positions.index("think") - 0.5, read_layer - 1.5)
        axes.add_patch(Rectangle(corner, 1.0, 1.0, fill=False, edgecolor=MUTED, linewidth=1.6))
