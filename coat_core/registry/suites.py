"""Results of public benchmarks with a registered version: metrics of its run, artifacts, and the numbers that the gate decides on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coat_core.evaluation.benchmarks.recorded import FOLDER, RESULT, data_identity, flat_metrics
from coat_core.registry.records import SuiteScore
from coat_core.registry.tracking import log_new_metrics
from coat_core.storage import read_json, sha256_file, sha256_json

TAG = "suite."
"""Start of the tag with the score on a benchmark, a JSON object."""
DIGEST = "suites_sha256"
"""Tag with one hash over all results; a version with other ones is updated."""
_ARTIFACTS = "suites"


def results_of(workspace: Path, trial: str, suites: Sequence[str]) -> dict[str, Path]:
    """Return benchmark → folder of the result of a trial (`<backbone>-<arm>-<seed>`), for those that were scored."""
    folders = {suite: workspace / FOLDER / f"{trial}-{suite}" for suite in suites}
    return {suite: folder for suite, folder in folders.items() if (folder / RESULT).is_file()}


def digest_of(results: Mapping[str, Path]) -> str:
    """Return one SHA-256 over all results; empty without any."""
    return sha256_json({suite: sha256_file(folder / RESULT) for suite, folder in results.items()}) if results else ""


def record_suites(client: Any, run_id: str, results: Mapping[str, Path]) -> dict[str, str]:
    """Log the numbers of the results with a run, store the results as artifacts, and return the tags that the version gets."""
    tags = {}
    for suite, folder in results.items():
        result = read_json(folder / RESULT)
        log_new_metrics(client, client.get_run(run_id), flat_metrics(suite, result))
        client.log_artifact(run_id, str(folder / RESULT), f"{_ARTIFACTS}/{suite}")
        tags[f"{TAG}{suite}"] = json.dumps(asdict(score_of(result)), sort_keys=True)
    return tags | ({DIGEST: digest_of(results)} if results else {})


def score_of(result: Mapping[str, Any]) -> SuiteScore:
    """Return the score in a result."""
    strict = result["strict"]
    return SuiteScore(strict["value"], strict["low"], strict["high"], result["n"], result["official"]["value"], data_identity(result))


def read_suites(tags: Mapping[str, str]) -> dict[str, SuiteScore]:
    """Return the scores in the tags of a version, by benchmark."""
    return {name.removeprefix(TAG): SuiteScore(**json.loads(value)) for name, value in tags.items() if name.startswith(TAG)}
