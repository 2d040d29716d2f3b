"""Rows per second and peak memory of each step that handles all rows of a corpus at once, at 10^4, 10^5 and 10^6 rows.

    python -m benchmarks.rows [--rows 10000 100000 1000000] [--files 1000] [--workers 2] [--steps import contract …] [--json FILE]

The rows are synthetic: questions with choices, open questions and transcripts about `--files` short clips. Each step runs in a process of
its own, whose peak memory is reported, Python and libraries included.

    import    a JSON Lines manifest to a corpus folder (splits included)
    split     the splits of the rows alone
    contract  the data contract; clips are decoded by `--workers` further processes
    read      the accepted manifest, as each later stage reads it
    index     `extract_features` on a store that contains as many clips as there are rows: manifest, layout, checks and index
    open      that store is opened, and 10,000 of its clips are read

The exit status is 1 if a step needs more than 4 GiB, or more than twice the time per row with ten times the rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, print_machine
from coat_core.storage import write_json, write_jsonl

LIMIT_BYTES = 4 << 30
FEWEST_ROWS = 100_000
"""Time per row is compared from here on: with fewer rows, imports and start-up count."""
FAMILIES = ("transcription", "understanding", "music", "emotion", "reasoning")
CLIP_S = 0.25
EXPERT = "log_mel"


def write_clips(folder: Path, count: int) -> None:
    from coat_core.corpus.audio import flac_bytes

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        (folder / f"clip-{number:06d}.flac").write_bytes(flac_bytes(0.1 * rng.standard_normal(int(CLIP_S * 16_000)), 16_000))


def manifest_rows(count: int, files: int) -> Iterator[dict[str, Any]]:
    """Yield rows whose clips are in groups of two."""
    for number in range(count):
        clip, family = number % files, FAMILIES[number // files % len(FAMILIES)]
        row: dict[str, Any] = {"audio_filepath": f"audio/clip-{clip:06d}.flac", "group": f"speaker-{clip // 2:06d}", "family": family}
        if family == "transcription":
            yield row | {"text": f"the number of this row is {number}"}
        elif family == "music":
            yield row | {"question": f"Which instrument plays in recording {number}?", "answer": "a flute"}
        else:
            choices = ["dog bark", "church bell", "rain", f"siren {number % 97}"]
            yield row | {"question": f"What sound is in recording {number}?", "answer": choices[number % 4], "choices": choices}


def corpus_settings() -> Any:
    from coat_core.settings import CorpusSettings

    shares = {"train": 6, "validation": 2, "test": 2}
    return CorpusSettings.model_validate({"kind": "manifest", "path": "rows.jsonl", "clips_per_family": shares})


def run_import(folder: Path, count: int, options: argparse.Namespace) -> Callable[[], object]:
    from coat_core.corpus.imported.corpus import import_corpus

    write_clips(folder / "source/audio", min(options.files, count))
    with (folder / "source/rows.jsonl").open("w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in manifest_rows(count, options.files))
    return lambda: import_corpus(corpus_settings(), folder / "source/rows.jsonl", folder / "corpus")


def run_split(folder: Path, count: int, options: argparse.Namespace) -> Callable[[], object]:
    from coat_core.corpus.splits import split_rows

    keys = [[f"group {number // 4:06d}", f"sha256 {number // 2:064x}"] for number in range(count)]
    return lambda: split_rows(keys, [None] * count, corpus_settings().clips_per_family, 7)


def run_contract(folder: Path, count: int, options: argparse.Namespace) -> Callable[[], object]:
    from coat_core.corpus.contract.contract import check_corpus
    from coat_core.settings import ContractSettings

    def check() -> None:
        result = check_corpus(
            folder / "corpus", ContractSettings(), accepted=folder / "accepted.jsonl", quarantine=folder / "quarantine.jsonl",
            records=folder / "contract", workers=options.workers,
        )  # fmt: skip
        assert result.accepted == count, result.summary()

    return check


def run_read(folder: Path, count: int, options: argparse.Namespace) -> Callable[[], object]:
    from coat_core.corpus.examples import read_manifest

    return lambda: read_manifest(folder / "accepted.jsonl")


def run_index(folder: Path, count: int, options: argparse.Namespace) -> Callable[[], object]:
    """Write the shards of a store, one frame for each clip, so that `extract_features` computes nothing."""
    from coat_core.corpus.examples import read_manifest
    from coat_core.experts.catalogue import load_expert
    from coat_core.experts.store.computation import one_thread
    from coat_core.experts.store.extraction import extract_features
    from coat_core.experts.store.fingerprint import acoustic_fingerprint
    from coat_core.experts.store.shards import shard_bytes
    from coat_core.shards.layout import PREFIX_LENGTH, shard_name

    (folder / "store").mkdir()
    expert = load_expert(EXPERT)
    with one_thread():
        fingerprint = acoustic_fingerprint(expert)
    hashes = sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in range(count))
    by_prefix: dict[str, list[str]] = {}
    for sha256 in hashes:
        by_prefix.setdefault(sha256[:PREFIX_LENGTH], []).append(sha256)
    frame = np.arange(expert.spec.dim, dtype=np.float16)[None], np.ones(1, dtype=np.bool_)
    for prefix, members in by_prefix.items():
        (folder / "store" / shard_name(prefix)).write_bytes(shard_bytes(fingerprint, dict.fromkeys(members, frame)))
    write_jsonl(folder / "clips.jsonl", (
        {
            "id": f"row-{number}", "audio": f"audio/{sha256[:24]}.flac", "sha256": sha256, "duration_s": CLIP_S, "sample_rate_hz": 16_000,
            "split": "train", "group": f"speaker-{number}", "family": "music", "task": "music", "question": f"What is {number}?",
            "choices": None, "answer": "a flute", "source": "rows.jsonl", "licence": "unknown",
        }
        for number, sha256 in enumerate(hashes)
    ))  # fmt: skip

    def extract() -> None:
        extract_features("expert", EXPERT, read_manifest(folder / "clips.jsonl"), folder / "no-audio", folder / "store")

    return extract


def run_open(folder: Path, count: int, options: argparse.Namespace) -> Callable[[], object]:
    from coat_core.experts.store.store import ExpertStore

    def read() -> None:
        store = ExpertStore.open(folder / "store")
        assert len(store) == count
        for number in range(0, count, max(1, count // 10_000)):
            store.get(hashlib.sha256(str(number).encode()).hexdigest())

    return read


STEPS = {"import": run_import, "split": run_split, "contract": run_contract, "read": run_read, "index": run_index, "open": run_open}


def run_step(name: str, count: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a step in this process and return its time and the peak memory of the process."""
    step = STEPS[name](folder, count, options)
    prepared = peak_mib()
    begin, processor = time.perf_counter(), time.process_time()
    step()
    seconds = time.perf_counter() - begin
    return {
        "step": name, "rows": count, "seconds": round(seconds, 2), "processor_s": round(time.process_time() - processor, 2),
        "rows_per_s": round(count / seconds), "peak_mib": peak_mib(), "before_mib": prepared,
        "worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
    }  # fmt: skip


def peak_mib() -> int:
    """Return the peak memory of this process. `ru_maxrss` would count that of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) >> 10


def failures(found: list[dict[str, Any]]) -> list[str]:
    by_step = {(row["step"], row["rows"]): row for row in found}
    wrong = [f"{row['step']} of {row['rows']} rows: {row['peak_mib']} MiB" for row in found if row["peak_mib"] << 20 > LIMIT_BYTES]
    for (name, count), row in by_step.items():
        smaller = by_step.get((name, count // 10))
        if smaller and count // 10 >= FEWEST_ROWS and row["processor_s"] > 20 * max(smaller["processor_s"], 0.5):
            wrong.append(f"{name} of {count} rows: {row['processor_s']} s, of {count // 10} rows {smaller['processor_s']} s")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--files", type=int, default=1000, help="different clips")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", nargs="+", choices=[*STEPS], default=[*STEPS])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:  # one step, in a process of its own
        print(json.dumps(run_step(options.steps[0], options.rows[0], options.folder, options)))
        return
    machine = describe_machine()
    print_machine(machine)
    found: list[dict[str, Any]] = []
    for count in options.rows:
        with tempfile.TemporaryDirectory(prefix="coat-rows-") as folder:
            for name in options.steps:
                command = [sys.executable, "-m", "benchmarks.rows", "--steps", name, "--rows", str(count), "--folder", folder,
                           "--files", str(options.files), "--workers", str(options.workers)]  # fmt: skip
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                found.append(row := json.loads(output.splitlines()[-1]))
                print(
                    f"{row['rows']:>9} rows  {name:<9}{row['seconds']:>8.1f} s ({row['processor_s']:.1f} s of processor)  "
                    f"{row['rows_per_s']:>8} rows/s  peak {row['peak_mib']:>5} MiB",
                    flush=True,
                )
    wrong = failures(found)
    if options.json:
        write_json(options.json, {"machine": machine, "files": options.files, "workers": options.workers, "steps": found})
    for message in wrong:
        print(f"FAILED: {message}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
