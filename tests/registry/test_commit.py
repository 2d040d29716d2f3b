"""The commit in the lineage: that of the repository, or in an image that of `COAT_GIT_COMMIT`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.registry.commit import COMMIT
from coat_core.registry.lineage import gather

SHA = "0123456789abcdef0123456789abcdef01234567"
Add = Callable[..., str]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SHA, (SHA, "false")),
        (f"{SHA}-dirty", (SHA, "true")),
        ("unknown", ("unknown", "unknown")),
        ("", ("unknown", "unknown")),
    ],
    ids=["clean", "dirty", "unknown", "empty"],
)
def test_without_a_repository_the_commit_is_that_of_the_image(
    workspace: Path, add_trial: Add, monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[str, str]
) -> None:
    monkeypatch.setenv(COMMIT, value)
    found = gather(workspace, workspace / "models" / add_trial())
    assert (found.git_commit, found.git_dirty) == expected


def test_a_repository_has_priority(workspace: Path, add_trial: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(workspace), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv(COMMIT, f"{SHA}-dirty")
    found = gather(workspace, workspace / "models" / add_trial())
    assert (found.git_commit, found.git_dirty) == (head, "false")


def test_without_both_the_commit_is_unknown(workspace: Path, add_trial: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    found = gather(workspace, workspace / "models" / add_trial())
    assert (found.git_commit, found.git_dirty) == ("unknown", "unknown")
