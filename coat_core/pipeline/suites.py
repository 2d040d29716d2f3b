"""Public benchmarks of a workspace: checks before a run that their files are there, and a small file by which DVC sees a change of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from coat_core import storage
from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.clips import find_clips
from coat_core.evaluation.benchmarks.data import data_folder
from coat_core.evaluation.benchmarks.local_judge import check_local_model
from coat_core.evaluation.benchmarks.places import resolve
from coat_core.evaluation.benchmarks.prepared import choose
from coat_core.evaluation.benchmarks.suite import load
from coat_core.settings import SuiteSettings
from coat_core.settings.suites import LOCAL

FOLDER = Path("suites")
"""Folder of the benchmarks in a workspace: `<suite>/source.json`, `<suite>/questions` and `<suite>/items`."""
SOURCE = "source.json"


def list_suites(workspace: Path, suites: Mapping[str, SuiteSettings]) -> int:
    """Check the files of every benchmark and list them; return how many benchmarks changed since the last call.

    If an annotation file or a clip is new, changed or gone, the stage `suite` is stale afterwards. Clips are compared by name, size and
    time; the stage itself compares their content.

    Raises:
        EvaluationError: files or a local judge are missing, or a licence is not accepted. The message has a line for each
            benchmark, with what to fetch.
    """
    problems, changed = [], 0
    for name, chosen in suites.items():
        try:
            if chosen.judge == LOCAL and chosen.judge_model is not None:
                check_local_model(resolve(chosen.judge_model, workspace), chosen.judge_revision)
            found = _describe(chosen.benchmark(name), chosen, resolve(chosen.data, workspace))
        except EvaluationError as error:
            problems.append((name, error))
            continue
        path = workspace / FOLDER / name / SOURCE
        if not path.is_file() or storage.read_json(path) != found:
            storage.write_json(path, found)
            changed += 1
    if problems:
        raise EvaluationError(
            f"{len(problems)} of {len(suites)} benchmarks in evaluation.suites cannot be read:\n"
            + "\n".join(f"  {name}: {error}" for name, error in problems)
            + "\n",
            next_step="fetch the files, or delete the benchmark's line in evaluation.suites of params.yaml",
        )
    return changed


def _describe(benchmark: str, chosen: SuiteSettings, source: str) -> dict[str, object]:
    suite = find_suite(benchmark)
    loaded = choose(load(suite, source, chosen.split, accept_licence=chosen.accept_licence), chosen.limit)
    single = [item for item in loaded.items if item.audio and not item.further_audio]
    # A data set on the hub never changes at a commit; its clips are fetched by the stage.
    local = Path(source).is_dir()
    clips = find_clips(single, data_folder(source, suite.layout, loaded.split), suite.layout) if local and single else {}
    listed = {"clips": len(clips), "listing": _listing(clips.values())}
    return {"source": chosen.data, "split": loaded.split, "md5": loaded.version.md5, **listed}


def _listing(clips: Iterable[Path]) -> str:
    """Return the SHA-256 of the names, sizes and times of clips."""
    facts = sorted((str(path.name), (found := path.stat()).st_size, found.st_mtime_ns) for path in set(clips))
    return storage.sha256_json(facts)
