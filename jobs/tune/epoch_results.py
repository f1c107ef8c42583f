"""What a run has measured so far for the study's objectives, epoch by epoch."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from suite.experiment import Run
from suite.files import read_lines
from suite.paths import RunPaths
from suite.studies.spec import VALIDATED, is_due

Results = dict[int, dict[str, float]]
"""The values of the objectives that were measured, by epoch, in order."""


def read_results(folder: Path, metrics: Collection[str]) -> Results:
    """Return the results so far. The newest epoch may be incomplete."""
    by_epoch: Results = {}
    for line in read_lines(RunPaths(folder).measurements, ("metric", "value", "epoch"))[0]:
        name, split = line["metric"], line.get("split")
        if name in metrics and (name not in VALIDATED or split == "val"):
            by_epoch.setdefault(int(line["epoch"]), {})[name] = _number(line["value"])
    return dict(sorted(by_epoch.items()))


def _number(value: Any) -> float:
    if isinstance(value, list):
        return math.fsum(map(float, value)) / len(value) if value else math.nan
    return float(value)


def complete_epochs(run: Run, results: Results, metrics: Sequence[str]) -> Results:
    """Return the results to which nothing is added while the run trains; they have the first metric.

    The run's last epoch is left out: it is complete when the run has ended.
    """
    newest = max(results, default=0)

    def is_complete(epoch: int) -> bool:
        is_measured = all(m in results[epoch] or not is_due(run, m, epoch) for m in metrics)
        return metrics[0] in results[epoch] and (is_measured or epoch < newest) and epoch < run.num_epochs

    return {epoch: values for epoch, values in results.items() if is_complete(epoch)}
