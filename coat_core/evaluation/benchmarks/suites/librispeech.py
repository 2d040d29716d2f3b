"""LibriSpeech: word error rates of read English (openslr.org/12)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from coat_core.evaluation.benchmarks.data import Layout, damaged
from coat_core.evaluation.benchmarks.items import BenchmarkItem, Given
from coat_core.evaluation.benchmarks.rules.transcripts import qwen2_audio_script, qwen_audio, transcript_verdict, whisper_english
from coat_core.evaluation.benchmarks.strict import strict_words
from coat_core.evaluation.benchmarks.suite import Licence, Suite
from coat_core.evaluation.benchmarks.totals import corpus_rate_total
from coat_core.evaluation.benchmarks.verdicts import Rule, Verdict

SPELLINGS = "whisper_english_spelling_map.json"
"""Whisper's table of British spellings; the same file is called english.json there."""
_SPELLING_FILES = f"{SPELLINGS}|english.json"
_LISTED = "librispeech_test_clean_sample_7.jsonl"
LAYOUT = Layout(
    files={
        **{split: (f"{split}/*/*/*.trans.txt", _SPELLING_FILES) for split in ("test-clean", "test-other", "dev-clean", "dev-other")},
        "sample": (_LISTED, _SPELLING_FILES),
    },
    origin="openslr.org/12; spellings: github.com/openai/whisper at c0d2f62, whisper/normalizers/english.json",
    audio="<split>/<speaker>/<chapter>/<id>.flac",
    rule_files=(_SPELLING_FILES,),
)


def read_spellings(path: Path) -> dict[str, str]:
    """Read Whisper's table of spellings.

    Raises:
        EvaluationError: the file is damaged.
    """
    try:
        table = json.loads(path.read_text())
    except ValueError as error:
        raise damaged(path, LAYOUT, str(error)) from error
    if not isinstance(table, dict):
        raise damaged(path, LAYOUT, "no object of spellings")
    return {str(british): str(american) for british, american in table.items()}


def _read(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    if split == "sample":
        rows = [json.loads(line) for line in files[0].read_text().splitlines()]
        return [BenchmarkItem(row["id"], "Transcribe the speech.", None, row["text"], row["audio"]) for row in rows]
    items = []
    for path in (path for path in files if path.suffix == ".txt"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            name, blank, text = line.partition(" ")
            if not blank or not text.strip():
                raise damaged(path, LAYOUT, f"line {number} is not an id and a text")
            speaker, chapter, _ = (*name.split("-"), "", "")[:3]
            items.append(
                BenchmarkItem(name, "Transcribe the speech.", None, text, f"{split}/{speaker}/{chapter}/{name}.flac", {"speaker": speaker})
            )
    return items


@cache
def _rules(path: Path) -> tuple[Rule, Rule]:
    spellings: Mapping[str, str] = read_spellings(path)
    return transcript_verdict(qwen2_audio_script(spellings)), transcript_verdict(whisper_english(spellings))


def _qwen2_rule(folder: Path) -> Rule:
    path = next(folder / name for name in _SPELLING_FILES.split("|") if (folder / name).is_file())
    return _rules(path)[0]


def _qwen_rule(item: BenchmarkItem, given: Given) -> Verdict:
    return transcript_verdict(qwen_audio)(item, given)


LIBRISPEECH = Suite(
    name="librispeech",
    title="LibriSpeech",
    layout=LAYOUT,
    licence=Licence("CC BY 4.0", "allowed"),
    read=_read,
    prompt=lambda item: "Detect the language and recognize the speech: <|en|>",
    prompt_source="second-hand: MoonshotAI/Kimi-Audio-Evalkit 4080c49",
    rule_of=_qwen2_rule,
    rule_name="QwenLM/Qwen2-Audio 595360e eval_audio/evaluate_asr.py",
    metric="word error rate of the corpus: sum of edits over sum of reference words",
    denominator="reference words after normalisation; a reference without words adds nothing",
    total=corpus_rate_total,
    strict=strict_words,
    strict_name="mean of 1 - word error rate, at least 0; a response without words counts 0",
    harnesses={"qwen_audio": _qwen_rule},
)
