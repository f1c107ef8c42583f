"""One metric against another, a mark for each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from reports.charts.style import (
    CELL_TIPS,
    ChartStyle,
    Spec,
    is_wide,
    layered,
    levels,
    linear,
    log_scale,
    log_ticks,
    tips,
)
from reports.seed_statistics import mean_intervals
from reports.stats import MIN_SEEDS_FOR_A_CLAIM

# More labels than these lie on one another: the size of a mark takes their place.
_MAX_LABELS = 16
_MARGIN = 1.15


@dataclass(frozen=True)
class Quantity:
    """What an axis shows: a column, its title, and the range of the axis in the column's unit."""

    column: str
    title: str
    extent: tuple[float, float]

    def scale_and_axis(self) -> tuple[alt.Scale, alt.Axis, str]:
        low, high = self.extent
        if is_wide(low, high):
            scale = log_scale(low / _MARGIN, high * _MARGIN)
            return scale, alt.Axis(values=log_ticks(low, high), format=".3~g"), f"{self.title} (log scale)"
        return linear(low, high), alt.Axis(tickCount=5), self.title

    def reaching(self, more: pd.DataFrame) -> "Quantity":
        """The same with a range that includes these values, with their low and high."""
        ends = [*self.extent, *more[["value", "low", "high"]].to_numpy(float).ravel()]
        return replace(self, extent=(float(np.nanmin(ends)), float(np.nanmax(ends))))

    def x(self, field: str = "x") -> alt.X:
        scale, axis, title = self.scale_and_axis()
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)

    def y(self, field: str = "y") -> alt.Y:
        scale, axis, title = self.scale_and_axis()
        return alt.Y(f"{field}:Q", title=title, scale=scale, axis=axis)


def marks_of(
    runs: pd.DataFrame, keys: Sequence[str], titles: Mapping[str, str]
) -> tuple[pd.DataFrame, list[Quantity]]:
    """The means over seeds of the columns that `titles` names, a row for each cell, and an axis for each.

    With `<column>_low` and `<column>_high`, Student's interval: NaN below three seeds.
    """
    cells = runs.groupby(list(keys), as_index=False, sort=False, observed=True).agg(seeds=("seed", "nunique"))
    axes = []
    for name, title in titles.items():
        found = mean_intervals(runs.assign(value=runs[name]), keys).drop(columns="seeds")
        is_interval = cells.seeds >= MIN_SEEDS_FOR_A_CLAIM
        bounds = {f"{name}_{end}": found[end].where(is_interval) for end in ("low", "high")}
        cells = cells.assign(**{name: found.value}, **bounds)
        ends = cells[[name, *bounds]].to_numpy(float)
        low, high = (float(np.nanmin(ends)), float(np.nanmax(ends))) if ends.size else (0.0, 0.0)
        if low <= 0 < (least := float(cells[name].min())):
            low = least  # an interval that reaches below zero does not end a logarithmic axis
        axes.append(Quantity(name, title, (low, high)))
    return cells, axes


def names_batches(cells: pd.DataFrame) -> str:
    """Describe how a chart of these cells shows their norm batches."""
    return "labelled with its norm batch" if len(cells) <= _MAX_LABELS else "larger for a larger norm batch"


def path_chart(cells: pd.DataFrame, free: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> Spec:
    """A mark for each cell that shows its norm batch; a thin line joins a norm's cells in that order.

    `cells`: norm, norm_batch_size, batch_size_per_gpu, seeds and both columns with their intervals. `free`:
    norm, value, low, high and seeds of what has no x: level lines.
    """
    base = _base(cells, x, y, style)
    path = base.mark_line(strokeWidth=1, opacity=0.6).encode(
        x=x.x(), y=y.y(), color=style.color(), order="norm_batch_size:Q", detail="batch_size_per_gpu:N"
    )
    lines: list[alt.Chart] = []
    if len(free):
        level = style.chart(free).encode(color=style.color())
        lines = levels(level, y.y("value"), y.y("low"))
        marks = level.mark_point(size=60, filled=True, opacity=1).encode(
            x=alt.value(10), y=y.y("value"), shape=style.shape(),
            tooltip=tips([("norm:N", "Norm"), ("value:Q", f"{y.title}, mean"), ("seeds:Q", "Seeds")]),
        )  # fmt: skip
        lines.append(marks)
    return layered(style, path, *lines, *_marks(base, cells, x, y, style))


def front_chart(cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> Spec:
    """A mark for each cell, with a ring where no other surpasses it in both: the Pareto front.

    The chart finds the front itself, by the rule of `seed_statistics.not_surpassed`, among the cells shown.
    Fastest first, a cell's upper end meets the highest lower end in y of all cells whose lower end in x is
    beyond it: each cell is in these data once as what surpasses and once as what may be surpassed.
    """
    bounds = [f"{one.column}_{end}" for one in (x, y) for end in ("low", "high")]
    known = cells.dropna(subset=bounds)
    x_low, x_high, y_low, y_high = bounds
    rivals = known.assign(at=known[x_low], reach=known[y_low], asks=0)
    asking = known.assign(at=known[x_high], reach=np.nan, needs=known[y_high], asks=1)
    own = ["norm", "norm_batch_size", "at", "reach", "needs", "asks"]
    both = pd.concat([rivals.assign(needs=np.nan), asking])
    both = both[own].assign(x=both[x.column], y=both[y.column])
    # Of equal ends the one that asks comes first: a rival has to lie beyond.
    by: Any = [alt.SortField("at", order="descending"), alt.SortField("asks", order="descending")]
    front = (
        style.chart(both)
        .transform_window(best="max(reach)", frame=[None, 0], ignorePeers=True, sort=by)
        .transform_filter("datum.asks === 1 && (!isValid(datum.best) || datum.best <= datum.needs)")
        .encode(x=x.x(), y=y.y(), color=alt.value(style.theme.muted))
    )
    ring = front.mark_point(size=300, strokeWidth=1.5, shape="circle", filled=False, opacity=1)
    return layered(style, ring, *_marks(_base(cells, x, y, style), cells, x, y, style))


def _base(cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> alt.Chart:
    columns = ["norm", "norm_batch_size", "batch_size_per_gpu", "seeds"]
    data = cells[columns].assign(x=cells[x.column], y=cells[y.column])
    for name, one in (("x", x), ("y", y)):
        for end in ("low", "high"):
            data[f"{name}_{end}"] = cells[f"{one.column}_{end}"]
    free = [variant.label for variant in style.palette if not variant.has_bn]
    batches = data.norm_batch_size.astype(str)
    return style.chart(data.assign(batch=batches.where(~data.norm.isin(free), "")))


def _marks(
    base: alt.Chart, cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle
) -> list[alt.Chart]:
    colored = base.encode(x=x.x(), y=y.y(), color=style.color())
    values = [("x:Q", f"{x.title}, mean"), ("y:Q", f"{y.title}, mean"), ("seeds:Q", "Seeds")]
    tooltip = tips([("norm:N", "Norm"), ("batch:N", "Norm batch"), CELL_TIPS[2], *values])
    points = colored.mark_point(size=70, filled=True, opacity=1).encode(shape=style.shape(), tooltip=tooltip)
    crosses = [
        base.mark_rule(opacity=0.55, clip=True).encode(color=style.color(), **ends)
        for ends in (
            {"x": x.x(), "y": y.y("y_low"), "y2": "y_high:Q"},
            {"x": x.x("x_low"), "x2": "x_high:Q", "y": y.y()},
        )
    ]
    if len(cells) > _MAX_LABELS:
        ends = [int(cells.norm_batch_size.min()), int(cells.norm_batch_size.max())]
        sizes = alt.Scale(type="log", base=2, domain=ends, range=[35, 170])
        sized = points.encode(size=alt.Size("norm_batch_size:Q", scale=sizes, legend=None))
        return [*crosses, sized]
    labels = base.mark_text(align="left", dx=8, dy=-6, fontSize=11, aria=False).encode(
        x=x.x(), y=y.y(), text="batch:N", color=alt.value(style.theme.muted)
    )
    return [*crosses, points, labels]
