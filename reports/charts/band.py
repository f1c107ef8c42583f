"""Mean over seeds with a band, along the layers or the epochs."""

from dataclasses import dataclass

import altair as alt
import pandas as pd

from reports.charts.style import ChartStyle, LayeredChart, layered, linear, log_scale, log_ticks, tips


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


def band_chart(
    means: pd.DataFrame, unfinished: pd.DataFrame, axes: BandAxes, style: ChartStyle
) -> LayeredChart:
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
    tooltip = tips(
        [
            ("norm:N", "Norm"),
            (place, axes.label.capitalize()),
            ("value:Q", f"{axes.value_title}, mean"),
            ("low:Q", "Lowest seed"),
            ("high:Q", "Highest seed"),
            ("seeds:Q", "Seeds"),
        ]
    )
    base = style.chart(means).encode(x=x, color=style.color())
    layers = [
        base.mark_area(opacity=0.18).encode(y=y_low, y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(size=34 if len(means) < 120 else 14, filled=True, opacity=1).encode(
            y=y, shape=style.shape(), tooltip=tooltip
        ),
    ]
    if not unfinished.empty:
        lines = style.chart(unfinished).encode(x=x, y=y, color=style.color(), detail="run:N")
        texts = tips([("norm:N", "Norm"), ("seed:Q", "Seed"), ("state:N", "State")])
        layers.append(
            lines.mark_line(strokeWidth=1.25, strokeDash=[4, 3], point={"size": 12}).encode(tooltip=texts)
        )
    return layered(style, *layers)
