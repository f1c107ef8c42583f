"""What shifts cost: the share of accuracy lost by norm, and how well the estimation shift predicts it.

The *share lost* of a run under a shift is 1 − (top-1 − chance) / (clean top-1 − chance), in percent, with
chance = 100 % / classes: of two networks that guess, the more accurate one would otherwise seem to lose more.

The *ESM* of a run under a shift is the mean over its BN layers of √(ESM_μ² + ESM_σ²), scaled. It needs no
labels. How well it predicts the share lost is judged by a rank correlation over corruptions and severities,
and by the error of a straight line that is fitted on all corruptions but one and applied to that one, beside
a constant and a line in the mean confidence that the network loses (Guillory et al. 2021). The interval of
each is over seeds, of which each has one number: that of all its networks and shifts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reports.frames import GROUP, Frames
from reports.stats import Estimate, mean_interval
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RobustnessRecord, ShiftRecord, read_robustness
from suite.specs.corruption_table import ALEXNET_CLEAN_ERROR_PERCENT, COMMON, CORRUPTIONS, SEVERITIES

# The predictors of the share lost: a column, and what a table calls it.
PREDICTORS = {"constant": "a constant", "confidence_lost": "confidence lost", "esm": "ESM"}
_COLUMNS = [
    *("run", "seed", "shift", "kind", "severity", "num_images", "top1_percent", "clean_top1_percent"),
    *("share_lost", "esm", "clean_esm", "confidence_lost", "loss"),
]


def records(frames: Frames) -> Iterator[tuple[int, RobustnessRecord]]:
    """Yield the completed runs whose robustness was measured, and their records; without malformed ones."""
    for run, folder in zip(frames.completed.run, frames.completed.folder, strict=True):
        try:
            found = read_robustness(RunPaths(Path(str(folder))))
        except UserError:
            continue
        if found is not None and found.shift("clean") is not None:
            yield int(run), found


def shift_rows(frames: Frames) -> pd.DataFrame:
    """A row for each run and shift but the clean one: GROUP, and `_COLUMNS`."""
    rows = []
    seeds = frames.runs.set_index("run").seed
    for run, record in records(frames):
        clean = record.shift("clean")
        assert clean is not None
        chance = 100 / clean.num_classes
        for one in record.shifts:
            if one.kind == "clean":
                continue
            above = clean.top1_percent - chance
            lost = 100 * (1 - (one.top1_percent - 100 / one.num_classes) / above) if above > 0 else math.nan
            rows.append(
                (
                    *(run, seeds[run], one.shift, one.kind, one.severity or 0, one.num_images),
                    *(one.top1_percent, clean.top1_percent, lost, esm_of(one), esm_of(clean)),
                    *(clean.confidence_percent - one.confidence_percent, one.loss),
                )
            )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.merge(frames.runs[["run", *GROUP]], on="run", how="left")


def esm_of(record: ShiftRecord) -> float:
    """Return the mean over the layers of √(ESM_μ² + ESM_σ²), scaled; NaN without BN layers."""
    pairs = zip(record.esm_mu_scaled, record.esm_sigma_scaled, strict=True)
    values = [math.hypot(mu, sigma) for mu, sigma in pairs]
    return math.fsum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class NormRobustness:
    """What the corruptions cost a cell, as means over seeds. mCE in percent; None where it is not defined.

    `share_lost`: over corruptions and severities. `mce` and `relative_mce` are weighed by AlexNet's errors,
    so they are for ImageNet, all 15 corruptions and all severities.
    """

    cell: dict[str, object]
    clean_top1: Estimate | None
    share_lost: Estimate | None
    by_family: dict[str, Estimate | None]
    clean_esm: Estimate | None
    esm: Estimate | None
    mce: Estimate | None
    relative_mce: Estimate | None


def by_norm(rows: pd.DataFrame) -> list[NormRobustness]:
    """Return what corruptions cost each cell, the least first within a context."""
    corrupted = rows[rows["shift"].isin(list(CORRUPTIONS))]
    found = []
    for cell, group in corrupted.groupby(GROUP, observed=True, sort=False):
        names = dict(zip(GROUP, cell, strict=True))
        families = group["shift"].map(lambda name: CORRUPTIONS[name].family)
        found.append(
            NormRobustness(
                names,
                _over_seeds(group, "clean_top1_percent"),
                _over_seeds(group, "share_lost"),
                {str(family): _over_seeds(part, "share_lost") for family, part in group.groupby(families)},
                _over_seeds(group, "clean_esm"),
                _over_seeds(group, "esm"),
                *_mce(group, str(names["data"])),
            )
        )
    return sorted(found, key=lambda one: one.share_lost.mean if one.share_lost else math.inf)


def _over_seeds(group: pd.DataFrame, column: str) -> Estimate | None:
    return mean_interval(group.groupby("seed")[column].mean().tolist())


def _mce(group: pd.DataFrame, data: str) -> tuple[Estimate | None, Estimate | None]:
    """Return mCE and relative mCE (Hendrycks and Dietterich 2019), in percent."""
    if data != "imagenet":
        return None, None
    values, relative = [], []
    for _, run in group.groupby("seed"):
        error = (100 - run.pivot(index="shift", columns="severity", values="top1_percent")).reindex(
            index=list(COMMON), columns=list(SEVERITIES)
        )
        if error.isna().any(axis=None):
            return None, None
        clean_error = 100 - run.clean_top1_percent.iloc[0]
        alexnet = pd.Series({name: CORRUPTIONS[name].alexnet_error_percent for name in COMMON}, dtype=float)
        mean_C = error.mean(axis=1)
        values.append(100 * float((mean_C / alexnet).mean()))
        above = alexnet - ALEXNET_CLEAN_ERROR_PERCENT
        relative.append(100 * float(((mean_C - clean_error) / above).mean()))
    return mean_interval(values), mean_interval(relative)


@dataclass(frozen=True)
class Prediction:
    """How well the ESM predicts the share lost, over all networks with BN of a context.

    `correlation`: Spearman's. `error`: mean absolute error (points) on a corruption that was left out, by
    predictor. `num_points`: networks × shifts.
    """

    context: dict[str, object]
    norms: tuple[str, ...]
    correlation: Estimate | None
    error: dict[str, Estimate | None]
    num_points: int
    num_seeds: int


def predictions(rows: pd.DataFrame, context: list[str]) -> list[Prediction]:
    """Return the prediction of each context that has two corruptions or more, over its networks with BN."""
    usable = rows[rows["shift"].isin(list(CORRUPTIONS)) & rows.esm.notna() & rows.share_lost.notna()]
    found = []
    for names, group in usable.groupby(context, observed=True, sort=False):
        if group["shift"].nunique() < 2:
            continue
        by_seed = [rank_correlation(one.esm, one.share_lost) for _, one in group.groupby("seed")]
        errors = {name: _left_out_errors(group, name) for name in PREDICTORS}
        found.append(
            Prediction(
                dict(zip(context, names, strict=True)),
                tuple(group.norm.unique()),
                mean_interval(by_seed),
                {
                    name: mean_interval(error.groupby(group.seed).mean().tolist())
                    for name, error in errors.items()
                },
                len(group),
                group.seed.nunique(),
            )
        )
    return found


def rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; NaN where one of them does not vary."""
    a, b = one.rank().to_numpy(), other.rank().to_numpy()
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else math.nan


def _left_out_errors(group: pd.DataFrame, predictor: str) -> pd.Series:
    """Return the absolute error (points) at each row by a line fitted on the rows of other corruptions."""
    errors = pd.Series(np.nan, index=group.index)
    x = pd.Series(0.0, index=group.index) if predictor == "constant" else group[predictor].astype(float)
    for name in group["shift"].unique():
        is_out = group["shift"] == name
        slope, intercept = _line(x[~is_out].to_numpy(), group.share_lost[~is_out].to_numpy())
        errors[is_out] = (intercept + slope * x[is_out] - group.share_lost[is_out]).abs()
    return errors


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of least squares; a constant where x does not vary."""
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def rows_at_test_time(frames: Frames) -> pd.DataFrame:
    """A row for each run, stream and method: GROUP, seed, shift, severity, method, order, images_per_batch,
    top1_percent, and `gain`, in points over the estimates unchanged on the same stream.
    """
    rows = [(run, *one.key, one.top1_percent) for run, record in records(frames) for one in record.test_time]
    columns = ["run", "shift", "severity", "method", "order", "images_per_batch", "top1_percent"]
    table = pd.DataFrame(rows, columns=columns)
    table["severity"] = table.severity.fillna(0).astype(int)
    stream = ["run", "shift", "severity", "order", "images_per_batch"]
    frozen = table[table.method == "frozen"].set_index(stream).top1_percent
    before = frozen.reindex(pd.MultiIndex.from_frame(table[stream])).to_numpy()
    table["gain"] = table.top1_percent - before
    return table.merge(frames.runs[["run", "seed", *GROUP]], on="run", how="left")
