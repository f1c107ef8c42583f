"""What a run has measured so far, epoch by epoch, as the objectives see it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.experiment import Run
from suite.files import read_lines
from suite.paths import RunPaths
from suite.studies.objectives import VALIDATED, is_due

KEYS = ("metric", "value", "epoch")


@dataclass(frozen=True)
class EpochResult:
    """The objectives' values at the end of an epoch; one that was not measured there is missing."""

    epoch: int
    values: dict[str, float]


def read_results(folder: Path, metrics: Iterable[str]) -> list[EpochResult]:
    """The results so far, in the order of the epochs. The newest may lack what is measured last."""
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


def whole_epochs(run: Run, results: Sequence[EpochResult], metrics: Sequence[str]) -> list[EpochResult]:
    """Those to which nothing is added any more, while the run goes on; the first metric must be there.

    The last epoch's are whole when the run has ended.
    """
    whole: list[EpochResult] = []
    newest = max((result.epoch for result in results), default=0)
    for result in results:
        is_complete = all(m in result.values or not is_due(run, m, result.epoch) for m in metrics)
        if metrics[0] in result.values and (is_complete or result.epoch < newest):
            whole.append(result)
    return [result for result in whole if result.epoch < run.recipe.epochs]
