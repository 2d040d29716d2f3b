"""`coat doctor`: checks whether this machine meets the requirements of the pipeline, with advice for each failed check."""

from __future__ import annotations

import base64
import importlib.metadata
import ipaddress
import os
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from coat_core.errors import CoatError
from coat_core.packages import failed_imports, unmet_requirements, used_modules
from coat_core.probing.verdict import FOLDER as PROBES
from coat_core.registry.artifacts import local_root, new_root
from coat_core.registry.locks import LOCK_DATABASE, lock_database
from coat_core.registry.postgres import connection
from coat_core.registry.uris import TRACKING_URI, configured, is_postgresql, login_of, portable
from coat_core.settings import load_settings
from coat_core.storage import read_json

MINIMUM_DISK_GB = 4.0
REPAIR = "make setup installs the locked packages; if it says that nothing is to do: rm .venv/.ready && make setup"
_LIMITS = {
    "fastapi": (None, (0, 160), "Prefect 3.8 fails at start-up with it"),
    "sqlalchemy": (None, (2, 1), "Prefect's scheduler stops silently with it"),
    "transformers": ((5, 14), None, "older versions leak audio between samples or return wrong labels"),
}


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def examine(workspace: Path) -> list[Finding]:
    """Check versions, packages, disk, device, params, and the MLflow and Prefect endpoints; nothing is changed.

    It imports every module that the pipeline uses, in a process of its own: 30 to 60 s, longer on the first call.
    """
    return [*_versions(), *_packages(), *_machine(workspace), *_params(workspace), *_endpoints(workspace), *blocks(workspace)]


def _versions() -> Iterator[Finding]:
    yield Finding(
        "python",
        (3, 11) <= sys.version_info < (3, 14),
        sys.version.split()[0],
        "use Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.11",
    )
    for name in ("torch", "transformers", "peft", "accelerate", "prefect", "mlflow", "dvc", "great-expectations", "fastapi", "sqlalchemy"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "absent", "make setup")
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        low, high, why = _LIMITS.get(name, (None, None, ""))
        ok = (low is None or numbers >= low) and (high is None or numbers < high)
        yield Finding(name, ok, version, f"{why}; make setup installs the locked version")


def _packages() -> Iterator[Finding]:
    unmet = unmet_requirements()
    yield Finding("requirements", not unmet, "\n".join(unmet) or "every package has what it requires", REPAIR)
    modules = used_modules()
    by_error: dict[str, list[str]] = {}
    for module, error in failed_imports(modules).items():
        by_error.setdefault(error, []).append(module)
    for error, failed in by_error.items():
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        yield Finding("imports", False, f"{error} (in import {', '.join(failed[:3])}{more})", REPAIR)
    if not by_error:
        yield Finding("imports", True, f"{len(modules)} modules that the pipeline uses")


def _machine(workspace: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(workspace).free / 1e9
    yield Finding(
        "disk",
        free >= MINIMUM_DISK_GB,
        f"{free:.1f} GB free",
        f"free at least {MINIMUM_DISK_GB:.0f} GB; coat prune lists what is no longer needed",
    )
    yield Finding("cores", True, str(os.cpu_count()))
    for tool in ("git", "make"):
        yield Finding(tool, shutil.which(tool) is not None, shutil.which(tool) or "absent", f"install {tool}")


def _params(workspace: Path) -> Iterator[Finding]:
    try:
        settings = load_settings(workspace / "params.yaml")
    except CoatError as error:
        yield Finding("params.yaml", False, "invalid", str(error))
        return
    yield Finding("params.yaml", True, f"{len(settings.backbones)} backbones, {len(settings.trials)} trials")
    for key, backbone in settings.backbones.items():
        local = (workspace / backbone.base).is_dir()
        yield Finding(
            f"base {key}",
            local or backbone.revision is not None,
            f"{backbone.base} ({'a local folder' if local else 'a hub id'})",
            "set its revision in params, or build the tiny base: coat bases",
        )
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        yield Finding("device", False, f"torch cannot be imported: {reason}", "install torch with the libraries of its build: make setup")
        return
    available = torch.cuda.is_available()
    named = [f"experts.{key}.device" for key, expert in settings.experts.items() if expert.device == "cuda"]
    named = ["runtime.device"] * (settings.runtime.device == "cuda") + named
    yield Finding(
        "device",
        available or not named,
        f"{', '.join(named)}: cuda" if named else f"cpu; torch {torch.__version__} sees {'a' if available else 'no'} GPU",
        "torch sees no GPU: set these to cpu, or install a CUDA build of torch (docs/published.md)",
    )


def blocks(workspace: Path) -> Iterator[Finding]:
    """Yield one finding on the thinking blocks that were probed in this workspace: it names those that are bypassed, and never fails."""
    verdicts = {}
    for path in sorted((workspace / PROBES).glob("*.json")):
        try:
            verdicts[path.stem] = read_json(path)["verdict"]
        except (ValueError, KeyError, TypeError, OSError):
            continue
    if verdicts:
        bypassed = [f"{name}: {verdict['sentence']}" for name, verdict in verdicts.items() if verdict["bypassed"]]
        used = f"{len(verdicts) - len(bypassed)} of {len(verdicts)} probed releases use their block"
        yield Finding("thinking blocks", True, "\n".join([used, *bypassed]))


def _endpoints(workspace: Path) -> Iterator[Finding]:
    tracking, prefect = configured(), os.environ.get("PREFECT_API_URL")
    if tracking.startswith("http"):
        account = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
        login = ":".join(map(str, account)) if all(account) else None
        variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        yield _check_server("MLflow", tracking, "/api/2.0/mlflow/experiments/search?max_results=1", login, variables)
    else:
        yield _database(tracking)
    yield from _registry_lock(tracking)
    if prefect:
        yield _check_server("Prefect", prefect, "/admin/version", os.environ.get("PREFECT_API_AUTH_STRING"), "PREFECT_API_AUTH_STRING")
    else:
        yield Finding("Prefect", True, "none set: coat run starts a loopback server")


def _database(uri: str) -> Finding:
    """Check the database that takes the place of a tracking server."""
    if not is_postgresql(uri):
        return Finding("MLflow", True, portable(uri) or "sqlite: mlflow.db in the workspace")
    try:
        root = new_root()
        with connection(uri, patient=False):
            return Finding("MLflow", True, "\n".join(filter(None, (f"{portable(uri)}, artifacts at {portable(root)}", local_root(root)))))
    except CoatError as error:
        return Finding("MLflow", False, portable(uri), str(error))


def _registry_lock(tracking: str) -> Iterator[Finding]:
    """Yield a finding on the lock of a registry that other hosts can use."""
    try:
        uri = lock_database()
        if uri:
            with connection(uri, LOCK_DATABASE if uri != tracking else TRACKING_URI, patient=False):
                yield Finding("registry lock", True, f"in {portable(uri)}, for all hosts")
        elif tracking.startswith("http"):
            yield Finding(
                "registry lock", True, f"a file of this host: where several hosts promote, set {LOCK_DATABASE} to a PostgreSQL database"
            )
    except CoatError as error:
        yield Finding("registry lock", False, LOCK_DATABASE, str(error))


def _check_server(name: str, url: str, call: str, login: str | None, variables: str) -> Finding:
    """Return whether a server is up, accepts these credentials, and, unless only this host can reach it, refuses calls without any."""
    # Python's own client does not read an account from a URL.
    url, shown, login = portable(url).rstrip("/"), portable(url), login or login_of(url)
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3):
            pass
        if _status(url + call, login) in (401, 403):
            return Finding(
                name, False, f"{shown} refuses {'these credentials' if login else 'calls without credentials'}", f"set {variables}"
            )
        if not _is_loopback(url) and _status(url + call, None) == 200:
            return Finding(name, False, f"{shown} answers calls without credentials", "turn on its authentication, or bind it to 127.0.0.1")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(name, False, f"{shown}: {error}", "start it, or unset its environment variable to use the embedded one")
    return Finding(name, True, shown)


def _status(url: str, login: str | None) -> int:
    request = urllib.request.Request(url)
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)
