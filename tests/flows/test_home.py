"""The pull step of the deployments: a worker works in its own clone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coat_core.errors import CoatError
from coat_core.pipeline.workspace import repository_root
from flows.home import HOME, enter_home


def test_the_step_enters_the_workers_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME, str(repository_root()))
    assert enter_home() == {"directory": str(repository_root())}
    assert Path.cwd() == repository_root()


@pytest.mark.parametrize("value", [None, "", "missing", "."])
def test_a_worker_without_the_repository_is_told_what_to_set(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv(HOME, raising=False)
    else:
        monkeypatch.setenv(HOME, value)
    with pytest.raises(CoatError, match=r"field: COAT_HOME.*COAT_HOME=/path/to/coat prefect worker start"):
        enter_home()
    assert Path.cwd() == tmp_path


def test_every_deployment_uses_the_step() -> None:
    deployments = yaml.safe_load((repository_root() / "prefect.yaml").read_text())
    assert deployments["pull"] == [{"flows.home.enter_home": {}}]
    assert all("pull" not in deployment for deployment in deployments["deployments"])
