"""The files that a stage of `dvc.yaml` imports, and the shortest list of paths that covers exactly these.

`python -m tests.testing.import_closure` writes the lists into `dvc.yaml`; tests/pipeline/test_dependencies.py compares.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grimp
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "coat_core"
_DATA = (".css", ".j2", ".safetensors")
"""Suffixes of the files that code in the same folder reads."""


def import_graph() -> grimp.ImportGraph:
    """Return the imports of the package, lazy ones included, without those under `TYPE_CHECKING`."""
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


def stage_kinds() -> list[str]:
    """Return the names of the stage modules."""
    return sorted(path.stem for path in (ROOT / "coat_core/pipeline/stages").glob("[a-z]*.py"))


def by_name(kind: str, params: Mapping[str, Any]) -> set[str]:
    """Return the modules that a stage loads by name.

    These are the synthesiser's script, the experts' implementations that params name, and the public benchmarks.
    """
    if kind == "corpus":
        return {f"{PACKAGE}.corpus.generated.espeak"}
    if kind in ("suite", "score_suite"):
        from coat_core.evaluation.benchmarks.catalogue import SUITES

        return {f"{PACKAGE}.evaluation.benchmarks.suites.{place.partition(':')[0]}" for place in SUITES.values()}
    if kind != "features":
        return set()
    from coat_core.experts.catalogue import ACOUSTIC, NEURAL

    return {({**ACOUSTIC, **NEURAL})[expert["implementation"]] for expert in params["experts"].values()}


def closure(kind: str, params: Mapping[str, Any], graph: grimp.ImportGraph) -> set[str]:
    """Return every file of the package that a stage imports, with the templates and weights in the same folders, relative to the root.

    Package files with only a docstring are left out.
    """
    entries = {f"{PACKAGE}.pipeline.stages.{kind}", *by_name(kind, params)}
    modules = set().union(entries, *(graph.find_upstream_modules(entry) for entry in entries))
    files = {file for module in modules if (file := _file(module)) is not None}
    data = {str(path.relative_to(ROOT)) for file in files for path in (ROOT / file).parent.glob("*.*") if path.suffix in _DATA}
    return files | data


def declared(deps: Iterable[str]) -> set[str]:
    """Return every file that a list of code dependencies covers."""
    found = set()
    for dep in deps:
        path = ROOT / dep
        found |= {dep} if path.is_file() else {str(file.relative_to(ROOT)) for file in path.rglob("*") if _counts(file)}
    return found


def cover(files: set[str]) -> list[str]:
    """Return the shortest sorted list of folders and files that covers exactly these files."""
    paths: set[str] = set()
    for file in files:
        best = file
        for parent in Path(file).parents:
            if parent == Path() or not declared([str(parent)]) <= files:
                break
            best = str(parent)
        paths.add(best)
    return sorted(paths)


def _file(module: str) -> str | None:
    path = Path(module.replace(".", "/"))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return str(candidate) if _counts(ROOT / candidate) else None
    return None


def _counts(path: Path) -> bool:
    """Return whether a file can change a stage: it is neither bytecode nor a package file with only a docstring."""
    if not path.is_file() or "__pycache__" in path.parts:
        return False
    return path.name != "__init__.py" or len(ast.parse(path.read_text()).body) > 1


def write(path: Path = ROOT / "dvc.yaml") -> None:
    """Replace the code dependencies of every stage in `dvc.yaml` by the shortest exact lists."""
    graph, params = import_graph(), yaml.safe_load((ROOT / "params.yaml").read_text())
    text = path.read_text()
    for kind in stage_kinds():
        section = re.search(rf"^  {kind}:\n(?:^(?:   .*)?\n)+", text, re.MULTILINE)
        assert section is not None, kind
        lines = re.search(r"(?:^ +- coat_core.*\n)+", section[0], re.MULTILINE)
        assert lines is not None, kind
        indent = re.match(" +", lines[0])[0]  # type: ignore[index]
        new = "".join(f"{indent}- {dep}\n" for dep in cover(closure(kind, params, graph)))
        text = text.replace(section[0], section[0].replace(lines[0], new))
    path.write_text(text)


if __name__ == "__main__":
    write()
