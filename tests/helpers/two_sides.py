"""Two sets of made-up runs to be compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.findings.compare_verdicts import verdict_sentences
from reports.findings.two_sides import MatchedRuns, comparison_table
from tests.helpers.records import expand_runs, write_run

BATCH = {"global_batch_size": 64, "norm_batch_size": 4}
BN = {"arch": "small_resnet20", "norm": {"kind": "bn"}}
XBN = {"arch": "small_resnet20", "norm": {"kind": "xbn"}}


def write(
    root: Path, top1: Sequence[float], sigma: Sequence[float] | None = None, model: Any = BN, **changes: Any
) -> None:
    """Write a BN run for each seed; a top-1 below zero means that the run failed."""
    details = changes.pop("details", {})
    runs = expand_runs(model=model, batch=BATCH, seeds=list(range(len(top1))), **changes)
    for run in runs:
        value = top1[run.seed]
        esm = (sigma or [1.0] * len(top1))[run.seed]
        state = "failed" if value < 0 else "completed"
        write_run(root, run, top1_percent=[abs(value)], layers=["a"], esm_sigma=[esm], state=state, **details)


def verdict(comparison: MatchedRuns, title: str) -> str:
    sentences = verdict_sentences(comparison, comparison_table(comparison))
    (found,) = [s for s in sentences if s.startswith(title)]
    return found.replace("\u00a0", " ")


def rows_of(comparison: MatchedRuns) -> pd.DataFrame:
    return comparison_table(comparison).set_index(["norm", "metric"])
