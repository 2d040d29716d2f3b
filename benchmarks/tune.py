"""Choose knobs on the validation split: the same number of trials for `sft` as for `coat`, with a seed that no result uses.

    python benchmarks/tune.py [--workspace .] [--backbone qwen2_audio] [--arms sft coat] [--rates 0.001 0.003]
                              [--weights 1,0.2,0.05] [--name tuning]

`--weights` are losses.ground_answer, ground_distill and respond_distill. Trains each arm at each
combination on the accepted corpus of the workspace, scores the validation split, prints a table and writes docs/results/<name>.json.
The test split is not read.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--backbone", default="qwen2_audio")
    parser.add_argument("--arms", nargs="+", default=["sft", "coat"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.001, 0.003])
    parser.add_argument("--ground", nargs="+", type=int, default=[50])
    parser.add_argument("--weights", nargs="+", default=["1,0.2,0.05"])
    parser.add_argument("--total", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--name", default="tuning")
    options = parser.parse_args()
    tasks = [
        (options.workspace, options.backbone, arm, rate, ground, options.total, weights)
        for rate in options.rates
        for ground in options.ground
        for weights in options.weights
        for arm in options.arms
    ]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        rows = []
        for row in pool.map(trial, tasks):
            rows.append(row)
            families = "  ".join(f"{family} {value:.3f}" for family, value in row["families"].items())
            knobs = f"lr {row['learning_rate']:<7g} ground {row['ground_steps']:<4} weights {row['weights']}"
            print(f"{row['arm']:5} {knobs} mean {row['mean']:.3f}   {families}", flush=True)
    from coat_core.storage import write_json

    write_json(
        ROOT / "docs/results" / f"{options.name}.json", {"backbone": options.backbone, "seed": SEED, "split": "validation", "trials": rows}
    )


def trial(task: tuple[Path, str, str, float, int, int, str]) -> dict[str, Any]:
    """Train one arm at one learning rate and return its validation accuracies."""
    workspace, backbone, arm, rate, ground, total, weights = task
    from coat_core.corpus.examples import read_manifest
    from coat_core.evaluation.evaluate import evaluate_release
    from coat_core.settings import load_settings
    from coat_core.training.run import train
    from coat_core.training.tracker import NullTracker

    settings = load_settings(workspace / "params.yaml")
    training = settings.training.model_copy(
        update={
            "learning_rate": rate,
            "rows_learning_rate": rate,
            "heads_learning_rate": rate,
            "ground_steps": ground,
            "respond_steps": total - ground,
            "checkpoint_every": total,
        }
    )
    answer, ground_distill, respond_distill = map(float, weights.split(","))
    losses = settings.losses.model_copy(
        update={"ground_answer": answer, "ground_distill": ground_distill, "respond_distill": respond_distill}
    )
    settings = settings.model_copy(update={"training": training, "losses": losses})
    examples, corpus = read_manifest(workspace / "data/accepted.jsonl"), workspace / "data/corpus"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        train(
            settings,
            backbone,
            f"{arm}-{SEED}",
            examples=examples,
            corpus=corpus,
            features={key: workspace / "features" / key for key in settings.experts},
            target=place / "release",
            records=place / "records",
            scratch=place / "scratch",
            fingerprint="tuning",
            tracker=NullTracker(),
        )
        evaluation = settings.evaluation.model_copy(update={"split": "validation"})
        metrics = evaluate_release(place / "release", examples, corpus, evaluation, place / "evaluation")
    families = {family: entry["accuracy"] for family, entry in metrics["families"].items()}
    return {
        "arm": arm,
        "learning_rate": rate,
        "ground_steps": ground,
        "steps": total,
        "weights": weights,
        "mean": metrics["mean_accuracy"],
        "families": families,
    }


if __name__ == "__main__":
    main()
