"""`make sbom`, `make licences` and `make audit`, with stand-ins of their tools: these come from a package index."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
LOOKED_AT = re.findall(r"^LOOKED_AT := (.*)$", MAKEFILE, re.M)[0].split()
STAND_IN = """#!/bin/sh
printf '%s\\n' "$*" >> "$(dirname "$0")/calls"
for word; do [ "$word" != "$REFUSED" ] || exit 1; done
"""


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    found = (re.fullmatch(r"([\w.-]+)==([\w.+]+)(?: ; .*)?", line) for line in lines if line and not line.startswith("#"))
    return {match[1].lower(): match[2] for match in found if match is not None}


@pytest.fixture
def supply(tmp_path: Path) -> Path:
    """An environment whose tools write down their arguments, and fail if one of these is `$REFUSED`."""
    (tmp_path / "bin").mkdir()
    for name in ("cyclonedx-py", "pip-licenses", "pip-audit"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".ready").touch()
    return tmp_path


def _make(target: str, supply: Path, refused: str = "") -> tuple[int, list[list[str]]]:
    """Run a target without a look at the age of the environments; return its status and the calls of its tools."""
    command = ["make", "-s", "-o", ".venv/.ready", "-o", f"{supply}/.ready", f"SUPPLY={supply}", target]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "REFUSED": refused}, capture_output=True, text=True)
    calls = (supply / "bin/calls").read_text().splitlines() if (supply / "bin/calls").exists() else []
    return done.returncode, [call.split() for call in calls]


def test_every_tool_is_pinned_and_no_package_contradicts_the_lock() -> None:
    lines = (ROOT / ".ci/requirements-supply.txt").read_text().splitlines()
    tools, lock = _pins(".ci/requirements-supply.txt"), _pins("requirements.lock")
    assert len(tools) == len([line for line in lines if not line.startswith("#")])
    assert {"cyclonedx-bom", "pip-licenses", "pip-audit"} <= set(tools)
    assert not {"cyclonedx-bom", "pip-licenses", "pip-audit"} & set(lock), "nothing of the project needs them"
    assert {name for name in tools.keys() & lock.keys() if tools[name] != lock[name]} == set()


def test_the_bill_of_materials_is_that_of_the_projects_environment(supply: Path) -> None:
    status, (call,) = _make("sbom", supply)
    assert status == 0
    assert (call[0], call[-1]) == ("environment", ".venv/bin/python")
    assert call[call.index("-o") + 1] == ".scratch/sbom.json"
    assert _make("sbom", supply, "environment")[0]


def test_the_report_has_every_package_and_the_check_all_that_were_not_looked_at(supply: Path) -> None:
    status, (report, check) = _make("licences", supply)
    assert status == 0
    assert report[report.index("--output-file") + 1] == ".scratch/licences.md"
    assert not {"--ignore-packages", "--fail-on"} & set(report)
    assert {"--fail-on", "--partial-match"} <= set(check)
    assert check[check.index("--ignore-packages") + 1 :] == LOOKED_AT
    assert _make("licences", supply, "--fail-on")[0]


def test_an_audit_that_reaches_no_service_is_no_success(supply: Path) -> None:
    status, (call,) = _make("audit", supply)
    assert status == 0
    assert "--strict" in call, "without it, packages that could not be audited are only a warning"
    assert call[call.index("-r") + 1] == "requirements.lock"
    assert _make("audit", supply, "--strict")[0]


def test_what_was_looked_at_is_installed_and_explained() -> None:
    lock, document = _pins("requirements.lock"), (ROOT / "docs/production.md").read_text()
    assert [name for name in LOOKED_AT if name not in lock] == [], "an exception for a package that is gone"
    section = document.partition("## Supply chain")[2].partition("\n## ")[0]
    assert [name for name in LOOKED_AT if f"`{name}`" not in section] == []
