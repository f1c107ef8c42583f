"""The chart of `shiftbench scale`: images/s beside the ideal and the fitted law, and the parts of a step."""

import math
from typing import Any

import altair as alt
import pandas as pd

from reports.charts.style import ChartStyle, layered, log_ticks
from reports.findings.scaling import PARTS, Scaling
from reports.findings.scaling_laws import LAWS
from reports.theme import FILE

_WIDTH = 300
_IDEAL, _MEASURED = "ideal", "measured"


def scaling_spec(scaling: Scaling) -> dict[str, Any]:
    """A Vega-Lite spec with its data for an SVG file. At least one number of nodes has been timed."""
    style = ChartStyle(FILE, _WIDTH, [], legend=True)
    charts = [_speed(scaling, style) | {"title": "Speed"}]
    if (parts := _parts(scaling)) is not None:
        charts.append(_split(parts, style) | {"title": "A step of the first rank"})
    whole = {"concat": charts, "spacing": 40, "resolve": {"scale": {"color": "independent"}}}
    return whole | {"config": FILE.config(), "datasets": style.datasets}


def _speed(scaling: Scaling, style: ChartStyle) -> dict[str, Any]:
    points = scaling.timed
    counts = [point.nodes for point in points]
    name = LAWS[scaling.mode].name
    measured = pd.DataFrame(
        {
            "nodes": point.nodes,
            "value": point.speed.mean,
            "low": (point.speed.interval or point.speed.both or (math.nan, math.nan))[0],
            "high": (point.speed.interval or point.speed.both or (math.nan, math.nan))[1],
            "line": _MEASURED,
        }
        for point in points
        if point.speed is not None
    )
    ideal = pd.DataFrame(
        {"nodes": p.nodes, "value": p.ideal_images_per_s, "line": _IDEAL}
        for p in points
        if p.ideal_images_per_s is not None
    )
    fitted = pd.DataFrame(columns=["nodes", "value", "line"])
    if scaling.fit is not None and scaling.prediction is not None:
        ends = counts[0], scaling.next_nodes
        beyond = {"nodes": ends[1], "value": ideal.value.iloc[-1] * ends[1] / counts[-1], "line": _IDEAL}
        ideal = pd.concat([ideal, pd.DataFrame([beyond])], ignore_index=True)
        xs = [ends[0] * (ends[1] / ends[0]) ** (i / 40) for i in range(41)]
        speeds = [scaling.fit.images_per_s(x) for x in xs]
        fitted = pd.DataFrame({"nodes": xs, "value": speeds, "line": name})
    values = pd.concat([frame.value for frame in (measured, ideal, fitted) if len(frame)])
    low, high = 0.8 * float(values.min()), 1.25 * float(values.max())
    last = float(max([*counts, *fitted.nodes]))
    x = alt.X(
        "nodes:Q",
        title="Nodes",
        scale=alt.Scale(type="log", base=2, domain=[counts[0] / 1.2, last * 1.2], nice=False),
        axis=alt.Axis(values=[*counts, *([last] if last > counts[-1] else [])], format=",d"),
    )
    y_axis = alt.Axis(values=log_ticks(low, high), format=",.10~g")
    y_scale = alt.Scale(type="log", domain=[low, high])
    y = alt.Y("value:Q", title="Images/s (log scale)", scale=y_scale, axis=y_axis)
    colours = [FILE.muted, FILE.series[0], FILE.series[1]]
    colour = alt.Color(
        "line:N",
        scale=alt.Scale(domain=[_IDEAL, _MEASURED, name][: 3 if len(fitted) else 2], range=colours),
        legend=alt.Legend(title=None, orient="bottom"),
    )
    layers = [
        style.chart(ideal).mark_line(strokeDash=[4, 4], strokeWidth=1.5).encode(x=x, y=y, color=colour),
        style.chart(fitted).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour),
        style.chart(measured)
        .mark_rule(strokeWidth=2, color=FILE.series[0])
        .encode(x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q"),
        style.chart(measured).mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=colour),
    ]
    if len(fitted):
        predicted = style.chart(fitted.tail(1).assign(text="predicted")).encode(x=x, y=y, color=colour)
        layers.append(predicted.mark_point(size=70, filled=False, strokeWidth=2, opacity=1))
        layers.append(predicted.mark_text(dy=24, align="right").encode(text="text:N"))
    return layered(style, *layers)


def _parts(scaling: Scaling) -> pd.DataFrame | None:
    """The milliseconds of each part of a step by nodes; None where no part was measured."""
    rows = []
    for point in scaling.timed:
        step_ms = point.mean("step_time_p50_ms")
        for order, (metric, name) in enumerate(PARTS.items()):
            share = point.mean(metric)
            if not math.isnan(share * step_ms):
                rows.append(
                    {"nodes": str(point.nodes), "value": share * step_ms, "part": name, "order": order}
                )
    return pd.DataFrame(rows) if rows else None


def _split(parts: pd.DataFrame, style: ChartStyle) -> dict[str, Any]:
    names = [name for name in PARTS.values() if name in set(parts.part)]
    colour = alt.Color(
        "part:N",
        scale=alt.Scale(domain=names, range=[FILE.series[2], FILE.series[1], FILE.series[5]][: len(names)]),
        # One below the other: a viewer's font may be wider than the one that the places were measured with.
        legend=alt.Legend(title=None, orient="bottom", direction="vertical"),
    )
    bars = (
        style.chart(parts)
        .mark_bar(size=26)
        .encode(
            x=alt.X(
                "nodes:N", title="Nodes", sort=list(dict.fromkeys(parts.nodes)), axis=alt.Axis(labelAngle=0)
            ),
            y=alt.Y("value:Q", title="Milliseconds, median step"),
            color=colour,
            order=alt.Order("order:Q"),
        )
    )
    return layered(style, bars)
