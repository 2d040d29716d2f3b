"""Kill the process group of `coat run` with signal 9 at random moments, and run it again after each kill.

    python -m benchmarks.kill [--kills 10] [--seed 0] [--params params/smoke.yaml] [--folder DIR] [--json FILE]

An undisturbed workspace is run first; its bytes and its duration are the reference. A round starts with a new workspace, which is run
and killed until a run completes. Rounds repeat until the number of kills is reached. After each round every deterministic file must be
byte-equal to that of the undisturbed workspace, each model must have one version, and no process and no run that MLflow or Prefect
records as running may be left.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.after_kills import differences
from tests.testing import chain_runs

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--params", type=Path, default=ROOT / "params/smoke.yaml")
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary folder")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="coat-kill-"))
    generator, rows = random.Random(options.seed), []

    undisturbed = chain_runs.make_tiny(folder / "undisturbed", options.params)
    started = time.monotonic()
    chain_runs.run_chain(undisturbed)
    duration = time.monotonic() - started
    expected, versions = chain_runs.fingerprint(undisturbed), chain_runs.versions(undisturbed)
    print(f"undisturbed: {duration:.0f} s, {len(expected)} files, versions {versions}", flush=True)
    print(f"{'round':>5} {'kill':>4} {'at s':>6} {'gone s':>6}  stages that ran", flush=True)

    remaining, rounds, bad = options.kills, 0, []
    while remaining:
        rounds += 1
        workspace = chain_runs.make_tiny(folder / f"round-{rounds}", options.params)
        complete = False
        while remaining and not complete:
            moment = generator.uniform(0.0, duration)
            row = run_and_kill(workspace, moment)
            complete = row is None
            if row is not None:
                remaining -= 1
                rows.append({"round": rounds, **row})
                print(f"{rounds:>5} {len(rows):>4} {row['at']:>6.1f} {row['gone']:>6.1f}  {', '.join(row['running']) or '-'}", flush=True)
        if not complete:
            chain_runs.run_chain(workspace)
        problems = examine(workspace, expected, versions)
        bad += [f"round {rounds}: {problem}" for problem in problems]
        print(f"{rounds:>5} complete: {'; '.join(problems) or 'equal to the undisturbed workspace'}", flush=True)
    slowest = max(row["gone"] for row in rows)
    print(f"{len(rows)} kills in {rounds} rounds; last process gone after at most {slowest:.1f} s; {len(bad)} problems")
    if options.json:
        options.json.write_text(json.dumps({"duration_s": duration, "kills": rows, "rounds": rounds, "problems": bad}, indent=1) + "\n")
    sys.exit(1 if bad else 0)


def run_and_kill(workspace: Path, moment: float) -> dict | None:
    """Run the chain and kill its process group after `moment` seconds; return None if it had completed by then."""
    flow = chain_runs.start_chain(workspace)
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline and flow.poll() is None:
        time.sleep(0.05)
    if flow.poll() is not None:
        if flow.returncode:
            raise SystemExit((workspace / "coat-run.log").read_text()[-5000:])
        return None
    running = sorted({line.rsplit("--single-item ", 1)[1] for line in chain_runs.stages_in(workspace) if "--single-item " in line})
    killed = chain_runs.signal_chain(flow, signal.SIGKILL, group=True)
    flow.wait()
    chain_runs.wait_for(lambda: not chain_runs.processes_in(workspace), interval_s=0.05)
    return {"at": moment, "gone": time.monotonic() - killed, "running": running}


def examine(workspace: Path, expected: dict[str, str], versions: dict[str, list[int]]) -> list[str]:
    """Return the differences from the undisturbed workspace."""
    problems = differences(workspace, expected)
    if (has := chain_runs.versions(workspace)) != versions:
        problems.append(f"versions {has}")
    if left := chain_runs.unfinished(workspace):
        problems.append(f"left as running: {left}")
    return problems


if __name__ == "__main__":
    main()
