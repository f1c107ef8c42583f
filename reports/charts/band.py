"""Mean over seeds with a band, along the layers or the epochs, or beside the paper's points."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import altair as alt
import pandas as pd

from reports.charts.style import (
    SEED_TIPS,
    ChartStyle,
    Spec,
    layered,
    linear,
    log_scale,
    log_ticks,
    tips,
)
from reports.theme import Variant


@dataclass(frozen=True)
class BandAxes:
    """The axes of a chart: the column along which a line goes, its title, and that of what is measured.

    `label`: the column that names a place in the tooltip. `extent`: the y range, one for a figure.
    """

    column: str
    title: str
    label: str
    value_title: str
    extent: tuple[float, float]
    log: bool


def band_chart(means: pd.DataFrame, unfinished: pd.DataFrame, axes: BandAxes, style: ChartStyle) -> Spec:
    """Mean over seeds with a band from the lowest to the highest; unfinished runs as thin dashed lines.

    `means`: norm, `axes.column`, `axes.label`, value, low, high, seeds. `unfinished`: norm, run, seed, state,
    `axes.column`, value.
    """
    low, high = axes.extent
    scale = log_scale(low, high) if axes.log else linear(low, high)
    places = pd.concat([means[axes.column], unfinished[axes.column]])
    first, last = float(places.min()), float(places.max())
    ends = [first, last] if first < last else [first - 0.5, last + 0.5]
    x = alt.X(
        f"{axes.column}:Q",
        title=axes.title,
        scale=alt.Scale(domain=ends, zero=False, nice=False, padding=8),
        axis=alt.Axis(format="d", tickMinStep=1, tickCount=min(int(last - first) + 1, 8)),
    )
    y_title = axes.value_title + (" (log scale)" if axes.log else "")
    y_axis = alt.Axis(values=log_ticks(low, high), format=".3~g") if axes.log else alt.Axis(tickCount=5)
    y, y_low = (alt.Y(f"{column}:Q", title=y_title, scale=scale, axis=y_axis) for column in ("value", "low"))
    place = f"{axes.label}:{'N' if axes.label == 'layer' else 'Q'}"
    texts = [("norm:N", "Norm"), (place, axes.label.capitalize()), ("value:Q", f"{axes.value_title}, mean")]
    base = style.chart(means).encode(x=x, color=style.color())
    layers = _banded(base, y, y_low, style.shape(), 34 if len(means) < 120 else 14, texts)
    if not unfinished.empty:
        lines = style.chart(unfinished).encode(x=x, y=y, color=style.color(), detail="run:N")
        dashed = lines.mark_line(strokeWidth=1.25, strokeDash=[4, 3], point={"size": 12})
        tooltip = tips([("norm:N", "Norm"), ("seed:Q", "Seed"), ("state:N", "State")])
        layers.append(dashed.encode(tooltip=tooltip))
    return layered(style, *layers, along=axes.column)


def _banded(
    base: alt.Chart, y: alt.Y, low: alt.Y, shape: alt.Shape, size: int, texts: Sequence[tuple[str, str]]
) -> list[alt.Chart]:
    """The band from `low` to the column `high`, the line of the means, and their marks."""
    marks = base.mark_point(size=size, filled=True, opacity=1)
    return [
        base.mark_area(opacity=0.18).encode(y=low, y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        marks.encode(y=y, shape=shape, tooltip=tips([*texts, *SEED_TIPS])),
    ]


@dataclass(frozen=True)
class LineAxes:
    """Axis titles, and the names of the lines in the legend's order.

    `ticks`: the x to mark where there are few, each as its number with `tick_prefix` before it.
    """

    x_title: str
    y_title: str
    lines: tuple[str, ...]
    ticks: tuple[float, ...] = ()
    tick_prefix: str = ""

    def x_axis(self, places: pd.Series) -> alt.Axis:
        """The axis for marks at these places: whole numbers, such as epochs, have no ticks between them."""
        if not self.ticks and (places == places.round()).all():
            return alt.Axis(format=",d", tickMinStep=1)
        if not self.ticks:
            return alt.Axis()
        return alt.Axis(values=list(self.ticks), labelExpr=f"'{self.tick_prefix}' + datum.value")


def paper_points_chart(ours: pd.DataFrame, papers: pd.DataFrame, axes: LineAxes, style: ChartStyle) -> Spec:
    """Mean over seeds with a band from the lowest to the highest, and hollow marks for the paper.

    `ours`: line, x, value, low, high, seeds. `papers`: line, x, value; may be empty. The legend is the
    chart's own: the lines are not the report's norms, and no filter acts on them.
    """
    looks = replace(
        style, palette=[Variant(name, place) for place, name in enumerate(axes.lines)], legend=True
    )
    color, shape = looks.color("line:N"), looks.shape("line:N")
    places = pd.concat([ours.x, papers.x]).astype(float)
    heights = pd.concat([ours.low, ours.high, papers.value]).astype(float)
    ends = [float(places.min()), float(places.max())]
    along = alt.Scale(domain=ends, zero=False, nice=False, padding=8)
    x = alt.X("x:Q", title=axes.x_title, scale=along, axis=axes.x_axis(places))
    scale = linear(float(heights.min()), float(heights.max()), from_zero=True)
    y, low = (
        alt.Y(f"{column}:Q", title=axes.y_title, scale=scale, axis=alt.Axis(tickCount=5))
        for column in ("value", "low")
    )
    base = style.chart(ours).encode(x=x, color=color)
    texts = [("line:N", "Line"), ("x:Q", axes.x_title)]
    layers = _banded(base, y, low, shape, 30, [*texts, ("value:Q", "Ours, mean")])
    if not papers.empty:
        marks = style.chart(papers).encode(x=x, y=y, color=color, shape=shape)
        hollow = marks.mark_point(size=90, filled=False, strokeWidth=2, opacity=1)
        layers.append(hollow.encode(tooltip=tips([*texts, ("value:Q", "The paper's")])))
    return layered(style, *layers, along="x")
