"""Sets whose prompt prints lettered options: AIR-Bench Foundation, MMSU and the spoken sets of VoiceBench."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from coat_core.evaluation.benchmarks.data import Layout, read_rows, require_fields
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.rules.letters import LETTERS, air_bench_verdict, mmsu_verdict
from coat_core.evaluation.benchmarks.rules.phrases import voicebench_verdict
from coat_core.evaluation.benchmarks.suite import Licence, Suite
from coat_core.evaluation.benchmarks.totals import by_task_total, random_letter_total

_CHOICES = tuple(f"choice_{letter.lower()}" for letter in LETTERS)
_AIR = Layout(
    files={"foundation": ("Foundation_meta.json|Foundation/Foundation_meta.json",)},
    origin="hub data set qyang1021/AIR-Bench-Dataset (code: github.com/OFA-Sys/AIR-Bench at 9832476)",
    hub="qyang1021/AIR-Bench-Dataset",
    audio="Foundation/<task_name>_<dataset_name>/<path>; of Audio_Grounding as flac",
)
_MMSU = Layout(
    files={"test": ("mmsu.jsonl|question/mmsu.jsonl|*.parquet|data/*.parquet",)},
    origin="hub data set ddwang2000/MMSU (code: github.com/dingdongwang/MMSU at 217d1d3)",
    hub="ddwang2000/MMSU",
    audio="<audio_path>, or in the column audio of the Parquet files",
    embedded="audio",
)
_VOICE = Layout(
    files={name: (f"{name}/*.parquet|{name}.jsonl",) for name in ("openbookqa", "mmsu")},
    origin="hub data set hlt-lab/voicebench (code: github.com/MatthewCYM/VoiceBench at 5338154)",
    hub="hlt-lab/voicebench",
    audio="in the column audio of the Parquet files; of JSON Lines <audio_path>",
    embedded="audio",
)
_ASK = (
    "Choose the most suitable answer from options A, B, C, and D to respond the question in next line, "
    "you may only choose A or B or C or D."
)


def _lettered(item: BenchmarkItem) -> str:
    # An option that the file leaves empty is printed "None", as the published script does.
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices or (), strict=False))


def air_bench_prompt(item: BenchmarkItem) -> str:
    """Return the prompt of `Inference_Foundation.py`; options that an item lacks are printed "None"."""
    return f"{_ASK}\n{item.question}\n{_lettered(item)}"


def mmsu_prompt(item: BenchmarkItem) -> str:
    """Return a prompt in the order of MMSU's: instruction, blank line, question, lettered options."""
    ask = "Choose the most suitable answer to the question and respond with only A, B, C, or D."
    return f"{ask}\n\nQuestion: {item.question}\n{_lettered(item)}"


def _read_air(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = read_rows(files[0], _AIR)
    require_fields(rows, ("uniq_id", "path", "question", "choice_a", "choice_b", "answer_gt", "task_name", "dataset_name"), files[0], _AIR)
    items = []
    for row in rows:
        place = f"{row['task_name']}_{row['dataset_name']}"
        path = f"{row['path'][:-3]}flac" if row["task_name"] == "Audio_Grounding" else row["path"]
        choices = tuple(row.get(name) for name in _CHOICES)
        items.append(
            BenchmarkItem(str(row["uniq_id"]), row["question"], choices, row["answer_gt"], f"Foundation/{place}/{path}", {"task": place})
        )
    return items


def _read_mmsu(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    items = []
    for path in files:
        rows = read_rows(path, _MMSU)
        require_fields(rows, ("id", "question", *_CHOICES, "answer_gt"), path, _MMSU)
        for row in rows:
            choices = tuple(row[name] for name in _CHOICES)
            groups = {"task": str(row.get("task_name", "all")), "category": str(row.get("category", "all"))}
            items.append(BenchmarkItem(str(row["id"]), row["question"], choices, row["answer_gt"], str(row.get("audio_path", "")), groups))
    return items


def _read_voice(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    items: list[BenchmarkItem] = []
    for path in files:
        rows = read_rows(path, _VOICE)
        require_fields(rows, ("prompt", "reference"), path, _VOICE)
        for row in rows:
            letter = re.sub(r"[^A-D]", "", str(row["reference"]).strip().upper()[:1])
            number = str(row.get("id", row.get("question_id", len(items))))
            groups = {"category": str(row.get("category", "all"))}
            audio = str(row.get("audio_path") or "")
            items.append(BenchmarkItem(number, row["prompt"], tuple(LETTERS), letter, audio, groups))
    return items


AIR_BENCH = Suite(
    name="air_bench_foundation",
    title="AIR-Bench Foundation",
    layout=_AIR,
    licence=Licence("CC BY-NC 4.0 (card of the data set; its README says Apache-2.0)", "forbidden"),
    read=_read_air,
    prompt=air_bench_prompt,
    prompt_source="OFA-Sys/AIR-Bench 9832476 Inference_Foundation.py",
    rule_of=lambda folder: air_bench_verdict,
    rule_name="OFA-Sys/AIR-Bench 9832476 score_foundation.py",
    metric="accuracy per task",
    denominator="responses with a letter; the others are counted in fail_num only",
    total=by_task_total("task"),
    groups=("task",),
)
MMSU = Suite(
    name="mmsu",
    title="MMSU",
    layout=_MMSU,
    licence=Licence("no licence seen", "unclear"),
    read=_read_mmsu,
    prompt=mmsu_prompt,
    prompt_source="ours, after the description of MMSU's",
    rule_of=lambda folder: mmsu_verdict,
    rule_name="dingdongwang/MMSU 217d1d3 mmsu_evaluation.py",
    metric="accuracy",
    denominator="responses with a letter, and empty ones; others without a letter are left out",
    groups=("task", "category"),
)
VOICEBENCH = Suite(
    name="voicebench_mcq",
    title="VoiceBench, spoken multiple choice",
    layout=_VOICE,
    licence=Licence("Apache-2.0 (code); none seen for the clips", "unclear"),
    read=_read_voice,
    prompt=lambda item: "Answer the question in the clip.",
    prompt_source="ours: the question is in the clip, and the published prompt is the clip alone",
    rule_of=lambda folder: voicebench_verdict,
    rule_name="MatthewCYM/VoiceBench 5338154 src/evaluator/mcq.py, with fewer phrases",
    metric="accuracy",
    denominator="all responses; one without a letter gets a random letter there, and no verdict here",
    total=random_letter_total,
    groups=("category",),
)
