"""The model card of a version, in Markdown; the registry shows it as the description."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coat_core.registry.lineage import Lineage
from coat_core.settings import find_arm
from coat_core.storage import read_jsonl

INTENDED_USE = (
    "Questions about short clips: the words spoken, the sounds and their order, the instrument or note, the emotion of a voice, "
    "comparisons of two sounds."
)


@dataclass(frozen=True)
class CardFacts:
    """The content of a card.

    Attributes:
        name: registered model.
        info: content of `coat.json`.
        lineage: lineage of the release.
        metrics: content of the release's `metrics.json`.
        workspace: folder whose `data/accepted.jsonl` the card describes.
        controls: `metrics.json` of other arms of the same backbone, by arm.
        suites: results of public benchmarks, by name.
    """

    name: str
    info: Mapping[str, Any]
    lineage: Lineage
    metrics: Mapping[str, Any]
    workspace: Path
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """Return the card: description, intended use, data, scores with those of the controls, public benchmarks, limits, licence, origin."""
    parts = (_head(facts), _uses(facts), _data(facts), _scores(facts), _suites(facts), limits_section(facts.metrics), _origin(facts))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: CardFacts) -> str:
    info, block = facts.info, facts.info.get("block")
    text = (
        f"# {facts.name}\n\nA large audio language model that answers questions about a clip of audio: `{info['backbone']}` on the base "
        f"`{info['base']['id']}`, arm `{info['arm']}` ({find_arm(info['arm']).description}), seed {info['seed']}."
    )
    if block:
        text += (
            f" It *thinks in sound* before it answers: its prompt contains {block['tokens']} think tokens "
            f"({str(block['placement']).replace('_', ' ')}), and no additional token is decoded."
        )
        experts = ", ".join(sorted(info.get("experts") or {}))
        if experts:
            text += f" In training, the experts {experts} were distilled into the states of layer {block['read_layer']} at these tokens."
    return text


def _uses(facts: CardFacts) -> str:
    return (
        f"## Intended use\n\n{INTENDED_USE} Load it with\n\n"
        f'```python\nmodel = mlflow.pyfunc.load_model("models:/{facts.name}@champion")\n'
        'model.predict(pandas.DataFrame({"audio": ["clip.wav"], "question": ["What do you hear?"]}))\n```\n\n'
        "`audio` is a path, or a WAV file in base64."
    )


def _data(facts: CardFacts) -> str:
    path = facts.workspace / "data/accepted.jsonl"
    if not path.is_file():
        return ""
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    clips: dict[str, dict[str, float]] = defaultdict(dict)
    sources: Counter[tuple[str, str]] = Counter()
    unlabelled = 0
    for row in read_jsonl(path):
        splits[row["split"]][row["family"]] += row["answer"] is not None
        unlabelled += row["answer"] is None
        clips[row["split"]][row["sha256"]] = float(row["duration_s"])
        sources[row["source"], row["licence"]] += 1
    families = sorted({family for counts in splits.values() for family in counts})
    lines = [f"| split | clips | minutes | {' | '.join(families)} |", "|---|---:|---:|" + "---:|" * len(families)]
    for split in (s for s in ("train", "validation", "test") if s in splits):
        counts = " | ".join(str(splits[split][family]) for family in families)
        lines.append(f"| {split} | {len(clips[split])} | {sum(clips[split].values()) / 60.0:.1f} | {counts} |")
    origins = "\n".join(f"- {source} ({licence}): {n} examples" for (source, licence), n in sources.most_common(12))
    return (
        "## Data\n\nExamples by task family; no speaker, actor or source recording is in two splits.\n\n"
        + "\n".join(lines)
        + (f"\n\n{unlabelled} further training rows have no answer and can take part in distillation only." if unlabelled else "")
        + f"\n\n{origins}"
    )


def _scores(facts: CardFacts) -> str:
    arms = {facts.info["arm"]: facts.metrics, **facts.controls}
    families = list(facts.metrics.get("families", {}))
    lines = [f"| family | n | chance | {' | '.join(arms)} |", "|---|---:|---:|" + "---:|" * len(arms)]
    for family in families:
        entry = facts.metrics["families"][family]
        cells = " | ".join(accuracy_text(metrics.get("families", {}).get(family)) for metrics in arms.values())
        lines.append(f"| {family} | {entry.get('n', '–')} | {_number(entry.get('chance'))} | {cells} |")
    means = " | ".join(
        accuracy_text(m["mean"]) if isinstance(m.get("mean"), Mapping) else _number(m.get("mean_accuracy")) for m in arms.values()
    )
    lines.append(f"| **mean** | {facts.metrics.get('n', '–')} | | {means} |")
    return (
        f"## Evaluation\n\nAccuracy (1 − word error rate for transcription) on the {facts.metrics.get('split', 'evaluation')} split, with "
        "bootstrap intervals in brackets; an unscored answer counts as wrong.\n\n"
        + "\n".join(lines)
        + f"\n\n{float(facts.metrics.get('unscored_share', 0.0)):.1%} of the answers are unscored. Evaluation set "
        f"`{str(facts.metrics.get('evaluation_set', ''))[:16]}`."
    )


def _suites(facts: CardFacts) -> str:
    if not facts.suites:
        return ""
    lines = ["| benchmark | n | strict | official | rule |", "|---|---:|---:|---:|---|"]
    for result in facts.suites.values():
        strict = accuracy_text({"accuracy": result["strict"]["value"], **result["strict"]})
        official = _number(result["official"]["value"])
        lines.append(f"| {result['title']}, {result['split']} | {result['n']} | {strict} | {official} | {result['rule']} |")
    return (
        "## Public benchmarks\n\n*strict*: an unclear response counts as wrong; *official*: the number of the published script, a dash "
        "where it gives none. They are not on one scale where that number is an error rate or a judge's score.\n\n" + "\n".join(lines)
    )


def limits_section(metrics: Mapping[str, Any]) -> str:
    """Return the section Limits of a model with these scores (the content of `metrics.json`)."""
    weak = [
        family
        for family, entry in metrics.get("families", {}).items()
        if entry.get("clear_of_chance") is False
        or (entry.get("chance") is not None and entry.get("accuracy") is not None and entry["accuracy"] <= entry["chance"])
    ]
    text = (
        "## Limits\n\nThe scores under Evaluation apply to the corpus above only. Each question is about one clip. The length and the "
        "position of the block are fixed. The model can give confident answers that are wrong. Do not use it for decisions about people."
    )
    return text + (f" **Not clear of chance: {', '.join(weak)}.**" if weak else "")


def _origin(facts: CardFacts) -> str:
    base, lineage = facts.info["base"], facts.lineage
    dirty = {"true": " (with uncommitted changes)"}.get(lineage.git_dirty, "")
    return (
        f"## Licence and origin\n\nAdapter and code: Apache-2.0. Base `{base['id']}`, revision {lineage.base_revision}, licence: "
        f"{lineage.base_licence}. Both licences apply to a served model.\n\n"
        f"Commit `{lineage.git_commit[:12]}`{dirty} · training `{lineage.stage_key[:12]}` · data `{lineage.data_sha256[:12]}` · contract "
        f"{lineage.contract}. `coat lineage models:/{facts.name}/VERSION` prints the full lineage."
    )


def accuracy_text(entry: Mapping[str, Any] | None) -> str:
    """Format an accuracy with its interval; a dash without a value."""
    if not entry or entry.get("accuracy") is None:
        return "–"
    if entry.get("low") is None or entry.get("high") is None:
        return f"{entry['accuracy']:.3f}"
    return f"{entry['accuracy']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
