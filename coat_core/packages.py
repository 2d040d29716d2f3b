"""The installed packages: whether each has what it requires here, and whether the modules that the pipeline uses can be imported."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "coat"
OWN = ("coat_core", "flows")
STARTED = ("prefect.server.api.server", "redis.asyncio", "docket", "dvc.repo", "dvc_s3", "mlflow.server.fastapi_app", "boto3")
"""Modules of the programs that the pipeline starts (Prefect's server, DVC, MLflow's server), beside those that its own code imports."""

_IMPORT = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = (f"{type(error).__name__}: {error}").partition(chr(10))[0]
print("FAILED " + json.dumps(failed))
"""


def requirements(
    roots: Sequence[str], environment: Mapping[str, str] | None = None, extras: Sequence[str] = ()
) -> Iterator[tuple[str, Requirement]]:
    """Yield every requirement, direct or not, whose marker applies, with the name of the package that has it (PEP 508).

    The metadata are those of the installed packages; a package that is not installed is yielded, and its own requirements are unknown.

    Args:
        roots: requirements to start from, e.g. `redis>=5`.
        environment: the values of markers that differ from this interpreter's, e.g. `{"python_full_version": "3.11.2"}`.
        extras: the extras of `roots` itself, if these lines have markers with an extra.
    """
    values: dict[str, str] = {**default_environment(), **(environment or {})}  # type: ignore[dict-item]
    waiting = [(PROJECT, Requirement(line), tuple(extras)) for line in roots]
    seen: set[tuple[str, str]] = set()
    while waiting:
        parent, requirement, active = waiting.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({**values, "extra": extra}) for extra in ("", *active)):
            continue
        yield parent, requirement
        name = canonicalize_name(requirement.name)
        new = tuple(extra for extra in ("", *sorted(requirement.extras)) if (name, extra) not in seen)
        seen.update((name, extra) for extra in new)
        if not new:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [(name, Requirement(line), new) for line in lines]


def unmet_requirements() -> list[str]:
    """Return each requirement that this environment does not meet, as `NAME SPECIFIER, needed by PACKAGE: FOUND`."""
    try:
        roots = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return [f"{PROJECT} itself: absent"]
    found = set()
    for parent, requirement in requirements(roots):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "absent"
        if version == "absent" or not requirement.specifier.contains(version, prereleases=True):
            found.add(f"{requirement.name}{requirement.specifier}, needed by {parent}: {version}")
    return sorted(found)


def used_modules() -> list[str]:
    """Return every module of another package that the code of this repository imports, and the programs that it starts."""
    folder = Path(__file__).resolve().parent.parent
    found = set(STARTED)
    for file in (path for name in OWN for path in (folder / name).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return sorted(name for name in found if name.split(".")[0] not in {*OWN, *sys.stdlib_module_names})


def failed_imports(modules: Sequence[str], timeout_s: float = 600.0) -> dict[str, str]:
    """Import modules in one new process and return the error of each that fails; all of the pipeline's take about 20 s."""
    silent = {"DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "GX_ANALYTICS_ENABLED": "false"}
    silent |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    command = [sys.executable, "-c", _IMPORT, *modules]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **silent})
    except subprocess.TimeoutExpired:
        return {"all modules": f"not imported within {timeout_s:.0f} s"}
    last = done.stdout.rpartition("FAILED ")[2]
    if done.returncode or not last:
        return {"all modules": f"the process that imports them ended with status {done.returncode}: {done.stderr.strip()[-300:]}"}
    failed: dict[str, str] = json.loads(last)
    return failed
