"""A cold load: a new process loads a version from the registry's files alone and answers one question."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coat_core import watchdog
from coat_core.registry.database import open_registry
from coat_core.registry.lineage import resolve
from coat_core.registry.locks import locked
from coat_core.registry.packaging import import_pyfunc
from coat_core.registry.probe import answer_problem
from coat_core.registry.uris import needs_quotes
from coat_core.registry.versions import model_folder
from coat_core.storage import copy_tree, sha256_bytes

if TYPE_CHECKING:
    from coat_core.evaluation.generate import GeneratedAnswer

QUESTION = "What do you hear?"
MAX_NEW_TOKENS = 64
"""Limit of an answer of the served model."""


@dataclass(frozen=True)
class ColdLoad:
    """The result of a cold load: `answer` is None if it failed, and `error` contains the cause.

    `finished` is whether the model ended its turn; False: the answer was cut off at the token limit. `control_tokens` are the control
    tokens that the model generated within its turn: the text of the answer hides them.
    """

    answer: str | None
    error: str = ""
    finished: bool = True
    control_tokens: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Why this is not a real answer, as a clause; empty if it is one."""
        if self.answer is None:
            return self.error or "no answer"
        if problem := answer_problem(self.answer):
            return problem
        if self.control_tokens:
            return f"was generated with the control tokens {' '.join(dict.fromkeys(self.control_tokens))}"
        return "" if self.finished else f"was cut off after {MAX_NEW_TOKENS} tokens"

    @property
    def passed(self) -> bool:
        """Whether the answer is a real one: not empty, not cut off, no control text or control tokens."""
        return not self.problem


def load_cold(
    name: str,
    version: str,
    workspace: Path = Path(),
    *,
    audio: Path | None = None,
    question: str = QUESTION,
    timeout_s: float = 3600.0,
    device: str | None = None,
) -> ColdLoad:
    """Load a version in a new process and answer one question.

    The tags record the result: `probe` (passed or failed), `probe_answer`, `probe_finished` (whether the model ended its turn: true,
    false or unknown) and, for a failure, `probe_reason`. A version that has passed is not loaded again, because its files never change.

    Args:
        name: registered model.
        version: version of the model.
        workspace: folder of MLflow's records.
        audio: the clip; None: a sine tone.
        question: the question about the clip.
        timeout_s: limit in seconds, which ends a load that hangs; a load that takes longer fails.
        device: `cpu` or `cuda`; None: the default of the served model.

    Raises:
        RegistryError: the version does not exist, or its files are missing.
    """
    client = open_registry(workspace)
    uri = f"models:/{name}/{version}"
    tags = resolve(client, uri).tags
    if tags.get("probe") == "passed" and tags.get("probe_finished") == "true":
        return ColdLoad(tags.get("probe_answer"))
    result = _run_process(model_folder(uri, workspace), str(audio.resolve()) if audio else "", question, timeout_s, device)
    recorded = {
        "probe_answer": (result.error if result.answer is None else result.answer) or "no answer",
        "probe_finished": "unknown" if result.answer is None else str(result.finished).lower(),
        "probe_reason": result.problem or "none",
        "probe": "passed" if result.passed else "failed",
    }
    with locked(workspace):
        for key, value in recorded.items():
            client.set_model_version_tag(name, version, key, value)
    return result


def load_served(folder: Path) -> Any:
    """Load a saved MLflow model from its folder, without writing bytecode next to the model's code."""
    pyfunc = import_pyfunc()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
            if not needs_quotes(folder.resolve()):
                return pyfunc.load_model(str(folder))
            # MLflow splits such a path at the characters that have a meaning in a URI, and refuses a link to it: it gets a copy.
            with tempfile.TemporaryDirectory() as temporary:
                copy_tree(folder, Path(temporary) / "model")
                return pyfunc.load_model(str(Path(temporary) / "model"))
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
        printed = json.loads(done.stdout.splitlines()[-1])
        return ColdLoad(
            str(printed["answer"]), finished=printed["finished"] is True, control_tokens=tuple(map(str, printed["control_tokens"]))
        )
    except (IndexError, ValueError, KeyError, TypeError):
        # Of a process that a signal ended (out of memory, say), the last line is no error.
        lines = done.stderr.strip().splitlines() if done.returncode > 0 else []
        return ColdLoad(None, lines[-1] if lines else f"the process ended with exit status {done.returncode} and printed no error")


def _main(folder: str, audio: str, question: str) -> None:
    from coat_core.registry.packaging import tone_base64

    watchdog.watch_owner()
    model = load_served(Path(folder))
    answer, generated = predict(model, audio or tone_base64(), question), _generate(model, audio, question)
    print(json.dumps({"answer": answer, "finished": generated.finished, "control_tokens": generated.control_tokens}))


def _generate(model: Any, audio: str, question: str) -> GeneratedAnswer:
    """Generate the answer of a loaded model again, with what the table of a served model leaves out: its end and its control tokens."""
    from coat_core.backbones.base import Query
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.generate import generate_answers
    from coat_core.registry.packaging import release_of, tone_base64

    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        if not audio:
            file.write(base64.b64decode(tone_base64()))
            file.flush()
        waveform = decode(Path(audio or file.name))
    backbone = release_of(model).backbone
    query = Query(key=sha256_bytes(waveform.tobytes()), waveform=waveform, text=question, name="probe")
    return generate_answers(backbone, [query], MAX_NEW_TOKENS)[0]


if __name__ == "__main__":
    _main(*sys.argv[1:4])
