"""Fixtures: a real Slurm for each worker, and the cells of an experiment on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# With xdist each worker has a cluster of its own; it must be named before testcluster is imported.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("SHIFTBENCH_TEST_CLUSTER", worker.removeprefix("gw"))

from tests.cluster import testcluster
from tests.helpers.cells import Cells


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The test cluster: started unless it is up, and ended only if it was started here."""
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
    """An experiment on the cluster; the jobs left at the end are cancelled.

    Its jobs write records without training: see `training_cells`.
    """
    mine = Cells(tmp_path)
    yield mine
    testcluster.up()  # restarts the daemons that a test ended
    mine.clear()


@pytest.fixture
def training_cells(cluster: None, tmp_path: Path) -> Iterator[Cells]:
    """The same experiment, with jobs that train and load by DALI, whose threads see the signals."""
    mine = Cells(tmp_path, trains=True)
    yield mine
    testcluster.up()
    mine.clear()


@pytest.fixture
def with_workers(cluster: None, tmp_path: Path) -> Iterator[Cells]:
    """The same with torchvision's loader, whose processes get the signals, too."""
    mine = Cells(tmp_path / "torchvision", trains=True, loader="torchvision")
    yield mine
    testcluster.up()
    mine.clear()
