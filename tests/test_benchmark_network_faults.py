"""`benchmarks.network_faults`: a short run finds nothing, and it finds an upload that writes its record first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import network_faults
from coat_core.errors import StorageUnavailableError
from coat_core.storage.s3 import Location


@pytest.mark.slow
def test_nothing_incomplete_or_corrupt_is_accepted(tmp_path: Path) -> None:
    counts = network_faults.run(tmp_path, runs=2, chance=0.5, clips=4, seed=1)
    assert counts["problems"] == []
    assert sum(counts["faults"].values()) > 10


@pytest.mark.slow
def test_an_upload_that_writes_its_record_first_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def naive(client: Any, folder: Path, location: Location, record: str) -> int:
        calls.append(record)
        names = [record, *sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())]
        for name in names[:2] if len(calls) == 1 else names:
            client.put_object(Bucket=location.bucket, Key=f"{location.prefix}/{name}", Body=(folder / name).read_bytes())
        if len(calls) == 1:
            raise StorageUnavailableError("the network is gone")
        return 0

    monkeypatch.setattr(network_faults, "upload_folder", naive)
    counts = network_faults.run(tmp_path, runs=1, chance=0.0, clips=2, seed=0)
    assert counts["problems"] == ["run 0, upload: what had failed counted as complete"]
    assert counts["failed_calls"] == {"StorageUnavailableError": 1}
