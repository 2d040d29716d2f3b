"""Comparison of a version with the champion on the same examples, from their records in the registry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.evaluation.metrics import METRICS, SCORES
from coat_core.evaluation.statistics import Bootstrap
from coat_core.registry import gate
from coat_core.registry.champions import champion_version, known_version
from coat_core.registry.database import open_registry
from coat_core.registry.gate import Decision
from coat_core.registry.locks import locked
from coat_core.registry.records import PairedDifference, VersionRecord, as_number
from coat_core.registry.releases import BASE, evaluation_folder, log_evaluation
from coat_core.registry.suites import read_suites
from coat_core.registry.versions import unpack
from coat_core.settings import RegistrySettings
from coat_core.storage import read_json

Evaluate = Callable[[Path, Path], object]
"""`evaluate(release, target)` scores a release on the current evaluation set and writes `metrics.json` and `scores.jsonl`."""


@dataclass(frozen=True)
class Comparison:
    """The input of a decision.

    Attributes:
        candidate: the record of the candidate.
        champion: the record of the champion; None without a champion.
        difference: candidate − champion; None if both are the same version, or if they have no common evaluation set.
    """

    candidate: VersionRecord
    champion: VersionRecord | None
    difference: PairedDifference | None

    def decide(self, settings: RegistrySettings) -> Decision:
        """Return the gate's decision."""
        return gate.decide(self.candidate, self.champion, settings, self.difference)


def compare(name: str, version: str, workspace: Path = Path(), *, bootstrap: Bootstrap, evaluate: Evaluate | None = None) -> Comparison:
    """Read the records of a version and of the champion, and compare their answers example by example.

    A champion that was never scored on the candidate's evaluation set is evaluated on it once. Its scores are stored by version and
    set, so that later comparisons use them.

    Args:
        name: registered model.
        version: the candidate.
        workspace: folder of MLflow's records.
        bootstrap: bootstrap of the paired interval.
        evaluate: evaluates the champion if it has no scores on the candidate's set; None: the gate refuses the candidate in that case.

    Raises:
        RegistryError: the version does not exist, its scores are missing, or the champion was evaluated on another set.
    """
    client = open_registry(workspace)
    current = champion_version(client, name)
    candidate = read_record(client, name, version, bootstrap=bootstrap)
    if current is None:
        return Comparison(candidate, None, None)
    if current == version:
        return Comparison(candidate, candidate, None)
    if not has_scores(client, name, current, candidate.evaluation_set):
        if evaluate is None:
            return Comparison(candidate, read_record(client, name, current), None)
        _evaluate_again(client, name, current, candidate.evaluation_set, evaluate, workspace)
    champion = read_record(client, name, current, candidate.evaluation_set)
    return Comparison(candidate, champion, _difference(client, candidate, champion, bootstrap))


def read_record(
    client: Any, name: str, version: str, evaluation_set: str | None = None, *, bootstrap: Bootstrap | None = None
) -> VersionRecord:
    """Return the record of a version, by default on the evaluation set that it was registered with.

    Args:
        client: client of the registry.
        name: registered model.
        version: version of the model.
        evaluation_set: the evaluation set.
        bootstrap: bootstrap of the differences to chance and to the base; None: the record is without them.

    Raises:
        RegistryError: the version does not exist, or its scores on that set are missing.
    """
    known = known_version(client, name, version)
    tags = known.tags
    folder = _scores(client, name, version, evaluation_set or tags.get("evaluation_set", ""))
    metrics = read_json(folder / METRICS)
    unsafe = tags.get("unsafe_files", "not checked")
    mean = metrics.get("mean_accuracy")
    probe_passed = tags.get("probe") == "passed"
    return VersionRecord(
        name=name,
        version=str(version),
        contract=tags.get("contract", ""),
        evaluation_set=str(metrics.get("evaluation_set", "")),
        families={family: _score(entry.get("accuracy")) for family, entry in metrics.get("families", {}).items()},
        mean_accuracy=_score(mean),
        unscored_share=as_number(metrics.get("unscored_share")),
        unsafe_files=() if unsafe == "none" else tuple(unsafe.splitlines()),
        cold_load=tags.get("probe_answer") if probe_passed or tags.get("probe_finished") in ("true", "false") else None,
        withdrawn=tags.get("withdrawn"),
        over_chance=_over_chance(folder, bootstrap) if bootstrap else None,
        over_base=_over_base(folder, bootstrap) if bootstrap else None,
        items={family: entry["n"] for family, entry in metrics.get("families", {}).items() if isinstance(entry.get("n"), int)},
        probe_problem="" if probe_passed else tags.get("probe_reason", ""),
        suites=read_suites(tags),
    )


def _score(value: object) -> float | None:
    return None if value is None else as_number(value)


def has_scores(client: Any, name: str, version: str, evaluation_set: str) -> bool:
    """Return whether a version was scored on an evaluation set."""
    run_id = client.get_model_version(name, version).run_id
    # The metrics are stored after the scores, so that both exist where the metrics do.
    return any(file.path.endswith(f"/{METRICS}") for file in client.list_artifacts(run_id, evaluation_folder(evaluation_set)))


def _scores(client: Any, name: str, version: str, evaluation_set: str) -> Path:
    if not evaluation_set or not has_scores(client, name, version, evaluation_set):
        raise RegistryError(
            "the scores of a version are missing",
            field="version",
            value=f"{name} {version}",
            next_step="evaluate the release and register it again",
        )
    return Path(client.download_artifacts(client.get_model_version(name, version).run_id, evaluation_folder(evaluation_set)))


def _difference(client: Any, candidate: VersionRecord, champion: VersionRecord, bootstrap: Bootstrap) -> PairedDifference:
    from coat_core.evaluation.arms import ArmScores, difference
    from coat_core.evaluation.scores import read_scores

    first, second = (
        ArmScores.of({0: read_scores(_scores(client, side.name, side.version, candidate.evaluation_set) / SCORES)})
        for side in (candidate, champion)
    )
    return _paired(difference(first, second, bootstrap)["mean"], bootstrap)


def _over_chance(folder: Path, bootstrap: Bootstrap) -> PairedDifference | None:
    from coat_core.evaluation.arms import ArmScores
    from coat_core.evaluation.scores import read_scores

    over = ArmScores.of({0: read_scores(folder / SCORES)}).over_chance(bootstrap)
    return None if over is None else PairedDifference(over.value, over.low, over.high, over.n, bootstrap.confidence, over.groups)


def _over_base(folder: Path, bootstrap: Bootstrap) -> PairedDifference | None:
    from coat_core.evaluation.arms import ArmScores, difference
    from coat_core.evaluation.scores import read_scores

    if not (folder / BASE / SCORES).is_file():
        return None
    own, base = (ArmScores.of({0: read_scores(place / SCORES)}) for place in (folder, folder / BASE))
    return _paired(difference(own, base, bootstrap)["mean"], bootstrap)


def _paired(mean: dict[str, Any], bootstrap: Bootstrap) -> PairedDifference:
    return PairedDifference(mean["difference"], mean["low"], mean["high"], mean["n"], bootstrap.confidence, mean["groups"])


def _evaluate_again(client: Any, name: str, version: str, evaluation_set: str, evaluate: Evaluate, workspace: Path) -> None:
    with locked(workspace), tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "evaluation"
        evaluate(unpack(f"models:/{name}/{version}", Path(temporary), workspace), target)
        if read_json(target / METRICS)["evaluation_set"] != evaluation_set:
            raise RegistryError(
                "the champion was evaluated on another set than the candidate",
                field="evaluation_set",
                value=evaluation_set,
                next_step="run the pipeline again: coat run",
            )
        log_evaluation(client, client.get_model_version(name, version).run_id, target)
        client.set_model_version_tag(name, version, f"evaluated.{evaluation_set[:16]}", "yes")
