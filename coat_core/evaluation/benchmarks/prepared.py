"""A benchmark prepared for models and scorers: its questions in one folder, its items and the files of its rule in another.

A model reads the questions only, so that neither another rule nor a corrected answer makes it answer again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coat_core.corpus.audio import read_header
from coat_core.errors import AudioError, EvaluationError
from coat_core.evaluation.benchmarks.clips import embedded_clips, find_clip, find_clips, suffix_of
from coat_core.evaluation.benchmarks.data import data_folder, needed_files
from coat_core.evaluation.benchmarks.item_files import write_items
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.places import resolve
from coat_core.evaluation.benchmarks.questions import CLIPS, Question, QuestionSet
from coat_core.evaluation.benchmarks.suite import LoadedSuite, Suite, load
from coat_core.progress import ProgressBar
from coat_core.storage import new_folder, sha256_bytes, sha256_file, write_bytes


@dataclass(frozen=True)
class SuiteChoice:
    """What is read of a benchmark.

    Attributes:
        data: its folder, or `owner/name@commit` on the hub.
        split: None: the first.
        limit: only so many items, the first by the SHA-256 of their ids; None: all.
        accept_licence: the user has read the licence; needed where it forbids commercial use.
        base: folder that `data` is relative to.
    """

    data: str
    split: str | None = None
    limit: int | None = None
    accept_licence: bool = False
    base: Path = Path()

    @property
    def source(self) -> str:
        """The folder seen from the working folder, or the data set."""
        return resolve(self.data, self.base)

    def load(self, suite: Suite) -> LoadedSuite:
        """Load all items of the split.

        Raises:
            EvaluationError: as `suite.load`.
        """
        return load(suite, self.source, self.split, accept_licence=self.accept_licence)


def prepare(suite: Suite, choice: SuiteChoice, max_new_tokens: int, questions: Path, items: Path) -> LoadedSuite:
    """Read a benchmark, find its clips, and write both folders; clips from Parquet files are written beside the questions.

    Args:
        suite: the benchmark.
        choice: what is read of it.
        max_new_tokens: longest response, in tokens.
        questions: folder to write, for models.
        items: folder to write, for scorers.

    Returns:
        The chosen items.

    Raises:
        EvaluationError: as `suite.load`; clips are missing, or none can be read.
    """
    every = choice.load(suite)
    loaded = choose(every, choice.limit)
    files = _annotations(every, choice)
    packed = [path for path in files if path.suffix == ".parquet"] if suite.layout.embedded else []
    # The paths are those of the published files: a data set on the hub sends exactly these clips.
    named = [] if packed else [item.audio for item in loaded.items if item.audio and not item.further_audio]
    folder = data_folder(choice.source, suite.layout, loaded.split, named)
    with new_folder(questions) as made:
        clips = _unpack(packed, every, loaded, made) if packed else {}
        single = [item for item in loaded.items if not item.further_audio and item.id not in clips]
        clips |= find_clips(single, folder, suite.layout)
        items_ = ProgressBar(loaded.items, desc=f"clips of {suite.name}", unit="clip", disable=None)
        asked = tuple(_question(suite, item, clips.get(item.id), made, folder) for item in items_)
        QuestionSet(suite.name, loaded.split, max_new_tokens, asked).write(made)
        if all(question.problem for question in asked):
            raise EvaluationError(
                f"no clip of {suite.title} can be read: {asked[0].problem}", field="data", value=choice.data,
                next_step=f"fetch the clips again from {suite.layout.origin}",
            )  # fmt: skip
    write_items(loaded, folder, items, {"source": choice.data, "limit": choice.limit})
    return loaded


def choose(loaded: LoadedSuite, limit: int | None) -> LoadedSuite:
    """Return a benchmark with only so many items, the first by the SHA-256 of their ids, in the order of the files."""
    if limit is None or limit >= len(loaded.items):
        return loaded
    ids = set(sorted((item.id for item in loaded.items), key=lambda name: sha256_bytes(name.encode("utf-8", "replace")))[:limit])
    return replace(loaded, items=tuple(item for item in loaded.items if item.id in ids))


def _annotations(loaded: LoadedSuite, choice: SuiteChoice) -> list[Path]:
    layout = loaded.suite.layout
    return needed_files(data_folder(choice.source, layout, loaded.split), layout, loaded.split)


def _unpack(files: Sequence[Path], every: LoadedSuite, chosen: LoadedSuite, folder: Path) -> dict[str, Path]:
    """Write the clips of the chosen items that are bytes in Parquet files; return item id → file.

    A row and its item have the same place; a row with a path instead of bytes is a clip below the folder of the files.
    """
    wanted = {item.id for item in chosen.items}
    found = {}
    for item, content in zip(every.items, embedded_clips(files, every.suite.layout), strict=True):
        if item.id not in wanted or content is None:
            continue
        if isinstance(content, str):
            path = find_clip(files[0].parent, content)
            if path is not None:
                found[item.id] = path
            continue
        target = folder / CLIPS / f"{sha256_bytes(content)}{suffix_of(content)}"
        if not target.exists():
            write_bytes(target, content)
        found[item.id] = target
    return found


def _question(suite: Suite, item: BenchmarkItem, clip: Path | None, made: Path, folder: Path) -> Question:
    prompt = suite.prompt(item)
    if clip is None:
        return Question(
            item.id, prompt, item.audio, problem=f"the question is about {1 + len(item.further_audio)} clips; a prompt takes one"
        )
    packed = clip.is_relative_to(made)
    name = clip.relative_to(made if packed else folder).as_posix()
    try:
        seconds = read_header(clip).duration_s
    except AudioError as error:
        return Question(item.id, prompt, name, sha256_file(clip), packed=packed, problem=str(error).replace(str(clip), name))
    return Question(item.id, prompt, name, sha256_file(clip), round(seconds, 6), packed)
