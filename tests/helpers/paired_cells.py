"""Made-up cells of runs whose paired statistics are known."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.collect import collect
from reports.frames import Frames, build_frames
from tests.helpers.records import expand_runs, write_run

Cells = Mapping[tuple[str, int], Sequence[float]]


BATCH = {"global_batch_size": 64, "norm_batch_size": [4, 64]}


TOP1: Cells = {
    ("BN", 4): [60.0, 61.0, 62.0],
    ("XBN-P2-GN8", 4): [64.0, 65.5, 66.0],
    ("BN", 64): [70.0, 71.0, 72.0],
    ("XBN-P2-GN8", 64): [70.0, 71.5, 71.75],
    ("GN8", 64): [65.0, 66.0, 67.5],
}


ESM: Cells = {
    ("BN", 4): [2.0, 2.2, 1.8],
    ("XBN-P2-GN8", 4): [1.0, 1.0, 1.0],
    ("BN", 64): [1.0, 1.0, 1.0],
    ("XBN-P2-GN8", 64): [1.0, 2.0, 0.5],
}


def frames_of(root: Path, top1: Cells, esm: Cells | None = None, **sweep: Any) -> Frames:
    """Write runs with these final top-1 and ESM σ by seed; a top-1 below zero means that the run diverged."""
    for run in expand_runs(**{"batch": BATCH, **sweep}):
        cell = (run.model.norm.label, run.batch.norm)
        if run.seed < len(top1.get(cell, [])):
            value = top1[cell][run.seed]
            sigma = (esm or {}).get(cell, [1.0] * 20)[run.seed]
            layers = ["a"] if "BN" in cell[0] else []
            write_run(
                root,
                run,
                top1_percent=[abs(value)],
                layers=layers,
                esm_sigma=[sigma] * len(layers),
                state="diverged" if value < 0 else "completed",
            )
    return build_frames(collect([root]))


def p_of_three(t: float) -> float:
    """Student's two-sided p with two degrees of freedom, in closed form."""
    return 1 - abs(t) / math.sqrt(t * t + 2)
