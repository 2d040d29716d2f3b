"""The conclusion of a report in sentences that follow from its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coat_core.report.results import HEADLINE
from coat_core.report.tables import name_of
from coat_core.settings import CLAIM

OPPONENTS = {
    HEADLINE: f"standard fine-tuning ({CLAIM[1]})",
    f"{CLAIM[0]}-block": "the same block without experts (block)",
    f"{CLAIM[0]}-coat_shuffled": "the experts' output for another clip (coat_shuffled)",
    f"{CLAIM[0]}-align": "the same experts without a block (align)",
    f"{CLAIM[0]}-described": "the experts' output as text (described)",
}
"""What the first arm of the claim is compared with, by the key of the difference."""


def conclusion(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each comparison that ran: in which models the interval of the mean is above zero, below it, or includes it."""
    sentences = []
    for key, opponent in OPPONENTS.items():
        found: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": [], "too few questions to judge": []}
        for backbone, values in results["backbones"].items():
            if key in values["differences"]:
                found[_outcome(values["differences"][key]["mean"])].append(name_of(backbone))
        if parts := [f"{outcome} in {_listed(names)}" for outcome, names in found.items() if names]:
            sentences.append(f"{CLAIM[0]} against {opponent}: {'; '.join(parts)}.")
    return sentences


def _outcome(mean: Mapping[str, Any]) -> str:
    if mean.get("too_few"):
        return "too few questions to judge"
    if mean["includes_zero"]:
        return "no clear difference"
    return "better" if mean["difference"] > 0 else "worse"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
