"""One tiny workspace, run once through the chain, for every test that needs a finished one."""

from __future__ import annotations

import time

import pytest

from tests.testing import chain_runs
from tests.testing.chain_runs import Finished


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished workspace; a test may disturb it, as long as the next `coat run` mends it (that is what is tested)."""
    workspace = chain_runs.make_tiny(tmp_path_factory.mktemp("flows") / "tiny")
    started = time.monotonic()
    printed = chain_runs.run_chain(workspace)
    return Finished(workspace, printed, time.monotonic() - started, chain_runs.fingerprint(workspace))
