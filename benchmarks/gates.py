"""Gates that must be passed before a comparison of arms counts: is there something to gain, and does the block cost nothing?

    python -m benchmarks.gates --workspace workspaces/evidence-recordings [--probe FILE] [--losses FILE] [--measure-losses]

For each base: fine-tuning gains over the base; the experts know more than fine-tuning uses; answers can be scored; a block alone costs no
answer loss; the heads know more than each clip's mean. Accuracies are read from the workspace's scores (seeds averaged), head skills from
its probe stage, the experts' probe from a file of `benchmarks.probe --json` or computed from the stores, answer losses from a results
file of `benchmarks.tune` with the trials `block` and `sft`, or measured from the releases on the validation split. What is missing is
"not measured". The result is written to docs/results/gates-<workspace>.json; the exit status is 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.settings import Settings, load_settings, parse_trial
from coat_core.storage import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Gate:
    """One gate of one base.

    Attributes:
        name: what is compared.
        value: the measured value; None: not measured.
        limit: the value to reach.
        at_least: whether the value must be at least the limit; False: below it.
    """

    name: str
    value: float | None
    limit: float
    at_least: bool = True

    @property
    def passed(self) -> bool | None:
        """Whether the gate is passed; None: not measured."""
        if self.value is None or not math.isfinite(self.value):
            return None
        # Differences of accuracies are rounded to six digits: .05 is not below .05.
        value = round(self.value, 6)
        return value >= self.limit if self.at_least else value < self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the fields and `passed` as JSON values."""
        return {**asdict(self), "value": None if self.value is None else round(self.value, 6), "passed": self.passed}


@dataclass(frozen=True)
class Measures:
    """What the gates of one base are computed from; None where it was not measured.

    Attributes:
        accuracy: arm → family → accuracy, averaged over seeds.
        unscored: share of unscored answers of `sft`, mean over families.
        probe: family → accuracy of a linear probe on the experts' features; families that a probe cannot answer are left out.
        block_loss: answer loss per token of `block` minus that of `sft` (validation).
        margins: skill of a head minus that of the clip's mean, one for each expert and trial.
    """

    accuracy: Mapping[str, Mapping[str, float]]
    unscored: float | None
    probe: Mapping[str, float] | None
    block_loss: float | None
    margins: Sequence[float]


def gates_of(measures: Measures) -> list[Gate]:
    """Return the gates of one base."""
    sft, base = measures.accuracy.get("sft"), measures.accuracy.get("base")
    probe = measures.probe
    shared = sorted({*(sft or {})} & {*(probe or {})})
    headroom = _mean(probe[f] for f in shared) - _mean(sft[f] for f in shared) if shared and sft and probe else None
    return [
        Gate("sft − base, accuracy", _mean(sft.values()) - _mean(base.values()) if sft and base else None, 0.05),
        Gate("expert probe − sft, accuracy", headroom, 0.10),
        Gate("unscored answers of sft, share", measures.unscored, 0.03, at_least=False),
        Gate("block − sft, |answer loss|", None if measures.block_loss is None else abs(measures.block_loss), 0.005, at_least=False),
        Gate("head − clip mean, least skill", min(measures.margins, default=None), 0.0),
    ]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def read_measures(
    workspace: Path, settings: Settings, backbone: str, probe: Mapping[str, float] | None, block_loss: float | None
) -> Measures:
    """Read accuracies and head skills of one base from a workspace."""
    from coat_core.evaluation.metrics import SCORES
    from coat_core.evaluation.scores import read_scores

    accuracy: dict[str, dict[str, list[float]]] = {}
    unscored: dict[str, list[float]] = {}
    for trial in settings.trials:
        path = workspace / "evaluation" / f"{backbone}-{trial}" / SCORES
        arm = parse_trial(trial)[0].name
        for row in read_scores(path) if path.is_file() else ():
            if row.audio == "own":
                accuracy.setdefault(arm, {}).setdefault(row.family, []).append(row.value)
                if arm == "sft":
                    unscored.setdefault(row.family, []).append(float(row.score is None))
    means = {arm: {family: float(np.mean(values)) for family, values in families.items()} for arm, families in accuracy.items()}
    share = _mean(float(np.mean(values)) for values in unscored.values()) if unscored else None
    return Measures(means, share, probe, block_loss, margins_of(workspace, backbone))


def margins_of(workspace: Path, backbone: str) -> list[float]:
    """Return the skill of each head minus that of the clip's mean, from the results of the probe stage."""
    entries = [
        entry["skills"]
        for path in sorted((workspace / "evaluation/probes").glob(f"{backbone}-*.json"))
        for entry in read_json(path)["skill"].values()
    ]
    return [skills["head"] - skills["clip_mean"] for skills in entries if None not in (skills["head"], skills["clip_mean"])]


def probe_by_family(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the accuracy of the experts' probe per family, its tasks weighted by items. A probe cannot transcribe."""
    families: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        if row["family"] != "transcription":
            families.setdefault(row["family"], []).append((row["accuracy"], row["n"]))
    return {family: sum(value * n for value, n in tasks) / sum(n for _, n in tasks) for family, tasks in families.items()}


def loss_from_tuning(path: Path, backbone: str) -> float | None:
    """Return the answer loss of trial `block` minus that of `sft` from a results file of `benchmarks.tune`; None if it has none."""
    entry = read_json(path).get("differences", {}).get(backbone, {}).get("block", {})
    found = entry.get("answer_loss_difference") if entry.get("reference") == "sft" else None
    return None if found is None else float(found["value"])


def measure_loss(workspace: Path, settings: Settings, backbone: str) -> float | None:
    """Return the answer loss of `block` minus that of `sft`, averaged over the seeds that both have; None without releases."""
    from benchmarks.differences import mean_losses
    from coat_core.audio_store.store import AudioStore
    from coat_core.corpus.examples import read_manifest
    from coat_core.evaluation.answer_losses import answer_losses, paired_loss_difference
    from coat_core.evaluation.selection import select
    from coat_core.thinking.release import load_release
    from coat_core.training.dataset import AudioEmbeddingCache

    seeds = [{seed for arm, seed in map(parse_trial, settings.trials) if arm.name == name} for name in ("block", "sft")]
    shared = sorted(seeds[0] & seeds[1])
    folders = {name: [workspace / "models" / f"{backbone}-{name}-{seed}" for seed in shared] for name in ("block", "sft")}
    if not shared or not all((folder / "coat.json").is_file() for each in folders.values() for folder in each):
        return None
    evaluation = settings.evaluation.model_copy(update={"split": "validation"})
    examples = select(read_manifest(workspace / "data/accepted.jsonl"), evaluation)
    store = workspace / "audio" / backbone
    found: dict[str, list[Any]] = {name: [] for name in folders}
    for name, releases in folders.items():
        for folder in releases:
            model = load_release(folder).backbone
            cache = AudioEmbeddingCache(model, 2048, AudioStore.open(store, model) if (store / "index.json").is_file() else None)
            found[name].append(answer_losses(model, examples, workspace / "data/corpus", embeddings=cache))
    return paired_loss_difference(mean_losses(found["block"]), mean_losses(found["sft"])).value


def compute_probe(workspace: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of `benchmarks.probe` on the workspace's stores."""
    from threadpoolctl import threadpool_limits

    from benchmarks.probe import pooled, table
    from coat_core.corpus.examples import read_manifest

    examples = [example for example in read_manifest(workspace / "data/accepted.jsonl") if example.labelled]
    with threadpool_limits(1):
        return [asdict(row) for row in table(examples, pooled(examples, workspace / "data/corpus", workspace / "features"), split)]


def markdown(gates: Mapping[str, Sequence[Gate]]) -> str:
    """Return the gates of all bases as a Markdown table."""
    lines = ["| model | gate | measured | required | passed |", "|:--|:--|--:|--:|:--|"]
    for backbone, rows in gates.items():
        for gate in rows:
            value = "not measured" if gate.value is None else f"{gate.value:+.3f}" if gate.at_least else f"{gate.value:.4f}"
            passed = {True: "yes", False: "**no**", None: "not measured"}[gate.passed]
            lines.append(f"| {backbone} | {gate.name} | {value} | {'≥' if gate.at_least else '<'} {gate.limit:g} | {passed} |")
    return "\n".join(lines)


def main() -> None:
    import os

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--probe", type=Path, help="JSON file of benchmarks.probe; default: compute it from the stores")
    parser.add_argument("--losses", type=Path, help="results file of benchmarks.tune")
    parser.add_argument("--measure-losses", action="store_true", help="measure answer losses from the releases of block and sft")
    options = parser.parse_args()
    workspace = options.workspace.resolve()
    probe_file, losses_file = (path.resolve() if path else None for path in (options.probe, options.losses))
    # The base of a release is relative to the workspace.
    os.chdir(workspace)
    settings = load_settings(workspace / "params.yaml")
    split = settings.evaluation.split
    rows = read_json(probe_file)["tasks"] if probe_file else compute_probe(workspace, split)
    gates: dict[str, list[Gate]] = {}
    for backbone in settings.backbones:
        loss = loss_from_tuning(losses_file, backbone) if losses_file else None
        if loss is None and options.measure_losses:
            loss = measure_loss(workspace, settings, backbone)
        gates[backbone] = gates_of(read_measures(workspace, settings, backbone, probe_by_family(rows) or None, loss))
    print(markdown(gates))
    target = ROOT / "docs/results" / f"gates-{workspace.name}.json"
    write_json(target, {"split": split, "gates": {backbone: [gate.to_json() for gate in found] for backbone, found in gates.items()}})
    sys.exit(1 if any(gate.passed is False for found in gates.values() for gate in found) else 0)


if __name__ == "__main__":
    main()
