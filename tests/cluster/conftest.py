"""A real Slurm for the tests in this folder."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster import testcluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The test cluster, brought up unless it is up; taken down only if these tests brought it up."""
    reason = testcluster.obstacle()
    if reason:
        pytest.skip(f"NO SLURM: the test cluster cannot run here: {reason}")
    was_up = testcluster.is_up()
    testcluster.up()
    former = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(testcluster.CONF)
    yield
    if former is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = former
    if not was_up:
        testcluster.down()
