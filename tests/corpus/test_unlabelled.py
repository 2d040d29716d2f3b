"""Corpora with a limited number of labelled clips: the same audio for every number, nested sets of labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.corpus.examples import FAMILIES, SPLITS, Example, example_from_row, read_manifest
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.corpus.unlabelled import QUESTION, TASK, limit_labels
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_tree
from tests.testing.evaluations import make_example
from tests.testing.recordings import RECORDINGS, needs_recordings


def clips_of(examples: list[Example]) -> set[tuple[str, str, str, str, tuple[str, ...]]]:
    return {(e.sha256, e.audio, e.split, e.family, e.groups) for e in examples}


def labelled_clips(examples: list[Example]) -> set[str]:
    return {e.sha256 for e in examples if e.split == "train" and e.labelled}


@st.composite
def corpora(draw: st.DrawFn) -> list[Example]:
    """Clips of one to three rows in any split and order; a few of the rows are unlabelled already."""
    rows = []
    for number in range(draw(st.integers(1, 14))):
        split, family = draw(st.sampled_from(SPLITS)), draw(st.sampled_from(FAMILIES))
        for turn in range(draw(st.integers(1, 3))):
            fields: dict[str, Any] = {"id": f"{number}-{turn}", "sha256": f"{number:064x}", "audio": f"audio/{number}.flac"}
            if split == "train" and draw(st.integers(0, 4)) == 0:
                fields |= {"answer": None, "choices": None}
            rows.append(make_example(number, family, split, **fields))
    return draw(st.permutations(rows))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(examples=corpora(), low=st.integers(1, 6), more=st.integers(0, 9), seed=st.integers(0, 3))
def test_labels_are_removed_clip_by_clip_and_the_sets_are_nested(examples: list[Example], low: int, more: int, seed: int) -> None:
    few, many = limit_labels(examples, low, seed), limit_labels(examples, low + more, seed)
    assert labelled_clips(few) <= labelled_clips(many) <= labelled_clips(examples)
    assert clips_of(few) == clips_of(many) == clips_of(examples)
    family = {e.sha256: e.family for e in reversed(examples)}
    had, kept = (Counter(family[clip] for clip in labelled_clips(rows)) for rows in (examples, few))
    assert kept == {name: min(count, low) for name, count in had.items()}
    before = {e.id: e for e in examples}
    assert len({e.id for e in few}) == len(few)
    assert [e.id for e in few] == [e.id for e in examples if e.id in {row.id for row in few}]
    rows = Counter(e.sha256 for e in few)
    for example in few:
        if example != before[example.id]:
            assert (example.split, example.answer, example.choices, rows[example.sha256]) == ("train", None, None, 1)
            assert (example.question, example.task) == (QUESTION, TASK)
    changed = {e.sha256 for e in few if e != before[e.id]}
    assert [e for e in few if e.sha256 not in changed] == [e for e in examples if e.sha256 not in changed]


def test_the_labelled_clips_depend_on_the_seed_and_not_on_other_clips() -> None:
    examples = [make_example(number, split="train") for number in range(40)]
    chosen = labelled_clips(limit_labels(examples, 10, 7))
    assert chosen == labelled_clips(limit_labels(examples[::-1], 10, 7))
    assert len(chosen) == 10
    assert chosen != {e.sha256 for e in examples[:10]}
    assert labelled_clips(limit_labels(examples, 10, 8)) != chosen
    without = [e for e in examples if e.sha256 not in chosen or e.sha256 == min(chosen)]
    assert min(chosen) in labelled_clips(limit_labels(without, 10, 7))


def test_null_changes_nothing() -> None:
    examples = [make_example(number, split="train") for number in range(5)]
    assert limit_labels(examples, None, 7) == examples == limit_labels(examples, 5, 7) == limit_labels(examples, 500, 7)


def corpus_settings(**fields: Any) -> CorpusSettings:
    return CorpusSettings.model_validate({"clips_per_family": {"train": 4, "validation": 1, "test": 1}, **fields})


def test_a_generated_corpus_has_the_same_audio_with_fewer_labels(tmp_path: Path) -> None:
    for name, count in (("all", None), ("two", 2), ("many", 9)):
        generate_corpus(corpus_settings(labelled_clips_per_family=count), tmp_path / name, workers=1)
    assert sha256_tree(tmp_path / "all/audio") == sha256_tree(tmp_path / "two/audio")
    assert sha256_tree(tmp_path / "all") == sha256_tree(tmp_path / "many")
    full, few = (read_manifest(tmp_path / name / "manifest.jsonl") for name in ("all", "two"))
    assert clips_of(few) == clips_of(full)
    train = [e for e in few if e.split == "train"]
    assert Counter((e.family, e.labelled) for e in train) == {(f, labelled): n for f in FAMILIES for labelled, n in ((True, 4), (False, 2))}
    assert {e.answer for e in train if not e.labelled} == {None}
    assert [e for e in few if e.split != "train"] == [e for e in full if e.split != "train"]


@needs_recordings
@pytest.mark.slow
def test_a_corpus_of_recordings_has_the_same_audio_with_fewer_labels(tmp_path: Path) -> None:
    for name, count in (("all", None), ("one", 1)):
        fields = {"kind": "recordings", "path": str(RECORDINGS), "clips_per_family": {"train": 2, "validation": 1, "test": 1}}
        import_corpus(corpus_settings(**fields, labelled_clips_per_family=count), RECORDINGS, tmp_path / name)
    full, few = (read_manifest(tmp_path / name / "manifest.jsonl") for name in ("all", "one"))
    assert sha256_tree(tmp_path / "all/audio") == sha256_tree(tmp_path / "one/audio")
    assert clips_of(few) == clips_of(full)
    assert Counter(e.family for e in few if not e.labelled) == dict.fromkeys({e.family for e in full}, 1)


def test_an_unlabelled_example_is_read_and_written_with_null() -> None:
    example = make_example(1, split="train", answer=None, choices=None)
    assert (example.labelled, example.to_row()["answer"], example.prompt) == (False, None, example.question)
    assert example_from_row(example.to_row()) == example
    with pytest.raises(CorpusError, match=f"the example is unlabelled; field: answer; value: 'null in row {example.id}'"):
        _ = example.label
    row = example.to_row()
    del row["answer"]
    with pytest.raises(CorpusError, match="answer: Field required"):
        example_from_row(row)
