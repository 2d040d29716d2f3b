"""The documentation: every page is in the site, links lead somewhere, and the messages of the troubleshooting page exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from coat_core import errors, full_disk
from coat_core.errors import CoatError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([^`]+)` \| `([A-Za-z]+)` \| (.+) \|$", re.MULTILINE)


def _nav(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry if isinstance(entry, list) else list(entry.values()) if isinstance(entry, dict) else []
    return [page for part in parts for page in _nav(part)]


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown makes them."""
    titles = re.findall(
        r"^#+ (.+)$", _CODE.sub(lambda match: match[0].strip("`") if "\n" not in match[0] else "", page.read_text()), re.MULTILINE
    )
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@cache
def _sources() -> dict[str, tuple[str, str]]:
    """Return path → (all text constants of a module, its source)."""
    found = {}
    for folder in ("coat_core", "flows"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            constants = [
                node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            found[str(path)] = ("\n".join(constants), source)
    return found


def test_the_site_has_every_page_once() -> None:
    pages = _nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_documentation_lead_somewhere(page: str) -> None:
    path, broken = DOCS / page, []
    for link in _LINK.findall(_CODE.sub("", path.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.is_file() or DOCS not in target.parents or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken, "a page of the site can only link to files in docs/"


def test_every_quoted_message_is_raised_somewhere_with_its_kind() -> None:
    rows = _ROW.findall((DOCS / "troubleshooting.md").read_text())
    assert len(rows) >= 40
    wrong = [
        f"{kind}: {message}"
        for message, kind, _ in rows
        if not any(message in texts and kind in source for texts, source in _sources().values())
    ]
    assert not wrong
    assert len({message for message, _, _ in rows}) == len(rows)


def test_every_kind_of_error_has_a_message_on_the_page() -> None:
    named = {**vars(errors), **vars(full_disk)}
    kinds = {name for name, value in named.items() if isinstance(value, type) and issubclass(value, CoatError)}
    assert kinds == {kind for _, kind, _ in _ROW.findall((DOCS / "troubleshooting.md").read_text())}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("mkdocs", "material")):
        pytest.skip("mkdocs-material is not installed (pip install -e '.[docs]'); make docs has an environment of its own")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert built.returncode == 0, built.stderr[-3000:]
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r"""(?:src|href)=["'](https?://[^"']+\.(?:js|css|woff2?))["']""", page.read_text())
        assert not fetched, f"{page.name} fetches {fetched}"
