"""Export to a repository on the hub, against a hub on loopback and the real client library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coat_core.errors import CheckpointError, CoatError, HubUnreachableError, ReleaseError
from coat_core.export import hub as exporting
from coat_core.export.export import Export
from coat_core.export.hub import export_to_hub
from coat_core.export.hub_check import check_folder
from coat_core.storage import read_json, write_json, write_jsonl, write_text
from tests.testing.exports import write_trained
from tests.testing.hub_uploads import TOKEN, Repo, UploadHub, serve_uploads
from tests.testing.scores import write_evaluation

ID = "me/coat-tiny"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")
"""The hub's library sends large files with a deprecated argument of its HTTP client."""


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with serve_uploads(UploadHub()) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server


def write_workspace(folder: Path) -> Path:
    """Write scores of the release `coat-0`, of two seeds of its control and of the base, and the data; return the release's folder."""
    for trial, right in {"coat-0": 30, "coat-1": 28, "sft-0": 20, "sft-1": 22, "base-0": 10}.items():
        write_evaluation(folder / f"evaluation/qwen2_audio-{trial}", (right, right), 40)
    rows = [{"split": split, "source": "birds", "licence": "CC-BY-4.0"} for split in ("train", "train", "test")]
    write_jsonl(folder / "data/accepted.jsonl", [*rows, {"split": "train", "source": "bells", "licence": "CC0-1.0"}])
    return folder / "models/qwen2_audio-coat-0"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release whose export is made without a model: the last test makes a real one."""
    folder = write_workspace(tmp_path / "workspace")
    info = {
        "backbone": "qwen2_audio",
        "arm": "coat",
        "seed": 0,
        "base": {"id": "owner/base", "revision": "a" * 40, "licence": "Apache-2.0"},
    }
    write_json(folder / "coat.json", info)

    def find(model: str, **options: Any) -> Any:
        found = read_json(Path(model) / "coat.json")
        base = SimpleNamespace(**found["base"])
        return SimpleNamespace(
            release=Path(model), on_hub=True, info=SimpleNamespace(**{**found, "base": base, "trained": found["arm"] != "base"})
        )

    monkeypatch.setattr(exporting, "find_portable", find)
    monkeypatch.setattr(exporting, "export", make_export)
    monkeypatch.chdir(folder.parent.parent)
    return folder


def make_export(model: str, target: Path, *, merge: bool, address: str, max_shard_size: str = "5GB", **options: Any) -> Export:
    """Write the files of an export, with two numbers for weights."""
    from safetensors.numpy import save_file

    info = read_json(Path(model) / "coat.json")
    target.mkdir(parents=True)
    shards = ["model.safetensors"] if max_shard_size == "5GB" else ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = shards if merge else ["adapter_model.safetensors"]
    for number, name in enumerate(names):
        save_file({f"w{number}": np.full(2, number, dtype=np.float32)}, target / name)
    if len(names) > 1:
        index = {f"w{number}": name for number, name in enumerate(names)}
        write_json(target / "model.safetensors.index.json", {"weight_map": index})
    write_json(target / ("config.json" if merge else "adapter_config.json"), {"shards": len(names)})
    pair = {"first": "live", "second": "merged", "largest": 0.0, "share": 0.0, "answers": 6, "ties": 0, "probes": 6}
    record = {
        "kind": "merged" if merge else "adapter", "class": "Qwen2Audio", "block": None, "base": info["base"], "arm": info["arm"],
        "seed": info["seed"], "parity": {"dtype": "float32", "device": "cpu", "pairs": [pair]},
    }  # fmt: skip
    write_json(target / "export.json", record)
    return Export(target, str(target), 1, record, f'model = Qwen2Audio.from_pretrained("{address}")')


def push(release: Path, **options: Any) -> Any:
    return export_to_hub(str(release), ID, **{"merge": True, "progress": str, **options})


def test_an_export_arrives_in_one_private_commit_with_a_card_that_has_its_results(remote: UploadHub, release: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard, metadata_load

    done = push(release)
    repo = remote.repos["models", ID]
    assert repo.private
    assert len(repo.commits) == 2, "the hub's own first commit, and one commit with the whole export"
    assert repo.sha in done.usage.splitlines()[0]
    assert remote.tokens <= {TOKEN, ""}
    write_text(tmp_path / "README.md", repo.files["README.md"].decode())
    card = ModelCard.load(tmp_path / "README.md")
    card.validate(repo_type="model")
    assert metadata_load(tmp_path / "README.md") == {
        "license": "apache-2.0", "base_model": "owner/base", "base_model_relation": "finetune", "library_name": "transformers",
        "pipeline_tag": "audio-text-to-text",
    }  # fmt: skip
    for expected in (
        "| music | 40 | 0.250 | 0.750 [0.", "| **mean** | 80 | 0.250 | 0.750 [0.", "80 items in 40 groups", "95% bootstrap intervals",
        "`coat` − `sft`, paired by item: **+20.0 points [+", "(seeds 0, 1; 80 items in 40 groups)", "- `sft`: ", "- `base`: ",
        "| birds | 2 | CC-BY-4.0 |", "| bells | 1 | CC0-1.0 |", "## Intended use", "## Limits", "## Licences",
        "licence is **Apache-2.0**", f'from_pretrained("{ID}")', "| live / merged |", f"at revision `{'a' * 40}`",
    ):  # fmt: skip
        assert expected in card.text, expected
    assert str(tmp_path) not in card.content + repo.files["export.json"].decode(), "no path of this host"


def test_what_is_not_known_about_a_model_is_said_in_its_card(remote: UploadHub, release: Path, tmp_path: Path) -> None:
    for trial in ("sft-0", "sft-1", "base-0"):
        shutil.rmtree(release.parent.parent / f"evaluation/qwen2_audio-{trial}")
    info = read_json(release / "coat.json")
    write_json(release / "coat.json", {**info, "base": {**info["base"], "licence": "Research: Only 1.0"}})
    push(release, merge=False)
    text = remote.repos["models", ID].files["README.md"].decode()
    assert "The control, arm `sft`, was not evaluated on these items" in text
    for expected in (
        "license: other", "license_name: research-only-1.0", "license_link: https://huggingface.co/owner/base", "library_name: peft",
        "base_model_relation: adapter", "whose licence is **Research: Only 1.0**",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_second_export_replaces_the_first_in_one_commit(remote: UploadHub, release: Path, tmp_path: Path) -> None:
    push(release, max_shard_size="2MB", target=tmp_path / "kept")
    repo = remote.repos["models", ID]
    assert {".gitattributes", *(path.name for path in (tmp_path / "kept").iterdir())} == {*repo.files}
    first, sha = {*repo.files}, repo.sha
    push(release)
    assert len(repo.commits) == 3
    assert "model.safetensors" in repo.files
    assert not {name for name in first if name.startswith("model-")} & {*repo.files}, "the shards of the first are gone"
    assert ".gitattributes" in repo.files
    assert repo.sha != sha


@pytest.mark.parametrize("part", ["/large/", "/commit/"])
def test_an_upload_that_fails_leaves_the_revision_before(remote: UploadHub, release: Path, part: str) -> None:
    push(release)
    before = remote.repos["models", ID]
    sha = before.sha
    remote.large.clear()
    write_text(release.parent.parent / "params.yaml", "evaluation: {confidence: 0.9}\n")
    remote.refuse[part] = 403
    with pytest.raises(CoatError, match=ID):
        push(release, max_shard_size="2MB")
    assert (before.sha, len(before.commits)) == (sha, 2)
    del remote.refuse[part]
    push(release, max_shard_size="2MB")
    assert len(before.commits) == 3
    assert b"90% bootstrap intervals" in before.files["README.md"]


def test_nothing_is_sent_of_a_folder_that_fails_its_check(
    remote: UploadHub, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exporting.export

    def damaged(model: str, target: Path, **options: Any) -> Any:
        done = made(model, target, **options)
        weights = target / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:40])
        return done

    monkeypatch.setattr(exporting, "export", damaged)
    with pytest.raises(
        ReleaseError, match=r"cannot be read.*model\.safetensors.*nothing was uploaded|nothing was uploaded.*model\.safetensors"
    ):
        push(release)
    assert ("models", ID) not in remote.repos
    assert not [line for line in remote.requests if not line.startswith("GET ")]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "more.bin").write_bytes(b"\x80\x04x"), "pickle"),
        (lambda folder: (folder / "empty.json").touch(), "empty"),
        (lambda folder: (folder / "link.json").symlink_to(folder / "config.json"), "link"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
        (lambda folder: write_text(folder / "README.md", "---\npipeline_tag: audio-text-to-text\n---\n"), "licence"),
    ],
)
def test_the_last_check_names_the_file(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / "model.safetensors")
    write_json(tmp_path / "export.json", {"kind": "merged"})
    write_json(tmp_path / "config.json", {"a": 1})
    write_text(tmp_path / "README.md", "---\nlicense: mit\n---\n# x\n")
    assert check_folder(tmp_path) == sum(path.stat().st_size for path in tmp_path.iterdir())
    damage(tmp_path)
    with pytest.raises(ReleaseError, match=message):
        check_folder(tmp_path)


def test_errors_before_any_work_name_the_field_and_the_next_step(
    remote: UploadHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    def asked() -> list[str]:
        return [line for line in remote.requests if "/api/models/" in line or "whoami" in line]

    def refused(repository: str = ID, **options: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            export_to_hub("release-that-is-missing", repository, progress=str, **options)
        return str(caught.value)

    remote.repos = {
        ("datasets", "me/corpus"): Repo(), ("models", "me/other"): Repo(commits=[{"rows.csv": b"1"}]),
        ("models", "me/open"): Repo(private=False), ("models", "you/open"): Repo(private=False, writers=("you",)),
        ("models", "you/hidden"): Repo(writers=("you",)), ("models", "me/mine"): Repo(),
    }  # fmt: skip
    for repository, options, words in [
        ("me/corpus", {}, "this is a dataset, not a model repository"),
        ("datasets/me/corpus", {}, "this is a dataset"),
        ("alone", {}, "the owner is missing"),
        ("me/a b", {}, "not the id of a repository"),
        ("me/other", {}, "not an earlier export: rows.csv"),
        ("me/open", {}, "the repository is public"),
        ("me/mine", {"public": True}, "the repository is private"),
        ("you/open", {"public": True}, "may not write"),
        ("you/hidden", {}, "may not write"),
        ("you/new", {}, "may not write"),
    ]:
        message = refused(repository, **options)
        assert words in message
        assert "field: --push-to" in message
        assert f"value: '{repository}'" in message
        assert "next step: " in message
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    assert "may not write" in refused()
    assert "may not write" in refused("me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token; field: HF_TOKEN" in refused()
    assert "hf_wrong" not in refused()
    monkeypatch.delenv("HF_TOKEN")
    before = len(asked())
    assert "there is no token for the hub; field: HF_TOKEN" in refused()
    write_text(tmp_path / "no-token", "hf_reads")
    assert "may not write" in refused(), "the token of `hf auth login`"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "field: HF_HUB_OFFLINE" in refused()
    assert len(asked()) == before + 2
    assert not [line for line in remote.requests if not line.startswith("GET ")], "nothing was created"


def test_a_hub_that_cannot_be_reached_is_an_error_that_may_be_retried(remote: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    remote.refuse["/api/models"] = 503
    with pytest.raises(HubUnreachableError, match="too busy"):
        export_to_hub("release", ID, progress=str)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachableError, match=r"cannot be reached.*HF_ENDPOINT"):
        export_to_hub("release", ID, progress=str)


def test_a_licence_that_is_not_known_is_an_error_with_its_field(remote: UploadHub, release: Path) -> None:
    workspace, info = release.parent.parent, read_json(release / "coat.json")
    manifest = (workspace / "data/accepted.jsonl").read_text()
    write_text(workspace / "data/accepted.jsonl", manifest.replace("CC-BY-4.0", "CC0-1.0 and unknown"))
    with pytest.raises(
        CoatError, match=r"licence of 2 training examples is not known; field: licence; value: 'birds: CC0-1.0 and unknown'"
    ):
        push(release)
    write_text(workspace / "data/accepted.jsonl", manifest)
    write_json(release / "coat.json", {**info, "base": {**info["base"], "licence": None}})
    with pytest.raises(CoatError, match=r"base is not known; field: backbones\.qwen2_audio\.licence"):
        push(release)
    assert ("models", ID) not in remote.repos


def test_a_model_without_an_evaluation_is_refused(remote: UploadHub, release: Path) -> None:
    shutil.rmtree(release.parent.parent / "evaluation/qwen2_audio-coat-0")
    with pytest.raises(CoatError, match=r"not evaluated; field: evaluation.*next step: coat answer qwen2_audio coat-0"):
        push(release)


@pytest.mark.slow
def test_the_command_uploads_a_real_export_with_the_environment_of_a_user(
    remote: UploadHub, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import Qwen2AudioForConditionalGeneration

    release = write_workspace(tmp_path / "workspace")
    write_trained("qwen2_audio", tiny_bases["qwen2_audio"], release, "sft")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MLFLOW_"))}
    environment = {**kept, "HF_ENDPOINT": remote.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coat_core.cli", "export", str(release), "--push-to", "team/tiny", "--public", *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900)

    refused = run()
    assert refused.returncode == 1
    assert "next step: use --merge" in refused.stderr, "an adapter on a base in a folder of this host"
    assert ("models", "team/tiny") not in remote.repos
    done = run("--merge", "--dtype", "float32")
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'from_pretrained("team/tiny")' in done.stdout
    repo = remote.repos["models", "team/tiny"]
    assert (repo.private, len(repo.commits)) == (False, 2)
    assert TOKEN not in done.stdout + done.stderr
    for name, data in repo.files.items():
        (tmp_path / "download" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "download" / name).write_bytes(data)
    assert Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path / "download", dtype="float32").num_parameters() > 0
    text = (tmp_path / "download/README.md").read_text()
    assert str(tmp_path) not in text + (tmp_path / "download/export.json").read_text(), "no path of this host"
    assert "`sft` − `base`" in text
