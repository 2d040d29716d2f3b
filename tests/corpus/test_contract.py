"""The data contract: valid rows pass, invalid rows are quarantined with their reasons, and outputs are written atomically."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from coat_core.corpus.audio import write_flac
from coat_core.corpus.contract.contract import check_corpus
from coat_core.corpus.examples import read_manifest
from coat_core.errors import CoatError, ContractError
from coat_core.settings import ContractSettings
from coat_core.storage import read_json, read_jsonl, sha256_file
from tests.testing.contract_corpora import LENIENT, STRICT, Row, make_corpus, run

# The import of Great Expectations takes ten seconds.
pytestmark = pytest.mark.slow


def replace_audio(folder: Path, row: Row, name: str, data: bytes) -> None:
    """Set another file and its hash in a row, so that the file is the only defect."""
    path = folder / "audio" / name
    path.write_bytes(data)
    row.update(audio=f"audio/{name}", sha256=sha256_file(path))


def truncated_flac(folder: Path, rows: list[Row]) -> None:
    path = folder / "long.flac"
    write_flac(path, np.random.default_rng(0).uniform(-0.3, 0.3, 48000))
    replace_audio(folder, rows[3], "cut.flac", path.read_bytes()[:20000])
    rows[3]["duration_s"] = 3.0


def text_as_wav(folder: Path, rows: list[Row]) -> None:
    replace_audio(folder, rows[3], "text.wav", b"this is a text and not audio\n" * 20)


def ten_hour_header(folder: Path, rows: list[Row]) -> None:
    frames = 10 * 3600 * 16000
    head = b"RIFF" + struct.pack("<I", 36 + 2 * frames) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    replace_audio(folder, rows[3], "huge.wav", head + b"data" + struct.pack("<I", 2 * frames) + b"\0" * 2000)


def ten_hour_flac_header(folder: Path, rows: list[Row]) -> None:
    data = bytearray((folder / rows[3]["audio"]).read_bytes())
    # Total samples are the low 36 bits of bytes 21..25 of a FLAC file (STREAMINFO).
    packed = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1) | 10 * 3600 * 16000
    data[18:26] = packed.to_bytes(8, "big")
    replace_audio(folder, rows[3], "huge.flac", bytes(data))


def path_outside(folder: Path, rows: list[Row]) -> None:
    outside = folder.parent / "outside.flac"
    write_flac(outside, np.full(16000, 0.1))
    rows[3].update(audio="../outside.flac", sha256=sha256_file(outside))


def absolute_path(folder: Path, rows: list[Row]) -> None:
    rows[3]["audio"] = str(folder / rows[3]["audio"])


def duplicate_id(folder: Path, rows: list[Row]) -> None:
    rows[3]["id"] = rows[1]["id"]


def group_in_two_splits(folder: Path, rows: list[Row]) -> None:
    rows[3].update(group="other+" + rows[12]["group"], group_parts=["other", rows[12]["group"]])


def audio_in_two_splits(folder: Path, rows: list[Row]) -> None:
    # Two rows of another split have this audio: this row is in the minority.
    for number in (3, 13):
        rows[number].update(audio=rows[12]["audio"], sha256=rows[12]["sha256"])


def answer_not_a_choice(folder: Path, rows: list[Row]) -> None:
    rows[3]["answer"] = "perhaps"


def missing_file(folder: Path, rows: list[Row]) -> None:
    (folder / rows[3]["audio"]).unlink()


def other_bytes(folder: Path, rows: list[Row]) -> None:
    rows[3]["sha256"] = "0" * 64


def nan_duration(folder: Path, rows: list[Row]) -> None:
    rows[3]["duration_s"] = float("nan")


def infinite_duration(folder: Path, rows: list[Row]) -> None:
    rows[3]["duration_s"] = float("inf")


def negative_duration(folder: Path, rows: list[Row]) -> None:
    rows[3]["duration_s"] = -1.0


def two_channels(folder: Path, row: Row, left: float, right: float) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)
    soundfile.write(folder / "two.wav", np.stack([left * tone, right * tone], axis=1), 16000)
    replace_audio(folder, row, "two.wav", (folder / "two.wav").read_bytes())


def opposite_channels(folder: Path, rows: list[Row]) -> None:
    two_channels(folder, rows[3], 1.0, -1.0)


def silent_mix(folder: Path, rows: list[Row]) -> None:
    two_channels(folder, rows[3], 0.002, 0.001)


def wrong_duration(folder: Path, rows: list[Row]) -> None:
    rows[3]["duration_s"] = 1.011


def wrong_rate(folder: Path, rows: list[Row]) -> None:
    rows[3]["sample_rate_hz"] = 8000


def silent(folder: Path, rows: list[Row]) -> None:
    write_flac(folder / "silent.flac", np.zeros(16000))
    replace_audio(folder, rows[3], "silent.flac", (folder / "silent.flac").read_bytes())


def clipped(folder: Path, rows: list[Row]) -> None:
    write_flac(folder / "clipped.flac", np.clip(1.1 * np.sin(np.arange(16000) / 30), -1, 1))
    replace_audio(folder, rows[3], "clipped.flac", (folder / "clipped.flac").read_bytes())


def too_short(folder: Path, rows: list[Row]) -> None:
    write_flac(folder / "short.flac", 0.3 * np.sin(np.arange(1600) / 3))
    replace_audio(folder, rows[3], "short.flac", (folder / "short.flac").read_bytes())
    rows[3]["duration_s"] = 0.1


def low_rate(folder: Path, rows: list[Row]) -> None:
    soundfile.write(folder / "low.wav", 0.3 * np.sin(np.arange(4000) / 3), 4000)
    replace_audio(folder, rows[3], "low.wav", (folder / "low.wav").read_bytes())
    rows[3]["sample_rate_hz"] = 4000


def unknown_family(folder: Path, rows: list[Row]) -> None:
    rows[3]["family"] = "cooking"


def number_as_text(folder: Path, rows: list[Row]) -> None:
    rows[3]["duration_s"] = "1.0"


def unknown_field(folder: Path, rows: list[Row]) -> None:
    rows[3]["colour"] = "blue"


BAD: list[tuple[Callable[[Path, list[Row]], None], str, str]] = [
    (truncated_flac, "decodes", "cut.flac"),
    (text_as_wav, "decodes", "text.wav"),
    (ten_hour_header, "decodes", "huge.wav"),
    (ten_hour_flac_header, "decodes", "the header declares 576000000 samples"),
    (path_outside, "path_inside", "outside the corpus folder"),
    (absolute_path, "path_inside", "outside the corpus folder"),
    (duplicate_id, "unique_id", "occurs again"),
    (group_in_two_splits, "group_in_one_split", "validation:0"),
    (audio_in_two_splits, "audio_in_one_split", "its split is validation"),
    (answer_not_a_choice, "answer_in_choices", "not among"),
    (missing_file, "file_present", "missing"),
    (other_bytes, "hash", "SHA-256"),
    (nan_duration, "manifest_duration", "differs"),
    (infinite_duration, "manifest_duration", "differs"),
    (negative_duration, "manifest_duration", "differs"),
    (opposite_channels, "decodes", "cancel"),
    (silent_mix, "not_silent", "in the mono mix that the model receives"),
    (wrong_duration, "manifest_duration", "0.011 s"),
    (wrong_rate, "manifest_rate", "sample rate"),
    (silent, "not_silent", "silent"),
    (clipped, "not_clipped", "full scale"),
    (too_short, "duration", "0.100 s"),
    (low_rate, "sample_rate", "4000 Hz"),
    (unknown_family, "schema", "family"),
    (number_as_text, "schema", "duration_s"),
    (unknown_field, "schema", "colour"),
]


def test_a_valid_corpus_is_accepted_completely(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    result = run(tmp_path, rows, STRICT)
    assert result.passed
    assert result.accepted == 30
    assert [example.to_row() for example in read_manifest(tmp_path / "accepted.jsonl")] == rows
    assert read_jsonl(tmp_path / "quarantine.jsonl") == []
    assert all(expectation.failed == 0 for expectation in result.expectations)
    checked = {expectation.name: expectation.checked for expectation in result.expectations}
    assert checked.pop("balanced_families") == 3
    assert set(checked.values()) == {30}


@pytest.mark.parametrize(("add_defect", "expectation", "words"), BAD, ids=[case[0].__name__ for case in BAD])
def test_an_invalid_row_is_quarantined_with_its_reason(
    tmp_path: Path, add_defect: Callable[[Path, list[Row]], None], expectation: str, words: str
) -> None:
    corpus = tmp_path / "corpus"
    rows = make_corpus(corpus)
    add_defect(corpus, rows)
    result = run(corpus, rows, LENIENT)
    quarantined = read_jsonl(corpus / "quarantine.jsonl")
    assert len(quarantined) == 1
    assert quarantined[0]["id"] == rows[3]["id"]
    assert [reason.split(":")[0] for reason in quarantined[0]["reasons"]] == [expectation]
    assert words in quarantined[0]["reasons"][0]
    assert str(tmp_path) not in quarantined[0]["reasons"][0]
    accepted = read_jsonl(corpus / "accepted.jsonl")
    assert accepted == [row for number, row in enumerate(rows) if number != 3]
    assert result.quarantined == 1
    failed = [e for e in result.expectations if e.failed]
    assert [e.name for e in failed] == [expectation]


def test_too_many_invalid_rows_fail_the_stage_after_its_results_are_written(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    assert run(tmp_path, rows, STRICT).passed
    rows[3]["answer"] = "perhaps"
    text_as_wav(tmp_path, rows[4:])
    with pytest.raises(ContractError) as raised:
        run(tmp_path, rows, ContractSettings(max_bad_share=0.05))
    message = str(raised.value)
    assert "2 of 30 rows are invalid (6.67%, allowed 5.00%)" in message
    assert "answer_in_choices (1 of 30): row-03" in message
    assert "decodes (1 of 30): row-07" in message
    # The manifest accepted by the earlier check must be removed.
    assert not (tmp_path / "accepted.jsonl").exists()
    assert [row["id"] for row in read_jsonl(tmp_path / "quarantine.jsonl")] == ["row-03", "row-07"]
    assert read_json(tmp_path / "contract" / "results.json")["passed"] is False
    page = (tmp_path / "contract" / "contract.html").read_text()
    assert "row-07" in page
    assert "<title>The data contract is not met</title>" in page
    assert not list(tmp_path.rglob(".*"))


def test_unbalanced_families_fail_the_stage(tmp_path: Path) -> None:
    rows = [row for row in make_corpus(tmp_path) if not (row["split"] == "test" and row["family"] == "music")]
    with pytest.raises(ContractError, match="balanced_families in test"):
        run(tmp_path, rows, STRICT)
    assert not (tmp_path / "accepted.jsonl").exists()
    assert read_jsonl(tmp_path / "quarantine.jsonl") == []


def test_a_corpus_of_one_family_is_balanced(tmp_path: Path) -> None:
    rows = [row for row in make_corpus(tmp_path) if row["family"] == "transcription"]
    assert run(tmp_path, rows, STRICT).passed


def test_a_corpus_without_valid_rows_fails_the_stage(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    for row in rows:
        row["sha256"] = "0" * 64
    with pytest.raises(ContractError, match="no row is valid"):
        run(tmp_path, rows, ContractSettings(max_bad_share=1.0))


@pytest.mark.parametrize("text", ["", "not json\n", "[1, 2]\n"])
def test_an_invalid_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    tmp_path.joinpath("manifest.jsonl").write_text(text)
    with pytest.raises(CoatError, match=r"no rows|not JSON|not a JSON object"):
        check_corpus(tmp_path, STRICT, accepted=tmp_path / "a", quarantine=tmp_path / "q", records=tmp_path / "r", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_workers_do_not_change_the_outputs(tmp_path: Path) -> None:
    outputs = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        rows = make_corpus(folder)
        truncated_flac(folder, rows)
        run(folder, rows, LENIENT, workers)
        outputs.append([(folder / name).read_bytes() for name in ("accepted.jsonl", "quarantine.jsonl")])
    assert outputs[0] == outputs[1]


def test_the_page_is_self_contained_and_escapes_its_values(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    rows[3].update(id="<script>alert(1)</script>", answer="perhaps")
    assert run(tmp_path, rows, LENIENT).passed
    page = (tmp_path / "contract" / "contract.html").read_text()
    assert "http" not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "prefers-color-scheme:dark" in page
    assert "<title>The data contract is met</title>" in page
    assert "<b>29</b>" in page
    assert "quarantined (3.33%, allowed 50.00%)" in page
    assert "the answer is not among distinct choices" in page
