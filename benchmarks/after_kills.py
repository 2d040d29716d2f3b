"""What must hold of a workspace after kills, whatever was killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.testing import chain_runs

GONE_S = 600.0
"""Processes that were not killed themselves may end by themselves within this time, in seconds."""


def differences(workspace: Path, expected: Mapping[str, str]) -> list[str]:
    """Return how a workspace differs from an undisturbed one: files, processes that are left, stages that are stale.

    Args:
        workspace: whose chain has completed.
        expected: digests of the deterministic files of the undisturbed workspace (`chain_runs.fingerprint`).
    """
    found, problems = chain_runs.fingerprint(workspace), []
    if differing := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        problems.append(f"{len(differing)} files differ: {differing[:5]}")
    if not chain_runs.wait_for(lambda: not chain_runs.processes_in(workspace), GONE_S):
        problems.append(f"processes left: {chain_runs.processes_in(workspace)}")
    if stale := json.loads(chain_runs.command("dvc", "status", "--json", workspace=workspace).stdout):
        problems.append(f"stale: {sorted(stale)}")
    return problems
