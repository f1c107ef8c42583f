"""One report over a plausible sweep, built once for all tests that look at it."""

from pathlib import Path

import pytest

from reports.write.report_folder import ReportFiles, build_report
from tests.helpers.browser import browser  # noqa: F401 - a fixture
from tests.helpers.records import write_sweep


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root)
    return root


@pytest.fixture(scope="session")
def sweep_report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return build_report([sweep], tmp_path_factory.mktemp("report") / "made")
