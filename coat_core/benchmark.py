"""`coat benchmark MODEL`: a release, a registered version or an export answers a public benchmark; every record is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coat_core.errors import EvaluationError
from coat_core.storage import read_json, sha256_json, write_json

if TYPE_CHECKING:
    from coat_core.evaluation.benchmarks.judges import Judge
    from coat_core.evaluation.benchmarks.prepared import SuiteChoice
    from coat_core.evaluation.benchmarks.scoring import BenchmarkResult

QUESTIONS, ITEMS, RESPONSES, RESULT = "questions", "items", "responses", "result"
"""Folders in the folder of a benchmark."""
_STATE, _IDENTITY = "answers.jsonl", "identity.json"


@dataclass(frozen=True)
class Asking:
    """How a model is loaded and asked.

    Attributes:
        max_new_tokens: longest response, in tokens.
        batch_size: most questions in a batch.
        device: `cpu` or `cuda`.
        dtype: dtype of the weights; None: as in training, or as exported.
        base: folder or cached hub id of the base; None: as stored.
    """

    max_new_tokens: int = 64
    batch_size: int = 8
    device: str = "cpu"
    dtype: str | None = None
    base: str | None = None


def benchmark_model(
    model: str, suite: str, choice: SuiteChoice, asking: Asking, target: Path, judge: Judge | None = None
) -> BenchmarkResult:
    """Let a model answer a benchmark, and score its responses; a stopped call goes on after its last batch.

    Args:
        model: `models:/name@alias`, `models:/name/version`, the folder of a release, or that of an export.
        suite: name of the benchmark.
        choice: what is read of it.
        asking: how the model is loaded and asked.
        target: folder of questions, items, responses with their record, and the result; it may contain an earlier, stopped call.
        judge: judges open answers; None: the official number of such a benchmark is none.

    Raises:
        CoatError: the model, its base or the benchmark's files cannot be used, or the folder contains responses of another model.
    """
    from coat_core.evaluation.benchmarks.answers import answer_questions
    from coat_core.evaluation.benchmarks.catalogue import find_suite
    from coat_core.evaluation.benchmarks.item_files import read_items
    from coat_core.evaluation.benchmarks.places import local_folder
    from coat_core.evaluation.benchmarks.prepared import prepare
    from coat_core.evaluation.benchmarks.questions import read_questions
    from coat_core.evaluation.benchmarks.results import write_result

    prepare(find_suite(suite), choice, asking.max_new_tokens, target / QUESTIONS, target / ITEMS)
    asked = read_questions(target / QUESTIONS)
    with _loaded(model, asking) as (answerer, facts):
        identity = sha256_json({"questions": read_json(target / QUESTIONS / "questions.json"), "model": {**answerer.record(), **facts}})
        _check_identity(target, identity)
        answer_questions(
            asked, target / QUESTIONS, local_folder(choice.source), answerer, target / RESPONSES, target / _STATE, {"model": model, **facts}
        )
    return write_result(read_items(target / ITEMS), target / RESPONSES, target / RESULT, judge=judge)


def _check_identity(target: Path, identity: str) -> None:
    """Refuse a folder whose responses so far are those of another model, other questions or other settings."""
    path = target / _IDENTITY
    if path.is_file() and (target / _STATE).is_file() and read_json(path)["identity"] != identity:
        raise EvaluationError(
            "the folder contains responses of another model, or to other questions", field="--out", value=str(target),
            next_step="name a new folder, or remove this one",
        )  # fmt: skip
    write_json(path, {"identity": identity})


@contextmanager
def _loaded(model: str, asking: Asking) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the loaded model as an `Answerer`, and the facts that identify it."""
    from coat_core.evaluation.benchmarks.answers import Answerer
    from coat_core.loading import loaded_model
    from coat_core.settings import ARMS

    with loaded_model(model, device=asking.device, dtype=asking.dtype, base=asking.base) as loaded:
        yield Answerer(loaded.backbone, ARMS[loaded.arm].described, asking.batch_size), dict(loaded.facts)
