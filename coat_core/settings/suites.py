"""Public benchmarks in `evaluation.suites` of params."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import model_validator

from coat_core.settings.base import Count, Section

SuiteKey = Literal[
    "mmau",
    "mmar",
    "air_bench_foundation",
    "air_bench_chat",
    "mmau_pro",
    "mmsu",
    "librispeech",
    "meld",
    "iemocap",
    "vocalsound",
    "gtzan",
    "nsynth_family",
    "nsynth_source",
    "nsynth_notes",
    "alpaca_audio",
    "voicebench_mcq",
]
"""Names of the benchmarks in `coat_core.evaluation.benchmarks.catalogue`."""
STAND_IN = "stand-in"
"""The judge that computes; any other judge is an address."""


class SuiteSettings(Section):
    """One public benchmark, which every trial answers."""

    suite: SuiteKey | None = None
    """The benchmark; null: the one that the key names. So a second split has a key of its own."""
    data: str
    """Folder with its published files and clips, relative to the workspace, or `owner/name@commit` of a data set on the hub."""
    split: str | None = None
    """null: the first split of the benchmark."""
    limit: Count | None = None
    """Only so many items, the first by the SHA-256 of their ids; null: all."""
    max_new_tokens: Count | None = None
    """Longest response, in tokens; null: `evaluation.max_new_tokens`."""
    accept_licence: bool = False
    """You have read a licence that forbids commercial use, and accept it."""
    judge: str | None = None
    """Open answers: `stand-in`, or the address of a server with OpenAI's protocol; null: no judge, and no official number."""
    judge_model: str | None = None
    """Name of the judge's model at the server. Its key is read from OPENAI_API_KEY."""

    def benchmark(self, key: str) -> str:
        """Return the name of the benchmark.

        Args:
            key: the key of this section.
        """
        return self.suite or key

    @model_validator(mode="after")
    def _named_judge(self) -> SuiteSettings:
        address = self.judge is not None and self.judge != STAND_IN
        if address and not str(self.judge).startswith(("http://", "https://")):
            raise ValueError(f"`judge` is {self.judge!r}; allowed: null, {STAND_IN}, or an address that begins with http:// or https://")
        if address != (self.judge_model is not None):
            raise ValueError("`judge_model` names the model at the address in `judge`; allowed: both, or neither")
        return self


def check_suites(suites: dict[str, SuiteSettings]) -> None:
    """Check that every section names a benchmark.

    Raises:
        ValueError: a key is no benchmark, and its section names none.
    """
    unknown = [key for key, chosen in suites.items() if chosen.benchmark(key) not in get_args(SuiteKey)]
    if unknown:
        known = ", ".join(get_args(SuiteKey))
        raise ValueError(f"suites.{unknown[0]} is no public benchmark; allowed: {known}; or any key with `suite: NAME` in its section")
