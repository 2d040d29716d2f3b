from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coat_core.corpus.examples import FAMILIES
from coat_core.evaluation.generate import answer_release
from coat_core.evaluation.metrics import score_trial
from coat_core.report.report import write_report
from coat_core.settings import Settings, parse_settings
from coat_core.storage import read_json, write_json, write_jsonl
from tests.report.page import assert_accessible
from tests.testing.browser import chromium, violations
from tests.testing.chain_runs import HANG_S
from tests.testing.evaluations import CONTRACT, EVALUATION, EXPERTS, KEY, identity_of, write_clips, write_random_release, write_stores
from tests.testing.services import needs_browser

TRIALS = ("base-0", "sft-0", "coat-0")


def report_settings(bases: Path) -> Settings:
    return parse_settings({
        "backbones": {KEY: {"base": str(bases)}}, "trials": list(TRIALS),
        "experts": {key: {"implementation": implementation} for key, implementation in EXPERTS.items()},
        "corpus": {"clips_per_family": {"train": 2, "validation": 2, "test": 2}}, "evaluation": EVALUATION.model_dump(),
    })  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tiny_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose trials were evaluated, with its report."""
    folder = tmp_path_factory.mktemp("workspace")
    corpus = folder / "data/corpus"
    examples = write_clips(corpus)
    write_stores(folder / "features", corpus, examples)
    for trial in TRIALS:
        name = f"{KEY}-{trial}"
        write_random_release(folder / "models" / name, tiny_bases[KEY], KEY, trial.split("-")[0], folder / "features")
        answer_release(folder / "models" / name, examples, corpus, EVALUATION, folder / f"responses/{name}.jsonl")
        score_trial(folder / f"responses/{name}.jsonl", examples, EVALUATION, folder / "evaluation" / name, identity_of(trial))
    write_json(folder / "data/contract/results.json", CONTRACT)
    step = {"step": 1, "stage": "ground", "loss/answer": 1.0, "loss/pitch": 2.0, "seconds": 1.0}
    write_jsonl(folder / f"runs/{KEY}-coat-0/history.jsonl", [step])
    write_report(folder, report_settings(tiny_bases[KEY]), examples, folder / "report")
    return folder


@needs_browser
@pytest.mark.slow
def test_the_page_is_accessible(workspace: Path) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1240, "height": 900})
        page.set_default_timeout(1000 * HANG_S)
        page.goto((workspace / "report/report.html").as_uri())
        assert violations(page) == []


@pytest.mark.slow
def test_the_report_is_complete_and_self_contained(workspace: Path, tiny_bases: dict[str, Path]) -> None:
    results = read_json(workspace / "report/results.json")
    found = {path.relative_to(workspace / "report").as_posix() for path in (workspace / "report").rglob("*") if path.is_file()}
    read_outs = {f"figures/read-out-{KEY}-{family}.png" for family in FAMILIES}
    charts = {f"figures/{name}.png" for name in ("accuracy", "differences", "training")}
    plots = {f"plots/{name}.csv" for name in ("accuracy", "training", "confusion")}
    tables = {"results.json", "report.html", "tables.md", "metrics.json"} | plots
    assert found == read_outs | charts | tables
    assert all((workspace / "report" / name).stat().st_size <= 300_000 for name in read_outs | charts)
    page = (workspace / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(read_outs | charts)
    assert page.count("data:audio/flac;base64,") == page.count("<audio controls") == len(FAMILIES) * 2
    assert_accessible(page)
    assert not any(text in page for text in ("http://", "https://", "<script", 'src="figures', "None"))
    assert "Fewer than 3 seeds" in page
    assert results["families"] == list(FAMILIES)
    shutil.rmtree(workspace / "models" / f"{KEY}-coat-0")
    with pytest.raises(ValueError, match="not a release"):
        write_report(workspace, report_settings(tiny_bases[KEY]), write_clips(workspace / "data/corpus"), workspace / "report")
    assert (workspace / "report/report.html").read_text() == page
