"""`coat doctor --published` as a command: tables, JSON, errors and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coat_core.errors import SettingsError
from coat_core.sizing.page import print_tables
from coat_core.sizing.params import Params
from coat_core.sizing.published import PUBLISHED


def run_main(monkeypatch, *arguments: str) -> int:
    from coat_core.cli import main

    monkeypatch.setattr(sys, "argv", ["coat", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_command_prints_json(diagnoses, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "--published", "audio_flamingo_3", "--json", "--batch", "2", "--seconds", "10") == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["parameters"]["total"] == diagnoses["audio_flamingo_3"].total
    assert report["training"]["load"]["examples"] == 2
    assert report["training"]["fits"] is True
    assert report["block"]["spare"] == 0


def test_command_prints_tables(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    assert run_main(monkeypatch, "--published", "qwen2_5_omni", "--gpu-memory", "24") == 0
    text = capsys.readouterr().out
    for part in (
        "8,931,813,888",
        "196 modules matched",
        "399 spare",
        "DOES NOT FIT",
        "training.gradient_checkpointing: true",
        "merged export",
    ):
        assert part in text


def test_command_fails_on_a_wrong_expression(monkeypatch, capsys, tmp_path):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["lora"]["modules"] = ["q_proj", "query"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert run_main(monkeypatch, "--published", "qwen2_audio", "--params", str(tmp_path / "params.yaml")) == 1
    assert "no such linear layers in the language model" in capsys.readouterr().err
    assert run_main(monkeypatch, "--published", "qwen2_audio", "--params", str(tmp_path / "absent.yaml")) == 1
    with pytest.raises(SettingsError):
        Params.read(tmp_path / "absent.yaml")


def test_tables_show_unknown_sizes(diagnoses, capsys):
    from dataclasses import replace

    print_tables(replace(diagnoses["qwen2_audio"], unknown_heads={"speech": "not extracted"}))
    text = capsys.readouterr().out
    assert "at most 4,383" in " ".join(text.split())
    assert "not extracted" in text


@pytest.mark.slow
@pytest.mark.parametrize("key", list(PUBLISHED))
def test_peak_memory_of_the_command(key, diagnoses, tmp_path):
    """At most 2 GiB per backbone, imports included, in a separate process.

    `ru_maxrss` would include the memory of the process that started this one; the peak of the kernel's memory map does not.
    """
    script = (
        "import pathlib, re, sys; from coat_core.cli import app\n"
        f"sys.argv = ['coat', 'doctor', '--published', '{key}', '--json']\n"
        "try: app()\n"
        "finally: print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stderr.split()[-1]) <= 2 * 2**20  # KiB
    assert json.loads(done.stdout)[0]["parameters"]["total"] == diagnoses[key].total
