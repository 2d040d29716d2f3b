"""Corpora of many rows: results do not depend on how many are handled at once, and the memory of a row is bounded."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.corpus.audio import write_flac
from coat_core.corpus.contract import validation
from coat_core.corpus.examples import read_manifest, write_manifest
from coat_core.storage import iterate_jsonl, write_jsonl
from tests.testing.contract_corpora import LENIENT, make_corpus, run
from tests.testing.manifests import imported

FEWER, MORE = 1000, 3000


def _bytes_per_row(make: Callable[[int], Callable[[], object]]) -> float:
    """Return the growth of the peak memory of Python objects for each further row."""
    peaks = []
    for count in (FEWER, MORE):
        call = make(count)
        tracemalloc.start()
        try:
            call()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (MORE - FEWER)


def _row(number: int) -> dict[str, Any]:
    return {
        "id": f"row-{number:07d}", "audio": f"audio/{number // 3:024x}.flac", "sha256": f"{number // 3:064x}", "duration_s": number / 7,
        "sample_rate_hz": 16000, "split": "train", "group": f"speaker {number // 5}", "family": "understanding", "task": "sounds",
        "question": f"What sound is in recording {number}?", "choices": ["dog bark", "rain", "siren"], "answer": "rain",
        "source": "a data set", "licence": "CC0-1.0",
    }  # fmt: skip


def test_the_contract_has_the_same_results_for_any_size_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_corpus(tmp_path)
    rows[3] |= {"audio": "audio/missing.flac"}
    rows[6] |= {"answer": "perhaps"}
    rows[9] |= {"split": "nowhere"}
    rows[17] |= {"group": "train:0", "duration_s": 3.0}
    rows[29] |= {"id": rows[0]["id"], "question": " "}
    found = []
    for part in (1000, 7, 1):
        monkeypatch.setattr(validation, "PART_ROWS", part)
        result = run(tmp_path, rows, LENIENT).to_json()
        del result["audio"]["stage_seconds"]
        found.append((result, (tmp_path / "accepted.jsonl").read_bytes(), (tmp_path / "quarantine.jsonl").read_bytes()))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["quarantined"] == 5
    assert [json.loads(line)["line"] for line in found[0][2].splitlines()] == [4, 7, 10, 18, 30]


def test_equal_texts_of_a_manifest_are_kept_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", map(_row, range(9)))
    examples = read_manifest(tmp_path / "a.jsonl")
    first, second, fourth = examples[0], examples[1], examples[3]
    assert first.sha256 is second.sha256
    assert first.source is fourth.source
    assert first.choices is not None
    assert fourth.choices is not None
    assert first.choices[0] is fourth.choices[0]
    changed = first.model_copy(update={"group_parts": ("a", "b")})
    assert changed.model_fields_set == second.model_fields_set | {"group_parts"}
    assert changed.to_row()["group_parts"] == ["a", "b"]
    assert "group_parts" not in second.to_row()
    write_manifest(tmp_path / "b.jsonl", examples)
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_memory_of_a_row_that_is_read(tmp_path: Path) -> None:
    def make(count: int) -> Callable[[], object]:
        write_jsonl(tmp_path / "rows.jsonl", map(_row, range(count)))
        return lambda: read_manifest(tmp_path / "rows.jsonl")

    # 2.3 KB for an example alone before, and as much for the row that it is made from.
    assert _bytes_per_row(make) < 1300


def test_memory_of_a_row_that_is_written_or_iterated(tmp_path: Path) -> None:
    def write(count: int) -> Callable[[], object]:
        return lambda: write_jsonl(tmp_path / "rows.jsonl", map(_row, range(count)))

    def iterate(count: int) -> Callable[[], object]:
        write(count)()
        return lambda: sum(1 for _ in iterate_jsonl(tmp_path / "rows.jsonl"))

    assert _bytes_per_row(write) < 10
    assert _bytes_per_row(iterate) < 10


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_memory_of_a_row_that_is_imported(name: str, tmp_path: Path) -> None:
    write_flac(tmp_path / "clip.flac", 0.1 * np.sin(np.arange(4000) / 5), 16000)

    def make(count: int) -> Callable[[], object]:
        rows = [
            {"audio_filepath": "clip.flac", "question": f"Which number is {n}?", "answer": "one", "group": f"g{n}"} for n in range(count)
        ]
        text = json.dumps(rows) if name == "rows.json" else "".join(json.dumps(row) + "\n" for row in rows)
        if name.endswith(".csv"):
            text = ",".join(rows[0]) + "\n" + "".join(",".join(row.values()) + "\n" for row in rows)
        (tmp_path / name).write_text(text)
        return lambda: imported("manifest", tmp_path / name)

    # It was 2.9 to 3.8 KB. `imported` also reads the manifest that was written.
    assert _bytes_per_row(make) < 1800
