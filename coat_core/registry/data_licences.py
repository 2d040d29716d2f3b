"""Licences of the data that a model was trained on, by source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.registry.commit import UNKNOWN
from coat_core.registry.database import open_registry
from coat_core.registry.lineage import MODEL_PREFIX, resolve
from coat_core.storage import read_json, read_jsonl, sha256_tree

MANIFEST = "data/accepted.jsonl"
LICENCES = "licences.json"
"""Artifact of a version, in `lineage/`."""


@dataclass(frozen=True)
class DataLicence:
    """Training examples of one source under one licence; `licence` is as in the manifest's column."""

    source: str
    licence: str
    examples: int

    @property
    def known(self) -> bool:
        """Whether no part of the licence is `unknown` or empty."""
        return all(part.strip() and part.strip().lower() != UNKNOWN for part in self.licence.split(" and "))


def count_licences(manifest: Path) -> list[DataLicence]:
    """Count the examples of split `train` in an accepted manifest by source and licence, largest first."""
    rows = [row for row in read_jsonl(manifest) if row["split"] == "train"]
    counts = Counter((str(row["source"]), str(row.get("licence") or UNKNOWN)) for row in rows)
    return [DataLicence(source, licence, n) for (source, licence), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def to_json(licences: Sequence[DataLicence]) -> list[dict[str, Any]]:
    """Return the content of `licences.json`."""
    return [asdict(entry) for entry in licences]


def find_licences(model: str, release: Path, workspace: Path = Path()) -> list[DataLicence]:
    """Return the licences of a model's training data.

    Args:
        model: `models:/name/version`, `models:/name@alias`, or the release folder.
        release: folder of the release; its workspace is two folders up.
        workspace: folder of MLflow's records.

    Raises:
        RegistryError: the version does not exist, or it was registered without its data's licences and this workspace has other data.
    """
    if not model.startswith(MODEL_PREFIX):
        manifest = release.resolve().parent.parent / MANIFEST
        if manifest.is_file():
            return count_licences(manifest)
        raise RegistryError(
            "the data of the release is not here, so its licences are not known", field="data", value=str(manifest),
            next_step="name a release in the folder models/ of its workspace, or a registered version",
        )  # fmt: skip
    client = open_registry(workspace)
    version = resolve(client, model)
    if any(file.path.endswith(f"/{LICENCES}") for file in client.list_artifacts(version.run_id, "lineage")):
        rows = read_json(Path(client.download_artifacts(version.run_id, f"lineage/{LICENCES}")))
        return [DataLicence(**row) for row in rows]
    manifest = workspace / MANIFEST
    if manifest.is_file() and sha256_tree(manifest) == version.tags.get("data_sha256"):
        return count_licences(manifest)
    raise RegistryError(
        "the licences of the training data are not stored with this version", field="data", value=model,
        allowed="a workspace with the version's data, or a version that was registered by a newer coat",
        next_step="run the command in the workspace in which the model was trained",
    )  # fmt: skip
