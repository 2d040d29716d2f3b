"""DVC's plots: the graph's own declarations, drawn by DVC from a report's files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coat_core.report.confusion import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
PLOTS = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@pytest.mark.slow
def test_dvc_draws_every_plot(tmp_path: Path) -> None:
    (tmp_path / "coat_core").symlink_to(ROOT / "coat_core")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": PLOTS}))
    for name in (plot for plot in PLOTS if isinstance(plot, str)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PIXEL)
    plots = tmp_path / "report/plots"
    plots.mkdir(parents=True)
    (plots / "accuracy.csv").write_text("backbone,arm,family,accuracy,low,high,chance\nqwen2_audio,coat,music,0.5,0.4,0.6,0.25\n")
    training = (
        "backbone,trial,step,stage,answer_loss,validation_loss\nqwen2_audio,coat-0,10,ground,1.5,\nqwen2_audio,coat-0,20,ground,1.4,1.6\n"
    )
    (plots / "training.csv").write_text(training)
    (plots / "confusion.csv").write_text(",".join(COLUMNS) + "\nqwen2_audio,coat,coat-0,emotion,sad,calm,3\n")

    def dvc(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "dvc"), *arguments]
        environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    dvc("init", "--no-scm", "-q")
    dvc("plots", "show", "-o", "out")
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<img") == len([plot for plot in PLOTS if isinstance(plot, str)])
    specs = [json.loads(text) for text in re.findall(r"var spec = (\{.*?\});\n", page)]
    assert sorted(spec["title"] for spec in specs) == [
        "Accuracy by family and arm",
        "Answer loss by trial",
        "Answer loss on validation examples by trial",
        "Answers by right answer",
    ]
    for spec in specs:
        row = spec["data"]["values"][0]
        fields = set(re.findall(r'"field": "([^"]+)"', json.dumps({key: value for key, value in spec.items() if key != "data"})))
        made = set(re.findall(r'"as": "([^"]+)"', json.dumps(spec)))
        assert fields <= set(row) | made, "the template names a column that the file does not have"
        assert "<DVC" not in json.dumps(spec)
