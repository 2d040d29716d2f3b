"""A headless Chromium, driven by Playwright; without one, its tests skip with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable")
_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A microphone that gives beeps, and that asks nobody."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser (`playwright.sync_api.Browser`); skip if Playwright or Chromium is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright is not installed: pip install -e '.[browser]'")
    found = os.environ.get("COAT_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_playwright() as playwright:
        path = found or playwright.chromium.executable_path
        if not Path(path).is_file():
            _missing("there is no Chromium: install the package chromium, or run playwright install chromium")
        # The sandbox of Chromium needs rights that a container does not give; the pages are those of this repository.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *_MICROPHONE])
        try:
            yield browser
        finally:
            browser.close()


def _missing(reason: str) -> None:
    if os.environ.get("COAT_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
