"""Charts of all backbones: accuracy by family and arm with intervals and chance, differences, training curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.report.results import HEADLINE, VALIDATION
from coat_core.report.style import ARM_COLOURS, FAINT, INK, MUTED, PREDICTED, new_figure, save_png
from coat_core.report.tables import DIFFERENCES, entries, name_of
from coat_core.settings import CLAIM, parse_trial


def draw_accuracy(results: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy by family, one panel per backbone: a dot and an interval per arm, a tick at chance."""
    columns = [*results["families"], "mean"]
    backbones = results["backbones"]
    with new_figure(max(5.0, 4.1 * len(backbones)) + 0.6, 4.6) as figure:
        panels = figure.subplots(1, len(backbones), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.6 / figure.get_figwidth(), right=0.985, top=0.78, bottom=0.12, wspace=0.08)
        for axes, (key, backbone) in zip(panels, backbones.items(), strict=True):
            arms = backbone["arms"]
            for place in range(0, len(columns), 2):
                axes.axvspan(place - 0.5, place + 0.5, color="#f4f1ea", linewidth=0, zorder=0)
            for number, (arm, values) in enumerate(arms.items()):
                shift = (number - (len(arms) - 1) / 2) * 0.62 / max(len(arms) - 1, 1)
                _dots(axes, entries(results, values), shift, ARM_COLOURS.get(arm, INK))
            axes.set_xticks(range(len(columns)), [_column(name) for name in columns])
            axes.set_xlim(-0.5, len(columns) - 0.5)
            axes.set_ylim(0.0, 1.0)
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="x", length=0)
            axes.set_title(name_of(key), pad=8)
        panels[0].set_ylabel("accuracy  (transcription: 1 − word error rate)")
        _legend(figure, [arm for arm in ARM_COLOURS if any(arm in b["arms"] for b in backbones.values())], chance=True)
        figure.text(panels[0].get_position().x0, 0.945, "Accuracy by family", fontsize=13, weight="bold", va="center")
        save_png(figure, path)


def draw_differences(results: Mapping[str, Any], path: Path) -> None:
    """Draw coat - sft by family, one panel per backbone: a dot and an interval, relative to zero."""
    columns = [*results["families"], "mean"]
    compared = {
        key: backbone["differences"][HEADLINE] for key, backbone in results["backbones"].items() if HEADLINE in backbone["differences"]
    }
    with new_figure(max(5.0, 3.6 * len(compared)) + 1.2, 0.42 * len(columns) + 1.5) as figure:
        panels = figure.subplots(1, max(len(compared), 1), sharex=True, sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=1.1 / figure.get_figwidth(), right=0.985, top=0.7, bottom=0.19, wspace=0.08)
        for axes, (key, values) in zip(panels, compared.items(), strict=False):
            axes.axvline(0.0, color=MUTED, linewidth=0.8)
            for row, entry in enumerate(entries(results, values)):
                if entry is None:
                    continue
                strong = row == len(columns) - 1
                colour = MUTED if entry["includes_zero"] or entry.get("too_few") else PREDICTED if entry["difference"] > 0 else INK
                axes.plot([100 * entry["low"], 100 * entry["high"]], [row, row], color=colour, linewidth=3.2 if strong else 1.8)
                axes.plot([100 * entry["difference"]], [row], "o", color=colour, markersize=8 if strong else 6)
            axes.set_title(name_of(key), pad=8)
            axes.grid(axis="x", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.set_xlabel("points")
        panels[0].set_yticks(range(len(columns)), columns)
        panels[0].set_ylim(len(columns) - 0.5, -0.5)
        left = panels[0].get_position().x0
        figure.text(left, 0.93, f"What thinking adds: {DIFFERENCES[HEADLINE]}", fontsize=13, weight="bold", va="center")
        figure.text(0.985, 0.93, "grey: the interval includes zero, or too few groups", fontsize=9, color=MUTED, ha="right", va="center")
        save_png(figure, path)


def draw_training(results: Mapping[str, Any], rows: Iterable[tuple[str, str, dict[str, Any]]], path: Path) -> None:
    """Draw the answer loss of each arm by step, also on validation examples (above), and the experts' losses in `coat` (below).

    An expert's loss is relative to its start.
    """
    curves: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    ground_end: dict[str, int] = {}
    for key, trial, row in rows:
        arm = parse_trial(trial)[0].name
        for name, value in row.items():
            if (name.startswith("loss/") or name == VALIDATION) and isinstance(value, int | float):
                curves.setdefault(key, {}).setdefault(arm, {}).setdefault(name.removeprefix("loss/"), []).append((row["step"], value))
        if row.get("stage") == "ground":
            ground_end[key] = max(ground_end.get(key, 0), row["step"])
    keys = [key for key in results["backbones"] if key in curves]
    with new_figure(max(5.0, 3.9 * len(keys)) + 0.7, 5.4) as figure:
        panels = figure.subplots(2, max(len(keys), 1), sharex="col", sharey="row", squeeze=False)
        figure.subplots_adjust(left=0.7 / figure.get_figwidth(), right=0.985, top=0.82, bottom=0.09, wspace=0.08, hspace=0.18)
        for column, key in enumerate(keys):
            above, below = panels[0][column], panels[1][column]
            for name in (name for name in ARM_COLOURS if name in curves[key]):
                steps, values = smooth(curves[key][name]["answer"])
                above.plot(steps, values, color=ARM_COLOURS[name], linewidth=1.8, alpha=0.55)
                if measured := curves[key][name].get(VALIDATION):
                    above.plot(*by_step(measured), color=ARM_COLOURS[name], linewidth=1.2, linestyle="--", marker="o", markersize=3)
            distilled = curves[key].get(CLAIM[0], {})
            experts = sorted(set(distilled) - {"answer", VALIDATION})
            for number, expert in enumerate(experts):
                steps, values = smooth(distilled[expert])
                shade = 0.35 + 0.65 * number / max(len(experts) - 1, 1)
                below.plot(steps, values / max(values[0], 1e-9), color=_tint(shade), linewidth=1.5, label=expert)
            for axes in (above, below):
                axes.grid(axis="y", color=FAINT, linewidth=0.6)
                if key in ground_end:
                    axes.axvline(ground_end[key] + 0.5, color=MUTED, linewidth=0.7, linestyle=(0, (3, 3)))
            if key in ground_end:
                border = {"transform": above.get_xaxis_transform(), "fontsize": 8, "color": MUTED, "va": "top"}
                above.text(ground_end[key] + 0.5, 0.99, "ground ", ha="right", **border)
                above.text(ground_end[key] + 0.5, 0.99, " respond", ha="left", **border)
            above.set_title(name_of(key), pad=8)
            below.set_xlabel("optimizer step")
        panels[0][0].set_ylabel("answer loss")
        panels[1][0].set_ylabel("expert loss ÷ its start (coat)")
        if keys:
            panels[1][-1].legend(fontsize=8, loc="best", labelcolor=MUTED)
        _legend(figure, [arm for arm in ARM_COLOURS if any(arm in curves[key] for key in keys)], chance=False)
        figure.text(panels[0][0].get_position().x0, 0.95, "Training", fontsize=13, weight="bold", va="center")
        save_png(figure, path)


def by_step(points: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values, averaged over seeds at each step."""
    values: dict[float, list[float]] = {}
    for step, value in points:
        values.setdefault(step, []).append(value)
    steps = sorted(values)
    return np.asarray(steps, dtype=np.float64), np.asarray([np.mean(values[step]) for step in steps], dtype=np.float64)


def smooth(points: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values, averaged over seeds at each step and then over a centred window of 1/20 of the run."""
    steps, values = by_step(points)
    half = max(1, len(steps) // 20) // 2
    means = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return steps, np.asarray(means, dtype=np.float64)


def _dots(axes: Any, column: list[Mapping[str, Any] | None], shift: float, colour: str) -> None:
    for place, entry in enumerate(column):
        if entry is None:
            continue
        x = place + shift
        if entry["chance"] is not None:
            axes.plot([x - 0.08, x + 0.08], [entry["chance"]] * 2, color=MUTED, linewidth=1.3, zorder=2, solid_capstyle="butt")
        axes.plot([x, x], [entry["low"], entry["high"]], color=colour, linewidth=1.8, alpha=0.75, zorder=3)
        axes.plot([x], [entry["accuracy"]], "o", color=colour, markersize=5.5, zorder=4)


def _legend(figure: Any, arms: list[str], *, chance: bool) -> None:
    place = 0.985
    items = [*((arm, ARM_COLOURS[arm], "●") for arm in arms), *([("chance", MUTED, "—")] if chance else [])]
    for text, colour, mark in reversed(items):
        drawn = figure.text(place, 0.945, f"{mark} {text}", fontsize=9, color=colour, ha="right", va="center")
        place -= drawn.get_window_extent().width / figure.bbox.width + 0.012


def _column(name: str) -> str:
    return {"transcription": "transcr.", "understanding": "underst."}.get(name, name)


def _tint(share: float) -> tuple[float, ...]:
    """Return a shade of the colour of predicted features: 0 is the lightest, 1 the darkest."""
    from matplotlib.colors import to_rgb

    pale, full = np.asarray(to_rgb("#f3c0b0")), np.asarray(to_rgb("#7d1e0a"))
    return tuple(float(part) for part in pale + (full - pale) * share)
