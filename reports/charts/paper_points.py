"""Our means as lines with a band, the paper's points beside them as hollow marks."""

from dataclasses import dataclass

import altair as alt
import pandas as pd

from reports.charts.style import ChartStyle, LayeredChart, layered, linear, tips
from reports.theme import SHAPES, Variant


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

    @property
    def x_axis(self) -> alt.Axis:
        if not self.ticks:
            return alt.Axis()
        return alt.Axis(values=list(self.ticks), labelExpr=f"'{self.tick_prefix}' + datum.value")


def paper_points_chart(
    ours: pd.DataFrame, papers: pd.DataFrame, axes: LineAxes, style: ChartStyle
) -> LayeredChart:
    """Mean over seeds with a band from the lowest to the highest, and hollow marks for the paper.

    `ours`: line, x, value, low, high, seeds. `papers`: line, x, value; may be empty. The legend is the
    chart's own: the lines are not the report's norms, and no filter acts on them.
    """
    looks = [Variant(name, place) for place, name in enumerate(axes.lines)]
    colors = alt.Scale(domain=list(axes.lines), range=[style.theme.series[look.series] for look in looks])
    shapes = alt.Scale(domain=list(axes.lines), range=[SHAPES[i % len(SHAPES)] for i in range(len(looks))])
    legend = alt.Legend(title=None, orient="bottom", columns=4, symbolOpacity=1)
    color, shape = (
        alt.Color("line:N", scale=colors, legend=legend),
        alt.Shape("line:N", scale=shapes, legend=legend),
    )
    places = pd.concat([ours.x, papers.x]).astype(float)
    heights = pd.concat([ours.low, ours.high, papers.value]).astype(float)
    ends = [float(places.min()), float(places.max())]
    along = alt.Scale(domain=ends, zero=False, nice=False, padding=8)
    x = alt.X("x:Q", title=axes.x_title, scale=along, axis=axes.x_axis)
    scale = linear(float(heights.min()), float(heights.max()), from_zero=True)
    y, low = (
        alt.Y(f"{column}:Q", title=axes.y_title, scale=scale, axis=alt.Axis(tickCount=5))
        for column in ("value", "low")
    )
    base = style.chart(ours).encode(x=x, color=color)
    texts = [("line:N", "Line"), ("x:Q", axes.x_title)]
    spread = [("low:Q", "Lowest seed"), ("high:Q", "Highest seed"), ("seeds:Q", "Seeds")]
    layers = [
        base.mark_area(opacity=0.18).encode(y=low, y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(size=30, filled=True, opacity=1).encode(
            y=y, shape=shape, tooltip=tips([*texts, ("value:Q", "Ours, mean"), *spread])
        ),
    ]
    if not papers.empty:
        marks = style.chart(papers).encode(x=x, y=y, color=color, shape=shape)
        hollow = marks.mark_point(size=90, filled=False, strokeWidth=2, opacity=1)
        layers.append(hollow.encode(tooltip=tips([*texts, ("value:Q", "The paper's")])))
    return layered(style, *layers)
