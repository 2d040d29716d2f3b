"""A tiny workspace in which the chain has completed once, for all tests that need one."""

from __future__ import annotations

import pytest

from tests.testing import chain_runs
from tests.testing.chain_runs import Finished


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished workspace. A test may change it if the next `coat run` restores it, which is what these tests check."""
    workspace = chain_runs.make_tiny(tmp_path_factory.mktemp("flows") / "tiny")
    printed = chain_runs.run_chain(workspace)
    return Finished(workspace, printed, chain_runs.fingerprint(workspace))
