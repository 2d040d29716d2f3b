"""Import from and export to an S3 server through a network with faults, and count what was wrong afterwards: nothing may be.

    python -m benchmarks.network_faults [--runs 50] [--chance 0.7] [--clips 12] [--seed 0] [--json FILE]

Each run imports a corpus from a bucket (list, fetch, verify, import) and uploads a folder to a new prefix, through a proxy on loopback
in front of moto that, with this chance and for each request, cuts off or damages the answer, refuses the request with status 500 or 503,
closes the connection before or after the request arrived, or waits. When an operation ends with an error, it is called again, as a user
or a retry of the chain would do. Checked after every error, and at the end against the server without a proxy:

* an error is one of this project that says that it may be retried
* an import that failed has published nothing, and one that is complete is byte-equal to that of the same files in a folder
* an upload that failed has no record, so nobody takes it for a complete one; one that is complete has all files, byte-equal, and no others

The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import describe_machine
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.errors import CoatError, Interrupted
from coat_core.pipeline.runner import run_stage
from coat_core.pipeline.source import list_source
from coat_core.pipeline.workspace import make_workspace
from coat_core.settings import load_settings
from coat_core.storage import sha256_tree, write_json
from coat_core.storage.s3 import Location, open_client
from coat_core.storage.s3_upload import upload_folder
from tests.testing.manifests import write_tones
from tests.testing.s3_server import Fault, FaultyProxy, moto_server, use_server

ROOT = Path(__file__).resolve().parent.parent
RECORD = "export.json"
FAULTS: dict[str, tuple[Fault, ...]] = {"GET": ("half", "damaged", "busy", "failed", "closed", "lost", "slow")}
"""Faults by method; those of any other one below."""
OTHER_FAULTS: tuple[Fault, ...] = ("busy", "failed", "closed", "lost", "slow")
MOST_CALLS = 50
"""Calls of one operation in a run; needing more counts as a failed check."""


class Faulty:
    """The workspace of the import, the folder to upload, and the server without a proxy.

    Args:
        folder: an empty folder.
        direct: client of the server without a proxy.
        bucket: a new bucket.
        clips: clips of the corpus.
    """

    def __init__(self, folder: Path, direct: Any, bucket: str, clips: int) -> None:
        self.folder, self._direct, self._bucket = folder, direct, bucket
        self.problems: list[str] = []
        self.errors: Counter[str] = Counter()
        names = [f"clips/{number}.wav" for number in range(clips)]
        write_tones(folder / "local", *names)
        rows = [
            {"audio": name, "question": "Which tone?", "answer": "low", "choices": ["low", "high"], "family": "music", "group": name}
            for name in names
        ]
        (folder / "local/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for path in (folder / "local").rglob("*"):
            if path.is_file():
                direct.put_object(Bucket=bucket, Key=f"corpus/{path.relative_to(folder / 'local')}", Body=path.read_bytes())
        changes = {"corpus.kind": "manifest", "corpus.path": f"s3://{bucket}/corpus/rows.jsonl", "runtime.threads": 1}
        self.workspace = make_workspace(folder / "workspace", ROOT / "params/tiny.yaml", changes)
        corpus = load_settings(self.workspace / "params.yaml").corpus
        import_corpus(corpus.model_copy(update={"path": "rows.jsonl"}), folder / "local/rows.jsonl", folder / "expected")
        self._expected = sha256_tree(folder / "expected")
        self._files = {name: random.Random(name).randbytes(size) for name, size in (("adapter.bin", 9_000_000), ("base/config.json", 900))}
        self._files[RECORD] = b"{}"
        for name, data in self._files.items():
            (folder / "export" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "export" / name).write_bytes(data)

    def run(self, number: int) -> None:
        """Import and upload once, with as many calls as it takes."""
        for name in ("data/corpus", ".scratch"):
            shutil.rmtree(self.workspace / name, ignore_errors=True)
        location = Location(self._bucket, f"exports/{number}")
        corpus = load_settings(self.workspace / "params.yaml").corpus
        self._repeat(f"run {number}, list", lambda: list_source(self.workspace, corpus), lambda: False)
        published = self.workspace / "data/corpus"
        self._repeat(f"run {number}, import", lambda: run_stage("corpus", self.workspace), published.exists)
        if not published.exists() or sha256_tree(published) != self._expected:
            self.problems.append(f"run {number}: the imported corpus differs from that of the folder")
        # The record of a call that failed after its last request was answered is complete.
        self._repeat(
            f"run {number}, upload", lambda: upload_folder(open_client(), self.folder / "export", location, RECORD),
            lambda: RECORD in self._stored(location) and self._stored(location).items() < self._files.items(),
        )  # fmt: skip
        if self._stored(location) != self._files:
            self.problems.append(f"run {number}: the uploaded objects differ from the files")

    def _repeat(self, name: str, call: Callable[[], object], wrong: Callable[[], bool]) -> None:
        for _ in range(MOST_CALLS):
            try:
                call()
                return
            except (Interrupted, KeyboardInterrupt):
                raise
            except CoatError as error:
                self.errors[type(error).__name__] += 1
                if not error.retryable:
                    self.problems.append(f"{name}: not retryable: {error}")
            except Exception as error:
                self.problems.append(f"{name}: {type(error).__name__}: {error}")
            if wrong():
                self.problems.append(f"{name}: what had failed counted as complete")
        self.problems.append(f"{name}: not complete after {MOST_CALLS} calls")

    def _stored(self, location: Location) -> dict[str, bytes]:
        found = self._direct.list_objects_v2(Bucket=location.bucket, Prefix=f"{location.prefix}/").get("Contents", ())
        keys = [entry["Key"] for entry in found]
        return {
            key.removeprefix(f"{location.prefix}/"): self._direct.get_object(Bucket=location.bucket, Key=key)["Body"].read() for key in keys
        }


def run(folder: Path, *, runs: int, chance: float, clips: int, seed: int) -> dict[str, Any]:
    """Run all and return the counts: faults by kind, errors by class, requests and problems."""
    with pytest.MonkeyPatch.context() as patch, moto_server() as url, FaultyProxy(url).running() as proxy:
        use_server(patch, url)
        direct = open_client()
        bucket = f"faults-{uuid.uuid4().hex[:12]}"  # moto's servers in one process share their buckets
        direct.create_bucket(Bucket=bucket)
        faulty = Faulty(folder, direct, bucket, clips)
        use_server(patch, proxy.url)
        patch.setattr("coat_core.storage.s3._FIRST_PAUSE_S", 0.01)
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
        draw, requests = random.Random(seed), Counter[str]()

        def choose(method: str) -> Fault | None:
            requests[method] += 1
            return draw.choice(FAULTS.get(method, OTHER_FAULTS)) if draw.random() < chance else None

        proxy.choose = choose
        for number in range(runs):
            faulty.run(number)
            print(f"run {number + 1:>3} of {runs}: {proxy.counts.total()} faults in {requests.total()} requests, "
                  f"{faulty.errors.total()} calls failed, {len(faulty.problems)} problems", flush=True)  # fmt: skip
    return {
        "runs": runs, "chance": chance, "clips": clips, "seed": seed, "requests": dict(sorted(requests.items())),
        "faults": dict(sorted(proxy.counts.items())), "failed_calls": dict(sorted(faulty.errors.items())), "problems": faulty.problems,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--chance", type=float, default=0.7, help="chance of a fault for each request")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="coat-faults-") as folder:
        counts = run(Path(folder), runs=options.runs, chance=options.chance, clips=options.clips, seed=options.seed)
    print(json.dumps({key: value for key, value in counts.items() if key != "problems"}))
    print("\n".join(counts["problems"]) or "nothing incomplete or corrupt was accepted")
    if options.json:
        write_json(options.json, {"machine": describe_machine(), **counts})
    sys.exit(1 if counts["problems"] else 0)


if __name__ == "__main__":
    main()
