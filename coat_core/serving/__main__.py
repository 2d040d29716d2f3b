"""The process of `coat serve`: loads the version once and answers until SIGTERM.

    python -m coat_core.serving MODEL_URI HOST PORT LIMITS

`LIMITS` is a JSON object with fields of `Limits`. The version is loaded on `COAT_DEVICE` in `COAT_DTYPE`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading

from coat_core import logs, watchdog
from coat_core.serving.limits import Limits


def main() -> None:
    """Serve the version named on the command line."""
    uri, host, port, limits = sys.argv[1], sys.argv[2], int(sys.argv[3]), Limits(**json.loads(sys.argv[4]))
    logs.start(model=uri)
    watchdog.watch_owner()
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = str(math.ceil(limits.timeout_s))
    import uvicorn

    from coat_core.registry.cold_load import load_served
    from coat_core.registry.packaging import release_of, run_of
    from coat_core.registry.scoring import scoring_app
    from coat_core.registry.versions import model_folder
    from coat_core.serving.answers import ReleaseAnswers
    from coat_core.serving.app import make_app

    lock = threading.Lock()
    folder = model_folder(uri)
    logs.bind(mlflow_run=run_of(folder))
    model = load_served(folder)
    logs.event("model_loaded", f"{uri} is loaded")
    release = release_of(model)
    answers = ReleaseAnswers(release.backbone, release.info.arm, lock)
    app = make_app(uri.removeprefix("models:/"), answers, limits, scoring_app(model, lock))
    # Structured lines come from the handlers of the root logger.
    settings = None if logs.active() else uvicorn.config.LOGGING_CONFIG
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, log_config=settings)


if __name__ == "__main__":
    main()
