"""The facts table of the data contract: one row per manifest row with measured facts of its audio."""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from coat_core.corpus.audio import MAX_DURATION_S, AudioFacts, measure
from coat_core.corpus.contract.answers import blank_fields, choices_error, scoring_error
from coat_core.corpus.examples import SPLITS, Example, SharedValues, Split, escape_surrogates, example_from_row
from coat_core.errors import ContractError, CorpusError
from coat_core.progress import ProgressBar

Row = dict[str, Any]
NOT_TEXT = "(not text)"
"""Stands for a family, split or source that is not text."""
_CHUNK_SIZE = 16
"""Files that a worker process receives at once."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that is no example."""

    id: str
    error: str
    """Why the row is invalid."""
    family: str
    """The value of the row, if it is text; so are `split` and `source`."""
    split: str
    source: str


@dataclass(frozen=True)
class Rows:
    """The rows of a manifest, in its order."""

    lines: array[int]
    """Line of each row."""
    examples: list[Example | InvalidRow]


def read_examples(rows: Iterable[tuple[int, Row]]) -> Rows:
    """Return the examples of rows with their lines; the rows are read once and not kept."""
    lines, examples, shared = array("q"), list[Example | InvalidRow](), SharedValues()
    for line, row in rows:
        lines.append(line)
        error: CorpusError
        try:
            example = example_from_row(row, f"line {line}", shared)
        except CorpusError as found:
            error = found
        else:
            blank = blank_fields(example)
            if not blank:
                examples.append(example)
                continue
            error = CorpusError(f"line {line}: empty: {', '.join(blank)}", allowed="text that is visible")
        values = (row.get(name) for name in ("family", "split", "source"))
        texts = (escape_surrogates(value) if isinstance(value, str) else NOT_TEXT for value in values)
        examples.append(InvalidRow(escape_surrogates(str(row.get("id", f"line {line}"))), str(error), *texts))
    return Rows(lines, examples)


def measure_files(corpus: Path, examples: Iterable[Example | InvalidRow], max_duration_s: float, workers: int) -> dict[str, AudioFacts]:
    """Measure each distinct existing file inside the corpus, in parallel. The keys are the paths of the rows.

    Raises:
        ContractError: a worker process ended unexpectedly.
    """
    names = sorted({e.audio for e in examples if isinstance(e, Example) and is_inside(e.audio) and is_present(corpus / e.audio)})
    paths = [corpus / name for name in names]
    task = partial(measure, max_duration_s=max(max_duration_s, MAX_DURATION_S))
    progress = ProgressBar(total=len(paths), desc="contract", unit="file", disable=None)
    facts: dict[str, AudioFacts] = {}
    with progress:
        if workers <= 1 or len(paths) <= _CHUNK_SIZE:
            for name, path in zip(names, paths, strict=True):
                facts[name] = task(path)
                progress.update()
            return facts
        # spawn, because the caller may have threads (torch, a server) and fork is unsafe with threads.
        with ProcessPoolExecutor(min(workers, len(paths)), mp_context=get_context("spawn")) as pool:
            try:
                for name, measured in zip(names, pool.map(task, paths, chunksize=_CHUNK_SIZE), strict=True):
                    facts[name] = measured
                    progress.update()
            except BrokenProcessPool as error:
                near = names[min(len(facts), len(names) - 1)]
                raise ContractError(
                    "a process that measures audio ended unexpectedly",
                    field="audio",
                    value=f"{near} or one of the next {_CHUNK_SIZE * workers} files",
                    next_step="check these files and the memory of the machine",
                ) from error
    return facts


def is_inside(audio: str) -> bool:
    """Return whether the path of a row is inside the corpus folder. Links are not resolved: DVC may link files to its cache."""
    path = Path(audio)
    return bool(audio) and not path.is_absolute() and ".." not in path.parts and "\0" not in audio


def is_present(path: Path) -> bool:
    """Return whether a path is a file. A name that the file system does not allow, e.g. one that is too long, is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def facts_table(rows: Rows, corpus: Path, facts: Mapping[str, AudioFacts]) -> Iterator[Row]:
    """Yield the facts of each row. A column is None if an earlier defect of the row makes it meaningless."""
    occurrence: Counter[str] = Counter()
    group_splits, audio_splits = _majority_splits(rows.examples, facts)
    for number, (line, example) in enumerate(zip(rows.lines, rows.examples, strict=True)):
        columns: Row = dict.fromkeys(_COLUMNS)
        columns.update(row=number, line=line, id=example.id)
        if isinstance(example, InvalidRow):
            columns["schema_error"] = example.error
        else:
            occurrence[example.id] += 1
            columns["id_occurrence"] = occurrence[example.id]
            columns.update(_example_columns(example, corpus, facts.get(example.audio)))
            crossing = sorted(group for group in _group_keys(example) if group_splits[group] != example.split)
            columns["group_crossing"] = f"{crossing[0]} (its split is {group_splits[crossing[0]]})" if crossing else None
            split = audio_splits[_digest(example, facts)]
            columns["audio_crossing"] = f"its split is {split}" if split != example.split else None
        yield columns


_COLUMNS = (
    "row",
    "line",
    "id",
    "schema_error",
    "id_occurrence",
    "path_inside",
    "file_present",
    "hash_equals",
    "decode_error",
    "decoded_duration_s",
    "duration_gap_s",
    "header_excess_s",
    "sample_rate_hz",
    "rate_equals",
    "rms_dbfs",
    "clipped_share",
    "choices_count",
    "choices_error",
    "scoring_error",
    "unlabelled_split",
    "group_crossing",
    "audio_crossing",
)


def _example_columns(example: Example, corpus: Path, measured: AudioFacts | None) -> Row:
    inside = is_inside(example.audio)
    columns: Row = {"path_inside": inside}
    if inside:
        columns["file_present"] = measured is not None or is_present(corpus / example.audio)
    if example.choices is not None:
        columns["choices_count"] = len(example.choices)
    columns.update(choices_error=choices_error(example), scoring_error=scoring_error(example))
    if not example.labelled and example.split != "train":
        columns["unlabelled_split"] = example.split
    if measured is None:
        return columns
    columns["hash_equals"] = measured.sha256 == example.sha256
    # The reason does not contain the folder, so the quarantine does not depend on the location of the corpus.
    columns["decode_error"] = measured.error and measured.error.replace(f"{corpus}/", "")
    if measured.error is not None or measured.duration_s is None or measured.header_duration_s is None:
        return columns
    gap = abs(example.duration_s - measured.duration_s)
    columns.update(
        decoded_duration_s=measured.duration_s,
        # NaN would count as a missing value, which is not checked.
        duration_gap_s=gap if math.isfinite(gap) else math.inf,
        header_excess_s=measured.header_duration_s - measured.duration_s,
        sample_rate_hz=measured.sample_rate_hz,
        rate_equals=example.sample_rate_hz == measured.sample_rate_hz,
        rms_dbfs=measured.rms_dbfs,
        clipped_share=measured.clipped_share,
    )
    return columns


def _majority_splits(
    examples: Sequence[Example | InvalidRow], facts: Mapping[str, AudioFacts]
) -> tuple[dict[str, Split], dict[str, Split]]:
    """Return the split of each group and of each audio hash: the split with most of its rows, in a tie the first of `SPLITS`.

    Unlabelled rows count only where there is no labelled row: much unlabelled audio of a test group must not set its test rows aside.
    """
    valid = [example for example in examples if isinstance(example, Example)]
    return _majorities(valid, _group_keys), _majorities(valid, lambda example: (_digest(example, facts),))


def _majorities(examples: Sequence[Example], keys: Callable[[Example], Iterable[str]]) -> dict[str, Split]:
    """Return the split of each key. Rows are counted only for keys with rows of several kinds, which are few."""
    kinds: dict[str, tuple[bool, Split]] = {}
    mixed: dict[str, Counter[tuple[bool, Split]]] = {}
    for example in examples:
        kind = _KINDS[example.labelled, example.split]
        for key in keys(example):
            if kinds.setdefault(key, kind) is not kind:
                mixed[key] = Counter()
    if mixed:
        for example in examples:
            for key in keys(example):
                if key in mixed:
                    mixed[key][example.labelled, example.split] += 1
    return {key: _majority(mixed[key]) if key in mixed else split for key, (_, split) in kinds.items()}


def _group_keys(example: Example) -> list[str]:
    """Return the groups in one Unicode form: two files may contain one name in different forms."""
    return [unicodedata.normalize("NFC", group) for group in example.groups]


_KINDS = {kind: kind for kind in product((True, False), SPLITS)}


def _majority(count: Counter[tuple[bool, Split]]) -> Split:
    return max(SPLITS, key=lambda split: (count[True, split], count[False, split], -SPLITS.index(split)))


def _digest(example: Example, facts: Mapping[str, AudioFacts]) -> str:
    """Return the SHA-256 of the audio file, or that of the row if there is no file."""
    measured = facts.get(example.audio)
    return (measured.sha256 if measured else None) or example.sha256
