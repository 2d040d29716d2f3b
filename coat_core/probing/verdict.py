"""The verdict of a knock-out in one sentence, and the files of probes (without importing a model)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.storage import read_json

FOLDER = Path("evaluation/probes")
"""Folder of the results in a workspace: `<backbone>-<trial>.json`."""
BYPASS_LOSS = 0.01
"""A knock-out cost below it (nats per answer token) is too small to say that the answer uses the block."""
_ERRORS = 2.0
"""Standard errors around the cost that must not include zero."""


def is_bypassed(knock_out: Mapping[str, Any]) -> bool:
    """Return whether the block is bypassed: its knock-out cost is below `BYPASS_LOSS`, or within two standard errors of zero or below."""
    cost = knock_out["block"]["cost"]
    return bool(cost["value"] < BYPASS_LOSS or cost["value"] - _ERRORS * cost["error"] <= 0.0)


def verdict(knock_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return `bypassed`, `knock_out_cost` (nats per answer token), its `error`, and the `sentence` that says so."""
    cost, audio = knock_out["block"]["cost"], knock_out["audio"]["cost"]
    bypassed = is_bypassed(knock_out)
    change = f"the answer loss changes by {cost['value']:+.3f} ± {_ERRORS * cost['error']:.3f} nats per token"
    start = "The thinking block is bypassed" if bypassed else "The answer uses the thinking block"
    sentence = f"{start}: if question and answer cannot attend to it, {change} (if they cannot attend to the audio: {audio['value']:+.3f})."
    return {"bypassed": bypassed, "knock_out_cost": cost["value"], "error": cost["error"], "sentence": sentence}


def read_probe(workspace: Path, backbone: str, trial: str) -> dict[str, Any] | None:
    """Return the result of the stage `probe@<backbone>-<trial>`; None if it did not run."""
    path = workspace / FOLDER / f"{backbone}-{trial}.json"
    return read_json(path) if path.is_file() else None


def flat_metrics(probe: Mapping[str, Any]) -> dict[str, float]:
    """Return the main numbers of a probe under flat names, e.g. `probe/knock_out_cost`, `probe/skill/pitch`."""
    flat = {f"probe/loss/{name}": float(entry["loss"]["value"]) for name, entry in probe["knock_out"].items()}
    flat |= {f"probe/cost/{name}": float(entry["cost"]["value"]) for name, entry in probe["knock_out"].items() if "cost" in entry}
    flat |= {"probe/knock_out_cost": float(probe["verdict"]["knock_out_cost"]), "probe/bypassed": float(probe["verdict"]["bypassed"])}
    for key, entry in probe["skill"].items():
        for predictor, name in (("head", "skill"), ("clip_mean", "skill_clip_mean"), ("fresh_on_audio", "skill_fresh_on_audio")):
            if (value := entry["skills"][predictor]) is not None:
                flat[f"probe/{name}/{key}"] = float(value)
    choices = probe["choices"]["trial"]
    if choices:
        flat |= {f"probe/choice_accuracy/{family}": float(entry["accuracy"]) for family, entry in choices["families"].items()}
        flat["probe/choice_accuracy/mean"] = float(choices["mean"]["accuracy"])
    return flat
