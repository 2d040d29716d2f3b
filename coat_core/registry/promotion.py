"""The promotion recipe: register the candidate, load it cold, compare it with the champion, decide, apply.

The command `coat promote` and the flow both call it, so both make the same decision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import Example, read_manifest, select_split
from coat_core.errors import RegistryError
from coat_core.evaluation.metrics import SCORES, bootstrap_of, score_trial
from coat_core.registry.champions import apply, known_version
from coat_core.registry.cold_load import QUESTION, load_cold
from coat_core.registry.comparison import compare
from coat_core.registry.database import open_registry
from coat_core.registry.locks import locked
from coat_core.registry.packaging import read_info
from coat_core.registry.releases import base_evaluation, log_base, register_trial
from coat_core.settings import Settings
from coat_core.storage import sha256_file

MANIFEST, CORPUS = Path("data/accepted.jsonl"), Path("data/corpus")


@dataclass(frozen=True)
class Promotion:
    """The decision about one version.

    Attributes:
        backbone: key of the LALM.
        model: registered model.
        version: the candidate.
        created: whether this call registered it.
        decision: `promoted`, `refused` or `unchanged`.
        reasons: one sentence for each reason of the decision.
    """

    backbone: str
    model: str
    version: str
    created: bool
    decision: str
    reasons: tuple[str, ...]


def promote_candidate(workspace: Path, settings: Settings, backbone: str, version: str | None = None) -> Promotion:
    """Run the promotion gate on a version and apply its decision.

    The cold load uses a clip of the validation split (without a manifest: a sine tone). A champion that was not scored on the
    current evaluation set is evaluated on it (without a manifest the gate refuses the candidate).

    Args:
        workspace: folder of releases, evaluations, data and MLflow's records.
        settings: all of params.
        backbone: key of the LALM.
        version: a registered version; None: the trial `registry.candidate`, which is registered first.

    Raises:
        RegistryError: params do not name the backbone, the version does not exist, or its evaluation is missing.
        ReleaseError: the candidate's release does not exist.
    """
    known = sorted({*settings.backbones} & {*settings.registry.names})
    if backbone not in known:
        raise RegistryError("params do not name this backbone and its registered model", field="backbone", value=backbone, allowed=known)
    name, created = settings.registry.names[backbone], False
    if version is None:
        trial = f"{backbone}-{settings.registry.candidate}"
        registered = register_trial(workspace, name, trial, list(settings.evaluation.suites))
        version, created = registered.version, registered.created
    else:
        _add_base(open_registry(workspace), name, version, workspace)
    examples = read_manifest(workspace / MANIFEST) if (workspace / MANIFEST).is_file() else []
    clip = next(iter(select_split(examples, "validation") or examples), None)
    load_cold(
        name,
        version,
        workspace,
        audio=workspace / CORPUS / clip.audio if clip else None,
        question=clip.prompt if clip else QUESTION,
        device=settings.runtime.device,
    )
    while True:
        compared = compare(
            name,
            version,
            workspace,
            bootstrap=bootstrap_of(settings.evaluation),
            evaluate=(lambda release, target: _evaluate(release, target, examples, workspace, settings)) if examples else None,
        )
        decision = compared.decide(settings.registry)
        # Another host may have promoted its candidate in the meantime; each promotion is decided against the champion that it replaces.
        if apply(name, version, decision, workspace, against=compared.champion.version if compared.champion else None):
            break
    return Promotion(backbone, name, version, created, decision.word, decision.reasons)


def _add_base(client: Any, name: str, version: str, workspace: Path) -> None:
    """Store the workspace's evaluation of the base with a version that was registered without one, if it is of the same set."""
    known = known_version(client, name, version)
    tags = known.tags
    if not tags.get("evaluation_set"):
        return
    revision = tags.get("base_revision")
    info = {"backbone": tags.get("backbone"), "base": {"id": tags.get("base_id"), "revision": None if revision == "none" else revision}}
    base = base_evaluation(workspace, info, tags["evaluation_set"])
    if base is None or tags.get("base_scores_sha256") == sha256_file(base / SCORES):
        return
    with locked(workspace):
        for key, value in log_base(client, known.run_id, base).items():
            client.set_model_version_tag(name, version, key, value)


def _evaluate(release: Path, target: Path, examples: Sequence[Example], workspace: Path, settings: Settings) -> None:
    """Answer the current evaluation set with a release and score its responses."""
    from coat_core.evaluation.generate import answer_release
    from coat_core.sizing.out_of_memory import explain_answering

    info = read_info(release)
    base = settings.backbones[info["backbone"]]
    with tempfile.TemporaryDirectory() as temporary:
        responses = Path(temporary) / "responses.jsonl"
        answer_release(
            release, examples, workspace / CORPUS, settings.evaluation, responses, device=settings.runtime.device, dtype=base.dtype,
            attention=base.attention, explain_memory=explain_answering,
        )  # fmt: skip
        score_trial(responses, examples, settings.evaluation, target, {key: info[key] for key in ("backbone", "arm", "seed")})
