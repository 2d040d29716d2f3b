"""A cold load: a process of its own loads a version from the registry's files alone and answers one question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from coat_core import watchdog
from coat_core.registry.database import connect
from coat_core.registry.serving import load_folder, model_folder, predict

QUESTION = "What do you hear?"


@dataclass(frozen=True)
class Probe:
    """What a cold load answered; `answer` is None when it did not, and `error` says why."""

    answer: str | None
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether there was an answer that says something."""
        return bool(self.answer and self.answer.strip())


def probe(
    name: str,
    version: str,
    workspace: Path = Path(),
    *,
    audio: Path | None = None,
    question: str = QUESTION,
    timeout_s: float = 600.0,
    again: bool = False,
    device: str | None = None,
) -> Probe:
    """Load a version in a process of its own, ask one question, and write the answer beside the version (tags `probe…`).

    A version that has passed is not asked again, for its files never change.

    Args:
        name: registered model.
        version: its version.
        workspace: where the records are.
        audio: clip to ask about; a sine tone when none is given.
        question: what to ask.
        timeout_s: after this the load counts as failed.
        again: ask although it has passed before.
        device: `cpu` or `cuda`; None: as the served model chooses.
    """
    client = connect(workspace)
    tags = client.get_model_version(name, version).tags
    if tags.get("probe") == "passed" and not again:
        return Probe(tags.get("probe_answer"))
    folder = model_folder(f"models:/{name}/{version}", workspace)
    result = _ask_cold(folder, str(audio.resolve()) if audio else "", question, timeout_s, device)
    client.set_model_version_tag(name, version, "probe", "passed" if result.passed else "failed")
    client.set_model_version_tag(name, version, "probe_answer", (result.answer if result.passed else result.error) or "no answer")
    return result


def _ask_cold(folder: Path, audio: str, question: str, timeout_s: float, device: str | None) -> Probe:
    root = str(Path(__file__).resolve().parents[2])
    # The child ends with the flow that owns us, or else with us.
    environment = {
        **os.environ,
        watchdog.OWNER: os.environ.get(watchdog.OWNER) or watchdog.owner_mark(),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        **({"COAT_DEVICE": device} if device else {}),
    }
    command = [sys.executable, "-m", "coat_core.registry.cold_load", str(folder), audio, question]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return Probe(None, f"no answer within {timeout_s:.0f} s")
    try:
        return Probe(str(json.loads(done.stdout.splitlines()[-1])["answer"]))
    except (IndexError, ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines()
        return Probe(None, lines[-1] if lines else f"the process ended with {done.returncode} and said nothing")


def _main(folder: str, audio: str, question: str) -> None:
    from coat_core.registry.packaging import tone_base64

    watchdog.watch_owner()
    print(json.dumps({"answer": predict(load_folder(Path(folder)), audio or tone_base64(), question)}))


if __name__ == "__main__":
    _main(*sys.argv[1:4])
