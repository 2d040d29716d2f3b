"""Public benchmarks in `evaluation.suites` of params."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import model_validator

from coat_core.settings.base import Count, Section, is_commit

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
STAND_IN, LOCAL = "stand-in", "local"
"""The judge that computes, and a language model on this machine; any other judge is an address."""


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
    """Open answers: `stand-in`, `local`, or the address of a server with OpenAI's protocol; null: no judge, and no official number."""
    judge_model: str | None = None
    """Of `local`: folder of a language model, relative to the workspace, or its hub id. Of a server: the model's name there; the server's
    key is read from OPENAI_API_KEY."""
    judge_revision: str | None = None
    """Of `local` with a hub id: its commit."""

    def benchmark(self, key: str) -> str:
        """Return the name of the benchmark.

        Args:
            key: the key of this section.
        """
        return self.suite or key

    @model_validator(mode="after")
    def _named_judge(self) -> SuiteSettings:
        if self.judge not in (None, STAND_IN, LOCAL) and not str(self.judge).startswith(("http://", "https://")):
            allowed = f"null, {STAND_IN}, {LOCAL}, or an address that begins with http:// or https://"
            raise ValueError(f"`judge` is {self.judge!r}; allowed: {allowed}")
        if (self.judge in (None, STAND_IN)) != (self.judge_model is None):
            raise ValueError(f"`judge_model` names the model of `judge: {LOCAL}` or of an address; allowed: both, or neither")
        if self.judge_revision is not None and not (self.judge == LOCAL and is_commit(self.judge_revision)):
            allowed = f"a commit (40 hexadecimal digits), with `judge: {LOCAL}`"
            raise ValueError(f"`judge_revision` is {self.judge_revision!r}; allowed: {allowed}")
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
