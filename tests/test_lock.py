"""The lock file has every package that its packages require, on every Python that pyproject.toml allows."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from coat_core import packages

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.11.0", "3.11.2", "3.11.3", "3.11.7", "3.12.0", "3.12.1", "3.13.0", "3.13.5"]
NOT_LOCKED = ("browser", "docs", "server")
"""Extras that `make setup` does not install."""
LIBRARIES_OF_CUDA = ("nvidia-", "cuda-", "triton")


def _environment(python: str) -> dict[str, str]:
    return {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}


def _locked(python: str, lock: Path = ROOT / "requirements.lock") -> dict[str, str]:
    """Return the version of each package that pip installs from the lock on this Python."""
    found = {}
    for line in lock.read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({**default_environment(), **_environment(python)}):
                (specifier,) = requirement.specifier
                assert specifier.operator == "==", "exact versions"
                found[canonicalize_name(requirement.name)] = specifier.version
    return found


def _required(python: str) -> list[tuple[str, Requirement]]:
    extras = PROJECT["optional-dependencies"]
    roots = [*PROJECT["dependencies"], *(line for name, lines in extras.items() if name not in NOT_LOCKED for line in lines)]
    return [
        (parent, requirement)
        for parent, requirement in packages.requirements(roots, _environment(python))
        if not requirement.name.startswith(LIBRARIES_OF_CUDA)
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_locked_on_every_python(python: str) -> None:
    locked, required = _locked(python), _required(python)
    assert len(required) > 500
    missing = sorted(
        {f"{requirement}, needed by {parent}" for parent, requirement in required if canonicalize_name(requirement.name) not in locked}
    )
    assert missing == []
    wrong = [
        f"{parent} needs {requirement}, locked {locked[canonicalize_name(requirement.name)]}"
        for parent, requirement in required
        if not requirement.specifier.contains(locked[canonicalize_name(requirement.name)], prereleases=True)
    ]
    assert wrong == []


def test_the_packages_of_servers_browsers_and_the_site_are_not_in_the_default_installation() -> None:
    named = {canonicalize_name(Requirement(line).name) for name in NOT_LOCKED for line in PROJECT["optional-dependencies"][name]}
    assert named == {"axe-playwright-python", "flask-wtf", "mkdocs-material", "playwright", "psycopg2-binary"}
    assert not any(named & _locked(python).keys() for python in PYTHONS)
    extras = re.search(r"uv pip compile .*", (ROOT / "Makefile").read_text())
    assert extras is not None
    assert set(re.findall(r"--extra (\w+)", extras[0])) == PROJECT["optional-dependencies"].keys() - set(NOT_LOCKED)


def test_the_pythons_are_those_that_the_project_allows() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(python in allowed for python in PYTHONS)
    assert not {"3.10.14", "3.14.0"} & set(allowed.filter(["3.10.14", "3.14.0"]))
    assert "async-timeout" in _locked("3.11.2")
    assert "async-timeout" not in _locked("3.11.3")


@pytest.mark.parametrize(
    ("name", "below"), [("fastapi", "0.160"), ("sqlalchemy", "2.1"), ("torch", "2.13.1")], ids=["fastapi", "sqlalchemy", "torch"]
)
def test_the_versions_with_known_faults_are_not_locked(name: str, below: str) -> None:
    assert all(_locked(python)[name] in SpecifierSet(f"<{below}") for python in PYTHONS)


def test_every_package_that_the_code_imports_is_a_dependency_of_the_project() -> None:
    """A module that comes with another package disappears with that package's next version."""
    by_module = importlib.metadata.packages_distributions()
    named = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["speech"]]}
    named |= {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["pitch"]}
    imported = {module.split(".")[0] for module in packages.used_modules() if module not in packages.STARTED}
    unnamed = {module for module in imported if not named & {canonicalize_name(name) for name in by_module[module]}}
    assert unnamed == set()
