"""Layouts of files of responses: ours, and those of harnesses at the commits named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.items import MISSING, Given
from coat_core.evaluation.benchmarks.logs.rows import LogRow, Row, clip_name, number, read_rows, text_of
from coat_core.evaluation.benchmarks.rules.judgements import lmms_eval_score
from coat_core.storage import read_json

OURS = "coat"
"""Name of our own layout."""
_LETTERS = "ABCDEFGHIJ"
_FAILED = "Failed to obtain answer"
"""VLMEvalKit's text where the model gave no response (INFER_FAIL_MSG)."""


@dataclass(frozen=True)
class LogFormat:
    """The layout of one kind of file.

    Attributes:
        name: as given to `--format`.
        source: harness and commit that the layout is from.
        needed: fields by which the layout is recognised, in any row; one of a group joined by "|" is enough.
        each: fields that every row has.
        read: row and its place → what was recorded.
        known: fields that are read, or that say nothing about an item.
        summary: file → numbers that the harness wrote beside it, by name.
        is_metric: whether a field is a metric; each task of lmms-eval names its own.
    """

    name: str
    source: str
    needed: tuple[str, ...]
    each: tuple[str, ...]
    read: Callable[[Row, int], LogRow]
    known: frozenset[str]
    summary: Callable[[Path], Mapping[str, float]] = lambda path: {}
    is_metric: Callable[[str], bool] = lambda name: False

    def fits(self, row: Row) -> bool:
        """Return whether a row has the fields of this layout."""
        return all(any(name in row for name in group.split("|")) for group in self.needed)


@dataclass(frozen=True)
class Log:
    """A file of responses: its layout, its rows, and the fields of its rows that are not used, with the number of rows."""

    path: Path
    format: LogFormat
    rows: tuple[LogRow, ...]
    unused: Mapping[str, int]


def read_log(path: Path, name: str | None = None) -> Log:
    """Read a file of responses.

    Args:
        path: the file.
        name: its layout; None: the first that fits one of its rows.

    Raises:
        EvaluationError: the file is damaged, has another layout, or a row lacks a field.
    """
    rows = read_rows(path)
    chosen = _find(rows, name)
    for place, row in enumerate(rows, 1):
        absent = [field for field in chosen.each if field not in row]
        if absent:
            raise EvaluationError(
                f"row {place} has no {', '.join(absent)}, as the layout {chosen.name} has ({chosen.source})", field="responses",
                value=sorted(row), next_step=f"name the layout: --format {' | '.join(FORMATS)}",
            )  # fmt: skip
    unused = Counter(field for row in rows for field in row if field not in chosen.known)
    read = [chosen.read(row, place) for place, row in enumerate(rows, 1)]
    return Log(path, chosen, tuple(read), {field: unused[field] for field in sorted(unused) if not chosen.is_metric(field)})


def _find(rows: Sequence[Row], name: str | None) -> LogFormat:
    if name is not None:
        if name not in FORMATS:
            raise EvaluationError("no such layout of responses", field="format", value=name, allowed=list(FORMATS))
        return FORMATS[name]
    for found in FORMATS.values():
        if any(map(found.fits, rows)):
            return found
    raise EvaluationError(
        "the layout of the responses is not known", field="responses", value=sorted(rows[0]),
        allowed="; ".join(f"{found.name}: {', '.join(found.needed)}" for found in FORMATS.values()),
        next_step='write a line for each item: {"id": …, "response": …}',
    )  # fmt: skip


def _read_ours(row: Row, place: int) -> LogRow:
    response: Given = row.get("response", MISSING)
    if not isinstance(response, str | None) and response is not MISSING:
        raise EvaluationError(f"row {place} has no text", field="response", value=response, allowed="text or null", next_step="fix the row")
    return LogRow(place, text_of(row["id"]), "", text_of(row.get("prompt")), "", response)


def _read_lmms_eval(row: Row, place: int) -> LogRow:
    metrics = {name: value for name, value in row.items() if _is_metric(name)}
    doc = row.get("doc") if isinstance(row.get("doc"), dict) else {}
    scored, raw = _first(row.get("filtered_resps")), _first(row.get("resps"))
    response = raw if raw is not None else scored
    answer = next(
        (text_of(value["gt"]) for value in metrics.values() if isinstance(value, dict) and "gt" in value), text_of(row.get("target"))
    )
    prompt = _first(row.get("input")) or text_of((doc or {}).get("question"))
    return LogRow(
        place, _lmms_eval_id(metrics, doc or {}), clip_name((doc or {}).get("audio_path")), prompt, answer, response,
        _lmms_eval_score(metrics), filtered=raw is not None and scored is not None and raw != scored,
    )  # fmt: skip


def _lmms_eval_id(metrics: Mapping[str, Any], doc: Mapping[str, Any]) -> str:
    """Return the id of the item, which tasks record in different fields; empty if this one does not. `doc_id` is the number of a row."""
    for value in (*metrics.values(), doc):
        if isinstance(value, dict):
            for name in ("id", "uniq_id"):
                if value.get(name) not in (None, ""):
                    return text_of(value[name])
    submission = metrics.get("submission")
    # AIR-Bench records {id: letter}.
    return text_of(next(iter(submission))) if isinstance(submission, dict) and len(submission) == 1 else ""


def _lmms_eval_score(metrics: Mapping[str, Any]) -> float | None:
    for name, value in metrics.items():
        if name == "gpt_eval" and isinstance(value, dict) and isinstance(value.get("eval_answer"), str):
            return lmms_eval_score(value["eval_answer"]) / 5
        found = next((value[key] for key in ("score", "overall") if key in value), None) if isinstance(value, dict) else value
        if name != "submission" and (score := number(found)) is not None:
            return score
    return None


def _read_kimi(row: Row, place: int) -> LogRow:
    text = text_of(row["prediction"])
    verdict = text_of(row.get("judge_result")).strip().split("\n")[-1].strip().lower()
    score = 1.0 if "yes" in verdict else 0.0 if "no" in verdict else None
    question = text_of(row.get("question")) or text_of(row.get("audio_content"))
    return LogRow(
        place, "", clip_name(row.get("audio_path")), question, text_of(row.get("answer")), MISSING if text == "null" else text, score
    )


def _read_vlmevalkit(row: Row, place: int) -> LogRow:
    options = {letter: text_of(row.get(letter)) for letter in _LETTERS if text_of(row.get(letter))}
    answer, text = text_of(row.get("answer")), text_of(row["prediction"])
    question = "\n".join([text_of(row.get("question")), *options.values()])
    score = next((found for name in ("hit", "score") if (found := number(row.get(name))) is not None), None)
    clip = clip_name(row.get("audio_path") or row.get("audio"))
    response: Given = MISSING if text.startswith(_FAILED) else text
    return LogRow(place, text_of(row.get("id", row["index"])), clip, question, options.get(answer, answer), response, score)


def _is_metric(name: str) -> bool:
    return name in ("submission", "gpt_eval") or any(part in name for part in ("acc", "match", "score", "wer"))


def _first(value: object) -> str | None:
    """Return the first text of nested lists; None if there is none."""
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None


def _lmms_eval_summary(path: Path) -> dict[str, float]:
    """Return the task's numbers in `<date>_results.json` beside `<date>_samples_<task>.jsonl`."""
    date, sign, task = path.stem.partition("_samples_")
    beside = path.with_name(f"{date}_results.json")
    if not sign or not beside.is_file():
        return {}
    results = read_json(beside).get("results", {}).get(task, {})
    return {name: found for name, value in results.items() if (found := number(value)) is not None} if isinstance(results, dict) else {}


def _kimi_summary(path: Path) -> dict[str, float]:
    """Return the numbers in `<file>_<method>_performance.json` beside `<file>.jsonl`, or beside its judged copy."""
    found: dict[str, float] = {}
    for beside in sorted(path.parent.glob("*_performance.json")):
        model = beside.name.removesuffix("_performance.json").rpartition("_")[0]
        performance = read_json(beside).get("performance", {}) if model and path.stem.startswith(model) else {}
        for subset, numbers in performance.items():
            found |= {f"{subset} {name}": value for name, cell in numbers.items() if (value := number(cell)) is not None}
    return found


_LMMS_EVAL = frozenset((
    "doc_id", "doc", "target", "arguments", "input", "input_media", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash",
    "token_counts", "task", "split",
))  # fmt: skip
_KIMI = frozenset((
    "index", "audio_path", "question", "audio_content", "answer", "choices", "subset", "prediction", "real_prompt", "judge_result",
    "task_type", "dataset", "difficulty", "category", "sub-category", "utterance", "wer_details",
))  # fmt: skip
_VLMEVALKIT = frozenset((
    "index", "id", "question", "answer", "prediction", "category", "l2-category", "split", "hit", "log", "score", "audio", "audio_path",
    *_LETTERS,
))  # fmt: skip
_OURS = frozenset(("id", "response", "prompt", "finished", "skipped", "cut_s", "description"))
FORMATS: Mapping[str, LogFormat] = {
    found.name: found
    for found in (
        LogFormat(OURS, "this project", ("id", "response|skipped"), ("id",), _read_ours, _OURS),
        LogFormat(
            "lmms-eval", "EvolvingLMMs-Lab/lmms-eval 0716c69, <date>_samples_<task>.jsonl", ("doc_id", "resps|filtered_resps"),
            ("doc_id",),
            _read_lmms_eval, _LMMS_EVAL, _lmms_eval_summary, _is_metric,
        ),
        LogFormat(
            "kimi", "MoonshotAI/Kimi-Audio-Evalkit f9c4777, <model>_<dataset>.jsonl or its judged copy",
            ("index", "prediction", "audio_path"), ("index", "prediction"), _read_kimi, _KIMI, _kimi_summary,
        ),
        LogFormat(
            "vlmevalkit", "open-compass/VLMEvalKit 00fff54, <model>_<dataset>.json or .tsv", ("index", "prediction"),
            ("index", "prediction"), _read_vlmevalkit, _VLMEVALKIT,
        ),
    )
}  # fmt: skip
"""Layouts by name; the first that fits is taken."""


def names(rows: Sequence[str], shown: int = 5) -> str:
    """Return the first of a list of names, and that there are more."""
    return ", ".join(rows[:shown]) + (" …" if len(rows) > shown else "")
