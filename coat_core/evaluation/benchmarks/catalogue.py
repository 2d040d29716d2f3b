"""The benchmarks by name; a module is imported when its suite is asked for."""

from __future__ import annotations

from importlib import import_module

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.suite import Suite

_PACKAGE = "coat_core.evaluation.benchmarks.suites"
SUITES = {
    "mmau": "mmau:MMAU",
    "mmar": "mmar:MMAR",
    "air_bench_foundation": "lettered:AIR_BENCH",
    "air_bench_chat": "open_answers:AIR_BENCH_CHAT",
    "mmau_pro": "open_answers:MMAU_PRO",
    "mmsu": "lettered:MMSU",
    "librispeech": "librispeech:LIBRISPEECH",
    "meld": "labels:MELD",
    "iemocap": "labels:IEMOCAP",
    "vocalsound": "labels:VOCAL_SOUND",
    "gtzan": "music:GTZAN",
    "nsynth_family": "music:NSYNTH_FAMILY",
    "nsynth_source": "music:NSYNTH_SOURCE",
    "nsynth_notes": "music:NSYNTH_NOTES",
    "alpaca_audio": "open_answers:ALPACA_AUDIO",
    "voicebench_mcq": "lettered:VOICEBENCH",
}
"""Name → module and attribute."""


def find_suite(name: str) -> Suite:
    """Return a benchmark.

    Raises:
        EvaluationError: there is none of that name; the message lists those that exist.
    """
    if name not in SUITES:
        raise EvaluationError("no such benchmark", field="suite", value=name, allowed=list(SUITES), next_step="use one of these")
    module, _, attribute = SUITES[name].partition(":")
    suite = getattr(import_module(f"{_PACKAGE}.{module}"), attribute)
    assert isinstance(suite, Suite)
    return suite
