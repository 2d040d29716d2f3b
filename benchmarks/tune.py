r"""Compare hyperparameters on the validation split, with a seed that no result uses.

    python -m benchmarks.tune --workspace workspaces/evidence-recordings --backbone qwen2_audio \
        --trial sft rate=0.002 --trial coat rate=0.002 thinking.placement=after_audio

A trial is an arm and its changes to the workspace's params (`rate` sets all three learning rates). Each trial is trained on the
accepted corpus of the workspace and scored on the validation split; the test split is not read. For a fair comparison, run as many
trials of `sft` as of `coat`. Every finished trial is printed and appended to docs/results/<name>.json.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SEED = 100
RATES = ("learning_rate", "rows_learning_rate", "heads_learning_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--backbone", default="qwen2_audio")
    parser.add_argument("--trial", nargs="+", action="append", required=True, metavar="ARM KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--name", default="tuning")
    options = parser.parse_args()
    from coat_core.storage import read_json, write_json

    path = ROOT / "docs/results" / f"{options.name}.json"
    rows = read_json(path)["trials"] if path.exists() else []
    tasks = [
        (options.workspace, options.backbone, arm, dict(change.split("=", 1) for change in changes)) for arm, *changes in options.trial
    ]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for row in pool.map(trial, tasks):
            families = "  ".join(f"{family} {value:.3f}" for family, value in row["families"].items())
            changes = " ".join(f"{key}={value}" for key, value in row["changed"].items())
            print(f"{row['arm']:5} mean {row['mean']:.3f}  unscored {row['unscored']:.3f}   {families}   {changes}", flush=True)
            rows.append(row)
            write_json(path, {"seed": SEED, "split": "validation", "trials": rows})


def trial(task: tuple[Path, str, str, dict[str, str]]) -> dict[str, Any]:
    """Train one arm with changed params and return its validation accuracies."""
    workspace, backbone, arm, changed = task
    from coat_core.corpus.examples import read_manifest, select_split
    from coat_core.evaluation.generate import answer_release
    from coat_core.evaluation.metrics import score_trial
    from coat_core.settings import parse_settings, read_values
    from coat_core.training.tracker import NullTracker
    from coat_core.training.train import train

    values = read_values(workspace / "params.yaml")
    for name, text in changed.items():
        for key in [f"training.{rate}" for rate in RATES] if name == "rate" else [name]:
            *sections, field = key.split(".")
            place = values
            for section in sections:
                place = place[section]
            place[field] = yaml.safe_load(text)
    settings = parse_settings(values, "params with the trial's changes")
    examples, corpus = read_manifest(workspace / "data/accepted.jsonl"), workspace / "data/corpus"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train(
            settings, backbone, f"{arm}-{SEED}", examples=examples, corpus=corpus,
            features={key: workspace / "features" / key for key in settings.experts}, target=folder / "release",
            records=folder / "records", scratch=folder / "scratch", fingerprint="tuning", tracker=NullTracker(),
        )  # fmt: skip
        evaluation = settings.evaluation.model_copy(update={"split": "validation"})
        answer_release(folder / "release", examples, corpus, evaluation, folder / "responses.jsonl")
        identity = {"backbone": backbone, "arm": arm, "seed": SEED}
        metrics = score_trial(folder / "responses.jsonl", examples, evaluation, folder / "evaluation", identity)
    training = settings.training
    return {
        "corpus": settings.corpus.kind,
        "backbone": backbone,
        "items": len(select_split(examples, "validation")),
        "arm": arm,
        "changed": changed,
        "learning_rate": training.learning_rate,
        "steps": [training.ground_steps, training.respond_steps],
        "thinking": settings.thinking.model_dump(mode="json", include={"tokens", "placement", "rows", "read_layer"}),
        "losses": settings.losses.model_dump(mode="json", include={"ground_answer", "ground_distill", "respond_distill"}),
        "mean": metrics["mean_accuracy"],
        "unscored": metrics["unscored_share"],
        "families": {family: entry["accuracy"] for family, entry in metrics["families"].items()},
    }


if __name__ == "__main__":
    main()
