"""Finished runs from Python: as a table, and as a report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from reports.collect import cache_folder, collect
from reports.frames import build_frames
from reports.write.export import results
from reports.write.report_folder import ReportFiles, build_report

if TYPE_CHECKING:
    import pandas as pd

AnyPath = str | os.PathLike[str]


def read_runs(*folders: AnyPath) -> "pd.DataFrame":
    """Return a row for each run at or below these folders, as in a report's results.csv.

    Columns are described in docs/reports.md; `folder` is relative to the working directory. What was not
    measured is NaN or missing. Raises UserError where there is no run, and for a folder that does not exist.
    """
    collection = collect([Path(folder) for folder in folders or ("runs",)], cache_folder())
    return results(build_frames(collection), Path.cwd())


def report(*folders: AnyPath, out: AnyPath = "out", baseline: str | None = None) -> ReportFiles:
    """Write a report over all runs at or below these folders, and return its files, verdicts and frames.

    `out`: the folder for index.html, report.md, tables, figures and data. `baseline`: the label of the norm
    that others are compared with, such as "XBN-P2-GN8"; None: BN where it was run. Raises UserError where
    there is no run, and for a baseline that no run has.
    """
    roots = [Path(folder) for folder in folders or ("runs",)]
    return build_report(roots, Path(out), baseline, cache_folder())
