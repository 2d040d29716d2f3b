"""Judges: the stand-in, a server on loopback with OpenAI's protocol, the cache, and swapped places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem
from coat_core.evaluation.benchmarks.judges import (
    CachedJudge,
    Case,
    ServedJudge,
    StandIn,
    air_bench_chat_rule,
    alpaca_audio_rule,
    pair_case,
    rating_case,
    with_judge,
)
from coat_core.evaluation.benchmarks.scoring import score_benchmark
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from tests.testing.http_server import QuietHandler, serving

ITEM = BenchmarkItem("1", "What is it?", None, "a red car", groups={"task": "sound"}, details={"meta_info": "a car passes"})


class Told:
    """A judge that answers what it is told, and keeps the prompts."""

    identity = "told"

    def __init__(self, *texts: str) -> None:
        self.texts, self.prompts = list(texts), list[str]()

    def ask(self, case: Case) -> str:
        self.prompts.append(case.prompt)
        return self.texts[(len(self.prompts) - 1) % len(self.texts)]


@contextmanager
def chat_server(*answers: tuple[int, object]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Answer requests in turn with status and JSON; yield the URL and what was received."""
    received: list[dict[str, object]] = []

    class Handler(QuietHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append({"path": self.path, "key": self.headers["Authorization"], **body})
            status, content = answers[min(len(received), len(answers)) - 1]
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = answer  # noqa: N815

    with serving(Handler) as url:
        yield f"{url}/v1", received


def _message(text: str) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_both_places_are_asked_and_averaged() -> None:
    judge = Told("9 5", "7 8")
    verdict = air_bench_chat_rule(judge)(ITEM, "a car")
    assert (verdict.value, verdict.details["second_place"], verdict.details["first_place"]) == (6.0, 5.0, 7.0)
    assert judge.prompts == [pair_case(ITEM, "a red car", "a car").prompt, pair_case(ITEM, "a car", "a red car").prompt]
    assert "a car passes" in judge.prompts[0]


def test_an_unreadable_judgement_is_no_score() -> None:
    assert air_bench_chat_rule(Told("9 5", "eight"))(ITEM, "a car").value == 5.0
    verdict = air_bench_chat_rule(Told("I cannot tell"))(ITEM, "a car")
    assert (verdict.value, verdict.code) == (None, "unparsed")


def test_audiobench_counts_an_unreadable_judgement_as_zero_and_nan_spoils_its_mean() -> None:
    assert alpaca_audio_rule(Told("Rating: 4"))(ITEM, "a car").value == 80.0
    verdict = alpaca_audio_rule(Told("Rating: **4**"))(ITEM, "a car")
    assert (verdict.value, verdict.code) == (0.0, "unparsed")
    assert alpaca_audio_rule(Told("Rating: nan"))(ITEM, "a car").stops


@pytest.mark.parametrize("given", [None, MISSING])
def test_nothing_is_asked_without_a_response(given: None) -> None:
    judge = Told("9 9")
    assert air_bench_chat_rule(judge)(ITEM, given).value is None
    assert alpaca_audio_rule(judge)(ITEM, given).value is None
    assert not judge.prompts


def test_the_stand_in_is_deterministic_and_has_no_preferred_place() -> None:
    assert StandIn().ask(pair_case(ITEM, "a red car", "nothing")) == "10 1"
    assert StandIn().ask(rating_case(ITEM, "A red car.")) == "Explanation: shared words.\nRating: 5"
    verdict = air_bench_chat_rule(StandIn())(ITEM, "a car")
    assert verdict.details["first_place"] == verdict.details["second_place"]


def test_a_server_is_asked_in_openais_protocol() -> None:
    with chat_server((200, _message("Rating: 3"))) as (url, received):
        assert ServedJudge(url, "judge-7b", "secret").ask(rating_case(ITEM, "a car")) == "Rating: 3"
    (request,) = received
    assert (request["path"], request["key"], request["model"], request["temperature"]) == (
        "/v1/chat/completions",
        "Bearer secret",
        "judge-7b",
        0,
    )
    assert request["messages"] == [{"role": "user", "content": rating_case(ITEM, "a car").prompt}]


def test_a_busy_server_is_asked_again() -> None:
    with chat_server((503, {}), (200, _message("8 7"))) as (url, received):
        assert ServedJudge(url, "m", pause_s=0.0).ask(rating_case(ITEM, "a car")) == "8 7"
    assert len(received) == 2
    assert received[0]["key"] is None


@pytest.mark.parametrize(("answer", "asked"), [((401, {}), 1), ((503, {}), 3), ((200, {"error": "x"}), 1)])
def test_a_server_that_cannot_be_used_is_an_error_not_a_score(answer: tuple[int, object], asked: int) -> None:
    with chat_server(answer) as (url, received), pytest.raises(EvaluationError, match="the judge cannot be used") as caught:
        ServedJudge(url, "m", pause_s=0.0).ask(rating_case(ITEM, "a car"))
    assert caught.value.value == url
    assert len(received) == asked


def test_judgements_are_kept_by_content(tmp_path: Path) -> None:
    judge = Told("Rating: 4")
    cached = CachedJudge(judge, tmp_path)
    assert {cached.ask(rating_case(ITEM, "a car")) for _ in range(3)} == {"Rating: 4"}
    assert len(judge.prompts) == 1
    cached.ask(rating_case(ITEM, "a bus"))
    assert len(judge.prompts) == 2
    other = Told("Rating: 2")
    other.identity = "another"
    assert CachedJudge(other, tmp_path).ask(rating_case(ITEM, "a car")) == "Rating: 2"


def test_a_suite_is_scored_with_a_judge() -> None:
    suite = find_suite("alpaca_audio")
    loaded = LoadedSuite(suite, "test", (ITEM,), suite.rule_of(Path()), DataVersion("", None))
    without = score_benchmark(loaded, {"1": "a red car"})
    assert without.official.value is None
    assert "judge" in without.official.reason
    result = score_benchmark(with_judge(loaded, StandIn()), {"1": "a red car"})
    assert (result.official.value, result.differing_share) == (100.0, 0.0)
    assert "stand-in" in result.loaded.suite.rule_name


def test_a_suite_without_a_judge_refuses_one() -> None:
    suite = find_suite("mmau")
    with pytest.raises(EvaluationError, match="MMAU has no judge"):
        with_judge(LoadedSuite(suite, "test-mini", (ITEM,), suite.rule_of(Path()), DataVersion("", None)), StandIn())
