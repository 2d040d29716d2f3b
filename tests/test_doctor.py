"""`coat doctor` checks that torch can compute on the devices in params."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from coat_core.doctor import Finding, examine

ROOT = Path(__file__).resolve().parent.parent


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
