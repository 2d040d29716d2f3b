"""Results of public benchmarks in a workspace, read without the code that scored them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.storage import read_json

FOLDER = Path("evaluation/suites")
"""Folder of the results in a workspace: `<backbone>-<trial>-<suite>/result.json`."""
RESULT = "result.json"
METRIC = "suites/"
"""Start of the names of a benchmark's metrics in MLflow."""


def result_path(workspace: Path, backbone: str, trial: str, suite: str) -> Path:
    """Return the file of a result."""
    return workspace / FOLDER / f"{backbone}-{trial}-{suite}" / RESULT


def read_result(workspace: Path, backbone: str, trial: str, suite: str) -> dict[str, Any] | None:
    """Return the result of the stage `score_suite@<backbone>-<trial>-<suite>`; None if it did not run."""
    path = result_path(workspace, backbone, trial, suite)
    return read_json(path) if path.is_file() else None


def data_identity(result: Mapping[str, Any]) -> str:
    """Return what two results must have in common to be compared: the split, its files and the number of items."""
    return f"{result['split']}, {result['n']} items, MD5 {result['data']['md5']}"


def flat_metrics(name: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a result under flat names: `suites/mmau/strict`, `suites/mmau/strict_low`, `suites/mmau/official`.

    A number that there is not, e.g. of an official script that stops, has no entry.

    Args:
        name: key of the benchmark in params.
        result: content of its `result.json`.
    """
    strict, official = result["strict"], result["official"]
    numbers = {
        "strict": strict["value"],
        "strict_low": strict["low"],
        "strict_high": strict["high"],
        "n": result["n"],
        "unscored_share": strict["unscored"] / result["n"],
        "differing_share": result["differing"]["share"],
        "official": official["value"],
        "official_over": official["over"],
        **{f"official_{part}": value for part, value in official.items() if part not in ("value", "over", "reason", "left_out")},
    }
    return {f"{METRIC}{name}/{part}": float(value) for part, value in numbers.items() if isinstance(value, int | float)}


def places_text(official: Mapping[str, Any]) -> str:
    """Return how far a judge agrees with itself when the answers change places, as a clause; empty if it was not asked in both places.

    Args:
        official: entry `official` of a result, or its further numbers.
    """
    if "items_read_in_both_places" not in official:
        return ""
    unreadable = f"{official['judgements_unreadable']} of {official['judgements']} judgements unreadable"
    asked = f"the judge saw each response once before and once after the reference answer; {unreadable}"
    both = official["items_read_in_both_places"]
    if not both:
        return asked
    agreement = f"agreement of the two places: the same score in both for {official['equal_in_both_places']:.1%} of {both} items"
    difference = f"{official['first_minus_second_place']:+.2f}".replace("-", "−")
    preference = f"preference for the first place: {difference} of 10 points (mean score there minus mean score in the second)"
    return f"{asked}; {agreement}; {preference}"


def counts_text(counts: Mapping[str, Any]) -> str:
    """Return how many responses are not what was asked for, as a clause; empty if all are."""
    words = {"not_asked": "not asked", "clips_cut": "clips cut", "unfinished": "responses cut off"}
    return ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts.get(name))
