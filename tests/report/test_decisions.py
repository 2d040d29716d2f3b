"""The page with the decisions of the promotion gate, beside the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.report.decisions import PAGE, write_decisions
from coat_core.storage import write_json
from tests.report.page import Page
from tests.testing.browser import chromium, violations
from tests.testing.chain_runs import HANG_S
from tests.testing.services import needs_browser

DECISIONS = [
    {"model": "coat-qwen2-audio", "version": "3", "decision": "promoted", "reasons": ["the data contract passed", "+0.1 is > 0 <b>"]},
    {"model": "coat-qwen2.5-omni", "version": "1", "decision": "refused", "reasons": ["too few items"]},
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    training = {"sft-0": {"run_id": "abc"}, "coat-0": {"run_id": None}}
    write_json(tmp_path / "report/results.json", {"backbones": {"qwen2_audio": {"training": training}}})
    return tmp_path


def test_the_page_has_all_reasons_and_links_to_versions_and_runs(results: Path) -> None:
    write_decisions(
        results,
        DECISIONS,
        run="mine, params 1, commit 2",
        registry="http://mlflow:5000",
        page_of_run=lambda run_id: f"#/experiments/7/runs/{run_id}",
    )
    text = (results / PAGE).read_text()
    page = Page()
    page.feed(text)
    assert page.unnamed == []
    assert "mine, params 1, commit 2" in text
    assert "coat-qwen2-audio version 3: promoted" in text
    assert "<li>+0.1 is &gt; 0 &lt;b&gt;</li>" in text
    assert 'href="http://mlflow:5000/#/models/coat-qwen2.5-omni/versions/1"' in text
    assert 'href="http://mlflow:5000/#/experiments/7/runs/abc"' in text
    assert text.count("<td>") == 2, "a trial without a run is not listed"


def test_without_a_server_the_page_names_the_runs_and_the_command(results: Path) -> None:
    write_decisions(results, DECISIONS, run="mine")
    text = (results / PAGE).read_text()
    assert "<code>abc</code>" in text
    assert "<code>coat ui</code>" in text
    assert "http" not in text


@needs_browser
@pytest.mark.slow
def test_the_page_is_accessible(results: Path) -> None:
    write_decisions(results, DECISIONS, run="mine")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1240, "height": 900})
        page.set_default_timeout(1000 * HANG_S)
        page.goto((results / PAGE).as_uri())
        assert violations(page) == []
