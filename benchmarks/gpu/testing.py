"""The stage of `make gpu-check` that runs the tests marked `gpu`: a row for each, as soon as it has ended."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

import pytest

from benchmarks.gpu.measuring import Sizes, leave_out, plan, tell

ROOT = Path(__file__).resolve().parent.parent.parent
# Of pyproject.toml's own options, `--strict-config` refuses a `timeout` where pytest-timeout is not there.
OPTIONS = ("-o", "addopts=", "--import-mode=importlib", "--continue-on-collection-errors")


def tests(sizes: Sizes) -> None:
    """Run the tests that are marked `gpu`, the kernels' first."""
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    run_files(sorted(marked, key=lambda path: (path.parent.name != "kernels", path)))


def run_files(files: list[Path]) -> None:
    """Run the tests in these files that are marked `gpu`, in this order."""
    said = io.StringIO()
    plugin = _Rows(sys.stdout)
    with redirect_stdout(said), redirect_stderr(said):
        code = pytest.main(
            [*OPTIONS, "-m", "gpu", "-q", "-p", "no:cacheprovider", *map(str, files)], plugins=[plugin]
        )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        plugin.end("pytest", said.getvalue() or str(code))


class _Rows:
    """Prints what becomes of each test, past what pytest prints itself."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        with redirect_stdout(self.out):
            plan([item.nodeid for item in session.items])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.end(report.nodeid, report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with redirect_stdout(self.out):
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                why = _first(report.longreprtext if crash is None else crash.message)
                tell(report.nodeid, f"failed in {report.when}: {why}", failed=True)
            elif report.skipped:
                why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
                tell(report.nodeid, _first(why))
            elif report.when == "call":
                tell(report.nodeid, f"passed in {report.duration:.1f} s")

    def end(self, what: str, why: str) -> None:
        """Say why there are no tests: a package is missing, or an error."""
        lines = [line.strip(" E") for line in why.splitlines() if line.strip(" E")]
        missing = [line for line in lines if "No module named" in line]
        with redirect_stdout(self.out):
            if missing:
                leave_out(f"{what}: {missing[-1]}")
            else:
                tell(what, f"failed: {lines[-1]}", failed=True)


def _first(text: str) -> str:
    return (text.strip() or "-").splitlines()[0]
