"""Comparisons across workspaces, which no single report contains: label curves, and fine-tuning for the same wall-clock time.

A workspace has one corpus and one number of steps, so each point of a curve is a workspace of its own. Points are compared only if they
were evaluated on the same items.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.evaluation.arms import ArmScores, difference
from coat_core.evaluation.metrics import SCORES
from coat_core.evaluation.scores import read_scores
from coat_core.evaluation.statistics import Bootstrap
from coat_core.settings import load_settings, parse_trial
from coat_core.storage import read_jsonl

POINT = re.compile(r"evidence-labels-(\d+)(-labelled)?\Z")
"""Name of a curve's workspace: labelled clips per family, and `-labelled` if the other clips are not used at all."""
LONG = "evidence-recordings-long"
"""The workspace in which `sft` takes as many steps as fit into the time that `coat` takes."""


def arm_scores(workspace: Path, backbone: str, arm: str) -> ArmScores | None:
    """Return the scores of all seeds of an arm; None if a trial of it was not scored."""
    if not (workspace / "params.yaml").is_file():
        return None
    seeds = {seed for found, seed in map(parse_trial, load_settings(workspace / "params.yaml").trials) if found.name == arm}
    paths = {seed: workspace / "evaluation" / f"{backbone}-{arm}-{seed}" / SCORES for seed in sorted(seeds)}
    if not paths or not all(path.is_file() for path in paths.values()):
        return None
    return ArmScores.of({seed: read_scores(path) for seed, path in paths.items()})


def label_curve(workspaces: Path, backbone: str, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Return one entry for each finished workspace of the curve, by number of labels: accuracies of `sft` and `coat`, and their difference.

    Args:
        workspaces: folder of the workspaces.
        backbone: key of the LALM.
        bootstrap: settings of the intervals.
    """
    points = []
    for folder in sorted(workspaces.glob("evidence-labels-*")):
        if (name := POINT.match(folder.name)) is None:
            continue
        # sft does not use unlabelled clips: one workspace of each number trains it.
        arms = {"coat": arm_scores(folder, backbone, "coat"), "sft": arm_scores(folder, backbone, "sft")}
        arms["sft"] = arms["sft"] or arm_scores(folder.with_name(f"evidence-labels-{name[1]}-labelled"), backbone, "sft")
        found = {arm: scores for arm, scores in arms.items() if scores is not None}
        if len(found) < 2:
            continue
        points.append(
            {
                "labelled_clips_per_family": int(name[1]), "unlabelled": name[2] is None,
                "accuracy": {arm: scores.table(bootstrap)["mean"] for arm, scores in found.items()},
                "coat-sft": difference(found["coat"], found["sft"], bootstrap)["mean"],
            }
        )  # fmt: skip
    return sorted(points, key=lambda point: (point["labelled_clips_per_family"], point["unlabelled"]))


def against_long(workspaces: Path, backbone: str, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return `coat` of the main workspace minus `sft` of the long one; None if either is not finished.

    Raises:
        EvaluationError: they were evaluated on different items.
    """
    coat, sft = arm_scores(workspaces / "evidence-recordings", backbone, "coat"), arm_scores(workspaces / LONG, backbone, "sft")
    if coat is None or sft is None:
        return None
    return {"sft_long": sft.table(bootstrap)["mean"], "coat-sft_long": difference(coat, sft, bootstrap)["mean"]}


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

    lines = ["| model | labelled clips a family | unlabelled clips | sft | coat | coat − sft |", "|:--|--:|:--|--:|--:|--:|"]
    for backbone, points in curves.items():
        for point in points:
            cells = [name_of(backbone), str(point["labelled_clips_per_family"]), "used" if point["unlabelled"] else "not used"]
            cells += [accuracy_text(point["accuracy"][arm]) for arm in ("sft", "coat")]
            lines.append(f"| {' | '.join([*cells, difference_text(point['coat-sft'])])} |")
    return "\n".join(lines)
