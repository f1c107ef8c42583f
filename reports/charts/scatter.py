"""One metric against another, a mark for each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from reports.charts.style import (
    CELL_TIPS,
    ChartStyle,
    Spec,
    is_wide,
    layered,
    linear,
    log_scale,
    log_ticks,
    tips,
)

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

    def x(self) -> alt.X:
        scale, axis, title = self.scale_and_axis()
        return alt.X("x:Q", title=title, scale=scale, axis=axis)

    def y(self) -> alt.Y:
        scale, axis, title = self.scale_and_axis()
        return alt.Y("y:Q", title=title, scale=scale, axis=axis)


def marks_of(
    runs: pd.DataFrame, keys: Sequence[str], titles: Mapping[str, str]
) -> tuple[pd.DataFrame, list[Quantity]]:
    """The means over seeds of the columns that `titles` names, a row for each cell, and an axis for each."""
    cells = runs.groupby(list(keys), as_index=False, sort=False, observed=True).agg(
        **{name: (name, "mean") for name in titles}, seeds=("seed", "nunique")
    )
    extents = {name: (float(cells[name].min()), float(cells[name].max())) for name in titles}
    return cells, [Quantity(name, title, extents[name]) for name, title in titles.items()]


def names_batches(cells: pd.DataFrame) -> str:
    """Describe how a chart of these cells shows their norm batches."""
    return "labelled with its norm batch" if len(cells) <= _MAX_LABELS else "larger for a larger norm batch"


def path_chart(cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> Spec:
    """A mark for each cell that shows its norm batch; a thin line joins a norm's cells in that order.

    `cells`: norm, norm_batch_size, batch_size_per_gpu, seeds and both columns.
    """
    base = _base(cells, x, y, style)
    path = base.mark_line(strokeWidth=1, opacity=0.6).encode(
        order="norm_batch_size:Q", detail="batch_size_per_gpu:N"
    )
    return layered(style, path, *_marks(base, cells, x, y, style))


def front_chart(cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> Spec:
    """A mark for each cell, and a line through those that no other surpasses in both: the Pareto front.

    The chart finds the front itself, by the rule of `seed_statistics.pareto_front`, among the cells shown.
    """
    base = _base(cells, x, y, style)
    faster_first: Any = [alt.SortField(axis, order="descending") for axis in ("x", "y")]
    front = (
        base.transform_window(best="max(y)", frame=[None, 0], ignorePeers=True, sort=faster_first)
        .transform_window(best_before="lag(best)", sort=faster_first)
        .transform_filter("!isValid(datum.best_before) || datum.y > datum.best_before")
        .encode(color=alt.value(style.theme.muted))
    )
    line = front.mark_line(strokeWidth=1.5, strokeDash=[5, 3], interpolate="step-before").encode(order="x:Q")
    ring = front.mark_point(size=300, strokeWidth=1.5, shape="circle", filled=False, opacity=1)
    return layered(style, line, ring, *_marks(base, cells, x, y, style))


def _base(cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> alt.Chart:
    columns = ["norm", "norm_batch_size", "batch_size_per_gpu", "seeds"]
    data = cells[columns].assign(x=cells[x.column], y=cells[y.column])
    return style.chart(data).encode(x=x.x(), y=y.y(), color=style.color())


def _marks(
    base: alt.Chart, cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle
) -> list[alt.Chart]:
    values = [("x:Q", f"{x.title}, mean"), ("y:Q", f"{y.title}, mean"), ("seeds:Q", "Seeds")]
    tooltip = tips([*CELL_TIPS, *values])
    points = base.mark_point(size=70, filled=True, opacity=1).encode(shape=style.shape(), tooltip=tooltip)
    if len(cells) > _MAX_LABELS:
        sizes = alt.Scale(type="log", base=2, range=[35, 170])
        return [points.encode(size=alt.Size("norm_batch_size:Q", scale=sizes, legend=None))]
    labels = base.mark_text(align="left", dx=8, dy=-6, fontSize=11, aria=False).encode(
        text="norm_batch_size:Q", color=alt.value(style.theme.muted)
    )
    return [points, labels]
