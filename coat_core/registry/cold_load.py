"""A cold load: a new process loads a version from the registry's files alone and answers one question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core import watchdog
from coat_core.registry.database import connect
from coat_core.registry.lineage import resolve
from coat_core.registry.packaging import import_pyfunc
from coat_core.registry.versions import model_folder

QUESTION = "What do you hear?"


@dataclass(frozen=True)
class ColdLoad:
    """The result of a cold load: `answer` is None if it failed, and `error` contains the cause."""

    answer: str | None
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer contains text."""
        return bool(self.answer and self.answer.strip())


def load_cold(
    name: str,
    version: str,
    workspace: Path = Path(),
    *,
    audio: Path | None = None,
    question: str = QUESTION,
    timeout_s: float = 600.0,
    device: str | None = None,
) -> ColdLoad:
    """Load a version in a new process and answer one question. The answer is recorded in the tags `probe` and `probe_answer`.

    A version that has passed is not loaded again, because its files never change.

    Args:
        name: registered model.
        version: version of the model.
        workspace: folder of MLflow's records.
        audio: the clip; None: a sine tone.
        question: the question about the clip.
        timeout_s: limit in seconds; a load that takes longer fails.
        device: `cpu` or `cuda`; None: the default of the served model.

    Raises:
        RegistryError: the version does not exist, or its files are missing.
    """
    client = connect(workspace)
    uri = f"models:/{name}/{version}"
    tags = resolve(client, uri).tags
    if tags.get("probe") == "passed":
        return ColdLoad(tags.get("probe_answer"))
    result = _run_process(model_folder(uri, workspace), str(audio.resolve()) if audio else "", question, timeout_s, device)
    client.set_model_version_tag(name, version, "probe", "passed" if result.passed else "failed")
    client.set_model_version_tag(name, version, "probe_answer", (result.answer if result.passed else result.error) or "no answer")
    return result


def load_served(folder: Path) -> Any:
    """Load a saved MLflow model from its folder, without writing bytecode next to the model's code."""
    pyfunc = import_pyfunc()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
            return pyfunc.load_model(str(folder))
    finally:
        sys.dont_write_bytecode = before


def predict(model: Any, audio: str, question: str) -> str:
    """Return the answer of a loaded MLflow model to one question about one clip (a path, or a WAV file in base64)."""
    import pandas as pd

    table = pd.DataFrame([[audio, question]], columns=pd.Index(["audio", "question"], dtype=object))
    return str(model.predict(table)["answer"].iloc[0])


def _run_process(folder: Path, audio: str, question: str, timeout_s: float, device: str | None) -> ColdLoad:
    root = str(Path(__file__).resolve().parents[2])
    # The child ends with the owner of this process (the flow), or else with this process.
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
        return ColdLoad(None, f"no answer within {timeout_s:.0f} s")
    try:
        return ColdLoad(str(json.loads(done.stdout.splitlines()[-1])["answer"]))
    except (IndexError, ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines()
        return ColdLoad(None, lines[-1] if lines else f"the process ended with exit status {done.returncode} and printed no error")


def _main(folder: str, audio: str, question: str) -> None:
    from coat_core.registry.packaging import tone_base64

    watchdog.watch_owner()
    print(json.dumps({"answer": predict(load_served(Path(folder)), audio or tone_base64(), question)}))


if __name__ == "__main__":
    _main(*sys.argv[1:4])
