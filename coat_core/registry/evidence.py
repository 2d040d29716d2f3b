"""From records to a decision: what stands beside a version, and how it compares with the champion on the same examples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.evaluation.statistics import Bootstrap
from coat_core.registry import gate
from coat_core.registry.champions import champion_version
from coat_core.registry.database import connect, locked
from coat_core.registry.gate import Comparison, Decision, Evidence
from coat_core.registry.releases import METRICS, SCORES, evaluation_folder, log_evaluation
from coat_core.registry.serving import unpack
from coat_core.settings import RegistrySettings
from coat_core.storage import read_json

Evaluate = Callable[[Path, Path], object]
"""`evaluate(release, target)`: score a release on the present evaluation set, and write `metrics.json` and `scores.jsonl`."""


@dataclass(frozen=True)
class Case:
    """All that a decision is made from."""

    candidate: Evidence
    champion: Evidence | None
    comparison: Comparison | None

    def decide(self, settings: RegistrySettings) -> Decision:
        """Return the gate's decision."""
        return gate.decide(self.candidate, self.champion, settings, self.comparison)


def compare(
    name: str, version: str, workspace: Path = Path(), *, bootstrap: Bootstrap | None = None, evaluate: Evaluate | None = None
) -> Case:
    """Collect what is recorded of a version and of the champion, and compare their answers example by example.

    A champion that was never scored on the candidate's evaluation set is evaluated on it once; its scores are stored under
    version and set, so that no later comparison does it again.

    Args:
        name: registered model.
        version: the candidate.
        workspace: where the records are.
        bootstrap: how the paired interval is drawn.
        evaluate: evaluates the champion again where that is needed; without it the gate will refuse in that case.

    Raises:
        RegistryError: there is no such version, or its scores are gone.
    """
    client = connect(workspace)
    candidate = evidence(client, name, version)
    best = champion_version(client, name)
    if best is None:
        return Case(candidate, None, None)
    if best == version:
        return Case(candidate, candidate, None)
    if not has_scores(client, name, best, candidate.evaluation_set):
        if evaluate is None:
            return Case(candidate, evidence(client, name, best), None)
        _evaluate_again(client, name, best, candidate.evaluation_set, evaluate, workspace)
    champion = evidence(client, name, best, candidate.evaluation_set)
    return Case(candidate, champion, _paired(client, candidate, champion, bootstrap or Bootstrap()))


def evidence(client: Any, name: str, version: str, evaluation_set: str | None = None) -> Evidence:
    """Return what is recorded of a version, by default on the evaluation set that it was registered with.

    Raises:
        RegistryError: its scores on that set are gone.
    """
    known = client.get_model_version(name, version)
    tags = known.tags
    metrics = read_json(_scores(client, name, version, evaluation_set or tags.get("evaluation_set", "")) / METRICS)
    unsafe = tags.get("unsafe_files", "not checked")
    return Evidence(
        name=name,
        version=str(version),
        contract=tags.get("contract", ""),
        evaluation_set=metrics["evaluation_set"],
        families={family: entry.get("accuracy") for family, entry in metrics["families"].items()},
        mean_accuracy=metrics.get("mean_accuracy"),
        unscored_share=metrics["unscored_share"],
        unsafe_files=() if unsafe == "none" else tuple(unsafe.splitlines()),
        probe=tags.get("probe_answer") if tags.get("probe") == "passed" else None,
        withdrawn=tags.get("withdrawn"),
    )


def has_scores(client: Any, name: str, version: str, evaluation_set: str) -> bool:
    """Return whether a version was scored on an evaluation set."""
    run_id = client.get_model_version(name, version).run_id
    # The metrics are stored after the scores: where they are, all is.
    return any(file.path.endswith(f"/{METRICS}") for file in client.list_artifacts(run_id, evaluation_folder(evaluation_set)))


def _scores(client: Any, name: str, version: str, evaluation_set: str) -> Path:
    if not evaluation_set or not has_scores(client, name, version, evaluation_set):
        raise RegistryError(
            "the scores of a version are gone",
            field="version",
            value=f"{name} {version}",
            next_step="evaluate the release and register it again",
        )
    return Path(client.download_artifacts(client.get_model_version(name, version).run_id, evaluation_folder(evaluation_set)))


def _paired(client: Any, candidate: Evidence, champion: Evidence, bootstrap: Bootstrap) -> Comparison:
    from coat_core.evaluation.arms import ArmScores, difference
    from coat_core.evaluation.responses import read_scores

    first, second = (
        ArmScores.of({0: read_scores(_scores(client, side.name, side.version, candidate.evaluation_set) / SCORES)})
        for side in (candidate, champion)
    )
    mean = difference(first, second, bootstrap)["mean"]
    return Comparison(mean["difference"], mean["low"], mean["high"], mean["n"], bootstrap.confidence)


def _evaluate_again(client: Any, name: str, version: str, evaluation_set: str, evaluate: Evaluate, workspace: Path) -> None:
    with locked(workspace), tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "evaluation"
        evaluate(unpack(f"models:/{name}/{version}", Path(temporary), workspace), target)
        if read_json(target / METRICS)["evaluation_set"] != evaluation_set:
            raise RegistryError(
                "the champion was evaluated on another set than the candidate",
                field="evaluation_set",
                value=evaluation_set,
                next_step="run the chain again: coat run",
            )
        log_evaluation(client, client.get_model_version(name, version).run_id, target)
        client.set_model_version_tag(name, version, f"evaluated.{evaluation_set[:16]}", "yes")
