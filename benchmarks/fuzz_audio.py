"""Fuzz test of audio reading: mutated files of every format that libsndfile writes, through `measure` and `decode`.

A mutated file must be refused, or be accepted with all samples that its bytes hold. Failures: an accepted clip that is shorter than its
bytes hold, an exception that is no `AudioError`, results of `measure` and `decode` that differ, a crash, a hang. Each file depends only on
the seed and its number.

    python -m benchmarks.fuzz_audio                       # 10,000 files; writes docs/results/fuzz-audio.json
    python -m benchmarks.fuzz_audio --files 300 --to /tmp/fuzz.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_audio_files import MUTATIONS, Mutated, Seed, mutate, seeds

RESULT = Path("docs/results/fuzz-audio.json")
FAILURES = ("shorter", "exception", "inconsistent", "crash", "hang")
_CHUNK = 250
_HANG_S = 600
_SINGLE_HANG_S = 60


@dataclass(frozen=True)
class Outcome:
    """Result of one mutated file."""

    number: int
    format: str
    mutation: str
    result: str
    detail: str = ""


def judge(mutated: Mutated, path: Path) -> tuple[str, str]:
    """Read a mutated file and return the outcome and its reason."""
    from coat_core.corpus.audio import decode, measure, read_header
    from coat_core.errors import AudioError

    path.write_bytes(mutated.data)
    try:
        facts = measure(path)
        try:
            samples: int | None = decode(path).size
        except AudioError as error:
            samples, refusal = None, str(error)
        if (facts.error is None) != (samples is not None):
            return "inconsistent", f"measure: {facts.error}; decode: {samples}"
        if samples is None or facts.duration_s is None or facts.sample_rate_hz is None:
            return "refused", refusal
        header = read_header(path)
    except Exception as error:
        return "exception", f"{type(error).__name__}: {error}"
    if abs(samples - facts.duration_s * 16000) > 1:
        return "inconsistent", f"{facts.duration_s} s measured, {samples} samples decoded"
    frames = round(facts.duration_s * facts.sample_rate_hz)
    coding = (header.format, header.subtype, header.channels)
    if mutated.least is None or coding != mutated.coding:
        return "accepted", "its length is not known independently"
    if frames < mutated.least:
        return "shorter", f"{frames} frames, the bytes hold {mutated.least}"
    return "accepted", ""


def run_numbers(numbers: Sequence[int], seed: int, results: Path | None = None) -> list[Outcome]:
    """Make, read and judge files by number. Results are appended to a file, so that they survive a crash."""
    files = seeds()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            mutated = make(files, number, seed)
            outcome = Outcome(number, mutated.format, mutated.mutation, *judge(mutated, Path(folder) / "clip"))
            found.append(outcome)
            if results is not None:
                with results.open("a") as stream:
                    stream.write(json.dumps(vars(outcome)) + "\n")
    return found


def make(files: Sequence[Seed], number: int, seed: int) -> Mutated:
    """Return the mutated file of a number. Formats and mutations take turns."""
    rng = np.random.default_rng([seed, number])
    return mutate(files, files[number % len(files)], MUTATIONS[number // len(files) % len(MUTATIONS)], rng)


def run(files: int, seed: int, workers: int) -> list[Outcome]:
    """Run all files in processes of their own. A process that crashes or hangs is repeated file by file."""
    context = multiprocessing.get_context("spawn")
    chunks = [range(start, min(start + _CHUNK, files)) for start in range(0, files, _CHUNK)]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as temporary:
        while chunks:
            batch, chunks = chunks[:workers], chunks[workers:]
            running = []
            for chunk in batch:
                results = Path(temporary) / f"{chunk.start}-{chunk.stop}.jsonl"
                process = context.Process(target=_silent, args=(chunk, seed, results))
                process.start()
                running.append((chunk, results, process))
            for chunk, results, process in running:
                process.join(_HANG_S if len(chunk) > 1 else _SINGLE_HANG_S)
                hangs = process.is_alive()
                if hangs:
                    process.kill()
                    process.join()
                lines = results.read_text().splitlines() if results.is_file() else []
                outcomes += [Outcome(**json.loads(line)) for line in lines]
                rest = list(chunk)[len(lines) :]
                if rest and len(chunk) == 1:
                    mutated = make(seeds(), rest[0], seed)
                    result = "hang" if hangs else "crash"
                    outcomes.append(Outcome(rest[0], mutated.format, mutated.mutation, result, f"exit code {process.exitcode}"))
                elif rest:
                    chunks += [range(number, number + 1) for number in rest[:1]]
                    chunks += [range(rest[0] + 1, chunk.stop)] if len(rest) > 1 else []
    return sorted(outcomes, key=lambda outcome: outcome.number)


def table(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Return the counts by mutation, by format and by result."""

    def count(field: str) -> dict[str, dict[str, int]]:
        names = sorted({getattr(outcome, field) for outcome in outcomes})
        found = {name: Counter(o.result for o in outcomes if getattr(o, field) == name) for name in names}
        return {name: dict(sorted(results.items())) for name, results in found.items()}

    total = Counter(outcome.result for outcome in outcomes)
    return {
        "files": len(outcomes),
        "seed": seed,
        "results": dict(sorted(total.items())),
        "failures": sum(total[name] for name in FAILURES),
        "by_mutation": count("mutation"),
        "by_format": count("format"),
    }


def _silent(numbers: Sequence[int], seed: int, results: Path) -> None:
    # mpg123 writes warnings to the standard error of the process.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run_numbers(numbers, seed, results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzz test; return 1 if a file failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--to", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    outcomes = run(options.files, options.seed, options.workers)
    for outcome in outcomes:
        if outcome.result in FAILURES:
            print(f"{outcome.number} {outcome.format} {outcome.mutation}: {outcome.result}: {outcome.detail}")
    result = table(outcomes, options.seed)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("files", "results", "failures", "by_mutation")}))
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
