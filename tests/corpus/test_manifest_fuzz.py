"""Mutated manifests are imported completely or refused with a message (10,000 of them: `benchmarks/fuzz_manifests.py`)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz_manifests import run


def test_mutated_manifests_are_imported_completely_or_refused(tmp_path: Path) -> None:
    result, failures = run(tmp_path, 300, seed=1)
    assert not failures, failures[0]
    assert result["total"]["imported"] > 50
    assert result["total"]["refused"] > 50
