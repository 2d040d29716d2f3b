"""A release as an MLflow model: models from code, safetensors, no pickle files."""

from __future__ import annotations

import base64
import io
import tempfile
import warnings
import wave
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coat_core.errors import ReleaseError
from coat_core.registry.database import set_mlflow_environment
from coat_core.registry.uris import artifact_location
from coat_core.storage import read_json

_REQUIREMENTS = ("mlflow", "numpy", "pandas", "peft", "safetensors", "soundfile", "soxr", "torch", "transformers")
_PICKLES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})


def log_release(client: Any, workspace: Path, release: Path, *, run_id: str) -> str:
    """Log a release as the run's model, once per run and stage key, and return the model's id.

    An incomplete upload of a killed process is deleted first.

    Raises:
        ReleaseError: the folder is not a release.
    """
    set_mlflow_environment()
    info = read_info(release)
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    name = f"{info['backbone']}-{info['arm']}-{info['seed']}"
    for known in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if known.tags.get("stage_key") != info["fingerprint"]:
            continue
        if known.status == "READY":
            return str(known.model_id)
        client.delete_logged_model(known.model_id)

    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    tags = {"stage_key": info["fingerprint"], "backbone": info["backbone"], "arm": info["arm"], "seed": str(info["seed"])}
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags=tags, params=run.data.params, model_type="audio-question-answering"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        header = Model(artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id)
        save_served(folder, release, workspace, header)
        client.log_model_artifacts(model.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def save_served(folder: Path, release: Path, workspace: Path = Path(), header: Any = None) -> None:
    """Save a release in MLflow's layout; a base in the workspace is packed with it, a base on the hub is referenced by its id."""
    import pandas as pd

    pyfunc = import_pyfunc()
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    artifacts = {"release": artifact_location(release.resolve())}
    base = workspace / str(read_info(release)["base"]["id"])
    if base.is_dir():
        artifacts["base"] = artifact_location(base.resolve())
    with warnings.catch_warnings():
        # MLflow warns that the model has no type hints; its signature is given below.
        warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
        pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts=artifacts,
            signature=ModelSignature(
                inputs=Schema([ColSpec("string", "audio"), ColSpec("string", "question")]), outputs=Schema([ColSpec("string", "answer")])
            ),
            # MLflow compares the columns with a range, which pandas 3 deprecates for its string type: object columns avoid this.
            input_example=pd.DataFrame([[tone_base64(), "What do you hear?"]], columns=pd.Index(["audio", "question"], dtype=object)),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
            mlflow_model=header,
        )
    for cache in folder.rglob("__pycache__"):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()


def import_pyfunc() -> Any:
    """Import `mlflow.pyfunc` without the warning about its own type hints."""
    set_mlflow_environment()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
        import mlflow.pyfunc
    return mlflow.pyfunc


def release_of(model: Any) -> Any:
    """Return the loaded release inside a loaded MLflow model, whose own interface answers tables only."""
    inner = model.unwrap_python_model()
    # Versions that were packed before the attribute was public have it under its old name.
    return inner.release if hasattr(inner, "release") else inner._release


def run_of(folder: Path) -> str | None:
    """Return the MLflow run of a version from the folder of its MLflow model."""
    import yaml

    found = yaml.safe_load((folder / "MLmodel").read_text()).get("run_id")
    return str(found) if found else None


def read_info(release: Path) -> dict[str, Any]:
    """Return the content of a release's `coat.json`.

    Raises:
        ReleaseError: the folder is not a release.
    """
    if not (release / "coat.json").is_file():
        raise ReleaseError("this folder is not a release", field="release", value=str(release), next_step="train one: coat run")
    return dict(read_json(release / "coat.json"))


def unsafe_files(folder: Path) -> tuple[str, ...]:
    """Return the pickle files below a folder, by name or by their first bytes (torch's zip format included)."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            head = stream.read(512)
        # The first bytes of a safetensors file are a length, which can equal the first bytes of a pickle.
        pickled = len(head) > 1 and head[0] == 0x80 and head[1] <= 5 and path.suffix != ".safetensors"
        if path.suffix in _PICKLES or pickled or (head.startswith(b"PK") and b"/data.pkl" in head):
            found.append(path.relative_to(folder).as_posix())
    return tuple(found)


def tone_base64(frequency_hz: float = 440.0, duration_s: float = 0.5, rate_hz: int = 8000) -> str:
    """Return a sine tone as a WAV file in base64, an example input of a served model."""
    import numpy as np

    samples = 0.3 * np.sin(2.0 * np.pi * frequency_hz * np.arange(int(duration_s * rate_hz)) / rate_hz)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32767.0).astype("<i2").tobytes())
    return base64.b64encode(buffer.getvalue()).decode()
