"""Claims G and H: BN loses more to corruptions than XBN, and the estimation shift ranks what they cost.

Both are ours: the paper says that XBN "seems to be more robust to distribution shift" and shows noise on the
estimates. The share lost and the ESM are those of `reports.findings.robustness`, over the corruptions and
severities that are registered, on the registered number of images. A run that lacks one of them has no value.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from reports.claims.check import Measured, paired
from reports.findings.robustness import rank_correlation, shift_rows
from reports.frames import Frames

BySeed = dict[int, float]


def bn_less_xbn_lost(
    frames: Frames, bfn: str, corruptions: Sequence[str], severities: Sequence[int], images: int
) -> Iterator[Measured]:
    """BN's mean share lost less that of XBN with this norm, in points."""
    lost: dict[str, BySeed] = {}
    for run, rows in _by_run(frames, corruptions, severities, images):
        name = str(run.bfn) if run.norm_family == "xbn" else str(run.norm_family)
        lost.setdefault(name, {})[int(run.seed)] = math.nan if rows is None else fmean(rows.share_lost)
    subset = {"bfn": bfn.upper(), "shifts": _shifts(corruptions, severities)}
    yield Measured(paired(lost.get("bn", {}), lost.get(bfn, {})), subset)


def cost_rank_correlation(
    frames: Frames, corruptions: Sequence[str], severities: Sequence[int], images: int
) -> Iterator[Measured]:
    """The rank correlation of ESM and share lost over shifts, mean over the networks of a seed."""
    found: dict[int, list[float]] = {}
    for run, rows in _by_run(frames, corruptions, severities, images):
        value = math.nan if rows is None else rank_correlation(rows.esm, rows.share_lost)
        found.setdefault(int(run.seed), []).append(value)
    values = tuple(fmean(found[seed]) for seed in sorted(found))
    yield Measured(values, {"shifts": _shifts(corruptions, severities)})


def _by_run(
    frames: Frames, corruptions: Sequence[str], severities: Sequence[int], images: int
) -> Iterator[tuple[Any, pd.DataFrame | None]]:
    """Yield each completed run with BN, as a named tuple, and its rows; None if one of them is missing."""
    rows = shift_rows(frames, images)
    rows = rows[rows.kind == "corruption"]
    rows = rows[rows["shift"].isin(list(corruptions)) & rows.severity.isin(list(severities))]
    by_run = {int(str(run)): of_run for run, of_run in rows.groupby("run")}
    for run in frames.completed.itertuples():
        if run.has_bn:
            of_run = by_run.get(int(str(run.run)))
            is_whole = of_run is not None and len(of_run) == len(corruptions) * len(severities)
            yield run, of_run if is_whole else None


def _shifts(corruptions: Sequence[str], severities: Sequence[int]) -> str:
    levels = ", ".join(str(severity) for severity in severities)
    return f"{len(corruptions)} corruptions at severities {levels}"
