"""`coat doctor` says whether torch can compute where params want it to."""

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


def test_a_gpu_is_looked_for_even_where_params_want_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seen, said in ((False, "sees no GPU"), (True, "sees a GPU")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        found = _device(tmp_path)
        assert found.ok
        assert said in found.found


def test_every_setting_that_wants_a_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
