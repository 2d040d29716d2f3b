"""Time to load the question file of MMAU test-mini and to score 1,000 made responses under both readings, with all intervals.

`python -m benchmarks.mmau_scoring [FOLDER]`; FOLDER has mmau-test-mini.json, default ../shared/benchmarks.
"""

from __future__ import annotations

import random
import string
import sys
import time
from pathlib import Path

from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.scoring import score_benchmark, to_json
from coat_core.evaluation.benchmarks.suite import LoadedSuite, load

DEFAULT = Path("../shared/benchmarks")


def made_responses(loaded: LoadedSuite, seed: int = 3) -> dict[str, str]:
    """Return a response for each item: the answer in one of five forms."""
    rng, given = random.Random(seed), {}
    for item in loaded.items:
        letter = string.ascii_uppercase[item.options.index(item.answer or "")]
        forms = (item.answer or "", letter, f"{letter}. {item.answer}", f"The answer is {item.answer}.", "I cannot tell.")
        given[item.id] = rng.choice(forms)
    return given


def main(folder: Path) -> None:
    moments = [_now()]
    loaded = load(find_suite("mmau"), str(folder))
    moments.append(_now())
    result = score_benchmark(loaded, made_responses(loaded))
    moments.append(_now())
    to_json(result)
    moments.append(_now())
    parts = sum(len(result.parts(field)) for field in loaded.suite.groups)
    print(f"MD5 {loaded.version.md5}, published: {loaded.version.published}")
    steps = (f"loading {len(loaded.items)} questions", "scoring both readings", f"intervals of the whole and of {parts} parts")
    for step, (wall, cpu), (wall_after, cpu_after) in zip(steps, moments, moments[1:], strict=False):
        print(f"{step}: {wall_after - wall:.2f} s, {cpu_after - cpu:.2f} s of CPU")
    print(f"official {result.official.value:.3f}, strict {result.strict.value:.3f}, differing {result.differing_share:.1%}")


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
