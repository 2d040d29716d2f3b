"""A headless Chromium, driven by Playwright."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable")
_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A microphone that gives beeps, and that asks nobody."""


def reason_to_skip() -> str:
    """Return why there is no browser here; empty if there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "the extra `browser` is not installed (Playwright)"
    if importlib.util.find_spec("axe_playwright_python") is None:
        return "the extra `browser` is not complete (axe-playwright-python)"
    return "" if _path() else "there is no Chromium; COAT_CHROMIUM can name one"


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser (`playwright.sync_api.Browser`)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox of Chromium needs rights that a container does not give; the pages are those of this repository.
        browser = playwright.chromium.launch(executable_path=_path(), args=["--no-sandbox", *_MICROPHONE])
        try:
            yield browser
        finally:
            browser.close()


def violations(page: Any) -> list[str]:
    """Return the violations of the rules of axe-core (WCAG and best practices) on a page: rule, and the elements concerned."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {', '.join(str(node['target'][0]) for node in rule['nodes'])}" for rule in found]


def _path() -> str | None:
    return shutil.which(os.environ.get("COAT_CHROMIUM") or "") or next(filter(None, map(shutil.which, _NAMES)), None)
