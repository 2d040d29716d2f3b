"""Sets with open answers: instructions of MMAU-Pro, and the chat sets that a judge scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.evaluation.benchmarks.data import Layout, damaged, read_rows, require_fields
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.rules.instructions import instruction_verdict
from coat_core.evaluation.benchmarks.strict import strict_choice, token_overlap
from coat_core.evaluation.benchmarks.suite import Licence, Suite
from coat_core.evaluation.benchmarks.totals import both_places_total
from coat_core.evaluation.benchmarks.verdicts import Verdict, left_out
from coat_core.evaluation.scorers import Score, Unscored

_MMAU_PRO = Layout(
    files={"test": ("test.parquet|test.jsonl|*.parquet",)},
    origin="hub data set gamma-lab-umd/MMAU-Pro (code: github.com/sonalkum/MMAUPro at 960e93a)",
    hub="gamma-lab-umd/MMAU-Pro",
    audio="<audio_path>, from data.zip",
)
_ALPACA = Layout(
    files={"test": ("*.parquet|data/*.parquet|alpaca_audio_test.jsonl",)},
    origin="hub data set AudioLLMs/alpaca_audio_test",
    hub="AudioLLMs/alpaca_audio_test",
    audio="in the column context of the Parquet files; of JSON Lines <audio_path>",
    embedded="context",
)
_AIR_CHAT = Layout(
    files={"chat": ("Chat_meta.json|Chat/Chat_meta.json",)},
    origin="hub data set qyang1021/AIR-Bench-Dataset (code: github.com/OFA-Sys/AIR-Bench at 9832476)",
    hub="qyang1021/AIR-Bench-Dataset",
    audio="Chat/<task_name>_<dataset_name>/<path>",
)
_OVERLAP = "F1 of words against the reference: a stand-in, never comparable with a judge's score"


def _limits(value: Any, path: Path) -> dict[str, Any]:
    """Return the limits of an instruction; a Parquet file has null for the fields that belong to other kinds."""
    try:
        limits = json.loads(value) if isinstance(value, str) and value.strip() else value or {}
        return {name: limit for name, limit in limits.items() if limit is not None}
    except (ValueError, AttributeError) as error:
        raise damaged(path, _MMAU_PRO, f"kwargs is no object: {value!r:.60}") from error


def _read_mmau_pro(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = read_rows(files[0], _MMAU_PRO)
    require_fields(rows, ("question", "answer", "category"), files[0], _MMAU_PRO)
    items = []
    for number, row in enumerate(rows):
        choices = row.get("choices")
        # The published script drops rows with one choice or none from the closed part.
        options = tuple(map(str, choices)) if isinstance(choices, list) and len(choices) > 1 else None
        details = {"task_identifier": row.get("task_identifier") or "", "kwargs": _limits(row.get("kwargs"), files[0])}
        clips = row.get("audio_path") or [""]
        first, *others = [clips] if isinstance(clips, str) else map(str, clips)
        items.append(
            BenchmarkItem(
                str(row.get("id", number)), row["question"], options, row["answer"], first, {"category": str(row["category"])}, details,
                tuple(others),
            )
        )  # fmt: skip
    return items


def mmau_pro_verdict(item: BenchmarkItem, given: Given) -> Verdict:
    """Return the verdict for items with an instruction; closed and open items need models that are not part of this project."""
    if item.details.get("task_identifier"):
        return instruction_verdict(item, given)
    if item.choices is not None:
        return left_out("needs_model", "closed items take the choice nearest by NV-Embed-v2")
    return left_out("needs_model", "open items are scored by Qwen2.5-7B-Instruct")


def _strict_mmau_pro(item: BenchmarkItem, given: Given) -> Score | Unscored:
    if item.choices is not None:
        return strict_choice(item, given)
    if item.details.get("task_identifier"):
        verdict = instruction_verdict(item, given)
        return Score(verdict.value, "choice") if verdict.value is not None else Unscored(verdict.note or verdict.code, "choice")
    return token_overlap(item, given)


def needs_judge(item: BenchmarkItem, given: Given) -> Verdict:
    """Return that the published number needs a judge: `coat_core.evaluation.benchmarks.judges` reads what one writes."""
    return left_out("missing", "no row") if given is MISSING else left_out("needs_model", "the score comes from a judge")


def _read_alpaca(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = [row for path in files for row in read_rows(path, _ALPACA)]
    require_fields(rows, ("instruction", "answer"), files[0], _ALPACA)
    return [
        BenchmarkItem(str(row.get("id", number)), row["instruction"], None, row["answer"], str(row.get("audio_path") or ""))
        for number, row in enumerate(rows)
    ]


def _chat_clip(row: Mapping[str, Any]) -> str:
    path = str(row.get("path", ""))
    return f"Chat/{row['task_name']}_{row['dataset_name']}/{path}" if "task_name" in row and "dataset_name" in row else path


def _read_air_chat(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = read_rows(files[0], _AIR_CHAT)
    require_fields(rows, ("question", "answer_gt", "meta_info"), files[0], _AIR_CHAT)
    return [
        BenchmarkItem(
            str(row.get("uniq_id", number)), row["question"], None, row["answer_gt"], _chat_clip(row),
            {"task": str(row.get("task_name", "all"))}, {"meta_info": row["meta_info"]},
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip


MMAU_PRO = Suite(
    name="mmau_pro",
    title="MMAU-Pro",
    layout=_MMAU_PRO,
    licence=Licence("CC BY-NC 4.0 (third-party list)", "forbidden"),
    read=_read_mmau_pro,
    prompt=lambda item: "\n".join((item.question, *item.options)),
    prompt_source="ours",
    rule_of=lambda folder: mmau_pro_verdict,
    rule_name="sonalkum/MMAUPro 960e93a evaluate_mmau_pro_comprehensive.py, instruction following only",
    metric="accuracy, weighted by counts",
    denominator="all items; without NV-Embed-v2 and the judge only instruction following has verdicts",
    strict=_strict_mmau_pro,
    strict_name="accuracy of closed items and instructions; open items by F1 of words, a stand-in",
    groups=("category",),
)
ALPACA_AUDIO = Suite(
    name="alpaca_audio",
    title="Alpaca-Audio",
    layout=_ALPACA,
    licence=Licence("CC BY-NC 4.0 (lineage of Alpaca)", "forbidden"),
    read=_read_alpaca,
    prompt=lambda item: "Follow the instruction in the clip.",
    prompt_source="ours: the instruction is in the clip, and AudioBench adds one of ten sentences at random",
    rule_of=lambda folder: needs_judge,
    rule_name="AudioLLMs/AudioBench e991641, judge",
    metric="mean of a judge's score 0 to 5, times 20",
    denominator="all responses; an unreadable judgement is 0",
    strict=token_overlap,
    strict_name=_OVERLAP,
)
AIR_BENCH_CHAT = Suite(
    name="air_bench_chat",
    title="AIR-Bench Chat",
    layout=_AIR_CHAT,
    licence=Licence("CC BY-NC 4.0 (card of the data set)", "forbidden"),
    read=_read_air_chat,
    prompt=lambda item: item.question,
    prompt_source="OFA-Sys/AIR-Bench 9832476 Inference_Chat.py",
    rule_of=lambda folder: needs_judge,
    rule_name="OFA-Sys/AIR-Bench score_chat.py b0f2796, cal_score.py 2c35f44, judge GPT-4",
    metric="mean of a judge's score 1 to 10 over both orders",
    denominator="items with a readable judgement",
    total=both_places_total,
    strict=token_overlap,
    strict_name=_OVERLAP,
    groups=("task",),
)
