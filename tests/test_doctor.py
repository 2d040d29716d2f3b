"""`coat doctor` checks that torch can compute on the devices in params."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch
import yaml

from coat_core.doctor import Finding, examine
from coat_core.packages import failed_imports, requirements, used_modules

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor import little; a test below imports everything."""
    monkeypatch.setattr("coat_core.doctor.used_modules", lambda: ["json"])


def _device(workspace: Path, **changes: str) -> Finding:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for path, device in changes.items():
        section = values["runtime"] if path == "runtime" else values["experts"][path]
        section["device"] = device
    (workspace / "params.yaml").write_text(yaml.safe_dump(values))
    (found,) = [finding for finding in examine(workspace) if finding.name == "device"]
    return found


def test_the_gpu_is_reported_when_params_use_only_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((False, "sees no GPU"), (True, "sees a GPU")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        found = _device(tmp_path)
        assert found.ok
        assert expected in found.found


def test_every_setting_that_needs_a_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = _device(tmp_path, runtime="cuda", speech="cuda")
    assert not found.ok
    assert found.found == "runtime.device, experts.speech.device: cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _device(tmp_path, speech="cuda").ok


def test_a_torch_that_cannot_be_imported_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = _device(tmp_path)
    assert not found.ok
    assert "torch cannot be imported" in found.found


def test_a_package_that_is_absent_is_reported_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """async-timeout, which redis needs below Python 3.11.3, was absent from the lock, and the doctor reported nothing."""
    monkeypatch.setattr("coat_core.doctor.used_modules", lambda: ["json", "async_timeout_absent", "email.absent"])
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name.lower() == "redis":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    bad = [finding for finding in examine(tmp_path) if finding.name in ("requirements", "imports") and not finding.ok]
    assert len(bad) == 3
    assert "needed by" in bad[0].found
    assert "redis" in bad[0].found
    assert "No module named 'async_timeout_absent'" in bad[1].found
    assert "email.absent" in bad[2].found
    assert all("make setup" in finding.advice for finding in bad)


def test_the_modules_of_the_chain_are_among_those_that_the_doctor_imports() -> None:
    assert {"torch", "prefect.task_runners", "mlflow", "great_expectations", "prefect.server.api.server", "redis.asyncio"} <= set(
        used_modules()
    )
    assert not [name for name in used_modules() if name.startswith(("coat_core", "flows"))]


@pytest.mark.slow
def test_every_module_that_the_pipeline_uses_can_be_imported() -> None:
    assert failed_imports(used_modules()) == {}


def test_a_requirement_of_another_python_is_found() -> None:
    found = {requirement.name for _, requirement in requirements(["redis"], {"python_full_version": "3.11.2", "python_version": "3.11"})}
    assert "async-timeout" in found
    assert "async-timeout" not in {requirement.name for _, requirement in requirements(["redis"], {"python_full_version": "3.11.3"})}
