"""Every suite loads from a folder in its published layout; missing and damaged files and licences are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import SUITES, find_suite
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.suite import LoadedSuite, load

LETTERED = {
    "question": "Which sound is it?",
    "choice_a": "dog",
    "choice_b": "rain",
    "choice_c": "horn",
    "choice_d": "bell",
    "answer_gt": "rain",
}
NOTE = {
    "note_str": "bass_synthetic_068-049-025",
    "pitch": 49,
    "velocity": 25,
    "instrument_family_str": "bass",
    "instrument_source_str": "synthetic",
    "qualities_str": ["dark"],
}
MMAU = {
    "id": "m1",
    "audio_id": "./test-mini-audios/m1.wav",
    "question": "Who speaks?",
    "choices": ["Man", "Woman"],
    "answer": "Man",
    "task": "speech",
    "difficulty": "easy",
    "sub-category": "x",
}
MMAR = {
    "id": "r1",
    "audio_path": "./audio/r1.wav",
    "question": "Who speaks?",
    "choices": ["Man", "Woman"],
    "answer": "Man",
    "modality": "speech",
    "category": "Perception",
}
AIR = {**LETTERED, "uniq_id": 7, "path": "a.wav", "task_name": "Audio_Grounding", "dataset_name": "own"}
FILES: dict[str, tuple[dict[str, Any], str, str]] = {
    "mmau": ({"mmau-test-mini.json": [MMAU]}, "m1", "Man"),
    "mmar": ({"MMAR-meta.jsonl": [MMAR]}, "r1", "Man"),
    "air_bench_foundation": ({"Foundation/Foundation_meta.json": [AIR]}, "7", "rain"),
    "air_bench_chat": (
        {"Chat_meta.json": [{"uniq_id": 3, "question": "q", "answer_gt": "a", "meta_info": "m", "path": "x.wav"}]},
        "3",
        "a",
    ),
    "mmau_pro": ({"test.jsonl": [{"id": "p", "question": "q", "answer": "a", "category": "sound", "choices": ["a", "b"]}]}, "p", "a"),
    "mmsu": ({"question/mmsu.jsonl": [{**LETTERED, "id": "s"}]}, "s", "rain"),
    "librispeech": (
        {"test-clean/1089/134691/1089-134691.trans.txt": "1089-134691-0000 HE COULD\n", "english.json": {}},
        "1089-134691-0000",
        "HE COULD",
    ),
    "meld": ({"test_sent_emo.csv": 'Utterance,Emotion,Dialogue_ID,Utterance_ID\n"Oh, no",fear,1,2\n'}, "dia1_utt2", "fear"),
    "iemocap": (
        {
            "Session1/test_meta_data.json": {
                "labels": {"neu": 0},
                "meta_data": [{"path": "S1/wav/x_F000.wav", "label": "hap", "speaker": "Ses01F"}],
            }
        },
        "x_F000",
        "happy",
    ),
    "vocalsound": (
        {"datafiles/te.json": {"data": [{"wav": "/a/f0003_0_throatclearing.wav", "labels": "/m/x"}]}},
        "f0003_0_throatclearing",
        "Throat clearing",
    ),
    "gtzan": ({"gtzan_fault_filtered_split.json": {"splits": {"test": ["hiphop.00000"]}}}, "hiphop.00000", "hiphop"),
    "nsynth_family": ({"nsynth-test/examples.json": {NOTE["note_str"]: NOTE}}, NOTE["note_str"], "bass"),
    "nsynth_source": ({"nsynth-test/examples.json": {NOTE["note_str"]: NOTE}}, NOTE["note_str"], "synthetic"),
    "nsynth_notes": (
        {"nsynth-test/examples.json": {NOTE["note_str"]: NOTE}},
        NOTE["note_str"],
        "<|pitch|><|midi_pitch_49|><|velocity|><|midi_velocity_25|><|instrument|>bass<|sonic|>dark",
    ),
    "alpaca_audio": ({"alpaca_audio_test.jsonl": [{"instruction": "Name a colour.", "answer": "Red."}]}, "0", "Red."),
    "voicebench_mcq": ({"openbookqa.jsonl": [{"prompt": "Which? A x B y C z D w", "reference": "B"}]}, "0", "B"),
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = path.suffix == ".jsonl"
        text = content if isinstance(content, str) else "\n".join(map(json.dumps, content)) if rows else json.dumps(content)
        path.write_text(text)
    return folder


def load_accepted(name: str, folder: Path, split: str | None = None) -> LoadedSuite:
    return load(find_suite(name), str(folder), split, accept_licence=True)


@pytest.mark.parametrize("name", SUITES)
def test_the_published_layout_loads(name: str, tmp_path: Path) -> None:
    files, identity, answer = FILES[name]
    loaded = load_accepted(name, write(tmp_path, files))
    assert [(item.id, item.answer) for item in loaded.items] == [(identity, answer)]
    assert isinstance(loaded.suite.prompt(loaded.items[0]), str)
    assert all(field in loaded.items[0].groups for field in loaded.suite.groups)
    assert loaded.suite.name == name


@pytest.mark.parametrize("name", SUITES)
def test_missing_files_are_named_with_their_origin(name: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="missing") as caught:
        load_accepted(name, tmp_path)
    layout = find_suite(name).layout
    assert layout.files[layout.splits[0]][0].split("|")[0] in str(caught.value)
    assert layout.origin in str(caught.value)


@pytest.mark.parametrize("name", SUITES)
def test_damaged_files_are_named_with_their_origin(name: str, tmp_path: Path) -> None:
    files, _, _ = FILES[name]
    write(tmp_path, files)
    damaged = tmp_path / next(iter(files))
    damaged.write_bytes(damaged.read_bytes()[: max(1, damaged.stat().st_size // 2)].rpartition(b" ")[0] or b"{")
    with pytest.raises(EvaluationError) as caught:
        load_accepted(name, tmp_path)
    assert damaged.name in str(caught.value)
    assert find_suite(name).layout.origin in str(caught.value)


@pytest.mark.parametrize("name", ["mmar", "air_bench_foundation", "air_bench_chat", "mmau_pro", "iemocap", "alpaca_audio"])
def test_a_licence_that_forbids_commercial_use_must_be_accepted(name: str, tmp_path: Path) -> None:
    suite = find_suite(name)
    with pytest.raises(EvaluationError, match="forbids commercial use") as caught:
        load(suite, str(write(tmp_path, FILES[name][0])))
    assert suite.licence.name in str(caught.value)
    assert "--accept-licence" in caught.value.next_step


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: find_suite("mmlu"), "no such benchmark"),
        (lambda folder: load_accepted("mmau", folder / "absent"), "gamma-lab-umd/MMAU-test-mini@COMMIT"),
        (lambda folder: load_accepted("mmau", Path(f"gamma-lab-umd/MMAU-test-mini@{'0' * 40}")), "the data set cannot be fetched"),
        (lambda folder: load_accepted("mmau", folder, "dev"), "allowed: test-mini, test"),
        (lambda folder: load_accepted("mmau", write(folder, {"mmau-test-mini.json": [MMAU, MMAU]})), "occurs twice"),
        (lambda folder: load_accepted("mmau", write(folder, {"mmau-test-mini.json": [{**MMAU}, {"id": "z"}]})), "row 2 lacks audio_id"),
        (lambda folder: load_accepted("mmau", write(folder, {"mmau-test-mini.json": []})), "no rows"),
    ],
)
def test_other_mistakes(call: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        call(tmp_path)
    assert message in str(caught.value)


def test_another_file_than_the_published_one_is_marked(tmp_path: Path) -> None:
    assert load_accepted("mmau", write(tmp_path, FILES["mmau"][0])).version.published is False


def test_a_parquet_file_is_read_without_its_clips(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "question": "q",
            "answer": "a",
            "category": "instruction following",
            "task_identifier": "Title",
            "kwargs": {"N": 1},
            "audio": b"\xff",
        }
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    (item,) = load_accepted("mmau_pro", tmp_path).items
    assert item.details == {"task_identifier": "Title", "kwargs": {"N": 1}}


def test_prompts_are_those_published() -> None:
    item = BenchmarkItem("1", "What is it?", ("real", "fake", None, None), "fake")
    assert find_suite("air_bench_foundation").prompt(item) == (
        "Choose the most suitable answer from options A, B, C, and D to respond the question in next line, you may only choose A or B or C "
        "or D.\nWhat is it?\nA. real\nB. fake\nC. None\nD. None"
    )
    item = BenchmarkItem("1", "What is it?", ("left", "right"), "left")
    assert find_suite("mmar").prompt(item) == "What is it?\nSelect one option from the provided choices:\nleft\nright"


def test_clips_of_audio_grounding_are_flac(tmp_path: Path) -> None:
    (item,) = load_accepted("air_bench_foundation", write(tmp_path, FILES["air_bench_foundation"][0])).items
    assert item.audio == "Foundation/Audio_Grounding_own/a.flac"
