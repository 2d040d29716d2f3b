"""Import of manifests (JSON Lines, a JSON array, CSV) and of audio folders with Hugging Face metadata files. Audio keeps its format.

The family of a row without a question is transcription; that of a row with a question, or of an unlabelled row, is understanding, unless
it has a `family`. Rows without a split get one by a hash of their group; rows with the same group, the same audio or the same source file
get the same split. Unlabelled rows without a split do not change the splits of the labelled rows: they get `train`, or are set aside. All
rows are imported, or none: the message gives the lines of the invalid rows. The contract stage checks the audio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from coat_core.corpus.audio import is_file
from coat_core.corpus.examples import Example, SharedValues, Split, example_from_row, write_manifest
from coat_core.corpus.imported.clips import Clip, store_clips
from coat_core.corpus.imported.folders import audio_files, folder_split, metadata_files
from coat_core.corpus.imported.layouts import AUDIO_KEYS, standard_row
from coat_core.corpus.imported.lines import Line, Mistakes, Row
from coat_core.corpus.imported.locate import Locator
from coat_core.corpus.imported.objects import read_objects
from coat_core.corpus.imported.rows import check_row
from coat_core.corpus.imported.summary import SUMMARY, Summary, summarise
from coat_core.corpus.imported.tables import read_table
from coat_core.corpus.splits import place_unlabelled, split_rows
from coat_core.corpus.unlabelled import QUESTION, TASK, limit_labels
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import new_folder, write_json

_QUESTION = "What is said?"
_TABLES = (".csv", ".tsv")


def import_manifest(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Import a manifest: `audio_filepath`, and `text` or `question` with `answer`; or chat rows (`messages` with `audios`).

    `answer: null`, or `labelled: false`, makes a row unlabelled.
    Optional: `offset`, `duration`, `end` (seconds) and `channel` (from 0) for a segment; `choices`, `split`, `group`, `family`, `task`,
    `id`, `licence`, `source`. Files are relative to the folder of the manifest, or below a folder of `corpus.roots`.

    Raises:
        CorpusError: the manifest is missing or rows are invalid. The message gives their lines.
    """
    if not is_file(source):
        raise CorpusError("the manifest is missing", field="corpus.path", value=str(source), next_step="set it to a JSON Lines file")
    _import(settings, [source], source.parent, target, split_by_folder=False)


def import_audiofolder(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Import a folder with `metadata.csv` or `metadata.jsonl`, in the folder or in its subfolders: `file_name`, and the text of a row.

    The other keys are those of a manifest; in CSV, `choices` are separated by `|`. Folders such as `train`, `validation` and `test` give
    the splits of the files in them.

    Raises:
        CorpusError: there is no metadata file, or rows are invalid. The message gives their lines.
    """
    if not source.is_dir():
        raise CorpusError("the audio folder is missing", field="corpus.path", value=str(source), next_step="set it to a folder")
    _import(settings, metadata_files(source), source, target, split_by_folder=True)


def _import(settings: CorpusSettings, files: Sequence[Path], folder: Path, target: Path, *, split_by_folder: bool) -> None:
    """Check all rows, store the clips, write manifest and summary, and print the summary."""
    mistakes = Mistakes()
    locator = Locator(folder, settings.roots)
    ignored: Counter[str] = Counter()
    read, lines, rows, shared = 0, list[Line](), list[Row](), SharedValues()
    for file in files:
        for line in _read(file, file.relative_to(folder).as_posix(), mistakes):
            read += 1
            try:
                row, unused = standard_row(line.row)
                row = _with_file(row, line, locator)
                if split_by_folder:
                    row = _with_folder_split(row, folder)
            except (ValueError, RecursionError) as error:
                mistakes.add_line(line, str(error))
                continue
            ignored.update(set(unused))
            lines.append(line.without_row())
            rows.append(shared.of_row(row))
    _check_unique(lines, rows, mistakes)
    mistakes.check()
    if not read:
        names = ", ".join(file.relative_to(folder).as_posix() for file in files)
        raise CorpusError(f"{names}: there are no rows", field="corpus.path", next_step="add a row for each audio file")
    with new_folder(target) as temporary:
        (temporary / "audio").mkdir()
        clips = store_clips(lines, rows, temporary, mistakes)
        mistakes.check()
        stored = [clip for clip in clips if clip is not None]
        examples = _examples(settings, lines, rows, stored, shared)
        write_manifest(temporary / "manifest.jsonl", limit_labels(examples, settings.labelled_clips_per_family, settings.seed))
        used = {example.id for example in examples}
        _remove_unused(temporary, stored, examples)
        summary = summarise(
            examples,
            given_splits=sum("split" in row or (not row["labelled"] and row["id"] in used) for row in rows),
            segments=sum(clip.cut for clip in stored),
            ignored=ignored,
            files_without_row=_files_without_row(folder, rows) if split_by_folder else [],
            unlabelled_set_aside=[row["id"] for row in rows if row["id"] not in used],
        )
        write_json(temporary / SUMMARY, summary.to_json())
    _print(summary)


def _read(file: Path, name: str, mistakes: Mistakes) -> Iterator[Line]:
    if file.suffix.lower() in _TABLES:
        return read_table(file, name, AUDIO_KEYS if file.name != "metadata.csv" else ("file_name",), mistakes)
    return read_objects(file, name, mistakes)


def _with_file(row: Row, line: Line, locator: Locator) -> Row:
    """Return the checked row with the path of its audio.

    Raises:
        ValueError: values or the file name are invalid. The message lists all errors.
    """
    errors = []
    checked: Row = {}
    path = None
    try:
        path = locator.find(line.file.parent, row.get("audio"))
    except ValueError as error:
        errors.append(str(error))
    try:
        checked = check_row(row, table=line.file.suffix.lower() in _TABLES)
    except ValueError as error:
        errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors))
    return {**checked, "path": path}


def _with_folder_split(row: Row, folder: Path) -> Row:
    """Return the row with the split of its folder.

    Raises:
        ValueError: the row has another split.
    """
    split = folder_split(row["path"], folder)
    if split is None:
        return row
    if split != "train" and not row["labelled"]:
        raise ValueError(f"the row is unlabelled in a folder of the split {split}: it cannot be evaluated, allowed split: train")
    if row.get("split", split) != split:
        raise ValueError(f"split is {row['split']!r}, but the folder of {row['audio']!r} is that of {split}; correct one of them")
    return {**row, "split": split}


def _check_unique(lines: Sequence[Line], rows: Sequence[Row], mistakes: Mistakes) -> None:
    """Add an error for each id that occurs twice, and for each file that has rows in two metadata files."""
    ids: dict[str, Line] = {}
    files: dict[Path, Line] = {}
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), 1):
        row.setdefault("id", f"row-{number:06d}")
        first = ids.setdefault(row["id"], line)
        if first is not line:
            mistakes.add_line(line, f"id is {row['id']!r}, which is also the id of {first.name} {first.place}; ids must differ")
        first = files.setdefault(row["path"], line)
        if first.file != line.file:
            mistakes.add_line(line, f"audio {row['audio']!r} also has a row in {first.name} ({first.place}); keep its rows in one file")


def _examples(
    settings: CorpusSettings, lines: Sequence[Line], rows: Sequence[Row], clips: Sequence[Clip], shared: SharedValues
) -> list[Example]:
    groups = [row.get("group") or f"audio:{clip.source_sha256[:16]}" for row, clip in zip(rows, clips, strict=True)]
    examples = []
    for line, row, clip, group, split in zip(lines, rows, clips, groups, _splits(settings, rows, clips, groups), strict=True):
        if split is None:
            continue
        question, labelled = row.get("question"), row["labelled"]
        family = row.get("family", "transcription" if question is None and labelled else "understanding")
        examples.append(
            example_from_row(
                {
                    "id": row["id"],
                    "audio": clip.audio,
                    "sha256": clip.sha256,
                    "duration_s": clip.duration_s,
                    "sample_rate_hz": clip.sample_rate_hz,
                    "split": split,
                    "group": group,
                    "family": family,
                    "task": row.get("task", (family if question else "words") if labelled else TASK),
                    "question": question or (_QUESTION if labelled else QUESTION),
                    "choices": row.get("choices"),
                    "answer": row["answer" if question else "transcription"] if labelled else None,
                    "source": row.get("source", line.name),
                    "licence": row.get("licence", "unknown"),
                },
                line.name,
                shared,
            )
        )
    return examples


def _splits(settings: CorpusSettings, rows: Sequence[Row], clips: Sequence[Clip], groups: Sequence[str]) -> list[Split | None]:
    """Return the split of each row; None for an unlabelled row that is set aside."""

    def keys(numbers: Iterable[int]) -> Iterator[list[str]]:
        for number in numbers:
            clip = clips[number]
            source = [f"source {clip.source_sha256}"] if rows[number].get("segment") else []
            yield [f"group {groups[number]}", f"sha256 {clip.sha256}", *source]

    fixed = [number for number, row in enumerate(rows) if row["labelled"] or "split" in row]
    known: list[Split | None] = [None] * len(rows)
    given = [rows[number].get("split") for number in fixed]
    for number, split in zip(fixed, split_rows(keys(fixed), given, settings.clips_per_family, settings.seed), strict=True):
        known[number] = split
    return known if len(fixed) == len(rows) else place_unlabelled(keys(range(len(rows))), known)


def _remove_unused(corpus: Path, clips: Sequence[Clip], examples: Sequence[Example]) -> None:
    """Remove the audio of rows that are set aside."""
    for audio in {clip.audio for clip in clips} - {example.audio for example in examples}:
        (corpus / audio).unlink()


def _files_without_row(folder: Path, rows: Sequence[Row]) -> list[str]:
    named = {row["path"].resolve() for row in rows}
    return [path.relative_to(folder).as_posix() for path in audio_files(folder) if path.resolve() not in named]


def _print(summary: Summary) -> None:
    for text in summary.lines():
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
