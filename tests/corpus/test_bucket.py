"""A corpus whose source is in a bucket: the same corpus as from a folder, fetched once, and noticed when it changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coat_core.corpus.imported import bucket as module
from coat_core.corpus.imported.bucket import SNAPSHOT, local_copy, write_snapshot
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.errors import CorpusError, SettingsError, StageError, StorageError, StorageUnavailableError
from coat_core.pipeline.graph import find_stage, stage_key
from coat_core.pipeline.runner import run_stage
from coat_core.pipeline.source import list_source, summary_text
from coat_core.pipeline.workspace import graph_for, make_workspace, match_graph
from coat_core.settings import load_settings, parse_settings, read_values
from coat_core.storage import sha256_tree
from coat_core.storage.s3 import StoredObject
from tests.testing.manifests import settings, write_tones
from tests.testing.s3_server import KEY_ID, SECRET, FaultyProxy, bucket, client, moto, proxy

__all__ = ["bucket", "client", "moto", "proxy"]
ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"clips/{label} {number}.wav" for label in ("low", "high", "grün") for number in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An audio manifest with twelve clips on this host."""
    source = tmp_path / "local"
    write_tones(source, *NAMES)
    rows = [
        {"audio": name, "question": "Which tone?", "answer": name.split("/")[1].split()[0], "choices": ["low", "high", "grün"],
         "family": "music", "group": name}
        for name in NAMES
    ]  # fmt: skip
    (source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return source


@pytest.fixture
def upload(client: Any, bucket: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket=bucket, Key=f"sets/one/{path.relative_to(folder)}", Body=path.read_bytes())

    return put


@pytest.fixture
def workspace(folder: Path, upload: Callable[[Path], None], bucket: str, tmp_path: Path) -> Path:
    """A workspace whose corpus is in the bucket."""
    upload(folder)
    changes = {"corpus.kind": "manifest", "corpus.path": f"s3://{bucket}/sets/one/rows.jsonl", "runtime.threads": 1}
    return make_workspace(tmp_path / "workspace", ROOT / "params/tiny.yaml", changes)


def listed(workspace: Path) -> str:
    return summary_text(list_source(workspace, load_settings(workspace / "params.yaml").corpus))


def key(workspace: Path) -> str:
    values = read_values(workspace / "params.yaml")
    return stage_key(find_stage("corpus", workspace, values), workspace, values)


def test_the_corpus_is_that_of_the_same_files_in_a_folder(workspace: Path, folder: Path, tmp_path: Path) -> None:
    assert listed(workspace).startswith("13 objects")
    run_stage("corpus", workspace)
    corpus = load_settings(workspace / "params.yaml").corpus
    import_corpus(corpus.model_copy(update={"path": "rows.jsonl"}), folder / "rows.jsonl", tmp_path / "expected")
    assert sha256_tree(workspace / "data/corpus") == sha256_tree(tmp_path / "expected")


def test_nothing_is_fetched_twice_and_a_change_is_noticed(
    workspace: Path, folder: Path, upload: Callable[[Path], None], client: Any, bucket: str, proxy: FaultyProxy
) -> None:
    assert listed(workspace).endswith("13 new, 0 changed, 0 gone")
    first, written = key(workspace), (workspace / SNAPSHOT).stat().st_mtime_ns
    run_stage("corpus", workspace)
    assert listed(workspace).endswith("as before")
    assert (key(workspace), (workspace / SNAPSHOT).stat().st_mtime_ns) == (first, written)
    before = dict(proxy.gets)
    write_tones(folder, NAMES[3], seconds=0.5)
    client.put_object(Bucket=bucket, Key=f"sets/one/{NAMES[3]}", Body=(folder / NAMES[3]).read_bytes())
    client.put_object(Bucket=bucket, Key="sets/one/notes.txt", Body=b"n")
    client.delete_object(Bucket=bucket, Key=f"sets/one/{NAMES[0]}")
    (folder / "rows.jsonl").write_text("".join((folder / "rows.jsonl").read_text().splitlines(keepends=True)[1:]))
    client.put_object(Bucket=bucket, Key="sets/one/rows.jsonl", Body=(folder / "rows.jsonl").read_bytes())
    assert listed(workspace).endswith("1 new, 2 changed, 1 gone")
    assert key(workspace) != first
    run_stage("corpus", workspace)
    fetched = {path.rpartition("/")[2] for path, count in proxy.gets.items() if count > before.get(path, 0) and path != f"/{bucket}"}
    assert fetched == {"low%203.wav", "notes.txt", "rows.jsonl"}
    objects = [path for path in (workspace / ".scratch/bucket/objects").rglob("*") if path.is_file()]
    assert len(objects) == 13, "the object that is gone and the older ones are removed"


def test_an_import_that_fails_continues_and_publishes_nothing(workspace: Path, bucket: str, proxy: FaultyProxy) -> None:
    listed(workspace)
    path = f"/{bucket}/sets/one/clips/high%202.wav"
    proxy.faults[path] = ["half"] * 5
    with pytest.raises(StorageUnavailableError, match=r"high 2\.wav"):
        run_stage("corpus", workspace)
    assert not (workspace / "data/corpus").exists()
    outcome = json.loads((workspace / ".scratch/outcomes/corpus.json").read_text())
    assert outcome["retryable"] is True
    before = dict(proxy.gets)
    run_stage("corpus", workspace)
    again = {path for path, count in proxy.gets.items() if count > before.get(path, 0)}
    assert path in again
    assert all(before.get(other, 0) == 0 for other in again - {path}), "no object that was complete is fetched again"


def test_an_object_that_changes_after_the_listing_is_refused(workspace: Path, client: Any, bucket: str) -> None:
    listed(workspace)
    client.put_object(Bucket=bucket, Key=f"sets/one/{NAMES[5]}", Body=b"other")
    with pytest.raises(StorageError, match=r"changed since it was listed.*coat source"):
        run_stage("corpus", workspace)
    assert not (workspace / "data/corpus").exists()


def test_credentials_are_in_no_file_of_the_workspace(workspace: Path, bucket: str, proxy: FaultyProxy) -> None:
    listed(workspace)
    proxy.faults[f"/{bucket}/sets/one/rows.jsonl"] = ["busy"] * 100
    with pytest.raises(StorageUnavailableError) as caught:
        run_stage("corpus", workspace)
    proxy.faults.clear()
    run_stage("corpus", workspace)
    texts = [
        str(caught.value).encode(),
        *(path.read_bytes() for path in workspace.rglob("*") if path.is_file() and "coat_core" not in path.parts),
    ]
    assert not [text[:80] for text in texts if SECRET.encode() in text or KEY_ID.encode() in text]


def test_a_source_that_was_not_listed_or_is_another_one_is_refused(workspace: Path, bucket: str, tmp_path: Path) -> None:
    path = f"s3://{bucket}/sets/one/rows.jsonl"
    with pytest.raises(CorpusError, match=r"not been listed.*coat source"):
        local_copy("manifest", path, workspace / SNAPSHOT, tmp_path / "cache")
    listed(workspace)
    with pytest.raises(CorpusError, match=r"lists another source.*coat source"):
        local_copy("audiofolder", path, workspace / SNAPSHOT, tmp_path / "cache")
    (workspace / SNAPSHOT).write_bytes((workspace / SNAPSHOT).read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"not JSON.*coat source"):
        local_copy("manifest", path, workspace / SNAPSHOT, tmp_path / "cache")
    assert listed(workspace).startswith("13 objects"), "an invalid snapshot is replaced"


@pytest.mark.parametrize("name", ["../up", "a//b", "./a", "x" * 256, "ü" * 128])
def test_a_key_that_is_no_path_is_named(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "list_objects", lambda *_: iter([StoredObject(f"set/{name}", 1, "e")]))
    with pytest.raises(CorpusError, match="cannot be a path below a folder") as caught:
        write_snapshot("audiofolder", f"s3://{bucket}/set", tmp_path / SNAPSHOT)
    assert name in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_also_a_folder_is_named(client: Any, bucket: str, tmp_path: Path) -> None:
    for name in ("set/a", "set/a/b"):
        client.put_object(Bucket=bucket, Key=name, Body=b"x")
    write_snapshot("audiofolder", f"s3://{bucket}/set", tmp_path / SNAPSHOT)
    with pytest.raises(CorpusError, match=r"also the folder of another.*set/a/b"):
        local_copy("audiofolder", f"s3://{bucket}/set", tmp_path / SNAPSHOT, tmp_path / "cache")


def test_an_empty_prefix_is_refused(bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there are no objects"):
        write_snapshot("audiofolder", f"s3://{bucket}/nothing", tmp_path / SNAPSHOT)
    assert not list(tmp_path.iterdir())


KEYS = st.dictionaries(st.text("ab~é\U0001f600", min_size=1, max_size=3), st.sampled_from(["1", "2"]), max_size=6)


@given(before=KEYS, after=KEYS.filter(bool))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_snapshot_counts_what_is_new_changed_and_gone(before: dict, after: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / SNAPSHOT
    target.unlink(missing_ok=True)
    monkeypatch.setattr(module, "open_client", lambda: None)
    for objects in filter(bool, (before, after)):
        # The order of S3: that of the UTF-8 bytes.
        ordered = sorted(objects, key=lambda name: name.encode())
        monkeypatch.setattr(module, "list_objects", lambda *_, o=objects, k=ordered: iter([StoredObject(name, 1, o[name]) for name in k]))
        summary = write_snapshot("audiofolder", "s3://some-bucket", target)
    assert (summary.objects, summary.added, summary.removed) == (len(after), len(after.keys() - before), len(before.keys() - after))
    assert summary.changed == sum(before[name] != after[name] for name in before.keys() & after)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert {row["key"]: row["etag"] for row in rows[1:]} == after


def test_the_graph_depends_on_the_snapshot_only_for_a_source_in_a_bucket(workspace: Path) -> None:
    text, experts = (ROOT / "dvc.yaml").read_text(), load_settings(workspace / "params.yaml").experts
    assert SNAPSHOT not in text
    with_snapshot = graph_for(text, experts, in_bucket=True)
    assert with_snapshot == (workspace / "dvc.yaml").read_text()
    assert graph_for(with_snapshot, experts) == text
    match_graph(workspace, experts, in_bucket=False)
    assert (workspace / "dvc.yaml").read_text() == text
    match_graph(workspace, experts, in_bucket=True)
    assert (workspace / "dvc.yaml").read_text() == with_snapshot


def test_the_repositorys_own_graph_is_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experts = load_settings(ROOT / "params.yaml").experts
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.setattr("coat_core.pipeline.workspace.repository_root", lambda: tmp_path)
    with pytest.raises(StageError, match=r"another kind of source.*coat workspace DIR"):
        match_graph(tmp_path, experts, in_bucket=True)
    assert (tmp_path / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text()


def test_roots_other_schemes_and_a_source_on_this_host_are_refused(tmp_path: Path) -> None:
    values = read_values(ROOT / "params.yaml")
    values["corpus"] |= {"kind": "manifest", "path": "s3://audio/rows.jsonl", "roots": ["/data"]}
    with pytest.raises(SettingsError, match="folders of this host"):
        parse_settings(values, "params")
    values["corpus"] |= {"path": "gs://audio/rows.jsonl", "roots": []}
    with pytest.raises(SettingsError, match=r"cannot be read from gs://; allowed: a path on this host, or s3://"):
        parse_settings(values, "params")
    with pytest.raises(CorpusError, match="not in a bucket"):
        list_source(tmp_path, settings("manifest"))
