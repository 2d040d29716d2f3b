"""The pull step of `prefect.yaml`: where a worker finds the repository."""

from __future__ import annotations

import os
from pathlib import Path

from coat_core.errors import CoatError

HOME = "COAT_HOME"


def enter_home() -> dict[str, str]:
    """Make the folder in this worker's `COAT_HOME` the working folder, and return it as Prefect expects of a pull step.

    `{{ $COAT_HOME }}` in `prefect.yaml` would be that of the host that deploys.

    Raises:
        CoatError: the variable is not set, or names a folder without the pipeline.
    """
    value = os.environ.get(HOME, "")
    if not value or not (Path(value) / "dvc.yaml").is_file():
        raise CoatError(
            "the worker does not find the repository", field=HOME, value=value or None, allowed="the folder that contains dvc.yaml",
            next_step=f"start the worker with it: {HOME}=/path/to/coat prefect worker start --pool coat",
        )  # fmt: skip
    os.chdir(value)
    return {"directory": str(Path.cwd())}
