"""Results of all evaluations as one JSON value, from which the report, the README's tables and DVC's metrics are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import FAMILIES, SPLITS, Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.arms import ArmScores, difference
from coat_core.evaluation.metrics import METRICS, SCORES, bootstrap_of
from coat_core.evaluation.scores import read_scores
from coat_core.evaluation.statistics import MIN_GROUPS, Bootstrap
from coat_core.probing.verdict import read_probe
from coat_core.settings import ARMS, CLAIM, COMPARISONS, EvaluationSettings, parse_trial
from coat_core.storage import read_json, read_jsonl

FORMAT = 1
HEADLINE = "-".join(CLAIM)
"""Key, in `differences`, of the difference that the project claims."""
VALIDATION = "validation/answer"
"""Name, in a training history, of the answer loss on validation examples."""
ENOUGH_SEEDS = 3
"""With fewer seeds, a run is marked `brief`: it is not evidence for or against the method."""


def collect(
    workspace: Path,
    backbones: Iterable[str],
    trials: Sequence[str],
    examples: Sequence[Example],
    settings: EvaluationSettings,
    facts: Mapping[str, Any] | None = None,
    probes: Sequence[str] = (),
) -> dict[str, Any]:
    """Collect the outputs of the stages in a workspace; only the named backbones and trials are read.

    Args:
        workspace: contains `evaluation/` and, optionally, `latency/`, `runs/` and `data/contract/`.
        backbones: keys.
        trials: `<arm>-<seed>`.
        examples: rows of the accepted manifest.
        settings: the evaluation section.
        facts: further JSON values for the section `measured`.
        probes: the probed trials, whose diagnostics become `probes` of each backbone, by trial; one that did not run is left out.

    Raises:
        EvaluationError: an evaluation is missing, or the trials have different evaluation sets.
    """
    keys = list(backbones)
    bootstrap = bootstrap_of(settings)
    seeds = sorted({parse_trial(trial)[1] for trial in trials if parse_trial(trial)[0].lora})
    return {
        "format": FORMAT,
        "evaluation_set": _evaluation_set(workspace, [f"{key}-{trial}" for key in keys for trial in trials]),
        "seeds": seeds,
        "brief": len(seeds) < ENOUGH_SEEDS,
        "families": [family for family in FAMILIES if any(e.family == family and e.split == settings.split for e in examples)],
        "backbones": {key: {**_backbone(workspace, key, trials, bootstrap), "probes": _probes(workspace, key, probes)} for key in keys},
        "corpus": describe_corpus(examples, settings.split),
        "contract": read_contract(workspace / "data/contract/results.json"),
        "measured": {
            "split": settings.split,
            "bootstrap_resamples": settings.bootstrap_resamples,
            "confidence": settings.confidence,
            "max_new_tokens": settings.max_new_tokens,
            "numeric_tolerance": settings.numeric_tolerance,
            "limit_per_family": settings.limit_per_family,
            "min_groups": MIN_GROUPS,
            **(facts or {}),
        },
    }


def _evaluation_set(workspace: Path, names: Sequence[str]) -> str:
    """Return the hash of the evaluation set that these evaluations share."""
    sets: dict[str, list[str]] = {}
    for name in names:
        path = workspace / "evaluation" / name / METRICS
        if not path.is_file():
            raise EvaluationError("an evaluation is missing", field="evaluation", value=name, next_step=f"run the stage score@{name}")
        sets.setdefault(read_json(path)["evaluation_set"], []).append(name)
    if len(sets) != 1:
        raise EvaluationError(
            "the trials do not have the same evaluation set",
            field="evaluation_set",
            value={key: members[:3] for key, members in sets.items()},
            next_step="run the answer and score stages again",
        )
    return next(iter(sets))


def _backbone(workspace: Path, backbone: str, trials: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    by_arm: dict[str, dict[int, Any]] = {}
    for trial in trials:
        arm, seed = parse_trial(trial)
        by_arm.setdefault(arm.name, {})[seed] = read_scores(workspace / "evaluation" / f"{backbone}-{trial}" / SCORES)
    arms = {arm: ArmScores.of(by_arm[arm]) for arm in ARMS if arm in by_arm}
    return {
        "arms": {arm: {**scores.table(bootstrap), "seeds": scores.seed_table()} for arm, scores in arms.items()},
        "differences": {f"{a}-{b}": difference(arms[a], arms[b], bootstrap) for a, b in COMPARISONS if {a, b} <= set(arms)},
        "latency": _read_if_present(workspace / "latency" / f"{backbone}.json"),
        "latency_described": [found for t in trials if (found := _read_if_present(workspace / "latency" / f"{backbone}-{t}.json"))],
        "training": {t: summary for t in trials if (summary := summarise_run(workspace / "runs" / f"{backbone}-{t}")) is not None},
    }


def _probes(workspace: Path, backbone: str, trials: Sequence[str]) -> dict[str, Any]:
    return {trial: found for trial in trials if (found := read_probe(workspace, backbone, trial)) is not None}


def summarise_run(folder: Path) -> dict[str, Any] | None:
    """Return the steps, seconds, first and last losses and tracked run id of a training run; None if it has no steps."""
    path = folder / "history.jsonl"
    rows = read_jsonl(path) if path.is_file() else []
    if not rows:
        return None
    tenth = max(1, len(rows) // 10)

    def mean(name: str, part: Sequence[Mapping[str, Any]]) -> float | None:
        values = [float(row[name]) for row in part if isinstance(row.get(name), int | float)]
        return round(sum(values) / len(values), 4) if values else None

    names = sorted({name for row in rows for name in row if name.startswith("loss/")})
    validated = [float(row[VALIDATION]) for row in rows if isinstance(row.get(VALIDATION), int | float)]
    return {
        "steps": len(rows),
        "seconds": round(sum(float(row.get("seconds") or 0.0) for row in rows), 1),
        "losses": {name.removeprefix("loss/"): {"first": mean(name, rows[:tenth]), "last": mean(name, rows[-tenth:])} for name in names},
        "validation": round(validated[-1], 4) if validated else None,
        "run_id": (_read_if_present(folder / "run.json") or {}).get("run_id"),
    }


def describe_corpus(examples: Sequence[Example], split: str) -> dict[str, Any]:
    """Return the numbers of labelled and unlabelled examples, clips and groups by split, and of examples and groups by evaluated family."""
    splits = {}
    for name in SPLITS:
        rows = [example for example in examples if example.split == name]
        clips = {example.sha256: example.duration_s for example in rows}
        splits[name] = {
            "examples": sum(example.labelled for example in rows),
            "unlabelled": sum(not example.labelled for example in rows),
            "clips": len(clips),
            "groups": len({example.group for example in rows}),
            "minutes": round(sum(clips.values()) / 60, 2),
        }
    families = {}
    for family in FAMILIES:
        rows = [example for example in examples if example.split == split and example.family == family]
        if rows:
            families[family] = {
                "examples": len(rows),
                "groups": len({example.group for example in rows}),
                "tasks": sorted({example.task for example in rows}),
                "choices": sorted({len(example.choices) if example.choices else 0 for example in rows}),
            }
    return {
        "splits": splits,
        "families": families,
        "sources": sorted({example.source for example in examples}),
        "licences": sorted({example.licence for example in examples}),
    }


def read_contract(path: Path) -> dict[str, Any] | None:
    """Return the results of the data contract without rows and timings; None if it did not run."""
    value = _read_if_present(path)
    if value is None:
        return None
    found = {key: value[key] for key in ("passed", "rows", "accepted", "quarantined", "bad_share", "max_bad_share", "table_failures")}
    checks = [{key: check[key] for key in ("name", "expects", "checked", "failed")} for check in value["expectations"]]
    return {**found, "expectations": checks}


def headline(results: Mapping[str, Any], backbone: str) -> str:
    """Return one sentence on `coat - sft` of a backbone."""
    entry = results["backbones"][backbone]["differences"].get(HEADLINE)
    if entry is None:
        return "coat and sft did not both run, so there is nothing to compare."
    mean, confidence = entry["mean"], results["measured"]["confidence"]
    points, low, high = (100 * mean[name] for name in ("difference", "low", "high"))
    interval = f"{confidence:.0%} interval {low:+.1f} to {high:+.1f}"
    direction = "above" if points > 0 else "below"
    if mean.get("too_few"):
        return f"coat is {abs(points):.1f} points {direction} sft over {mean['n']} items in {mean['groups']} groups: too few to judge."
    if mean["includes_zero"]:
        return f"coat is {abs(points):.1f} points {direction} sft, and the interval includes zero ({interval}): no difference is shown."
    return f"coat is {abs(points):.1f} points {direction} sft, and the interval excludes zero ({interval})."


def metrics_for_dvc(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return a short table for `dvc metrics show`: accuracy of the arms of each model, and the claimed difference with its interval."""
    metrics: dict[str, Any] = {}
    for key, backbone in results["backbones"].items():
        metrics[key] = {arm: round(values["mean"]["accuracy"], 3) for arm, values in backbone["arms"].items()}
        if HEADLINE in backbone["differences"]:
            claim = backbone["differences"][HEADLINE]["mean"]
            names = {"difference": HEADLINE.replace("-", "_minus_"), "low": "low", "high": "high"}
            metrics[key] |= {name: round(claim[part], 3) for part, name in names.items()}
    return metrics


def _read_if_present(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
