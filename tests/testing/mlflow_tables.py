"""Tables of MLflow runs, as MLflow's own reader reads them."""

from __future__ import annotations

from typing import Any

from coat_core.registry.database import default_database


def load_table(client: Any, run_id: str, path: str) -> list[dict[str, Any]]:
    """Read a table as MLflow does; missing values are None. pandas reads a number with an error in its last bit."""
    with default_database(client.tracking_uri):
        frame = client.load_table(client.get_run(run_id).info.experiment_id, path, [run_id])
    return [
        {key: None if value != value else round(value, 12) if isinstance(value, float) else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
