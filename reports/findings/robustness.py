"""What shifts cost: the share of accuracy lost by norm, and how well the estimation shift predicts it.

The *share lost* of a run under a shift is 1 − (top-1 − chance) / (clean top-1 − chance), in percent, with
chance = 100 % / classes: of two networks that guess, the more accurate one would otherwise seem to lose more.

The *ESM* of a run under a shift is the mean over its BN layers of √(ESM_μ² + ESM_σ²), scaled. It needs no
labels. How well it predicts the share lost is judged by a rank correlation over corruptions and severities,
and by the error of a straight line that is fitted on all corruptions but one and applied to that one,
beside a constant and a line in the mean confidence that the network loses (Guillory et al. 2021). The
interval of each is over seeds, of which each has one number: that of all its networks and shifts. All seeds
share their test images, so that no interval contains the choice of images.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.frames import CONTEXT, GROUP, Frames
from reports.stats import Estimate, difference_interval, mean_interval
from suite.record import ShiftRecord, TestTimeRecord
from suite.specs.corruption_table import ALEXNET_CLEAN_ERROR_PERCENT, COMMON, CORRUPTIONS, SEVERITIES
from suite.specs.test_time_table import FROZEN

ALL = "all"
# The predictors of the share lost: a column, and what a table calls it.
PREDICTORS = {"constant": "a constant", "confidence_lost": "confidence lost", "esm": "ESM"}
_COLUMNS = [
    *("run", "seed", "shift", "kind", "severity", "max_images", "top1_percent", "clean_top1_percent"),
    *("share_lost", "esm", "clean_esm", "confidence_lost", "loss"),
]
ALL_IMAGES = 0  # in the column `max_images`


def shift_rows(frames: Frames, max_images: int | None = None) -> pd.DataFrame:
    """A row for each run and shift but the clean one: GROUP, and `_COLUMNS`.

    Of a shift that was measured on several numbers of images, that on the most. `max_images`: those alone
    that were measured with this limit.
    """
    rows = []
    seeds = frames.runs.set_index("run").seed
    for run, record in frames.robustness[0].items():
        newest: dict[tuple[str, str, int | None], ShiftRecord] = {}
        for one in record.shifts:
            is_wanted = max_images is None or one.max_images == max_images
            kept = newest.get(one.key[:3])
            if one.kind != "clean" and is_wanted and (kept is None or one.num_images > kept.num_images):
                newest[one.key[:3]] = one
        for one in newest.values():
            if (clean := record.clean(one.max_images)) is None:
                continue
            rows.append(
                (
                    *(run, seeds[run], one.shift, one.kind, one.severity or 0, one.max_images or ALL_IMAGES),
                    *(one.top1_percent, clean.top1_percent, one.share_lost_percent(clean)),
                    *(esm_of(one), esm_of(clean), one.confidence_lost_percent(clean), one.loss),
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
    corrupted = _common(rows[rows["shift"].isin(list(CORRUPTIONS))])
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


def _common(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of those shifts that every run of a context was measured under, on as many images."""
    keys = ["shift", "kind", "severity", "max_images"]
    counts = rows.groupby([*CONTEXT, *keys], observed=True).run.transform("nunique")
    return rows[counts == rows.groupby(CONTEXT, observed=True).run.transform("nunique")]


def less_than(rows: pd.DataFrame, cell: dict[str, object], other: dict[str, object]) -> Estimate | None:
    """Return by how much the share lost of one cell is below another's, paired by seed, in points."""
    by_seed = []
    for names in (cell, other):
        is_cell = (rows[list(names)].astype(str) == pd.Series(names).astype(str)).all(axis=1)
        by_seed.append(_common(rows)[is_cell].groupby("seed").share_lost.mean())
    return difference_interval((by_seed[1] - by_seed[0]).dropna().tolist())


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
    predictor; `less_error`: by how much that of ESM is below another's, paired by seed. `num_points`:
    networks × shifts.
    """

    context: dict[str, object]
    norms: tuple[str, ...]
    correlation: Estimate | None
    error: dict[str, Estimate | None]
    less_error: dict[str, Estimate | None]
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
        errors = {
            name: _left_out_errors(group, name).groupby(group.seed).mean().sort_index() for name in PREDICTORS
        }
        found.append(
            Prediction(
                dict(zip(context, names, strict=True)),
                tuple(group.norm.unique()),
                mean_interval(by_seed),
                {name: mean_interval(error.tolist()) for name, error in errors.items()},
                {
                    name: difference_interval((error - errors["esm"]).tolist())
                    for name, error in errors.items()
                    if name != "esm"
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
    """Return the absolute error (points) at each row by a line fitted on other corruptions and other seeds.

    With a single seed the line is fitted on that.
    """
    errors = pd.Series(np.nan, index=group.index)
    x = pd.Series(0.0, index=group.index) if predictor == "constant" else group[predictor].astype(float)
    for (name, seed), out in group.groupby(["shift", "seed"]):
        is_known = group["shift"] != name
        if group.seed.nunique() > 1:
            is_known &= group.seed != seed
        slope, intercept = _line(x[is_known].to_numpy(), group.share_lost[is_known].to_numpy())
        errors[out.index] = (intercept + slope * x[out.index] - out.share_lost).abs()
    return errors


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of least squares; a constant where x does not vary."""
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def rows_at_test_time(frames: Frames) -> pd.DataFrame:
    """A row for each run, stream and method: GROUP, seed, stream, method, order, images_per_batch, gain.

    `stream`: clean, a shift (at the highest severity that was measured), or `all` mixed, of the most shifts.
    `gain`: points of top-1 over the estimates unchanged on the same stream.
    """
    rows = []
    for run, record in frames.robustness[0].items():
        frozen = {one.stream: one.top1_percent for one in record.test_time if one.method == FROZEN}
        newest: dict[object, tuple[int, TestTimeRecord]] = {}
        for one in record.test_time:
            name, severity = one.shifts[0]
            is_mixed = len(one.shifts) > 1
            stream, size = (ALL, len(one.shifts)) if is_mixed else (name, severity or 0)
            key = (stream, one.method, one.order, one.images_per_batch)
            if one.stream in frozen and (key not in newest or size >= newest[key][0]):
                newest[key] = size, one
        for (stream, *_), (_, one) in newest.items():  # type: ignore[misc]
            gain = one.top1_percent - frozen[one.stream]
            rows.append((run, stream, one.method, one.order, one.images_per_batch, gain))
    columns = ["run", "stream", "method", "order", "images_per_batch", "gain"]
    table = pd.DataFrame(rows, columns=columns)
    return table.merge(frames.runs[["run", "seed", *GROUP]], on="run", how="left")
