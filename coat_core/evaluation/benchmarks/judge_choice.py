"""The judge that params or a command name."""

from __future__ import annotations

import os

from coat_core.evaluation.benchmarks.judges import Judge, ServedJudge, StandIn
from coat_core.evaluation.benchmarks.local_judge import LocalJudge
from coat_core.settings.suites import LOCAL, STAND_IN


def choose_judge(judge: str | None, model: str | None, revision: str | None = None, *, device: str = "cpu") -> Judge | None:
    """Return a judge, without a cache. Only an address, or a hub id that is not on this disk, needs a network.

    Args:
        judge: `stand-in`, `local`, or the address of a server, whose key is read from OPENAI_API_KEY; None: no judge.
        model: of `local` a folder or hub id; of a server the model's name there.
        revision: commit of a hub id.
        device: device of a local model.

    Raises:
        EvaluationError: the local model cannot be used.
    """
    if judge is None:
        return None
    if judge == STAND_IN:
        return StandIn()
    assert model is not None, "params and command ask for the model"
    if judge == LOCAL:
        return LocalJudge(model, revision, device=device)
    return ServedJudge(judge, model, os.environ.get("OPENAI_API_KEY", ""))
