"""Judges: the stand-in, a server on loopback with OpenAI's protocol, the cache, and swapped places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem
from coat_core.evaluation.benchmarks.judges import (
    CachedJudge,
    Judge,
    ServedJudge,
    StandIn,
    air_bench_chat_rule,
    alpaca_audio_rule,
    pair_case,
    rating_case,
    with_judge,
)
from coat_core.evaluation.benchmarks.recorded import flat_metrics
from coat_core.evaluation.benchmarks.scoring import BenchmarkResult, score_benchmark, to_json
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.benchmarks.table import table_text
from tests.testing.http_server import QuietHandler, serving
from tests.testing.judges import Told

ITEM = BenchmarkItem("1", "What is it?", None, "a red car", groups={"task": "sound"}, details={"meta_info": "a car passes"})


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


def _chat(*texts: str, judge: Judge | None = None, count: int = 4) -> BenchmarkResult:
    """Return the result of items with a response each, and one without, as a judge scores them with these texts in turn."""
    suite = find_suite("air_bench_chat")
    items = tuple(replace(ITEM, id=str(number)) for number in range(count + 1))
    loaded = LoadedSuite(suite, "chat", items, suite.rule_of(Path()), DataVersion("", None))
    return score_benchmark(with_judge(loaded, judge or Told(*texts)), {str(number): "a car" for number in range(count)})


def test_agreement_of_the_two_places() -> None:
    # Two texts an item: the response in the second place, then in the first.
    result = _chat("9 5", "7 8", "9 6", "6 9", "8 7", "9 2", "nine", "4 8")
    # Item 0: 5 and 7; item 1: 6 and 6; item 2: 7 and 9; item 3: unreadable and 4.
    assert result.official.value == (6.0 + 6.0 + 8.0 + 4.0) / 4
    assert result.official.further == {
        "judgements": 8,
        "judgements_unreadable": 1,
        "items_read_in_both_places": 3,
        "equal_in_both_places": 1 / 3,
        "first_minus_second_place": 4 / 3,
    }
    assert to_json(result)["official"]["first_minus_second_place"] == 4 / 3
    assert to_json(result)["groups"]["task"]["sound"]["official"]["equal_in_both_places"] == 1 / 3
    metrics = flat_metrics("air_bench_chat", to_json(result))
    assert metrics["suites/air_bench_chat/official_equal_in_both_places"] == 1 / 3
    text = table_text(result)
    assert "1 of 8 judgements unreadable" in text
    assert "agreement of the two places: the same score in both for 33.3% of 3 items" in text
    assert "preference for the first place: +1.33 of 10 points" in text


def test_a_judge_that_prefers_the_second_place_has_a_negative_preference() -> None:
    assert "preference for the first place: −4.00 of 10 points" in table_text(_chat("2 8", "4 6"))


def test_a_judge_that_looks_at_words_only_has_no_preference() -> None:
    further = _chat(judge=StandIn()).official.further
    assert (further["equal_in_both_places"], further["first_minus_second_place"], further["judgements_unreadable"]) == (1.0, 0.0, 0)


def test_unreadable_judgements_have_no_agreement() -> None:
    result = _chat("good")
    assert result.official.value is None
    assert result.official.further["equal_in_both_places"] is None
    assert "8 of 8 judgements unreadable" in table_text(result)
    assert "agreement" not in table_text(result)
    assert not any("both_places" in name for name in flat_metrics("a", to_json(result)) if not name.endswith("items_read_in_both_places"))


def test_without_a_judge_there_is_no_agreement() -> None:
    suite = find_suite("air_bench_chat")
    loaded = LoadedSuite(suite, "chat", (ITEM,), suite.rule_of(Path()), DataVersion("", None))
    assert score_benchmark(loaded, {"1": "a car"}).official.further == {}


def test_a_suite_without_a_judge_refuses_one() -> None:
    suite = find_suite("mmau")
    with pytest.raises(EvaluationError, match="MMAU has no judge"):
        with_judge(LoadedSuite(suite, "test-mini", (ITEM,), suite.rule_of(Path()), DataVersion("", None)), StandIn())
