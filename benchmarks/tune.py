r"""Compare trials on the validation split, with seeds that no result uses.

    python -m benchmarks.tune --workspace workspaces/evidence-recordings --name ablation --backbone qwen2_audio qwen2_5_omni \
        --seed 100 101 102 --steps 200 800 --trial sft --trial coat label=K=8 thinking.tokens=8 'losses.expert_weights={events: 3}'

A trial is an arm and its changes to the workspace's params (`rate` sets all three learning rates; values are YAML); `--trials FILE` reads
one trial a line. Each is trained on the accepted corpus of the workspace and evaluated on the validation split: answer loss a token and
accuracy. The test split is not read. For a fair comparison, run as many trials of `sft` as of `coat`.

Every finished trial is added to docs/results/<name>.json, with its paired differences from the reference (default: the first trial).
Releases, scores and losses of each item are kept in the workspace's .scratch/tuning. The same command continues an interrupted run and
does not repeat finished trials: a trial is identified by its params, seed and manifest. After a change of the code, remove that folder.
If the workspace has audio stores (`coat audio`), no trial runs the audio tower.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.differences import compare, markdown, merge
from benchmarks.trials import ROOT, Task, add_row, parse_trial, run_task, with_changes
from coat_core.pipeline.changes import parse_changes
from coat_core.watchdog import OWNER, owner_mark, watch_owner

SEED = 100


def main() -> None:
    options = parse_options()
    tasks = tasks_of(options)
    reference = options.reference or tasks[0].trial.label
    path = ROOT / "docs/results" / f"{options.name}.json"
    results = tasks[0].folder().parent
    failed = 0
    content: dict[str, Any] = {}
    for task, outcome in run_all(tasks, options.jobs):
        if isinstance(outcome, BaseException):
            failed += 1
            print(f"failed: {task.trial.label}, {task.backbone}, seed {task.seed}: {outcome}", file=sys.stderr, flush=True)
            continue
        print(line_of(outcome), flush=True)
        changed = partial(updated, folder=results, reference=reference, label=outcome["label"])
        content = add_row(path, outcome, changed)
    if content:
        print("\n" + markdown(content["differences"]))
    sys.exit(1 if failed else 0)


def updated(content: dict[str, Any], folder: Path, reference: str, label: str) -> dict[str, Any]:
    """Return the fields of a results file that follow from its trials, after one with that label was added."""
    new = compare(content["trials"], folder.joinpath, reference, {label})
    return {"split": "validation", "differences": merge(content.get("differences", {}), new)}


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--manifest", type=Path, help="default: data/accepted.jsonl of the workspace")
    parser.add_argument("--backbone", nargs="+", default=["qwen2_audio"])
    parser.add_argument("--seed", nargs="+", type=int, default=[SEED])
    parser.add_argument("--steps", nargs=2, type=int, metavar=("GROUND", "RESPOND"), help="steps of every trial that does not set its own")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of every trial that does not make its own")
    parser.add_argument("--trial", nargs="+", action="append", default=[], metavar="ARM [label=TEXT] KEY=VALUE")
    parser.add_argument("--trials", type=Path, help="file with one trial a line; # starts a comment")
    parser.add_argument("--reference", help="label of the trial that differences are taken from; default: the first")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--name", default="tuning")
    return parser.parse_args(arguments)


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """Return the tasks in order: seed by seed, so that every trial has one seed first; an untrained arm runs once, with seed 0."""
    from coat_core.settings import ARMS

    lines = options.trials.read_text().splitlines() if options.trials else []
    trials = [parse_trial(words) for words in [*options.trial, *filter(None, (shlex.split(line, comments=True) for line in lines))]]
    labels = [trial.label for trial in trials]
    if not trials or len(set(labels)) < len(labels):
        sys.exit("there must be at least one trial, and two trials cannot have one label")
    if options.reference and options.reference not in labels:
        sys.exit(f"--reference {options.reference!r} is not the label of a trial: {', '.join(labels)}")
    shared = parse_changes(options.set)
    if options.steps:
        shared |= {"training.ground_steps": options.steps[0], "training.respond_steps": options.steps[1]}
    workspace = options.workspace.resolve()
    manifest = (options.manifest or workspace / "data/accepted.jsonl").resolve()
    return [
        Task(with_changes(trial, shared), workspace, manifest, backbone, seed if ARMS[trial.arm].lora else 0)
        for number, seed in enumerate(options.seed)
        for backbone in options.backbone
        for trial in trials
        if number == 0 or ARMS[trial.arm].lora
    ]


def run_all(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any] | BaseException]]:
    """Run the tasks in processes, which end when this one does; yield each task with its row or its error as it ends."""
    os.environ[OWNER] = owner_mark()
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=watch_owner) as pool:
        running: dict[Future[dict[str, Any]], Task] = {pool.submit(run_task, task): task for task in tasks}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.exception() or future.result()


def line_of(row: dict[str, Any]) -> str:
    """Return one finished trial as one line."""
    loss = "" if row["answer_loss"] is None else f"loss {row['answer_loss']['value']:.4f}  "
    families = "  ".join(f"{family} {value:.3f}" for family, value in row["families"].items())
    start = f"{row['backbone']} {row['arm']}-{row['seed']}  {loss}mean {row['mean']:.3f}  unscored {row['unscored']:.3f}"
    return f"{start}  {row['seconds']['train']:.0f} s  {families}  [{row['label']}]"


if __name__ == "__main__":
    main()
