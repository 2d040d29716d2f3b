"""The saved responses of a run, filtered: which questions, and what each arm answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from coat_core.corpus.examples import FAMILIES, Example, read_manifest
from coat_core.errors import EvaluationError
from coat_core.evaluation.metrics import SCORES
from coat_core.report.items import Answer, Verdict, draw_items, first_trials, read_answers
from coat_core.report.tables import name_of
from coat_core.settings import ARMS, COMPARISONS, parse_trial

PAGE = 20
"""Items on a page."""
DIFFERENT = "different"
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class ItemFilter:
    """What is shown. An empty field filters nothing.

    Attributes:
        backbone: key of the LALM; empty: the first one.
        seed: the trial of each arm, where it has this seed; else its first.
        family: a task family.
        arm: only the answers of this arm are shown and judged.
        verdict: at least one shown answer has it.
        difference: `different`: two arms have different verdicts; `a>b`: arm a scores higher than arm b, an unscored answer counting 0.
        text: a part of the question, of the right answer or of the id.
    """

    backbone: str = ""
    seed: str = ""
    family: str = ""
    arm: str = ""
    verdict: str = ""
    difference: str = ""
    text: str = ""


class SavedItems:
    """The items of a workspace.

    Args:
        workspace: contains `data/` and, after a run, `responses/` and `evaluation/`.

    Raises:
        EvaluationError: responses or scores are invalid.
        CorpusError: the manifest is invalid.
    """

    def __init__(self, workspace: Path) -> None:
        self.corpus = workspace / "data/corpus"
        manifest = workspace / "data/accepted.jsonl"
        self.examples: Mapping[str, Example] = {e.id: e for e in read_manifest(manifest)} if manifest.is_file() else {}
        self._answers: dict[str, dict[str, dict[str, Answer]]] = {}
        for path in sorted((workspace / "responses").glob("*.jsonl")):
            backbone, _, trial = path.stem.partition("-")
            if _is_trial(trial) and (workspace / "evaluation" / path.stem / SCORES).is_file():
                self._answers.setdefault(backbone, {})[trial] = read_answers(workspace, backbone, trial)

    def samples(self, longest_s: float) -> list[dict[str, Any]]:
        """Return examples for the page's list: evaluated ones of each family, else ones of the split test, by a hash of their ids."""
        evaluated = {key for trials in self._answers.values() for found in trials.values() for key in found}
        short = [e for e in self.examples.values() if e.duration_s <= longest_s and e.labelled]
        splits = dict.fromkeys(self.examples[key].split for key in sorted(evaluated) if key in self.examples) or {"test": None}
        return [_row(e) for split in splits for e in draw_items(short, evaluated or self.examples, split)]

    def choices(self) -> dict[str, Any]:
        """Return the values that the filters can have."""
        backbones = [
            {"key": key, "name": name_of(key), "arms": _arms(trials), "seeds": _seeds(trials), "differences": _differences(trials)}
            for key, trials in self._answers.items()
        ]
        present = {example.family for example in self.examples.values()}
        return {"backbones": backbones, "families": [name for name in FAMILIES if name in present], "verdicts": list(VERDICTS)}

    def find(self, wanted: ItemFilter, page: int = 1) -> dict[str, Any]:
        """Return one page of the items that pass the filter, in the order of the manifest, with the answers of each arm.

        Raises:
            EvaluationError: a field has a value that it cannot have.
        """
        if not self._answers:
            return {"total": 0, "page": 1, "pages": 1, "items": []}
        trials = self._answers[_checked("backbone", wanted.backbone or next(iter(self._answers)), self._answers)]
        shown = {parse_trial(trial)[0].name: trials[trial] for trial in _of_seed(trials, wanted.seed)}
        _checked("family", wanted.family, ("", *FAMILIES))
        _checked("arm", wanted.arm, ("", *shown))
        _checked("verdict", wanted.verdict, ("", *VERDICTS))
        _checked("difference", wanted.difference, ("", DIFFERENT, *(f"{a}>{b}" for a in shown for b in shown if a != b)))
        ids = dict.fromkeys(key for answers in shown.values() for key in answers)
        answered = [(e, {arm: found[e.id] for arm, found in shown.items() if e.id in found}) for e in self.examples.values() if e.id in ids]
        kept = [(e, answers) for e, answers in answered if _passes(e, answers, wanted)]
        pages = max(1, -(-len(kept) // PAGE))
        page = min(max(page, 1), pages)
        part = kept[(page - 1) * PAGE : page * PAGE]
        items = [
            {**_row(e), "answers": [{"arm": arm, **asdict(a)} for arm, a in answers.items() if wanted.arm in ("", arm)]}
            for e, answers in part
        ]
        return {"total": len(kept), "page": page, "pages": pages, "items": items}


def _passes(example: Example, answers: Mapping[str, Answer], wanted: ItemFilter) -> bool:
    if wanted.family and example.family != wanted.family:
        return False
    if wanted.text and wanted.text.casefold() not in f"{example.id}\n{example.question}\n{example.answer}".casefold():
        return False
    shown = [answer for arm, answer in answers.items() if wanted.arm in ("", arm)]
    if not shown or (wanted.verdict and all(answer.verdict != wanted.verdict for answer in shown)):
        return False
    if wanted.difference == DIFFERENT:
        return len({answer.verdict for answer in answers.values()}) > 1
    higher, _, lower = wanted.difference.partition(">")
    if not lower:
        return True
    return higher in answers and lower in answers and (answers[higher].score or 0.0) > (answers[lower].score or 0.0)


def _checked(field: str, value: str, allowed: Mapping[str, Any] | Sequence[str]) -> str:
    if value not in allowed:
        raise EvaluationError("the filter has no such value", field=field, value=value[:80], allowed=[a for a in allowed if a])
    return value


def _row(example: Example) -> dict[str, Any]:
    fields = ("id", "family", "task", "question", "choices", "answer", "duration_s")
    return {field: getattr(example, field) for field in fields}


def _of_seed(trials: Mapping[str, Any], seed: str) -> list[str]:
    """Return one trial of each arm, in the order of the arms: that of the seed, else the first."""
    chosen = {parse_trial(trial)[0].name: trial for trial in trials if trial.endswith(f"-{seed}")} if seed else {}
    return [chosen.get(parse_trial(trial)[0].name, trial) for trial in first_trials(list(trials))]


def _arms(trials: Mapping[str, Any]) -> list[str]:
    return [arm for arm in ARMS if any(parse_trial(trial)[0].name == arm for trial in trials)]


def _seeds(trials: Mapping[str, Any]) -> list[int]:
    """Return the seeds of trained arms; the base has none of its own."""
    return sorted({seed for arm, seed in map(parse_trial, trials) if arm.lora})


def _differences(trials: Mapping[str, Any]) -> list[str]:
    arms = _arms(trials)
    pairs = [(a, b) for a, b in COMPARISONS if a in arms and b in arms]
    return [f"{a}>{b}" for pair in pairs for a, b in (pair, pair[::-1])]


def _is_trial(name: str) -> bool:
    try:
        parse_trial(name)
    except ValueError:
        return False
    return True
