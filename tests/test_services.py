"""Tests that need a service: skipped with the reason, or failed where `COAT_REQUIRE_SERVICES` says that it must be there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.testing import services
from tests.testing.services import MISSING, REQUIRED, check_services, needs_accounts, needs_browser, needs_postgres

ROOT = Path(__file__).resolve().parents[1]


def item(*marks: pytest.MarkDecorator) -> Any:
    def iter_markers(name: str) -> Iterator[pytest.Mark]:
        return (decorator.mark for decorator in marks if decorator.mark.name == name)

    return SimpleNamespace(iter_markers=iter_markers)


@pytest.mark.parametrize("required", [None, "0", "1"])
def test_a_missing_service_skips_or_fails(monkeypatch: pytest.MonkeyPatch, required: str | None) -> None:
    monkeypatch.setitem(services.MISSING, "postgres", lambda: "no PostgreSQL")
    monkeypatch.delenv(REQUIRED, raising=False)
    if required is not None:
        monkeypatch.setenv(REQUIRED, required)
    expected = pytest.fail.Exception if required == "1" else pytest.skip.Exception
    with pytest.raises(expected, match=r"no PostgreSQL.*make services"):
        check_services(item(pytest.mark.slow, needs_postgres))


@pytest.mark.parametrize("required", ["", "1"])
def test_a_service_that_is_there_changes_nothing(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.setenv(REQUIRED, required)
    for name in MISSING:
        monkeypatch.setitem(services.MISSING, name, lambda: "")
    check_services(item(needs_postgres, needs_accounts, needs_browser))
    check_services(item(pytest.mark.slow))


def test_the_marks_name_known_services_and_the_makefile_installs_them() -> None:
    assert {name for mark in (needs_postgres, needs_accounts, needs_browser) for name in mark.mark.args} == MISSING.keys()
    used = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"\bneeds_(postgres|accounts|browser)\b", path.read_text())
    }
    assert used == MISSING.keys()
    recipe = (ROOT / "Makefile").read_text().partition("\nservices:")[2].partition("\n\n")[0]
    assert "postgresql" in recipe
    assert "chromium" in recipe
    assert ".[server,browser]" in recipe
