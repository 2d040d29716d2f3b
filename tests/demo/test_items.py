"""The filters over saved responses, through the application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from coat_core.corpus.examples import FAMILIES
from coat_core.demo.items import PAGE, ItemFilter, SavedItems
from coat_core.evaluation.responses import Response, write_responses
from coat_core.evaluation.scores import score_responses, write_scores
from coat_core.storage import write_jsonl
from tests.testing.evaluations import KEY, make_examples


def find(client: TestClient, **filters: Any) -> dict[str, Any]:
    reply = client.get("/api/items", params=filters)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_an_item_has_question_choices_answers_and_scores(client: TestClient) -> None:
    found = find(client, family="music")
    assert (found["total"], found["page"], found["pages"]) == (2, 1, 1)
    item = found["items"][0]
    assert (item["question"], item["choices"][1], item["answer"]) == ("What do you hear?", "a horn", "a horn")
    shown = [(a["arm"], a["trial"], a["response"], a["verdict"], a["score"]) for a in item["answers"]]
    assert shown == [
        ("base", "base-0", "a bell", "wrong", 0.0), ("sft", "sft-1", "a horn", "right", 1.0), ("coat", "coat-1", "a horn", "right", 1.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "total"),
    [
        ({}, 10),
        ({"family": "transcription"}, 2),
        ({"arm": "sft"}, 10),
        ({"verdict": "right"}, 10),
        ({"arm": "sft", "verdict": "right"}, 8),
        ({"arm": "sft", "verdict": "unscored"}, 2),
        ({"arm": "base", "verdict": "right"}, 0),
        ({"arm": "base", "verdict": "wrong", "family": "music"}, 2),
        ({"difference": "different"}, 10),
        ({"difference": "coat>sft"}, 2),
        ({"difference": "coat>sft", "seed": "2"}, 10),
        ({"difference": "sft>base"}, 8),
        ({"difference": "sft>coat"}, 0),
        ({"arm": "sft", "verdict": "wrong", "seed": "2"}, 8),
        ({"text": "ONE two"}, 2),
        ({"text": "test-music"}, 2),
        ({"text": "absent"}, 0),
        ({"seed": "9"}, 10),
    ],
)
def test_filters(client: TestClient, filters: dict[str, str], total: int) -> None:
    found = find(client, **filters)
    assert found["total"] == len(found["items"]) == total
    if "arm" in filters:
        assert all([a["arm"] for a in item["answers"]] == [filters["arm"]] for item in found["items"])


@pytest.mark.parametrize("field", ["backbone", "family", "arm", "verdict", "difference"])
def test_a_value_that_a_filter_cannot_have_is_422(client: TestClient, field: str) -> None:
    reply = client.get("/api/items", params={field: "nonsense"})
    assert reply.status_code == 422
    assert reply.json()["error"]["param"] == field


def test_unknown_filters_and_pages_are_422(client: TestClient) -> None:
    for query in ("colour=red", "page=x", "page=-1", "page="):
        assert client.get(f"/api/items?{query}").status_code == 422


def test_the_filters_offer_what_the_run_has(saved: SavedItems) -> None:
    choices = saved.choices()
    (backbone,) = choices["backbones"]
    assert (backbone["key"], backbone["arms"], backbone["seeds"]) == (KEY, ["base", "sft", "coat"], [1, 2])
    assert set(backbone["differences"]) == {f"{a}>{b}" for a in backbone["arms"] for b in backbone["arms"] if a != b}
    assert choices["families"] == list(FAMILIES)


def test_pages_cover_every_item_once_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    examples = make_examples(9)
    write_jsonl(tmp_path / "data/accepted.jsonl", [e.to_row() for e in examples])
    responses = [Response(id=e.id, response="a horn") for e in examples]
    write_responses(tmp_path / "responses" / f"{KEY}-sft-0.jsonl", responses)
    write_responses(tmp_path / "responses" / f"{KEY}-unscored.jsonl", responses)
    write_scores(tmp_path / "evaluation" / f"{KEY}-sft-0" / "scores.jsonl", score_responses(examples, responses))
    saved = SavedItems(tmp_path)
    pages = [saved.find(ItemFilter(), page) for page in (1, 2, 3)]
    assert [len(page["items"]) for page in pages] == [PAGE, PAGE, len(examples) - 2 * PAGE]
    assert [item["id"] for page in pages for item in page["items"]] == [e.id for e in examples]
    assert saved.find(ItemFilter(), 99)["page"] == 3


def test_a_workspace_without_a_run_is_empty(tmp_path: Path) -> None:
    saved = SavedItems(tmp_path)
    assert saved.find(ItemFilter(family="music"))["total"] == 0
    assert saved.samples(30.0) == []
    assert saved.choices()["backbones"] == []
