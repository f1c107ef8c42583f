"""A real Slurm for the tests in this folder, and what they do on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# With xdist each process has a cluster of its own; it must be named before testcluster is imported.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("SHIFTBENCH_TEST_CLUSTER", worker.removeprefix("gw"))

from tests.cluster import testcluster
from tests.helpers.cells import Cells


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The test cluster, brought up unless it is up; taken down only if these tests brought it up."""
    reason = testcluster.obstacle()
    if reason:
        pytest.skip(f"NO SLURM: the test cluster cannot run here: {reason}")
    was_up = testcluster.is_any_up()
    former = os.environ.get("SLURM_CONF")
    try:
        testcluster.up()
        os.environ["SLURM_CONF"] = str(testcluster.CONF)
        yield
    finally:
        if former is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = former
        if not was_up:
            testcluster.down()


@pytest.fixture
def cells(cluster: None, tmp_path: Path) -> Iterator[Cells]:
    """An experiment's cells in a folder of their own; what is still queued afterwards is cancelled."""
    mine = Cells(tmp_path)
    yield mine
    mine.clear()
    testcluster.up()  # whatever a test ended
