"""The table that the data contract is checked on: one row for each manifest row, its columns measured facts, no audio."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from coat_core.corpus.audio import MAX_DURATION_S, AudioFacts, measure
from coat_core.corpus.examples import SPLITS, Example, Split, example_from_row
from coat_core.corpus.splits import atoms
from coat_core.errors import ContractError, CorpusError

Row = dict[str, Any]
_FILES_AT_ONCE = 16


def read_examples(rows: Sequence[Row]) -> list[Example | CorpusError]:
    """Read each row, or say why it does not hold."""
    read: list[Example | CorpusError] = []
    for number, row in enumerate(rows, 1):
        try:
            example = example_from_row(row, f"line {number}")
        except CorpusError as error:
            read.append(error)
            continue
        empty = [name for name in ("id", "group", "question", "answer") if not getattr(example, name).strip()]
        read.append(CorpusError(f"line {number}: empty: {', '.join(empty)}", allowed="text") if empty else example)
    return read


def measure_files(corpus: Path, examples: Iterable[Example | CorpusError], max_duration_s: float, workers: int) -> dict[str, AudioFacts]:
    """Measure each distinct file that is inside the corpus and present, in parallel; by the path of the rows.

    Raises:
        ContractError: a measuring process died.
    """
    names = sorted({e.audio for e in examples if isinstance(e, Example) and is_inside(e.audio) and (corpus / e.audio).is_file()})
    paths = [corpus / name for name in names]
    task = partial(measure, max_duration_s=max(max_duration_s, MAX_DURATION_S))
    progress = tqdm(total=len(paths), desc="contract", unit="file", disable=None)
    facts: dict[str, AudioFacts] = {}
    with progress:
        if workers <= 1 or len(paths) <= _FILES_AT_ONCE:
            for name, path in zip(names, paths, strict=True):
                facts[name] = task(path)
                progress.update()
            return facts
        # Spawned, not forked: the caller may hold threads of torch or of a server.
        with ProcessPoolExecutor(min(workers, len(paths)), mp_context=get_context("spawn")) as pool:
            try:
                for name, measured in zip(names, pool.map(task, paths, chunksize=_FILES_AT_ONCE), strict=True):
                    facts[name] = measured
                    progress.update()
            except BrokenProcessPool as error:
                near = names[min(len(facts), len(names) - 1)]
                raise ContractError(
                    "a measuring process died",
                    field="audio",
                    value=f"{near} or one of the {_FILES_AT_ONCE * workers} after it",
                    next_step="run again with --workers 1 to see which file it is, and check the memory of the machine",
                ) from error
    return facts


def is_inside(audio: str) -> bool:
    """Return whether a path of a row stays inside the corpus folder; judged by name, for a data cache may link the files themselves."""
    path = Path(audio)
    return bool(audio) and not path.is_absolute() and ".." not in path.parts and "\0" not in audio


def facts_table(rows: Sequence[Row], examples: Sequence[Example | CorpusError], corpus: Path, facts: Mapping[str, AudioFacts]) -> list[Row]:
    """Return the columns of every row; None where something before it makes a column meaningless."""
    occurrence: Counter[str] = Counter()
    group_home, audio_home = _homes(examples, facts)
    table = []
    for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
        columns: Row = dict.fromkeys(_COLUMNS)
        columns.update(row=number, id=str(row.get("id", f"line {number + 1}")))
        if isinstance(example, CorpusError):
            columns["schema_error"] = str(example)
        else:
            occurrence[example.id] += 1
            columns["id_occurrence"] = occurrence[example.id]
            columns.update(_example_columns(example, corpus, facts.get(example.audio)))
            crossing = sorted(atom for atom in atoms(example.group) if group_home[atom] != example.split)
            columns["group_crossing"] = f"{crossing[0]} (its split is {group_home[crossing[0]]})" if crossing else None
            home = audio_home[_digest(example, facts)]
            columns["audio_crossing"] = f"its split is {home}" if home != example.split else None
        table.append(columns)
    return table


_COLUMNS = (
    "row",
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
    "answer_in_choices",
    "group_crossing",
    "audio_crossing",
)


def _example_columns(example: Example, corpus: Path, measured: AudioFacts | None) -> Row:
    inside = is_inside(example.audio)
    columns: Row = {"path_inside": inside}
    if inside:
        columns["file_present"] = (corpus / example.audio).is_file()
    if example.choices is not None:
        distinct = len(set(example.choices)) == len(example.choices) > 1
        columns["answer_in_choices"] = distinct and example.answer in example.choices
    if measured is None:
        return columns
    columns["hash_equals"] = measured.sha256 == example.sha256
    # Without the folder: the same corpus gives the same quarantine wherever it lies.
    columns["decode_error"] = measured.error and measured.error.replace(f"{corpus}/", "")
    if measured.error is not None or measured.duration_s is None or measured.header_duration_s is None:
        return columns
    gap = abs(example.duration_s - measured.duration_s)
    columns.update(
        decoded_duration_s=measured.duration_s,
        # A comparison with NaN would pass for "nothing to check".
        duration_gap_s=gap if math.isfinite(gap) else math.inf,
        header_excess_s=measured.header_duration_s - measured.duration_s,
        sample_rate_hz=measured.sample_rate_hz,
        rate_equals=example.sample_rate_hz == measured.sample_rate_hz,
        rms_dbfs=measured.rms_dbfs,
        clipped_share=measured.clipped_share,
    )
    return columns


def _homes(examples: Sequence[Example | CorpusError], facts: Mapping[str, AudioFacts]) -> tuple[dict[str, Split], dict[str, Split]]:
    """Return the split that each group and each audio hash belongs to: the one with most of its rows, the earlier one in a tie."""
    groups: dict[str, Counter[Split]] = defaultdict(Counter)
    audio: dict[str, Counter[Split]] = defaultdict(Counter)
    for example in examples:
        if isinstance(example, Example):
            audio[_digest(example, facts)][example.split] += 1
            for atom in atoms(example.group):
                groups[atom][example.split] += 1
    return {key: _home(count) for key, count in groups.items()}, {key: _home(count) for key, count in audio.items()}


def _home(count: Counter[Split]) -> Split:
    return max(SPLITS, key=lambda split: (count[split], -SPLITS.index(split)))


def _digest(example: Example, facts: Mapping[str, AudioFacts]) -> str:
    """Return the hash of the audio as it is on disk; the row's own where there is no file."""
    measured = facts.get(example.audio)
    return (measured.sha256 if measured else None) or example.sha256
