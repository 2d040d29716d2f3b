"""Comparisons across workspaces, which no single report contains: label curves, and fine-tuning for the same wall-clock time.

A workspace has one corpus and one number of steps, so each point of a curve is a workspace of its own. Points are compared only if they
were evaluated on the same items. Scores are saved (`SavedScores`), so that seeds can be added later, or on another machine.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.saved_scores import SavedScores
from coat_core.evaluation.arms import ArmScores, difference
from coat_core.evaluation.metrics import SCORES
from coat_core.evaluation.scores import ScoreRow, read_scores
from coat_core.evaluation.statistics import Bootstrap
from coat_core.settings import load_settings, parse_trial
from coat_core.storage import read_jsonl

POINT = re.compile(r"evidence-labels-(\d+)(-labelled)?\Z")
"""Name of a curve's workspace: labelled clips per family, and `-labelled` if the other clips are not used at all."""
LONG = "evidence-recordings-long"
"""The workspace in which `sft` takes as many steps as fit into the time that `coat` takes."""


def finished(workspaces: Path, name: str, backbone: str, saved: SavedScores) -> dict[str, dict[int, list[ScoreRow]]]:
    """Return arm → seed → rows of all trials of a backbone that are scored in a workspace or saved; what is in the workspace is saved too.

    Raises:
        EvaluationError: a trial was evaluated on other items than the saved ones.
    """
    params = workspaces / name / "params.yaml"
    for trial in load_settings(params).trials if params.is_file() else ():
        path = workspaces / name / "evaluation" / f"{backbone}-{trial}" / SCORES
        if path.is_file():
            saved.add(name, path.parent.name, read_scores(path))
    found: dict[str, dict[int, list[ScoreRow]]] = {}
    for trial in saved.trials(name):
        if trial.startswith(f"{backbone}-") and (rows := saved.rows(name, trial)) is not None:
            arm, seed = parse_trial(trial.removeprefix(f"{backbone}-"))
            found.setdefault(arm.name, {})[seed] = rows
    return found


def compare(first: Mapping[int, list[ScoreRow]], second: Mapping[int, list[ScoreRow]], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return the accuracies of two arms and `difference` of first - second over the seeds that both have; None if they share none."""
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    arms = [ArmScores.of({seed: arm[seed] for seed in seeds}) for arm in (first, second)]
    return {
        "seeds": seeds, "first": arms[0].table(bootstrap)["mean"], "second": arms[1].table(bootstrap)["mean"],
        "difference": difference(arms[0], arms[1], bootstrap)["mean"],
    }  # fmt: skip


def label_curve(workspaces: Path, backbone: str, bootstrap: Bootstrap, saved: SavedScores) -> list[dict[str, Any]]:
    """Return one entry for each point of the curve with a finished seed: accuracies of `sft` and `coat`, their difference, and the seeds.

    Args:
        workspaces: folder of the workspaces.
        backbone: key of the LALM.
        bootstrap: settings of the intervals.
        saved: scores of trials on other machines; what is finished here is added.
    """
    points = []
    names = {folder.name for folder in workspaces.glob("evidence-labels-*")} | set(saved.workspaces())
    for name in sorted(names):
        if (match := POINT.match(name)) is None:
            continue
        arms = finished(workspaces, name, backbone, saved)
        # sft does not use unlabelled clips: one workspace of each number trains it.
        sft = arms.get("sft") or finished(workspaces, f"evidence-labels-{match[1]}-labelled", backbone, saved).get("sft", {})
        found = compare(arms.get("coat", {}), sft, bootstrap)
        if found is None:
            continue
        points.append(
            {
                "labelled_clips_per_family": int(match[1]), "unlabelled": match[2] is None, "seeds": found["seeds"],
                "accuracy": {"coat": found["first"], "sft": found["second"]}, "coat-sft": found["difference"],
            }
        )  # fmt: skip
    return sorted(points, key=lambda point: (point["labelled_clips_per_family"], point["unlabelled"]))


def against_long(workspaces: Path, backbone: str, bootstrap: Bootstrap, saved: SavedScores) -> dict[str, Any] | None:
    """Return `coat` of the main workspace minus `sft` of the long one, over the seeds that both have; None if they share none.

    Raises:
        EvaluationError: they were evaluated on different items.
    """
    coat = finished(workspaces, "evidence-recordings", backbone, saved).get("coat", {})
    found = compare(coat, finished(workspaces, LONG, backbone, saved).get("sft", {}), bootstrap)
    return None if found is None else {"seeds": found["seeds"], "sft_long": found["second"], "coat-sft_long": found["difference"]}


def seconds_per_step(workspace: Path, backbone: str, arm: str) -> float | None:
    """Return the median seconds of a training step of an arm over all seeds, from their histories; None if there are none."""
    paths = (workspace / "runs").glob(f"{backbone}-{arm}-*/history.jsonl")
    seconds = [float(row["seconds"]) for path in sorted(paths) for row in read_jsonl(path) if "seconds" in row]
    return statistics.median(seconds) if seconds else None


def equal_time_steps(workspace: Path, backbone: str, first: str = "coat", second: str = "sft") -> int | None:
    """Return the steps that `second` can take in the time that `first` takes for its own; None if either has no history.

    Time is that of training steps: the preparation of a training and the extraction of features, which all seeds share, are left out.
    """
    times = seconds_per_step(workspace, backbone, first), seconds_per_step(workspace, backbone, second)
    if times[0] is None or times[1] is None:
        return None
    training = load_settings(workspace / "params.yaml").training
    return round((training.ground_steps + training.respond_steps) * times[0] / times[1])


def curve_markdown(curves: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return the label curves of all backbones as a Markdown table."""
    from coat_core.report.tables import accuracy_text, difference_text, name_of

    header = ["model", "labelled clips a family", "unlabelled clips", "seeds", "sft", "coat", "coat − sft"]
    lines = [f"| {' | '.join(header)} |", "|:--|--:|:--|:--|--:|--:|--:|"]
    for backbone, points in curves.items():
        for point in points:
            cells = [name_of(backbone), str(point["labelled_clips_per_family"]), "used" if point["unlabelled"] else "not used"]
            cells.append(", ".join(map(str, point["seeds"])))
            cells += [accuracy_text(point["accuracy"][arm]) for arm in ("sft", "coat")]
            lines.append(f"| {' | '.join([*cells, difference_text(point['coat-sft'])])} |")
    return "\n".join(lines)
