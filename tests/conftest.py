"""What all tests share: data prepared once, outside the user's cache, and loud skips."""

import gc
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobs.local.fork_client import READ_AT_IMPORT, SERVER_VARIABLE
from jobs.local.process import THREADS
from tests.helpers import forked_worker
from tests.helpers.shared_server import VARIABLE, server_path, shared_servers, worker_server

SERVERS = ExitStack()
# What takes long comes first, so that short files keep all workers busy until the end.
LONG = tuple(
    f"tests/{name}"
    for name in (
        *("benchmarks/", "cluster/", "jobs/tune/", "kernels/", "shift/", "train/"),
        *("reports/test_filters_in_browser.py", "test_site.py", "test_wheel.py"),
    )
)


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork servers, in the one process that is the parent of all test processes."""
    gc.disable()  # until all modules are imported
    # There are more processes than cores, and threads that wait for each other spin.
    os.environ.setdefault(THREADS, "1")
    # Otherwise Inductor compiles a C++ program in each process to find out which vector instructions work.
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if VARIABLE not in os.environ:
        SERVERS.enter_context(shared_servers())
        if "popen" in (workers := config.getoption("tx", [])):
            SERVERS.enter_context(worker_server(config.args))
            forked = f"popen//python={forked_worker.COMMAND}"
            config.option.tx = [forked if worker == "popen" else worker for worker in workers]


def pytest_unconfigure() -> None:
    SERVERS.close()


@pytest.fixture(scope="session", autouse=True)
def prepared_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data sets are prepared once, below the temporary folder, also by processes that tests start."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["SHIFTBENCH_DATA_DIR"] = str(folder / "data")


@pytest.fixture(scope="session")
def fork_server(prepared_data: None) -> Iterator[Path]:
    """A server that forks the runs of commands which tests start, so that they need not import torch each."""
    os.environ[SERVER_VARIABLE] = str(server_path())
    yield server_path()
    del os.environ[SERVER_VARIABLE]


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """Fail a test that changes a variable which libraries read when they are loaded, and restore it.

    The fork servers would refuse the tests after it.
    """
    before = _read_at_import()
    yield
    after = _read_at_import()
    for name in after.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    assert after == before, "this test leaves another environment to those after it"


def _read_at_import() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(READ_AT_IMPORT)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes long."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exclude what has been imported from garbage collection, and collect more seldom than by default."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, "pytest._Result", None]:
    """In CI a part that is missing is a failure, not a skip. Only a GPU cannot be had there."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which in CI is a failure: {report.longrepr}"
