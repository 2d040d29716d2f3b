"""Create the workspaces of the evidence and print their folders in the order in which to run them.

    python -m benchmarks.workspaces central    # all arms and seeds on the recordings
    python -m benchmarks.workspaces further    # label curves, and sft for the time that coat takes; needs the results of `central`
    python -m benchmarks.workspaces quick      # the central comparison with one seed

Each is `params/evidence-recordings.yaml` with a few changes. Results of a workspace that exists are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.curves import LONG, equal_time_steps
from coat_core.errors import CoatError
from coat_core.pipeline.workspace import make_workspace
from coat_core.settings import load_settings, parse_trial

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params/evidence-recordings.yaml"
CENTRAL, QUICK = "evidence-recordings", "evidence-quick"
CURVE_BACKBONE, CURVE_LABELS, CURVE_CLIPS = "qwen2_audio", (50, 200, 800), 1000
"""Label curves: the model, the labelled clips per family, and all training clips per family."""
UNLABELLED_BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["central", "further", "quick"])
    options = parser.parse_args()
    planned = {"central": lambda: {CENTRAL: {}}, "further": further, "quick": quick}[options.part]()
    for name, changes in planned.items():
        make_workspace(ROOT / "workspaces" / name, PARAMS, changes)
        print(Path("workspaces") / name)


def quick() -> dict[str, dict[str, Any]]:
    """Return the central comparison with the first seed."""
    return {QUICK: {**_without_probes("base-0", "sft-1", "coat-1"), "latency.described": []}}


def further() -> dict[str, dict[str, Any]]:
    """Return workspace → changes of all comparisons beside the central one.

    Raises:
        CoatError: the central workspace has no history of `coat` and `sft` yet, which the steps of the longer sft follow from.
    """
    return {**label_curves(), LONG: longer_sft(ROOT / "workspaces" / CENTRAL)}


def label_curves() -> dict[str, dict[str, Any]]:
    """Return the points of the label curves. `sft` does not use unlabelled clips, so one workspace of each number trains it."""
    settings = load_settings(PARAMS)
    seeds = sorted({seed for arm, seed in map(parse_trial, settings.trials) if arm.name == "coat"})
    sft, coat = ([f"{arm}-{seed}" for seed in seeds] for arm in ("sft", "coat"))
    found: dict[str, dict[str, Any]] = {}
    for labels in CURVE_LABELS:
        shared = {
            "backbones": {CURVE_BACKBONE: settings.backbones[CURVE_BACKBONE].model_dump(mode="json")},
            "corpus.clips_per_family.train": CURVE_CLIPS,
            "corpus.labelled_clips_per_family": labels,
            "latency.described": [],
            "registry.names": {CURVE_BACKBONE: settings.registry.names[CURVE_BACKBONE]},
        }
        found[f"evidence-labels-{labels}-labelled"] = {**shared, **_without_probes("base-0", *sft, *coat)}
        found[f"evidence-labels-{labels}"] = {
            **shared, **_without_probes("base-0", *coat), "training.unlabelled_batch_size": UNLABELLED_BATCH, "latency.baseline": "base-0",
        }  # fmt: skip
    return found


def longer_sft(central: Path) -> dict[str, Any]:
    """Return the changes for `sft` with the steps that take as long as those of `coat`, on the model where these are most."""
    settings = load_settings(PARAMS)
    steps = [equal_time_steps(central, backbone) for backbone in settings.backbones]
    if None in steps:
        raise CoatError("no training history", field="workspace", value=str(central), next_step="run the central workspace first")
    sft = [trial for trial in settings.trials if parse_trial(trial)[0].name == "sft"]
    more: Mapping[str, Any] = {
        "training.respond_steps": max(number for number in steps if number is not None) - settings.training.ground_steps,
        "latency.candidate": sft[0], "latency.baseline": "base-0", "latency.described": [], "registry.candidate": sft[0],
    }  # fmt: skip
    return {**_without_probes("base-0", *sft), **more}


def _without_probes(*trials: str) -> dict[str, Any]:
    return {"trials": list(trials), "probes.trials": []}


if __name__ == "__main__":
    main()
