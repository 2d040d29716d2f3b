"""Every public benchmark in its published layout, with a few invented items and short tones as clips."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from coat_core.evaluation.benchmarks.catalogue import SUITES

OPTIONS = ("dog", "rain", "horn", "bell")
LETTERED = {**{f"choice_{letter}": option for letter, option in zip("abcd", OPTIONS, strict=True)}, "question": "Which sound is it?"}
ITEMS = 3
"""Items of each miniature, but for that of MMAU-Pro, which has one more, about two clips."""


def clip_bytes(number: int, suffix: str = ".wav", seconds: float | None = None) -> bytes:
    """Return a tone as an audio file; another number is another pitch and length."""
    count = int(16_000 * (seconds or 0.5 + 0.1 * (number % 5)))
    stream = io.BytesIO()
    wave = 0.3 * np.sin(2 * np.pi * (220 + 30 * number) * np.arange(count) / 16_000)
    soundfile.write(stream, wave, 16_000, format=suffix[1:].upper(), subtype="PCM_16")
    return stream.getvalue()


def write_clip(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clip_bytes(number, path.suffix))


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON, JSON Lines, CSV or Parquet by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))


def write_miniature(name: str, folder: Path) -> Path:
    """Write the miniature of one benchmark, annotation files and clips, and return its folder."""
    _WRITERS[name](folder)
    return folder


def write_miniatures(folder: Path) -> dict[str, dict[str, Any]]:
    """Write every miniature to a folder of its own; return the section `evaluation.suites` of params, with absolute paths."""
    return {name: {"data": str(write_miniature(name, folder / name)), "accept_licence": True} for name in SUITES}


def _embedded(number: int) -> dict[str, Any]:
    return {"bytes": clip_bytes(number), "path": None}


def _mmau(folder: Path) -> None:
    rows = [
        {
            "id": f"m{i}", "audio_id": f"./test-mini-audios/m{i}.wav", "question": "Which sound is it?", "choices": list(OPTIONS),
            "answer": OPTIONS[i % 4], "task": ("sound", "music", "speech")[i % 3], "difficulty": "easy", "sub-category": "made",
        }
        for i in range(ITEMS)
    ]  # fmt: skip
    write_table(folder / "mmau-test-mini.json", rows)
    for i in range(ITEMS):
        write_clip(folder / f"test-mini-audios/m{i}.wav", i)


def _mmar(folder: Path) -> None:
    rows = [
        {
            "id": f"r{i}", "audio_path": f"./audio/r{i}.wav", "question": "Who speaks?", "choices": ["Man", "Woman"], "answer": "Man",
            "modality": "speech", "category": "Perception",
        }
        for i in range(ITEMS)
    ]  # fmt: skip
    write_table(folder / "MMAR-meta.jsonl", rows)
    for i in range(ITEMS):
        write_clip(folder / f"audio/r{i}.wav", i)


def _air_bench_foundation(folder: Path) -> None:
    tasks = ("Audio_Grounding", "Sound_AQA", "Sound_AQA")
    rows = [
        {**LETTERED, "uniq_id": i, "path": f"{i}.wav", "task_name": task, "dataset_name": "own", "answer_gt": OPTIONS[i % 4]}
        for i, task in enumerate(tasks)
    ]
    write_table(folder / "Foundation/Foundation_meta.json", rows)
    for i, task in enumerate(tasks):
        write_clip(folder / f"Foundation/{task}_own/{i}.{'flac' if task == 'Audio_Grounding' else 'wav'}", i)


def _air_bench_chat(folder: Path) -> None:
    rows = [
        {
            "uniq_id": i, "question": "What happens?", "answer_gt": "a bell rings", "meta_info": "a bell", "path": f"{i}.wav",
            "task_name": "sound_QA", "dataset_name": "own",
        }
        for i in range(ITEMS)
    ]  # fmt: skip
    write_table(folder / "Chat_meta.json", rows)
    for i in range(ITEMS):
        write_clip(folder / f"sound_QA_own/{i}.wav", i)  # a folder that was itself unpacked as Chat/


def _mmau_pro(folder: Path) -> None:
    fixed: dict[str, Any] = {"category": "sound", "task_identifier": None, "kwargs": None}
    rows = [
        {"id": "p0", "question": "Which?", "answer": "dog", "choices": ["dog", "rain"], "audio_path": ["data/p0.wav"], **fixed},
        {"id": "p1", "question": "What happens?", "answer": "a bell", "choices": [], "audio_path": ["data/p1.wav"], **fixed},
        {
            "id": "p2", "question": "Answer without commas.", "answer": None, "choices": [], "audio_path": ["data/p2.wav"],
            "category": "instruction following", "task_identifier": "No Commas", "kwargs": json.dumps({}),
        },
        {"id": "p3", "question": "Equal?", "answer": "no", "choices": ["yes", "no"], "audio_path": ["data/a.wav", "data/b.wav"], **fixed},
    ]  # fmt: skip
    write_table(folder / "test.parquet", rows)
    for i in range(3):
        write_clip(folder / f"data/p{i}.wav", i)


def _mmsu(folder: Path) -> None:
    rows = [{**LETTERED, "id": f"s{i}", "answer_gt": OPTIONS[i % 4], "audio_path": f"audio/s{i}.wav"} for i in range(ITEMS)]
    write_table(folder / "question/mmsu.jsonl", rows)
    for i in range(ITEMS):
        write_clip(folder / f"audio/s{i}.wav", i)


def _librispeech(folder: Path) -> None:
    texts = ("ONE TWO THREE", "THE COLOUR OF RAIN", "IT'S FOUR O'CLOCK")
    place = folder / "test-clean/1089/134691"
    place.mkdir(parents=True)
    (place / "1089-134691.trans.txt").write_text("".join(f"1089-134691-{i:04d} {text}\n" for i, text in enumerate(texts)))
    (folder / "english.json").write_text('{"colour": "color"}')
    for i in range(len(texts)):
        write_clip(place / f"1089-134691-{i:04d}.flac", i)


def _meld(folder: Path) -> None:
    rows = [
        {"Sr No.": i + 1, "Utterance": "Oh", "Emotion": ("fear", "joy", "neutral")[i], "Dialogue_ID": i, "Utterance_ID": 0}
        for i in range(ITEMS)
    ]
    write_table(folder / "test_sent_emo.csv", rows)
    for i in range(ITEMS):
        (folder / f"dia{i}_utt0.mp4").write_bytes(b"a video")
        write_clip(folder / f"dia{i}_utt0.wav", i)


def _iemocap(folder: Path) -> None:
    paths = [f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F00{i}.wav" for i in range(ITEMS)]
    entries = [{"path": path, "label": ("neu", "hap", "ang")[i], "speaker": "Ses01F"} for i, path in enumerate(paths)]
    (folder / "Session1").mkdir(parents=True)
    (folder / "Session1/test_meta_data.json").write_text(json.dumps({"labels": {"neu": 0}, "meta_data": entries}))
    for i, path in enumerate(paths):
        write_clip(folder / path, i)


def _vocalsound(folder: Path) -> None:
    names = [f"f000{i}_0_{label}" for i, label in enumerate(("laughter", "sigh", "throatclearing"))]
    (folder / "datafiles").mkdir(parents=True)
    (folder / "datafiles/te.json").write_text(json.dumps({"data": [{"wav": f"/made/{name}.wav", "labels": "/m/0"} for name in names]}))
    for i, name in enumerate(names):
        write_clip(folder / f"audio_16k/{name}.wav", i)


def _gtzan(folder: Path) -> None:
    names = ["hiphop.00000", "pop.00000", "rock.00010"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gtzan_fault_filtered_split.json").write_text(json.dumps({"splits": {"test": names, "valid": names[:1]}}))
    for i, name in enumerate(names):
        write_clip(folder / f"genres/{name.partition('.')[0]}/{name}.wav", i)


def _nsynth(folder: Path) -> None:
    names = [f"bass_synthetic_068-0{49 + i}-025" for i in range(ITEMS)]
    notes = {
        name: {
            "note_str": name, "pitch": 49 + i, "velocity": 25, "instrument_family_str": "bass", "instrument_source_str": "synthetic",
            "qualities_str": ["dark"],
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    (folder / "nsynth-test").mkdir(parents=True)
    (folder / "nsynth-test/examples.json").write_text(json.dumps(notes))
    for i, name in enumerate(names):
        write_clip(folder / f"nsynth-test/audio/{name}.wav", i)


def _alpaca_audio(folder: Path) -> None:
    rows = [{"context": _embedded(i), "instruction": "Name a colour.", "answer": "Red."} for i in range(ITEMS)]
    write_table(folder / "data/test-00000.parquet", rows)


def _voicebench(folder: Path) -> None:
    rows = [{"prompt": f"Which letter is number {i}?", "reference": "ABCD"[i], "audio": _embedded(i)} for i in range(ITEMS)]
    write_table(folder / "openbookqa/test.parquet", rows)


_WRITERS: Mapping[str, Callable[[Path], None]] = {
    "mmau": _mmau,
    "mmar": _mmar,
    "air_bench_foundation": _air_bench_foundation,
    "air_bench_chat": _air_bench_chat,
    "mmau_pro": _mmau_pro,
    "mmsu": _mmsu,
    "librispeech": _librispeech,
    "meld": _meld,
    "iemocap": _iemocap,
    "vocalsound": _vocalsound,
    "gtzan": _gtzan,
    "nsynth_family": _nsynth,
    "nsynth_source": _nsynth,
    "nsynth_notes": _nsynth,
    "alpaca_audio": _alpaca_audio,
    "voicebench_mcq": _voicebench,
}
