"""`coat prune` on small DVC projects that share a cache: what is used stays, whoever uses it, and nothing happens while a run is live."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from coat_core.errors import BusyError, CoatError, StageError
from coat_core.pipeline.cache_users import record_user
from coat_core.registry import database
from coat_core.storage import write_text
from flows import dvc, unused
from flows.pruning import megabytes, prune
from tests.testing import chain_runs

pytestmark = pytest.mark.slow
GRAPH = {"stages": {"make": {"cmd": "mkdir -p made && cp input.txt made/a.txt && cp input.txt b.txt", "deps": ["input.txt"]}}}


def make_project(folder: Path, cache: Path) -> Path:
    folder.mkdir(parents=True)
    GRAPH["stages"]["make"]["outs"] = ["made", "b.txt"]
    write_text(folder / "dvc.yaml", yaml.safe_dump(GRAPH))
    shutil.copy(chain_runs.PARAMS, folder / "params.yaml")
    dvc.call(folder, "init", "--no-scm", "-q")
    dvc.call(folder, "config", "--local", "cache.dir", str(cache))
    return folder


def reproduce(folder: Path, content: str) -> str:
    """Run the stage on a content and return the `dvc.lock`."""
    write_text(folder / "input.txt", content)
    dvc.call(folder, "repro", "-q")
    return (folder / "dvc.lock").read_text()


def objects(cache: Path) -> list[str]:
    """Return the content of every object of the cache that is no list of a folder."""
    return sorted(path.read_text() for path in (cache / "files").rglob("*") if path.is_file() and path.suffix != ".dir")


def stored(cache: Path) -> int:
    """Return the bytes of all objects."""
    return sum(path.stat().st_size for path in (cache / "files").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two projects with one cache: the first has run on one, two and three, the second on four. Making them takes a while."""
    place = tmp_path_factory.mktemp("pruned")
    first, second = (make_project(place / name, place / "cache") for name in ("first", "second"))
    for content in ("one", "two"):
        write_text(place / f"{content}.lock", reproduce(first, content))
    reproduce(first, "three")
    reproduce(second, "four")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = database.connect(first)
        run = client.create_run("0").info.run_id
        (place / "dvc.lock").write_text((place / "two.lock").read_text())
        client.log_artifact(run, str(place / "dvc.lock"), "lineage")
        client.create_registered_model("coat-other")
        client.create_model_version("coat-other", client.get_run(run).info.artifact_uri, run)
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, without the registry unless a test copies it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copied = tmp_path / "place"
    shutil.copytree(template, copied)
    for name in ("first", "second"):
        (copied / name / ".dvc/config.local").write_text(f"[cache]\n    dir = {copied / 'cache'}\n")
    record_user(copied / "cache", copied / "second")
    return copied


def lines(workspace: Path, **options: Any) -> list[str]:
    printed: list[str] = []
    prune(workspace, days=30, echo=printed.append, **options)
    return printed


def test_only_what_nothing_names_is_removed(place: Path) -> None:
    first, cache = place / "first", place / "cache"
    listed = lines(first)
    assert "cache: 2 objects without a use, " in " ".join(listed), "one, and the list of its folder"
    assert f"  kept: the results of {place / 'second'}" in listed
    assert "  kept: what registered versions were made from: 1" in listed
    assert listed[-1].endswith("nothing was changed; next: coat prune --apply")
    assert objects(cache) == ["four", "one", "three", "two"], "the default changes nothing"
    before = stored(cache)
    (done,) = prune(first, days=30, parts=["cache"], apply=True)
    assert objects(cache) == ["four", "three", "two"]
    assert (done.part, done.count, done.size) == ("cache", 2, before - stored(cache))
    for name, content in (("first", "three"), ("second", "four")):
        shutil.rmtree(place / name / "made")
        (place / name / "b.txt").unlink()
        dvc.call(place / name, "checkout", "-q")
        assert (place / name / "made/a.txt").read_text() == (place / name / "b.txt").read_text() == content
    assert lines(first, parts=["cache"])[-1] == "would be removed: 0 bytes; nothing was changed"


def test_a_stage_that_params_no_longer_list_keeps_its_results(place: Path) -> None:
    first = place / "first"
    write_text(first / "dvc.yaml", "stages: {}\n")
    shutil.rmtree(first / "made")
    lines(first, parts=["cache"], apply=True)
    assert objects(place / "cache") == ["four", "three", "two"]


def test_another_workspace_is_kept_if_it_is_named_and_must_share_the_cache(place: Path) -> None:
    shutil.rmtree(place / "cache/coat-workspaces")
    lines(place / "first", parts=["cache"], apply=True, also=[place / "second"])
    assert "four" in objects(place / "cache")
    (place / "second/.dvc/config.local").write_text("")
    with pytest.raises(StageError, match=r"does not use the same DVC cache; field: --workspace; .*second"):
        lines(place / "first", parts=["cache"], also=[place / "second"])
    lines(place / "first", parts=["cache"], apply=True)
    assert "four" not in objects(place / "cache"), "nothing says that somebody needs it"


@contextmanager
def process(folder: Path, *command: object) -> Iterator[None]:
    """Run a process in a folder that has printed a line by the time the block begins."""
    environment = chain_runs.environment(PYTHONPATH=str(Path(__file__).parents[2]))
    running = subprocess.Popen(list(map(str, command)), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        assert running.stdout is not None
        assert running.stdout.readline()
        yield
    finally:
        running.communicate()


@pytest.mark.parametrize("name", ["first", "second"])
def test_nothing_happens_while_a_run_is_live(place: Path, name: str) -> None:
    code = "from flows.lock import hold_workspace as hold; from pathlib import Path\nwith hold(Path()): print(1, flush=True); input()"
    with process(place / name, sys.executable, "-c", f"{code[: code.index('with')]}\n{code[code.index('with') :]}"):
        for apply in (False, True):
            with pytest.raises(BusyError, match=rf"another run holds this workspace; .*{place / name}.*the holder is process \d+ since"):
                lines(place / "first", apply=apply)
    assert len(objects(place / "cache")) == 4


def test_nothing_happens_while_dvc_works(place: Path) -> None:
    script = place / "dvc"
    script.write_text("print(1, flush=True)\ninput()\n")
    with process(place / "second", sys.executable, script), pytest.raises(BusyError, match=r"DVC works in this workspace; .*second"):
        lines(place / "first", apply=True)
    assert len(objects(place / "cache")) == 4


@pytest.mark.parametrize("text", ["stages: [half", "", None])
def test_a_broken_lock_file_keeps_everything(place: Path, text: str | None) -> None:
    lock = place / "second/dvc.lock"
    if text is None:
        lock.unlink()
        write_text(place / "second/.scratch/outcomes/make.json", '{"class": "ok"}')
    else:
        lock.write_text(text)
    with pytest.raises(StageError, match=r"nothing is removed from the cache; .*`coat run` in that workspace"):
        lines(place / "first", apply=True, parts=["cache"])
    assert len(objects(place / "cache")) == 4


def test_old_scratch_goes_and_the_rest_stays(place: Path) -> None:
    first = place / "first"
    for key in ("old", "new"):
        write_text(first / f".scratch/{key}/stage.txt", f"train@{key}")
    for path in (first / ".scratch/old/stage.txt", first / ".scratch/old"):
        os.utime(path, (datetime(2020, 1, 1, tzinfo=UTC).timestamp(),) * 2)
    listed = lines(first, parts=["scratch"])
    assert listed[:2] == ["scratch: 1 leftovers, 9 bytes", "  .scratch/old  unfinished train@old, since 2020-01-01  9 bytes"]
    assert (first / ".scratch/old").is_dir()
    lines(first, parts=["scratch"], apply=True)
    assert not (first / ".scratch/old").exists()
    assert (first / ".scratch/new").is_dir()


def test_results_of_branches_are_kept(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    for name in ("a", "b"):
        git("checkout", "-q", "--orphan", name)
        write_text(tmp_path / "dvc.lock", f"stages: {{make: {{outs: [{{md5: {name}, path: x}}]}}}}\n")
        git("add", "dvc.lock")
        git("commit", "-q", "-m", name)
    git("tag", "first", "a")
    git("checkout", "-q", "--orphan", "c")
    git("rm", "-q", "--cached", "dvc.lock")
    git("commit", "-q", "--allow-empty", "-m", "without")
    (tmp_path / "dvc.lock").write_text("stages: {make: {outs: [{md5: here, path: x}]}}\n")
    found = [output["md5"] for text in unused.locks_of(tmp_path) for output in unused.outputs_of(text)]
    assert sorted(found) == ["a", "b", "here"]


@pytest.mark.parametrize("text", ["schema: '2.0'\n", "stages: {}\n", "stages: {a: {cmd: x}}\n", "stages: {a: {outs: [{path: x}]}}\n"])
def test_a_lock_file_without_outputs_names_nothing(text: str) -> None:
    assert unused.outputs_of(text) == []


@pytest.mark.parametrize("text", ["", "[]", "stages: []", "stages: {a: 1}", "x", "stages: {a: {outs: 3}}", "{"])
def test_a_text_that_is_no_lock_file_is_refused(text: str) -> None:
    with pytest.raises(CoatError, match=re.escape("a dvc.lock cannot be read")):
        unused.outputs_of(text)


def test_sizes_are_readable() -> None:
    assert [megabytes(size) for size in (0, 12_345, 100_000, 1_234_567_890)] == ["0 bytes", "12,345 bytes", "0.1 MB", "1,234.6 MB"]
