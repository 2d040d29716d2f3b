"""Tracking of training runs with MLflow, and closing of runs that a dead process left open."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coat_core import logs
from coat_core.errors import RegistryError, RegistryRefusedError
from coat_core.registry.commit import commit_of
from coat_core.registry.database import connect, experiment_id
from coat_core.registry.parents import PARENT, find_parent
from coat_core.registry.uris import portable
from coat_core.storage import read_json
from coat_core.watchdog import host_name, is_alive, owner_mark

if TYPE_CHECKING:
    from coat_core.training.tracker import Status

ALLOWED_PARAMS = frozenset(
    {
        "arm",
        "backbone",
        "base",
        "dtype",
        "experts",
        "heads",
        "lora",
        "losses",
        "revision",
        "runtime",
        "seed",
        "thinking",
        "training",
        "trial",
    }
)
"""First parts of the parameter names that are recorded; others (paths, endpoints) are not."""

SYSTEM = "system/"
EVALUATION = "evaluation/"
PROBE = "probe/"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_MAX_PARAM = 6000
_MAX_BATCH = 1000


class MlflowTracker:
    """One MLflow run (see `training.tracker.Tracker`).

    Each step is written at once in one transaction, about 5 ms with SQLite. A kill therefore loses no recorded step, and a
    resumed run that repeats recorded steps does not record them twice.

    Args:
        workspace: folder of `mlflow.db` (unless `MLFLOW_TRACKING_URI` is set).
        experiment: MLflow experiment.
        run_name: default name of the run.
        stage_key: recorded as a tag, which matches a release with its run.
        sampling_s: seconds between samples of CPU, memory, disk and network; None: no samples.
        grouped: whether a new run is a child of the parent run of its chain (see `coat_core.registry.parents`).
    """

    def __init__(
        self, workspace: Path = Path(), *, experiment: str, run_name: str = "", stage_key: str = "", sampling_s: float | None = 5.0,
        grouped: bool = False,
    ) -> None:  # fmt: skip
        self._workspace, self._experiment, self._grouped = workspace, experiment, grouped
        self._run_name, self._stage_key, self._sampling_s = run_name, stage_key, sampling_s
        self._client: Any = None
        self._run_id: str | None = None
        self._last_step = 0
        self._monitor: Any = None

    @property
    def run_id(self) -> str:
        """Id of the open run.

        Raises:
            RegistryError: no run is open.
        """
        if self._run_id is None:
            raise RegistryError("no run is open", field="run", next_step="call start first")
        return self._run_id

    @property
    def last_step(self) -> int:
        """The highest step with recorded metrics of this run; 0 without any."""
        return self._last_step

    @property
    def is_open(self) -> bool:
        """Whether a run was started and not finished."""
        return self._run_id is not None

    def start(self, name: str = "", *, tags: Mapping[str, str] | None = None, run_id: str | None = None) -> None:
        """Create a run, or reopen `run_id` if it exists in MLflow; a reopened run keeps its parent."""
        self._client = connect(self._workspace)
        common = {**owner_tags(), "mlflow.source.name": "coat"}
        all_tags = {**(tags or {}), **common, "mlflow.source.git.commit": commit_of(self._workspace)[0]}
        if self._stage_key:
            all_tags["stage_key"] = self._stage_key
        run = find_run(self._client, run_id) if run_id else None
        if run is None:
            experiment = experiment_id(self._client, self._experiment, self._workspace)
            if self._grouped:
                all_tags[PARENT] = find_parent(self._client, experiment, self._workspace, common)
            run = self._client.create_run(experiment, tags=all_tags, run_name=name or self._run_name or None)
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
            for key, value in all_tags.items():
                self._client.set_tag(run.info.run_id, key, value)
        self._run_id = run.info.run_id
        logs.bind(mlflow_run=self._run_id)
        self._last_step = last_step(self._client, run)
        self._start_monitor()

    def log_params(self, params: Mapping[str, str | int | float | bool | None]) -> None:
        """Record the parameters of the allow-list; logging the same value again changes nothing."""
        from mlflow.entities import Param

        allowed = {name: "none" if value is None else str(value) for name, value in params.items() if name.split(".")[0] in ALLOWED_PARAMS}
        rows = [Param(name, value[:_MAX_PARAM]) for name, value in allowed.items()]
        # MLflow accepts at most 100 parameters in one call.
        for start in range(0, len(rows), 100):
            self._client.log_batch(self.run_id, params=rows[start : start + 100])

    def log_inputs(self, inputs: Mapping[str, str]) -> None:
        """Record the data that the run reads: name → SHA-256 (MLflow's digest contains the first 32 digits, its source all of them)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        read = [
            DatasetInput(
                Dataset(name=name, digest=digest[:32], source_type="sha256", source=json.dumps({"name": name, "sha256": digest})),
                [InputTag("mlflow.data.context", "training")],
            )
            for name, digest in inputs.items()
        ]
        for delay_s in (0.1, 1.0, None):
            try:
                self._client.log_inputs(self.run_id, read)
                return
            except MlflowException as error:
                # MLflow searches for a dataset and then inserts it. Of two runs that start together, one finds the other's row.
                if delay_s is None or "UNIQUE" not in str(error).upper():
                    raise
                time.sleep(delay_s)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one optimizer step in one transaction; a recorded step is skipped."""
        if step <= self._last_step:
            return
        log_metrics(self._client, self.run_id, metrics, step)
        self._last_step = step

    def log_release(self, folder: Path) -> None:
        """Record a finished release folder as the run's logged model."""
        from coat_core.registry.packaging import log_release

        log_release(self._client, self._workspace, folder, run_id=self.run_id)

    def describe(self) -> dict[str, str]:
        """Return the identity of the run, the content of `run.json`."""
        return {"run_id": self.run_id, "experiment": self._experiment, "tracking_uri": portable(self._client.tracking_uri)}

    def finish(self, status: Status) -> None:
        """Close the run."""
        run_id = self.run_id
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._client.set_terminated(run_id, status=_STATUS[status])
        self._run_id = None

    def _start_monitor(self) -> None:
        if self._sampling_s is None:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=self._sampling_s, resume_logging=True, tracking_uri=self._client.tracking_uri
        )
        self._monitor.start()


@contextmanager
def open_tracker(workspace: Path = Path(), *, experiment: str, run_name: str = "", stage_key: str = "") -> Iterator[MlflowTracker]:
    """Yield a tracker for a training, whose run has a parent; a run that the block leaves open is closed as failed, killed or finished."""
    tracker = MlflowTracker(workspace, experiment=experiment, run_name=run_name, stage_key=stage_key, grouped=True)
    try:
        yield tracker
    except BaseException as error:
        if tracker.is_open:
            tracker.finish("failed" if isinstance(error, Exception) else "killed")
        raise
    if tracker.is_open:
        tracker.finish("finished")


def owner_tags() -> dict[str, str]:
    """Return the tags of the process that keeps a run open."""
    return {"owner.host": host_name(), "owner.process": owner_mark()}


def find_run(client: Any, run_id: str) -> Any | None:
    """Return a run; None if it is unknown or deleted. To a server with accounts, a run that it does not have is one that is not allowed."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except RegistryRefusedError:
        return None
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def last_step(client: Any, run: Any) -> int:
    """Return the highest step of a run's training metrics; 0 without any."""
    keys = [key for key in run.data.metrics if not key.startswith((SYSTEM, EVALUATION, PROBE))]
    return max((metric.step for key in keys for metric in client.get_metric_history(run.info.run_id, key)), default=0)


def log_metrics(client: Any, run_id: str, metrics: Mapping[str, float], step: int, model_id: str | None = None) -> None:
    """Write the metrics of one step in one call (one transaction), or in several if there are more than 1000."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    rows = [Metric(key, float(value), now, step, model_id=model_id) for key, value in metrics.items()]
    for start in range(0, len(rows), _MAX_BATCH):
        client.log_batch(run_id, metrics=rows[start : start + _MAX_BATCH])


def recorded_run(records: Path) -> str | None:
    """Return the id of the MLflow run that the records of a training name; None without records."""
    path = records / "run.json"
    return (read_json(path).get("run_id") if path.is_file() else None) or None


def log_to_recorded_run(workspace: Path, records: Path, metrics: Mapping[str, float]) -> str | None:
    """Log metrics with the run that the records of a training name (see `log_new_metrics`).

    Args:
        workspace: folder of MLflow's records.
        records: folder with `run.json`.
        metrics: values by name.

    Returns:
        The id of the run; None if there are no records, or if MLflow does not have the run.
    """
    identity = recorded_run(records)
    if identity is None:
        return None
    client = connect(workspace)
    run = find_run(client, identity)
    if run is None:
        return None
    logs.bind(mlflow_run=run.info.run_id)
    log_new_metrics(client, run, metrics)
    return str(run.info.run_id)


def log_new_metrics(client: Any, run: Any, metrics: Mapping[str, float]) -> None:
    """Log the metrics whose value the run does not have yet, at step 0."""
    changed = {name: value for name, value in metrics.items() if run.data.metrics.get(name) != value}
    if changed:
        log_metrics(client, run.info.run_id, changed, step=0)


def close_dead_runs(workspace: Path = Path()) -> list[str]:
    """Close as KILLED every run with status RUNNING whose process has ended; return their ids.

    Only runs of this host with an owner (pid and start time, as the tracker records them) are checked. A pid alone is not enough,
    because the system may have assigned it to another process since.
    """
    client = connect(workspace)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    closed: list[str] = []
    token = None
    while True:
        page = client.search_runs(
            experiments,
            f"attributes.status = 'RUNNING' and tags.`owner.host` = '{host_name()}'",
            max_results=1000,
            page_token=token,
        )
        for run in page:
            if not is_alive(run.data.tags.get("owner.process", "")):
                client.set_tag(run.info.run_id, "closed_by", "coat: the process of this run is gone")
                client.set_terminated(run.info.run_id, status="KILLED")
                closed.append(run.info.run_id)
        token = page.token
        if not token:
            return closed
