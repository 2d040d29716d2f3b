"""Versions back from the registry: as a folder, as a loaded model, as one answer."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.registry.database import connect
from coat_core.registry.lineage import resolve
from coat_core.registry.packaging import import_pyfunc, read_info
from coat_core.storage import copy_tree, write_json


def model_folder(uri: str, workspace: Path = Path()) -> Path:
    """Return a local folder with the MLflow model of `models:/name/version` or `models:/name@alias` (downloaded where it is not local).

    Raises:
        RegistryError: there is no such version, or its files are gone.
    """
    client = connect(workspace)
    version = resolve(client, uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    location = client.get_model_version_download_uri(version.name, version.version)
    try:
        folder = Path(download_artifacts(artifact_uri=location, tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"the files of {uri} are gone: {error}", field="source", value=location, next_step="register the release again"
        ) from error
    if not (folder / "MLmodel").is_file():
        raise RegistryError(f"the files of {uri} are gone", field="source", value=location, next_step="register the release again")
    return folder


def packed_release(uri: str, workspace: Path = Path()) -> tuple[Path, Path | None]:
    """Return the folders of a version's release and of its base (None where it is on the hub), as the registry holds them: to read.

    Raises:
        RegistryError: there is no such version, or its files are gone.
    """
    import yaml

    folder = model_folder(uri, workspace)
    packed = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]["artifacts"]
    return folder / packed["release"]["path"], folder / packed["base"]["path"] if "base" in packed else None


def unpack(uri: str, target: Path, workspace: Path = Path()) -> Path:
    """Copy the release of a version to `target/release`, its base (where it was packed) to `target/base`; return the release.

    The copy's `coat.json` names the copied base, so that it loads although the workspace may hold another base by now.

    Raises:
        RegistryError: there is no such version, or its files are gone.
    """
    packed, base = packed_release(uri, workspace)
    release = target / "release"
    copy_tree(packed, release)
    if base is not None:
        copy_tree(base, target / "base")
        info = read_info(release)
        write_json(release / "coat.json", {**info, "base": {**info["base"], "id": str((target / "base").resolve())}})
    return release


def load(uri: str, workspace: Path = Path()) -> Any:
    """Load a version as MLflow serves it; its `predict` takes a table of `audio` and `question`.

    Raises:
        RegistryError: there is no such version, or its files are gone.
    """
    return load_folder(model_folder(uri, workspace))


def load_folder(folder: Path) -> Any:
    """Load a saved MLflow model from its folder and leave nothing there (Python would keep bytecode beside the model's code)."""
    pyfunc = import_pyfunc()
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
            return pyfunc.load_model(str(folder))
    finally:
        sys.dont_write_bytecode = kept


def predict(model: Any, audio: str, question: str) -> str:
    """Ask a loaded model one question about one clip (a path, or a WAV file in base64)."""
    import pandas as pd

    table = pd.DataFrame([[audio, question]], columns=pd.Index(["audio", "question"], dtype=object))
    return str(model.predict(table)["answer"].iloc[0])


def ask(uri: str, audio: Path, question: str, workspace: Path = Path()) -> str:
    """Load a version and ask it one question about one clip.

    Raises:
        RegistryError: there is no such version, or the audio cannot be decoded.
    """
    return predict(load(uri, workspace), str(audio.resolve()), question)
