"""One report over a plausible sweep, built once for all tests that look at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.write.drawing import keeping_drawers
from reports.write.report_folder import ReportFiles, build_report
from tests.helpers.browser import browser  # noqa: F401 - a fixture
from tests.helpers.records import write_sweep


@pytest.fixture(scope="session", autouse=True)
def drawers() -> Iterator[None]:
    """Reports of this session share the processes that draw, of which each takes long to start."""
    with keeping_drawers():
        yield


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root)
    return root


@pytest.fixture(scope="session")
def sweep_report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return build_report([sweep], tmp_path_factory.mktemp("report") / "made")
