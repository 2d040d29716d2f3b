"""Export to a bucket: what arrives is the export, and stock code loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coat_core.cli import app
from coat_core.errors import CoatError
from coat_core.export.bucket import export_to_bucket
from coat_core.storage import read_json
from tests.testing.exports import write_trained
from tests.testing.s3_server import bucket, client, moto, proxy

__all__ = ["bucket", "client", "moto", "proxy"]


@pytest.mark.slow
def test_a_merged_export_arrives_complete_and_loads(tiny_bases: dict[str, Path], client: Any, bucket: str, tmp_path: Path) -> None:
    from transformers import Qwen2AudioForConditionalGeneration

    release = write_trained("qwen2_audio", tiny_bases["qwen2_audio"], tmp_path / "release")
    uri = f"s3://{bucket}/models/one"
    done = CliRunner().invoke(app, ["export", str(release), "--to", uri, "--merge", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    assert f"aws s3 cp --recursive {uri} MODEL" in done.output
    folder = tmp_path / "MODEL"
    for entry in client.list_objects_v2(Bucket=bucket, Prefix="models/one/")["Contents"]:
        path = folder / entry["Key"].removeprefix("models/one/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, entry["Key"], str(path))
    record = read_json(folder / "export.json")
    assert record["kind"] == "merged"
    assert Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype="float32").num_parameters() > 0
    assert 'from_pretrained("MODEL")' in (folder / "README.md").read_text()
    # An adapter on a base in a folder of this host would be of no use elsewhere; the earlier export stays.
    with pytest.raises(CoatError, match="--merge"):
        export_to_bucket(str(release), uri, progress=str)
    assert client.head_object(Bucket=bucket, Key="models/one/export.json")["ContentLength"] > 0


def test_a_prefix_with_other_objects_is_refused_before_any_work(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="data/rows.jsonl", Body=b"rows")
    with pytest.raises(CoatError, match="not an earlier upload"):
        export_to_bucket("release-that-is-missing", f"s3://{bucket}/data", progress=str)
