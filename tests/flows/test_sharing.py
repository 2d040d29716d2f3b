"""Results that travel between hosts through a DVC remote: a small graph of shell commands, two workspaces, one remote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import StageError
from flows import dvc
from flows.sharing import find_remote, newest, pull, push, sharing_key
from tests.testing.s3_server import bucket, client, moto, proxy

__all__ = ["bucket", "client", "moto", "proxy"]
GRAPH = """
stages:
  features:
    cmd: mkdir -p features && cp coat_core/text features/one && echo ran >> ran-features
    deps: [coat_core/text]
    params: [seed]
    outs:
      - features:
          persist: true
  train:
    foreach: [a, b]
    do:
      cmd: mkdir -p models && cat features/one > models/${item} && echo ran >> ran-${item}
      deps: [features]
      outs: ["models/${item}"]
  report:
    cmd: cat models/a models/b > report && echo ran >> ran-report
    deps: [models/a, models/b]
    outs: [report]
"""
STAGES = frozenset({"features", "train@a", "train@b", "report"})


def make_host(folder: Path, remote: str, text: str = "one") -> Path:
    """Create a workspace on a host of its own: its own cache, the same commit."""
    (folder / "coat_core").mkdir(parents=True)
    (folder / "coat_core/text").write_text(text)
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "params.yaml").write_text("seed: 1\n")
    dvc.call(folder, "init", "--no-scm", "-q")
    dvc.call(folder, "remote", "add", "-d", "team", remote)
    return folder


def repro(host: Path, *stages: str) -> None:
    dvc.call(host, "repro", *stages)


def share(host: Path) -> None:
    remote = find_remote(host)
    assert remote is not None
    push(host, remote)


def take(host: Path) -> int:
    remote = find_remote(host)
    assert remote is not None
    return pull(host, remote)


def ran(host: Path) -> set[str]:
    return {path.name.removeprefix("ran-") for path in host.glob("ran-*")}


@pytest.fixture(params=["folder", "bucket"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The remote in a folder, and in a bucket."""
    return str(tmp_path / "store") if request.param == "folder" else f"s3://{request.getfixturevalue('bucket')}/dvc"


def test_a_fresh_clone_of_the_same_commit_runs_no_stage(remote: str, tmp_path: Path) -> None:
    first, second = make_host(tmp_path / "a", remote), make_host(tmp_path / "b", remote)
    repro(first)
    share(first)
    assert dvc.read_stale(second) == STAGES
    assert take(second) == 4
    assert dvc.read_stale(second) == frozenset()
    repro(second)
    assert ran(second) == set()
    assert (second / "report").read_text() == "oneone"
    assert (second / "features/one").read_text() == "one"
    assert take(second) == 0


def test_two_hosts_each_compute_a_part_and_end_with_one_result(tmp_path: Path) -> None:
    remote = str(tmp_path / "store")
    first, second = make_host(tmp_path / "a", remote), make_host(tmp_path / "b", remote)
    repro(first, "train@a")
    share(first)
    take(second)
    repro(second, "train@b")
    share(second)
    assert (ran(first), ran(second)) == ({"features", "a"}, {"b"})
    assert take(first) == 1
    repro(first)
    share(first)
    assert take(second) == 1
    assert dvc.read_stale(second) == frozenset()
    assert (ran(first), ran(second)) == ({"features", "a", "report"}, {"b"})


def test_results_of_other_code_or_params_are_not_taken_over(tmp_path: Path) -> None:
    remote = str(tmp_path / "store")
    first = make_host(tmp_path / "a", remote)
    repro(first)
    share(first)
    assert take(make_host(tmp_path / "b", remote, text="two")) == 0
    third = make_host(tmp_path / "c", remote)
    (third / "params.yaml").write_text("seed: 2\n")
    assert take(third) == 0
    keys = {sharing_key(tmp_path / name) for name in ("a", "b", "c")}
    assert len(keys) == 3


def test_own_results_are_kept_and_two_workspaces_of_one_host_store_two_locks(tmp_path: Path) -> None:
    remote = str(tmp_path / "store")
    hosts = [make_host(tmp_path / name, remote) for name in ("a", "b")]
    for host in hosts:
        repro(host)
    before = (hosts[1] / "dvc.lock").read_bytes()
    share(hosts[0])
    assert take(hosts[1]) == 0
    assert (hosts[1] / "dvc.lock").read_bytes() == before
    share(hosts[1])
    share(hosts[1])
    stored = list((tmp_path / "store").rglob("coat-locks/**/*.json"))
    assert len(stored) == 2
    assert all(set(json.loads(path.read_text())["stages"]) == STAGES for path in stored)


def test_an_output_that_the_remote_lacks_leaves_everything_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first, second = make_host(tmp_path / "a", str(store)), make_host(tmp_path / "b", str(store))
    repro(first)
    share(first)
    for path in (store / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(StageError, match="dvc pull"):
        take(second)
    assert not (second / "dvc.lock").exists()
    repro(second)
    assert ran(second) == {"features", "a", "b", "report"}


def test_a_lock_is_stored_only_after_its_outputs(tmp_path: Path) -> None:
    store = tmp_path / "store"
    host = make_host(tmp_path / "a", str(store))
    repro(host)
    for path in (host / ".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(StageError, match="neither in the cache nor in the remote"):
        share(host)
    assert not list(store.rglob("coat-locks/**/*.json"))


def test_a_remote_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    host = make_host(tmp_path / "a", str(tmp_path / "store"))
    remote = find_remote(host)
    assert remote is not None
    repro(host)
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StageError, match=r"dvc push|remote cannot be used"):
        push(host, remote)
    dvc.call(host, "remote", "remove", "team")
    assert find_remote(host) is None


def test_the_entry_that_was_pushed_last_counts() -> None:
    def lock(pushed: str, **stages: int) -> dict[str, Any]:
        return {"pushed": pushed, "stages": stages}

    assert newest([lock("2", a=2), lock("1", a=1, b=1), lock("3", c=3)]) == {"a": 2, "b": 1, "c": 3}
    assert newest([]) == {}
