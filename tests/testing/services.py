"""Services that tests need and that not every machine has: PostgreSQL, MLflow with accounts, and a browser.

Where one is missing, its tests are skipped with the reason; with `COAT_REQUIRE_SERVICES=1`, for a CI that has them, they fail instead.
`make services` installs what is missing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable

import pytest

from tests.testing import browser, postgres

REQUIRED = "COAT_REQUIRE_SERVICES"


def _accounts() -> str:
    return "" if importlib.util.find_spec("flask_wtf") else "the extra `server` is not installed (Flask-WTF)"


MISSING: dict[str, Callable[[], str]] = {"postgres": postgres.reason_to_skip, "accounts": _accounts, "browser": browser.reason_to_skip}
"""Service → function that returns why it is missing here; empty if it is not."""

needs_postgres = pytest.mark.service("postgres")
needs_accounts = pytest.mark.service("accounts")
needs_browser = pytest.mark.service("browser")


def check_services(item: pytest.Item) -> None:
    """Skip a test whose service is missing, or fail it where services are required."""
    for mark in item.iter_markers("service"):
        for name in mark.args:
            reason = MISSING[name]()
            if reason and os.environ.get(REQUIRED) == "1":
                pytest.fail(f"{reason}; {REQUIRED}=1 requires it: make services", pytrace=False)
            if reason:
                pytest.skip(f"{reason}: make services")


def main() -> None:
    """Print what is there, and exit with 1 if something is missing."""
    reasons = {name: missing() for name, missing in MISSING.items()}
    for name, reason in reasons.items():
        print(f"{name:10} {reason or 'ready'}")
    sys.exit(1 if any(reasons.values()) else 0)


if __name__ == "__main__":
    main()
