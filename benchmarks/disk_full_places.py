"""The places of `benchmarks.disk_full`: commands, what they make, and how much room they find."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Place:
    """A command that meets a full disk."""

    name: str
    command: tuple[str, ...]
    stage: str
    """It is forgotten first: its outputs, and its scratch folder. Empty: none."""
    makes: tuple[str, ...]
    """Outputs that are removed first."""
    room: int
    """Free bytes."""
    when: str | None = None
    """Glob pattern in the workspace: the disk is filled when such a file appears, and kept full; None: before the command starts."""
    into_cache: bool = False
    """Whether the stage has finished and DVC has its outputs to store: the scratch folder is kept, the cache is emptied."""
    foreign: bool = False
    """Whether another program than ours prints the error."""
    removed: tuple[str, ...] = ()
    """Files that docs/troubleshooting.md says to remove before the command is repeated."""

    @property
    def by_dvc(self) -> bool:
        """Whether DVC runs the stage and links its outputs."""
        return self.command[0] == "dvc" or self.command == ("coat", "run")

    def forget(self, workspace: Path) -> None:
        """Remove what the command makes from a finished workspace."""
        for name in self.makes:
            path = workspace / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (workspace / ".scratch/outcomes" / f"{self.stage}.json").unlink(missing_ok=True)
        if self.into_cache:
            shutil.rmtree(workspace.parent / f"{workspace.name}-cache", ignore_errors=True)
        else:
            for mark in (workspace / ".scratch").glob("*/stage.txt"):
                if mark.read_text() == self.stage:
                    shutil.rmtree(mark.parent)
        lock = workspace / "dvc.lock"
        if lock.exists():
            recorded = yaml.safe_load(lock.read_text())
            recorded["stages"].pop(self.stage, None)
            lock.write_text(yaml.safe_dump(recorded, sort_keys=False))


_TRIAL = "qwen2_audio-coat-0"
_TRAINING = (f"models/{_TRIAL}", f"runs/{_TRIAL}")
_TRAIN = ("coat", "train", "qwen2_audio", "coat-0")
_KB = 1 << 10
PLACES = {
    place.name: place
    for place in (
        Place("corpus", ("coat", "corpus"), "corpus", ("data/corpus",), 1000 * _KB),
        Place("contract", ("coat", "contract"), "contract", ("data/accepted.jsonl", "data/quarantine.jsonl", "data/contract"), 24 * _KB),
        Place("features", ("coat", "features", "pitch"), "features@pitch", ("features/pitch",), 400 * _KB),
        Place("audio", ("coat", "audio", "qwen2_audio"), "audio@qwen2_audio", ("audio/qwen2_audio",), 700 * _KB),
        Place("checkpoint", _TRAIN, f"train@{_TRIAL}", _TRAINING, 100 * _KB, ".scratch/*/checkpoints/step-00000001.json"),
        Place("release", _TRAIN, f"train@{_TRIAL}", _TRAINING, 100 * _KB, ".scratch/*/checkpoints/step-00000005.json"),
        Place("responses", ("coat", "answer", "qwen2_audio", "coat-0"), f"answer@{_TRIAL}", (f"responses/{_TRIAL}.jsonl",), 8 * _KB),
        Place("scores", ("coat", "score", "qwen2_audio", "coat-0"), f"score@{_TRIAL}", (f"evaluation/{_TRIAL}",), 8 * _KB),
        Place("report", ("coat", "report"), "report", ("report",), 400 * _KB),
        Place("registry", ("coat", "register", "qwen2_audio", "sft-0"), "", (), 32 * _KB),
        Place(
            "cache", ("dvc", "repro", "--single-item", "corpus"), "corpus", ("data/corpus",), 64 * _KB, ".scratch/outcomes/corpus.json",
            into_cache=True, foreign=True, removed=("dvc.lock",),
        ),
        Place("export", ("coat", "export", f"models/{_TRIAL}", "--to", "exported"), "", ("exported",), 64 * _KB),
        Place("flow", ("coat", "run"), f"score@{_TRIAL}", (f"evaluation/{_TRIAL}",), 64 * _KB, f".scratch/logs/score@{_TRIAL}.log"),
        Place("server", ("coat", "run"), f"score@{_TRIAL}", (f"evaluation/{_TRIAL}",), 64 * _KB),
    )
}  # fmt: skip
