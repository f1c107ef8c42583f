"""What a run has measured so far for the study's objectives, epoch by epoch."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.experiment import Run
from suite.files import read_lines
from suite.paths import RunPaths
from suite.studies.spec import VALIDATED, is_due

KEYS = ("metric", "value", "epoch")


@dataclass(frozen=True)
class EpochResult:
    """The objectives' values at the end of an epoch, without those that were not measured."""

    epoch: int
    values: dict[str, float]


def read_results(folder: Path, metrics: Iterable[str]) -> list[EpochResult]:
    """Returns the results so far, in the order of the epochs. The newest one may be incomplete."""
    wanted = set(metrics)
    by_epoch: dict[int, dict[str, float]] = {}
    for line in read_lines(RunPaths(folder).measurements, KEYS)[0]:
        name, split = line["metric"], line.get("split")
        if name in wanted and (name not in VALIDATED or split == "val"):
            by_epoch.setdefault(int(line["epoch"]), {})[name] = _number(line["value"])
    return [EpochResult(epoch, by_epoch[epoch]) for epoch in sorted(by_epoch)]


def _number(value: Any) -> float:
    if isinstance(value, list):
        return math.fsum(map(float, value)) / len(value) if value else math.nan
    return float(value)


def complete_epochs(run: Run, results: Sequence[EpochResult], metrics: Sequence[str]) -> list[EpochResult]:
    """Returns the results to which nothing is added while the run trains; they have the first metric.

    The run's last epoch is left out: it is complete when the run has ended.
    """
    complete: list[EpochResult] = []
    newest = max((result.epoch for result in results), default=0)
    for result in results:
        is_measured = all(m in result.values or not is_due(run, m, result.epoch) for m in metrics)
        if metrics[0] in result.values and (is_measured or result.epoch < newest):
            complete.append(result)
    return [result for result in complete if result.epoch < run.recipe.epochs]
