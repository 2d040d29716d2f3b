from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from coat_core.probing.verdict import FOLDER
from coat_core.report.diagnostics import diagnostics_markdown, draw_heat_maps, group_means, knock_out_rows, skill_rows
from coat_core.report.report import render_page
from coat_core.report.results import collect
from coat_core.report.tables import summary_table
from coat_core.settings import EvaluationSettings
from coat_core.storage import write_json
from tests.testing.evaluations import make_examples
from tests.testing.probes import LABELS, invented_probe

Make = Callable[..., Path]
TRIALS = ("base-0", "sft-0", "coat-0")


def _results(workspace: Path) -> dict:
    settings = EvaluationSettings(bootstrap_resamples=100)
    return collect(workspace, ["qwen2_audio", "qwen2_5_omni"], TRIALS, make_examples(), settings, probes=["coat-0"])


def test_the_page_shows_verdict_tables_and_heat_map_of_a_probed_trial(make_workspace: Make, tmp_path: Path) -> None:
    workspace = make_workspace(TRIALS, ["qwen2_audio", "qwen2_5_omni"])
    write_json(workspace / FOLDER / "qwen2_audio-coat-0.json", invented_probe(bypassed=True))
    results = _results(workspace)
    assert list(results["backbones"]["qwen2_audio"]["probes"]) == ["coat-0"]
    assert results["backbones"]["qwen2_5_omni"]["probes"] == {}, "a stage that did not run"
    draw_heat_maps(results, tmp_path / "figures")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["probes-qwen2_audio-coat-0.png"]
    with Image.open(tmp_path / "figures/probes-qwen2_audio-coat-0.png") as image:
        assert image.width > 500
        assert image.height > 300
    page = render_page(results, tmp_path / "figures")
    sentence = "The thinking block is bypassed: if question and answer cannot attend to it, the answer loss changes by +0.001 ± 0.004"
    assert sentence in page
    assert "Linear probes of Qwen2-Audio, coat-0" in page
    assert "fresh head on audio positions" in page
    assert sentence in diagnostics_markdown(results)
    assert sentence in summary_table(results), "what `coat run` prints"


def test_without_probes_there_is_no_section(make_workspace: Make, tmp_path: Path) -> None:
    results = _results(make_workspace(TRIALS, ["qwen2_audio", "qwen2_5_omni"]))
    assert "Diagnostics" not in render_page(results, tmp_path)
    assert diagnostics_markdown(results) == ""


def test_the_map_is_the_mean_over_labels_of_score_minus_control() -> None:
    probe = invented_probe()
    means = group_means(probe["linear"]["trial"], LABELS, "experts")
    # Two labels with score 2 x .4 and control .05 at the think positions of the last layer.
    assert means["think"][3] == pytest.approx(0.75)
    assert means["answer"][0] == pytest.approx(0.0)
    assert group_means(probe["linear"]["trial"], LABELS[:2], "answers") == {}


def test_rows_give_two_standard_errors_and_skills() -> None:
    probe = invented_probe()
    assert knock_out_rows(probe)[2] == ["the block", "0.780", "+0.080 ± 0.020"]
    assert knock_out_rows(probe)[1] == ["nothing", "0.700", ""]
    assert skill_rows(probe)[1:] == [["events", "n/a", "+0.400", "+0.600", "180"], ["pitch", "+0.200", "+0.400", "+0.600", "170"]]
