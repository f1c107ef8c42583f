"""Measures the reporter on many runs: collecting beside pyarrow's JSON reader, collecting again, the page."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.json

from benchmarks.pairing import Ratio, summarize
from benchmarks.progress import progress_of
from benchmarks.synthetic_runs import write_runs
from reports.collect import collect
from suite.errors import UserError
from suite.files import write_atomically
from suite.paths import RunPaths

NUM_CHANGED = 10
FEW_RUNS = 100
# Evaluated in the page: whether all charts of the first figure show the current filters.
_FIRST_FIGURE_IS_DRAWN = """() => {
  const figure = document.querySelector("figure");
  const own = charts.filter(({box}) => figure.contains(box) && box.offsetParent);
  return own.length && own.every(({isCurrent}) => isCurrent);
}"""
# Whether the click has reached the page's filter.
_FILTER_IS_SET = "() => !document.querySelector('#filters input').checked"


@dataclass(frozen=True)
class ReportBench:
    """Times of both sides, and time and memory of one whole `shiftbench report`."""

    num_runs: int
    lines_mb: float
    first: Ratio
    again: Ratio
    report_s: float
    memory_gib: float
    page_mb: float
    few_s: float
    interactive_s: float | None


def bench_report(num_runs: int, rounds: int, few: int = FEW_RUNS) -> ReportBench:
    """Time the reporter on made-up runs: the first collection and a second one `rounds` times.

    `num_runs`: of the large report; `few`: of the one that is timed as most people's.
    """
    with tempfile.TemporaryDirectory(prefix="shiftbench-report-") as made:
        folder = Path(made)
        runs, some, lines = folder / "runs", folder / "few", folder / "lines.jsonl"
        write_runs(runs, num_runs)
        write_runs(some, few)
        _as_one_file(runs, lines)
        collect([some], folder / "warm-up")
        first, again, bare = [], [], []
        progress = progress_of(f"collecting {num_runs} runs", of=2)
        progress(0, rounds)
        for number in range(rounds):
            cache = folder / f"cache-{number}"
            bare.append(_timed(partial(pyarrow.json.read_json, lines)))
            first.append(_timed(partial(collect, [runs], cache)))
            _change(runs)
            again.append(_timed(partial(collect, [runs], cache)))
            shutil.rmtree(cache)
            progress(number + 1, rounds)
        progress = progress_of("reports and page", number=2, of=2)
        progress(0, 1)
        report_s, memory_gib = _report(runs, folder / "out", folder)
        few_s, _ = _report(some, folder / "few-out", folder)
        page = folder / "out" / "index.html"
        interactive_s = _interactive_s(page)
        progress(1, 1)
        return ReportBench(
            num_runs,
            lines.stat().st_size / 1e6,
            summarize(first, bare),
            summarize(again, first),
            report_s,
            memory_gib,
            page.stat().st_size / 1e6,
            few_s,
            interactive_s,
        )


def _as_one_file(runs: Path, into: Path) -> None:
    """Join all measurements. Per-layer values get a key of their own: a pyarrow column has one type."""
    with into.open("wb") as file:
        for path in sorted(runs.glob("*/measurements.jsonl")):
            file.write(path.read_bytes().replace(b'"value": [', b'"values": ['))


def _change(runs: Path) -> None:
    """Change the status file of a few runs."""
    for folder in sorted(runs.iterdir())[:NUM_CHANGED]:
        status = RunPaths(folder).status
        write_atomically(status, status.read_text() + "\n")


def _timed(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _report(runs: Path, out: Path, folder: Path) -> tuple[float, float]:
    """Return wall time (s) and peak memory (GiB) of the command, starting with an empty cache."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / f"cache-of-{out.name}")}
    command = [sys.executable, "-m", "jobs.cli", "report", str(runs), "--out", str(out)]
    log = folder / "said.txt"
    start_s = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)
        _, code, used = os.wait4(process.pid, 0)
    duration_s = time.perf_counter() - start_s
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode != 0:
        raise UserError(f"shiftbench report ended with {process.returncode}: {log.read_text().strip()}")
    return duration_s, used.ru_maxrss / 2**20


def _interactive_s(page: Path) -> float | None:
    """Return the seconds from opening the page until its first figure shows a filter, in headless Chromium.

    None without Chromium.
    """
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_page()
        start_s = time.perf_counter()
        window.goto(page.as_uri())
        figure = window.locator("figure").first
        figure.evaluate("(figure) => figure.scrollIntoView()")
        window.wait_for_function(_FIRST_FIGURE_IS_DRAWN)
        # As a person does: open the filters, click the first chip.
        window.locator("#filters summary").click()
        window.locator("#filters label").first.click()
        window.wait_for_function(_FILTER_IS_SET)
        window.wait_for_function(_FIRST_FIGURE_IS_DRAWN)
        duration_s = time.perf_counter() - start_s
        browser.close()
    return duration_s
