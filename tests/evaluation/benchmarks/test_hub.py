"""A data set on the hub by commit: annotation files and the clips of the items are fetched, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.places import local_folder
from coat_core.evaluation.benchmarks.prepared import SuiteChoice, prepare
from coat_core.evaluation.benchmarks.questions import clip_path, read_questions
from coat_core.pipeline.suites import list_suites
from coat_core.settings import SuiteSettings
from coat_core.storage import read_json
from tests.testing.benchmark_miniatures import write_miniature
from tests.testing.hub_server import FakeHub, serve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = f"owner/name@{COMMIT}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with serve(FakeHub("owner/name", COMMIT, {}, kind="datasets")) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        yield server


def _serve(hub: FakeHub, folder: Path) -> None:
    hub.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.files["README.md"] = b"not needed"


def test_clips_that_are_files_are_fetched_by_name(hub: FakeHub, tmp_path: Path) -> None:
    _serve(hub, write_miniature("air_bench_foundation", tmp_path / "made"))
    hub.files["Foundation/Sound_AQA_own/9.wav"] = b"of no item"
    chosen = SuiteSettings(data=SOURCE, accept_licence=True, limit=2)
    assert list_suites(tmp_path / "place", {"air_bench_foundation": chosen}) == 1
    listed = read_json(tmp_path / "place/suites/air_bench_foundation/source.json")
    assert (listed["source"], listed["clips"]) == (SOURCE, 0)
    prepare(
        find_suite("air_bench_foundation"), SuiteChoice(SOURCE, limit=2, accept_licence=True), 4, tmp_path / "questions", tmp_path / "items"
    )
    questions = read_questions(tmp_path / "questions").questions
    folder = local_folder(SOURCE)
    assert len(questions) == 2
    assert all(clip_path(question, tmp_path / "questions", folder).is_file() for question in questions)
    fetched = {path.name for path in folder.rglob("*") if path.is_file()}
    assert fetched == {"Foundation_meta.json", *(Path(question.audio).name for question in questions)}


def test_clips_in_parquet_files_need_no_other_file(hub: FakeHub, tmp_path: Path) -> None:
    _serve(hub, write_miniature("voicebench_mcq", tmp_path / "made"))
    prepare(find_suite("voicebench_mcq"), SuiteChoice(SOURCE), 4, tmp_path / "questions", tmp_path / "items")
    assert all(question.packed for question in read_questions(tmp_path / "questions").questions)
    assert {path.name for path in local_folder(SOURCE).rglob("*") if path.is_file()} == {"test.parquet"}


def test_clips_in_an_archive_are_missing_with_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    folder = write_miniature("mmau", tmp_path / "made")
    for clip in folder.rglob("*.wav"):
        clip.unlink()
    _serve(hub, folder)
    hub.files["test-mini-audios.tar.gz"] = b"an archive"
    with pytest.raises(EvaluationError, match="3 of 3 clips are missing"):
        prepare(find_suite("mmau"), SuiteChoice(SOURCE), 4, tmp_path / "questions", tmp_path / "items")


def test_a_data_set_that_was_not_fetched_has_no_folder(hub: FakeHub) -> None:
    with pytest.raises(EvaluationError, match="run `coat source`"):
        local_folder(SOURCE)
    with pytest.raises(EvaluationError, match="run `coat source`"):
        local_folder("no/such/folder")
