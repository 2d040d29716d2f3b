"""docs/architecture.md shows the folders and the layers that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/architecture.md").read_text()


def _folders() -> set[str]:
    return {path.parent.name for path in (ROOT / "coat_core").glob("*/__init__.py")}


def _modules() -> set[str]:
    return {path.stem for path in (ROOT / "coat_core").glob("[a-z]*.py")}


def _rows() -> list[set[str]]:
    """The names in each row of the table of layers, from the top."""
    table = TEXT.split("| layer | concept |")[1].split("\n\n")[0]
    return [set(re.findall(r"`(\w+)`", line.split("|")[1])) for line in table.splitlines()[2:]]


def test_the_picture_shows_every_folder_and_no_other() -> None:
    picture = TEXT.split("```mermaid")[1].split("```")[0]
    nodes = set(re.findall(r"(\w+)\[\"", picture))
    assert nodes == _folders() | {"cli", "flows"}


def test_the_picture_names_the_parts_of_folders_that_have_parts() -> None:
    for folder in ("corpus", "experts"):
        parts = {path.parent.name for path in (ROOT / "coat_core" / folder).glob("*/__init__.py")}
        shown = re.search(rf"{folder}\[\"{folder}<br>([^\"]+)\"", TEXT)
        assert shown is not None
        assert set(shown[1].split(" · ")) == parts


def test_the_table_lists_every_folder_and_module_once() -> None:
    names = [name for row in _rows() for name in row]
    assert len(names) == len(set(names))
    assert set(names) == _folders() | _modules() | {"flows"}


def test_the_table_has_the_order_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract.get("containers") == ["coat_core"])
    assert layers["exhaustive"] is True
    assert [row for row in _rows() if row != {"flows"}] == [set(layer.split(" | ")) for layer in layers["layers"]]
    assert _rows()[:2] == [{"cli"}, {"flows"}]
