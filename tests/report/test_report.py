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
from tests.testing.evaluations import CONTRACT, EVALUATION, EXPERTS, KEY, identity_of, write_clips, write_random_release, write_stores

TRIALS = ("base-0", "sft-0", "coat-0")


def report_settings(bases: Path) -> Settings:
    return parse_settings({
        "backbones": {KEY: {"base": str(bases)}}, "trials": list(TRIALS),
        "experts": {key: {"implementation": implementation} for key, implementation in EXPERTS.items()},
        "corpus": {"clips_per_family": {"train": 2, "validation": 2, "test": 2}}, "evaluation": EVALUATION.model_dump(),
    })  # fmt: skip


@pytest.mark.slow
def test_the_report_is_complete_and_self_contained(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    corpus = tmp_path / "data/corpus"
    examples = write_clips(corpus)
    write_stores(tmp_path / "features", corpus, examples)
    for trial in TRIALS:
        name = f"{KEY}-{trial}"
        write_random_release(tmp_path / "models" / name, tiny_bases[KEY], KEY, trial.split("-")[0], tmp_path / "features")
        answer_release(tmp_path / "models" / name, examples, corpus, EVALUATION, tmp_path / f"responses/{name}.jsonl")
        score_trial(tmp_path / f"responses/{name}.jsonl", examples, EVALUATION, tmp_path / "evaluation" / name, identity_of(trial))
    write_json(tmp_path / "data/contract/results.json", CONTRACT)
    step = {"step": 1, "stage": "ground", "loss/answer": 1.0, "loss/pitch": 2.0, "seconds": 1.0}
    write_jsonl(tmp_path / f"runs/{KEY}-coat-0/history.jsonl", [step])
    results = write_report(tmp_path, report_settings(tiny_bases[KEY]), examples, tmp_path / "report")
    found = {path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    read_outs = {f"figures/read-out-{KEY}-{family}.png" for family in FAMILIES}
    charts = {f"figures/{name}.png" for name in ("accuracy", "differences", "training")}
    tables = {"results.json", "report.html", "tables.md", "metrics.json", "plots/accuracy.csv", "plots/training.csv"}
    assert found == read_outs | charts | tables
    assert all((tmp_path / "report" / name).stat().st_size <= 300_000 for name in read_outs | charts)
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(read_outs | charts)
    assert page.count("data:audio/flac;base64,") == page.count("<audio controls") == len(FAMILIES) * 2
    assert_accessible(page)
    assert not any(text in page for text in ("http://", "https://", "<script", 'src="figures', "None"))
    assert "Fewer than 3 seeds" in page
    assert read_json(tmp_path / "report/results.json") == results
    shutil.rmtree(tmp_path / "models" / f"{KEY}-coat-0")
    with pytest.raises(ValueError, match="not a release"):
        write_report(tmp_path, report_settings(tiny_bases[KEY]), examples, tmp_path / "report")
    assert (tmp_path / "report/report.html").read_text() == page
