"""Writes the gallery's sample report: made-up records of a sweep, and the report over them."""

import tempfile
from pathlib import Path
from typing import Any

from reports.write.report_folder import build_report
from tests.helpers.records import write_sweep

# Two norms with a norm batch, and one without; few enough runs that the site is built in seconds.
SAMPLE: dict[str, Any] = {
    "name": "sample",
    "batch": {"global_batch_size": 64, "norm_batch_size": [4, 64]},
    "seeds": [0, 1, 2, 3, 4],
}


def write_sample_report(out: Path) -> None:
    """Write the report of made-up runs into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        write_sweep(runs, **SAMPLE)
        build_report([runs], out)
