"""What all tests share: data prepared once, outside the user's cache, and loud skips."""

import os
from collections.abc import Generator

import pytest


@pytest.fixture(scope="session", autouse=True)
def prepared_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data sets are prepared below the temporary folder, also by processes that tests start."""
    os.environ["SHIFTBENCH_DATA_DIR"] = str(tmp_path_factory.getbasetemp() / "data")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, "pytest._Result", None]:
    """In CI a part that is missing is a failure, not a skip. Only a GPU cannot be had there."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which in CI is a failure: {report.longrepr}"
