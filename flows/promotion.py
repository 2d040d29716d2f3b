"""After the graph, what must not be cached: register → probe → compare → decide → apply, for each backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from coat_core.settings import Settings, load_settings


def promote_backbones(workspace: Path) -> list[dict[str, Any]]:
    """Register every backbone's candidate and let the gate decide; return one record a backbone."""
    settings = load_settings(workspace / "params.yaml")
    return [
        promote_backbone.with_options(name=f"promote@{key}", task_run_name=f"promote@{key}")(key, str(workspace), settings)
        for key in settings.backbones
    ]


@task(cache_policy=NO_CACHE, persist_result=False)
def promote_backbone(backbone: str, workspace: str, settings: Settings) -> dict[str, Any]:
    """Register one backbone's candidate trial, ask it a question, compare it with the champion, decide and apply."""
    from coat_core.corpus.examples import of_split, read_manifest
    from coat_core.evaluation.evaluate import bootstrap_of
    from coat_core.registry.champions import apply
    from coat_core.registry.cold_load import probe
    from coat_core.registry.evidence import compare
    from coat_core.registry.releases import register_trial

    place = Path(workspace)
    name = settings.registry.names[backbone]  # type: ignore[index]
    registered = register_trial(place, name, f"{backbone}-{settings.latency.candidate}")
    clip = of_split(read_manifest(place / "data/accepted.jsonl"), "validation")[0]
    audio = place / "data/corpus" / clip.audio
    probe(name, registered.version, place, audio=audio, question=clip.prompt, device=settings.runtime.device)
    case = compare(
        name,
        registered.version,
        place,
        bootstrap=bootstrap_of(settings.evaluation),
        evaluate=lambda release, target: _evaluate(release, target, place, settings, backbone),
    )
    decision = case.decide(settings.registry)
    apply(name, registered.version, decision, place)
    return {
        "backbone": backbone,
        "model": name,
        "version": registered.version,
        "created": registered.created,
        "decision": decision.word,
        "reasons": list(decision.reasons),
    }


def _evaluate(release: Path, target: Path, workspace: Path, settings: Settings, backbone: str) -> None:
    """Score an old champion on today's evaluation set."""
    from coat_core.corpus.examples import read_manifest
    from coat_core.evaluation.evaluate import evaluate_release

    examples = read_manifest(workspace / "data/accepted.jsonl")
    base = settings.backbones[backbone]  # type: ignore[index]
    evaluate_release(
        release, examples, workspace / "data/corpus", settings.evaluation, target, device=settings.runtime.device, dtype=base.dtype,
        attention=base.attention,
    )  # fmt: skip
