"""Releases of tiny models with random weights through evaluation, latency and report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import FAMILIES, Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.evaluate import evaluate_release, rescore
from coat_core.evaluation.generate import answer_text, generate_responses, length_batches, other_clips, select
from coat_core.evaluation.latency import measure_latency, spread, summarise_timings
from coat_core.evaluation.responses import read_responses, read_scores
from coat_core.report.report import write_report
from coat_core.settings import EvaluationSettings, LatencySettings, Settings, parse_settings
from coat_core.storage import read_json, sha256_file, sha256_tree, write_json, write_jsonl
from tests.testing.evaluations import CONTRACT, make_example

pytestmark = pytest.mark.slow

EVALUATION = EvaluationSettings(max_new_tokens=4, batch_size=4, bootstrap_resamples=100)
KEY = "qwen2_audio"
EXPERTS = {"reconstruction": "log_mel", "events": "spectral_events", "affect": "prosody", "pitch": "f0_bins"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    folder = tmp_path_factory.mktemp("corpus")
    examples = []
    for split in ("train", "test"):
        for number, family in enumerate(FAMILIES * 2):
            samples = 9_600 + 1_600 * number
            hz = 200 + 40 * number + (10 if split == "test" else 0)
            name = f"audio/{split}{number}.flac"
            write_flac(folder / name, (0.3 * np.sin(2 * np.pi * hz * np.arange(samples) / 16_000)).astype(np.float32))
            sha = sha256_file(folder / name)
            examples.append(make_example(number, family, split, audio=name, sha256=sha, duration_s=samples / 16_000))
    return folder, examples


@pytest.fixture(scope="module")
def stores(corpus: tuple[Path, list[Example]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from coat_core.experts.store.extraction import extract_features

    root = tmp_path_factory.mktemp("features")
    for key, implementation in EXPERTS.items():
        extract_features(key, implementation, corpus[1], corpus[0], root / key)
    return root


@pytest.fixture
def make_release(tiny_bases: dict[str, Path], stores: Path, tmp_path: Path) -> Callable[..., Path]:
    from coat_core.backbones.catalogue import load_backbone
    from coat_core.experts.store.store import ExpertStore
    from coat_core.settings import HeadSettings, LoraSettings, LossSettings, ThinkingSettings
    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.heads import build_heads
    from coat_core.thinking.info import BaseInfo, ReleaseInfo
    from coat_core.thinking.model import ThinkingModel
    from coat_core.thinking.release import write_release

    def make(key: str, arm: str) -> Path:
        torch.set_num_threads(1)
        backbone = load_backbone(key, str(tiny_bases[key]))
        heads, lora, losses = HeadSettings(width=16, attention_heads=2), LoraSettings(rank=2, alpha=4), LossSettings()
        info: dict[str, Any] = {"backbone": key, "arm": arm, "seed": 0, "base": BaseInfo(str(tiny_bases[key])), "fingerprint": "f"}
        target = tmp_path / "models" / f"{key}-{arm}-0"
        if arm == "base":
            write_release(target, ReleaseInfo(**info), backbone)
            return target
        block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=4), 0) if arm == "coat" else None
        opened = {name: ExpertStore.open(stores / name) for name in EXPERTS} if arm == "coat" else {}
        specs = {name: store.spec for name, store in opened.items()}
        normalisers = {name: (torch.zeros(spec.dim), torch.ones(spec.dim)) for name, spec in specs.items()}
        model = ThinkingModel(backbone, block, build_heads(specs, normalisers, backbone.hidden_size, heads, 0), lora, losses, 0)
        extra = {"block": block, "experts": specs, "heads": heads if specs else None, "lora": lora, "losses": losses}
        write_release(target, ReleaseInfo(**info, **extra), backbone, model)
        return target

    return make


def test_evaluation_writes_responses_scores_and_metrics(
    backbone_key: str, make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path
) -> None:
    release = make_release(backbone_key, "coat")
    metrics = evaluate_release(release, corpus[1], corpus[0], EVALUATION, tmp_path / "a")
    again = evaluate_release(release, corpus[1], corpus[0], EVALUATION, tmp_path / "b")
    assert metrics == again == read_json(tmp_path / "a" / "metrics.json")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    test = [example for example in corpus[1] if example.split == "test"]
    spoken = [example.id for example in test if example.family == "transcription"]
    responses, scores = read_responses(tmp_path / "a" / "responses.jsonl"), read_scores(tmp_path / "a" / "scores.jsonl")
    assert [(r.id, r.audio) for r in responses] == [(e.id, "own") for e in test] + [(name, "other") for name in spoken]
    assert [(s.id, s.audio) for s in scores] == [(r.id, r.audio) for r in responses]
    assert (metrics["backbone"], metrics["arm"], metrics["seed"], metrics["n"]) == (backbone_key, "coat", 0, 10)
    assert set(metrics["families"]) == set(FAMILIES)


def test_batches_do_not_change_answers(make_release: Callable[..., Path], corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.thinking.release import load_release

    backbone = load_release(make_release(KEY, "base")).backbone
    test = select(corpus[1], EVALUATION)
    settings = [EVALUATION.model_copy(update={"batch_size": size}) for size in (16, 1)]
    together, alone = (generate_responses(backbone, test, corpus[0], each, progress=False) for each in settings)
    assert together == alone
    assert any(response.response for response in together)


def test_a_fault_in_scoring_leaves_the_responses(
    make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path
) -> None:
    folder, examples = corpus
    wrong = [example.model_copy(update={"answer": "a whistle"}) if example.choices else example for example in examples]
    with pytest.raises(EvaluationError, match="not among the choices"):
        evaluate_release(make_release(KEY, "base"), wrong, folder, EVALUATION, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["responses.jsonl"]
    rescore(tmp_path / "out", examples, EVALUATION, {"backbone": KEY, "arm": "base", "seed": 0})
    assert read_json(tmp_path / "out" / "metrics.json")["arm"] == "base"


def test_an_empty_split_is_refused(corpus: tuple[Path, list[Example]], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        evaluate_release(tmp_path, corpus[1], corpus[0], EvaluationSettings(split="validation"), tmp_path / "out")


def test_latency_times_both_trials_over_the_same_forced_tokens(
    make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path
) -> None:
    releases = {f"{arm}-0": make_release(KEY, arm) for arm in ("sft", "coat")}
    settings = LatencySettings(clips=2, repeats=2, new_tokens=3)
    result = measure_latency(releases, corpus[1], corpus[0], settings, tmp_path / "latency.json")
    assert result == read_json(tmp_path / "latency.json")
    sft, coat = result["trials"]["sft-0"], result["trials"]["coat-0"]
    assert sft["decoded_tokens"] == coat["decoded_tokens"] == 3
    assert coat["prompt_tokens"] == sft["prompt_tokens"] + 4 + 2
    assert 0 < coat["first_token_s"] < coat["total_s"]
    assert result["ratios"]["total_s"]["pairs"] == 4
    assert result["ratios"]["total_s"]["min"] <= result["ratios"]["total_s"]["median"] <= result["ratios"]["total_s"]["max"]
    with pytest.raises(EvaluationError, match="missing"):
        measure_latency({"sft-0": releases["sft-0"]}, corpus[1], corpus[0], settings, tmp_path / "latency.json")


def report_settings(bases: Path) -> Settings:
    return parse_settings({
        "backbones": {KEY: {"base": str(bases)}}, "trials": ["base-0", "sft-0", "coat-0"],
        "experts": {key: {"implementation": implementation} for key, implementation in EXPERTS.items()},
        "corpus": {"clips_per_family": {"train": 2, "validation": 2, "test": 2}}, "evaluation": EVALUATION.model_dump(),
    })  # fmt: skip


def test_the_report_holds_everything_and_needs_nothing(
    make_release: Callable[..., Path], tiny_bases: dict[str, Path], corpus: tuple[Path, list[Example]], stores: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/corpus").symlink_to(corpus[0])
    (tmp_path / "features").symlink_to(stores)
    for arm in ("base", "sft", "coat"):
        evaluate_release(make_release(KEY, arm), corpus[1], corpus[0], EVALUATION, tmp_path / f"evaluation/{KEY}-{arm}-0")
    write_json(tmp_path / "data/contract/results.json", CONTRACT)
    step = {"step": 1, "stage": "ground", "loss/answer": 1.0, "loss/pitch": 2.0, "seconds": 1.0}
    write_jsonl(tmp_path / f"runs/{KEY}-coat-0/history.jsonl", [step])
    results = write_report(tmp_path, report_settings(tiny_bases[KEY]), corpus[1], tmp_path / "report")
    found = {path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    heard = {f"figures/heard-{KEY}-{family}.png" for family in FAMILIES}
    charts = {f"figures/{name}.png" for name in ("accuracy", "differences", "training")}
    tables = {"results.json", "report.html", "tables.md", "metrics.json", "plots/accuracy.csv", "plots/training.csv"}
    assert found == heard | charts | tables
    assert all((tmp_path / "report" / name).stat().st_size <= 300_000 for name in heard | charts)
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(heard | charts)
    assert not any(text in page for text in ("http://", "https://", "<script", 'src="figures', "None"))
    assert "A brief run with 1 seed" in page
    assert read_json(tmp_path / "report/results.json") == results
    shutil.rmtree(tmp_path / "models" / f"{KEY}-coat-0")
    with pytest.raises(ValueError, match="not a release"):
        write_report(tmp_path, report_settings(tiny_bases[KEY]), corpus[1], tmp_path / "report")
    assert (tmp_path / "report/report.html").read_text() == page


def test_each_open_question_gets_another_clip() -> None:
    spoken = [make_example(i, "transcription", sha256=f"{i // 2:064d}") for i in range(8)]
    others = other_clips([*spoken, make_example(0, "music")], seed=3)
    assert set(others) == {example.id for example in spoken}
    assert all(others[example.id].sha256 != example.sha256 for example in spoken)
    assert {clip.sha256 for clip in others.values()} == {example.sha256 for example in spoken}
    assert others == other_clips(spoken, seed=3)
    assert other_clips(spoken[:2], seed=3) == {}


def test_selection_keeps_order_and_limits_families() -> None:
    examples = [make_example(i, family) for i in range(3) for family in ("music", "emotion")] + [make_example(9, split="train")]
    chosen = select(examples, EvaluationSettings(limit_per_family=2))
    assert [example.id for example in chosen] == ["test-music-0", "test-emotion-0", "test-music-1", "test-emotion-1"]
    assert len(select(examples, EvaluationSettings())) == 6


def test_batches_hold_like_lengths_and_every_row_once() -> None:
    batches = list(length_batches([1.0, 9.0, 2.0, 8.0, 3.0], 2))
    assert batches == [[1, 3], [4, 2], [0]]


def test_an_answer_ends_at_the_end_of_turn() -> None:
    class Tokenizer:
        def convert_tokens_to_ids(self, token: str) -> int:
            return 7

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return " " + " ".join(map(str, ids))

    backbone: Any = type("Stub", (), {"tokenizer": Tokenizer(), "end_of_turn": "<|im_end|>"})()
    assert answer_text(backbone, [1, 2, 7, 3]) == "1 2"
    assert answer_text(backbone, [1, 2]) == "1 2"
    assert answer_text(backbone, [7]) == ""


def test_clips_to_time_are_spread_over_durations() -> None:
    examples = [make_example(i, duration_s=float(i), sha256=f"{i:064d}") for i in range(10)]
    assert [example.duration_s for example in spread(examples, 3)] == [1.0, 5.0, 8.0]
    assert len(spread(examples, 20)) == 10


def test_ratios_are_taken_pair_by_pair() -> None:
    def row(first: float) -> dict[str, float]:
        return {"first_token_s": first, "decode_s_per_token": 1.0, "total_s": 2.0, "prompt_tokens": 9, "decoded_tokens": 4}

    summary = summarise_timings({"sft-0": [row(1.0), row(10.0), row(2.0)], "coat-0": [row(2.0), row(10.0), row(3.0)]}, "sft-0", "coat-0")
    assert summary["ratios"]["first_token_s"] == {"median": 1.5, "min": 1.0, "max": 2.0, "pairs": 3}
    assert summary["trials"]["coat-0"]["first_token_s"] == 3.0
