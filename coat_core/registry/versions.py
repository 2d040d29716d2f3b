"""The files of a registered version: its MLflow model, its release and its base."""

from __future__ import annotations

from pathlib import Path

from coat_core.errors import RegistryError
from coat_core.registry.database import open_registry
from coat_core.registry.lineage import resolve
from coat_core.registry.packaging import read_info
from coat_core.storage import copy_tree, write_json


def model_folder(uri: str, workspace: Path = Path()) -> Path:
    """Return a local folder with the MLflow model of `models:/name/version` or `models:/name@alias`; download it if it is remote.

    Raises:
        RegistryError: the version does not exist, or its files are missing.
    """
    client = open_registry(workspace)
    version = resolve(client, uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    location = client.get_model_version_download_uri(version.name, version.version)
    try:
        folder = Path(download_artifacts(artifact_uri=location, tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"the files of {uri} are missing: {error}", field="source", value=location, next_step="register the release again"
        ) from error
    if not (folder / "MLmodel").is_file():
        raise RegistryError(f"the files of {uri} are missing", field="source", value=location, next_step="register the release again")
    return folder


def packed_release(uri: str, workspace: Path = Path()) -> tuple[Path, Path | None]:
    """Return the read-only folders of a version's release and of its base (None if the base is on the hub) in the registry.

    Raises:
        RegistryError: the version does not exist, or its files are missing.
    """
    import yaml

    folder = model_folder(uri, workspace)
    packed = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]["artifacts"]
    return folder / packed["release"]["path"], folder / packed["base"]["path"] if "base" in packed else None


def unpack(uri: str, target: Path, workspace: Path = Path()) -> Path:
    """Copy the release of a version to `target/release`, and its base (if it was packed) to `target/base`; return the release.

    The copy's `coat.json` names the copied base, so that it loads even if the workspace has another base by now.

    Raises:
        RegistryError: the version does not exist, or its files are missing.
    """
    packed, base = packed_release(uri, workspace)
    release = target / "release"
    copy_tree(packed, release)
    if base is not None:
        copy_tree(base, target / "base")
        info = read_info(release)
        write_json(release / "coat.json", {**info, "base": {**info["base"], "id": str((target / "base").resolve())}})
    return release
