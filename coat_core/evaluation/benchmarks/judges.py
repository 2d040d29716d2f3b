"""Judges of open answers: one interface, a deterministic stand-in, a server with OpenAI's protocol, and a cache by content.

A language model on this machine is in `local_judge`.

The prompts are ours; the published ones are not copied. How a script reads the judge's text is that of `rules.judgements`. A judgement
that cannot be read is no score; only where the published script counts it as 0, its official value is 0.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.rules.judgements import air_bench_line, audiobench_score
from coat_core.evaluation.benchmarks.strict import word_overlap
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.benchmarks.totals import FIRST_PLACE, SECOND_PLACE
from coat_core.evaluation.benchmarks.verdicts import Rule, Verdict, left_out
from coat_core.storage import read_json, sha256_json, write_json

_TRIES, _PAUSE_S, _TIMEOUT_S = 3, 1.0, 120.0
_BUSY = frozenset((408, 429, 500, 502, 503, 504))


@dataclass(frozen=True)
class Case:
    """What a judge sees: the prompt as text, and its parts for a judge that computes."""

    prompt: str
    reference: str
    answers: tuple[str, ...]
    form: str
    """How the judge is to answer: "pair" (two numbers 1 to 10) or "rating" (`Rating: ` and a number 0 to 5)."""


class Judge(Protocol):
    """Something that judges answers."""

    @property
    def identity(self) -> str:
        """Name and settings; part of the key of the cache."""
        ...

    def ask(self, case: Case) -> str:
        """Return the text of the judgement."""
        ...


@dataclass(frozen=True)
class StandIn:
    """A deterministic judge: F1 of the words against the reference. Never to be compared with a language model's scores."""

    identity: str = "stand-in: F1 of words"

    def ask(self, case: Case) -> str:
        """Return the judgement in the form of the case."""
        shares = [word_overlap(case.reference, answer) for answer in case.answers]
        if case.form == "pair":
            return " ".join(str(max(1, round(10 * share))) for share in shares)
        return f"Explanation: shared words.\nRating: {round(5 * shares[0])}"


@dataclass(frozen=True)
class ServedJudge:
    """A language model behind a server with OpenAI's protocol (`POST …/chat/completions`), asked at temperature 0.

    Attributes:
        url: address up to and with the version, e.g. `http://localhost:8000/v1`.
        model: name of the model at the server.
        key: bearer token; empty for none.
        timeout_s: of one request, in seconds.
        pause_s: before the second try, in seconds; it doubles.
    """

    url: str
    model: str
    key: str = ""
    timeout_s: float = _TIMEOUT_S
    pause_s: float = _PAUSE_S

    @property
    def identity(self) -> str:
        """The model, without the address: the same model elsewhere gives the same judgement."""
        return f"{self.model} at temperature 0"

    def ask(self, case: Case) -> str:
        """Return the text of the judgement; a busy server is asked three times.

        Raises:
            EvaluationError: the server is unreachable, refuses the request, or does not answer in the protocol.
        """
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": case.prompt}]}
        for number in range(_TRIES):
            try:
                return self._text(self._post(body))
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in _BUSY or number == _TRIES - 1:
                    raise self._error(f"it answered {error.code}") from error
            except OSError as error:
                if number == _TRIES - 1:
                    raise self._error(str(error)) from error
            time.sleep(self.pause_s * 2**number)
        raise AssertionError("unreachable")

    def _post(self, body: object) -> bytes:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            return bytes(response.read())

    def _text(self, data: bytes) -> str:
        try:
            return str(json.loads(data)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise self._error(f"no answer in OpenAI's protocol: {data[:80]!r}") from error

    def _error(self, problem: str) -> EvaluationError:
        return EvaluationError(
            f"the judge cannot be used: {problem}", field="judge", value=self.url, next_step="check address, model and key of the server"
        )


@dataclass(frozen=True)
class CachedJudge:
    """A judge whose texts are kept in a folder, by the content of judge and prompt; a changed response is judged again."""

    judge: Judge
    folder: Path

    @property
    def identity(self) -> str:
        """The identity of the judge."""
        return self.judge.identity

    def ask(self, case: Case) -> str:
        """Return the stored text, or ask and store it."""
        path = self.folder / f"{sha256_json({'judge': self.identity, 'prompt': case.prompt})}.json"
        if path.is_file():
            return str(read_json(path)["text"])
        text = self.judge.ask(case)
        write_json(path, {"judge": self.identity, "prompt": case.prompt, "text": text})
        return text


def pair_case(item: BenchmarkItem, first: str, second: str) -> Case:
    """Return the case of two answers to a question; places are kept as given."""
    prompt = (
        f"Two assistants answered a question about a clip.\nDescription of the clip: {item.details.get('meta_info', '')}\n"
        f"Question: {item.question}\nReference answer: {item.answer}\nAssistant 1: {first}\nAssistant 2: {second}\n"
        "Score correctness, detail and relevance of each from 1 to 10. Write one line: the two integers with a blank between them."
    )
    return Case(prompt, item.answer or "", (first, second), "pair")


def rating_case(item: BenchmarkItem, response: str) -> Case:
    """Return the case of one answer to an instruction."""
    prompt = (
        f"Instruction: {item.question}\nReference answer: {item.answer}\nAnswer: {response}\n"
        "Score how well the answer agrees with the reference, from 0 to 5. Write `Explanation: …`, then in a new line `Rating: ` and "
        "the number."
    )
    return Case(prompt, item.answer or "", (response,), "rating")


def air_bench_chat_rule(judge: Judge) -> Rule:
    """Return the rule of AIR-Bench Chat: the mean of the model's scores in both places; unreadable lines leave the mean.

    `details` has both scores, from which `both_places_total` works out the preference for a place.
    """

    def rule(item: BenchmarkItem, given: Given) -> Verdict:
        if given is MISSING or given is None:
            return left_out("missing", "no response to judge")
        truth = item.answer or ""
        after = air_bench_line(judge.ask(pair_case(item, truth, given))).scores
        before = air_bench_line(judge.ask(pair_case(item, given, truth))).scores
        scores = {SECOND_PLACE: after[1] if after else None, FIRST_PLACE: before[0] if before else None}
        read = [score for score in scores.values() if score is not None]
        if not read:
            return Verdict(None, "unparsed", "both judgements are unreadable", details=scores)
        return Verdict(sum(read) / len(read), "matched", details={**scores, "of": 10.0})

    return rule


def alpaca_audio_rule(judge: Judge) -> Rule:
    """Return the rule of AudioBench for Alpaca-Audio: the rating times 20; an unreadable judgement is 0, "nan" spoils the mean."""

    def rule(item: BenchmarkItem, given: Given) -> Verdict:
        if given is MISSING or given is None:
            return left_out("missing", "no response to judge")
        score = audiobench_score(judge.ask(rating_case(item, given)))
        if score.value is None:
            return Verdict(None, "script_error", "the mean becomes NaN: the judge wrote a number that is not finite", stops=True)
        return Verdict(20 * score.value, "matched" if score.success else "unparsed", details={"of": 100.0})

    return rule


JUDGED: dict[str, Callable[[Judge], Rule]] = {"air_bench_chat": air_bench_chat_rule, "alpaca_audio": alpaca_audio_rule}
"""Benchmark → the rule that a judge makes possible."""


def with_judge(loaded: LoadedSuite, judge: Judge) -> LoadedSuite:
    """Return a loaded benchmark whose official reading asks a judge.

    Raises:
        EvaluationError: the benchmark has no judge.
    """
    if loaded.suite.name not in JUDGED:
        raise EvaluationError(
            f"{loaded.suite.title} has no judge", field="judge", value=judge.identity, allowed=list(JUDGED), next_step="leave --judge out"
        )
    suite = replace(loaded.suite, rule_name=f"{loaded.suite.rule_name}; asked here: {judge.identity}")
    return replace(loaded, suite=suite, rule=JUDGED[suite.name](judge))
