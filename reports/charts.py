"""The two kinds of chart, in Vega-Lite by Altair. They know no records, only columns."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import pandas as pd

from reports.theme import Theme, Variant

HEIGHT_PX = 240
LayeredChart = alt.LayerChart | alt.FacetChart  # what alt.layer is declared to return
_LEGEND = alt.Legend(title=None, orient="bottom", columns=4, symbolOpacity=1)


@dataclass(frozen=True)
class ChartStyle:
    """What differs between the page and a file: colours, width in pixels, and whether a legend is drawn."""

    theme: Theme
    width: int | Literal["container"]
    palette: list[Variant]
    legend: bool = False

    def color(self) -> alt.Color:
        return alt.Color(
            "norm:N",
            scale=alt.Scale(
                domain=[v.label for v in self.palette],
                range=[self.theme.series[v.series] for v in self.palette],
            ),
            legend=_LEGEND if self.legend else None,
        )

    def shape(self) -> alt.Shape:
        return alt.Shape(
            "norm:N",
            scale=alt.Scale(domain=[v.label for v in self.palette], range=[v.shape for v in self.palette]),
            legend=_LEGEND if self.legend else None,
        )


def seeds_chart(values: pd.DataFrame, style: ChartStyle, axis_title: str, from_zero: bool) -> LayeredChart:
    """Every run and the mean over seeds, against the norm batch.

    `values`: norm, norm_batch_size, batch_size_per_gpu, seed, value. One norm batch gives a dot plot by
    norm instead of a line.
    """
    means = values.groupby(["norm", "norm_batch_size", "batch_size_per_gpu"], as_index=False).agg(
        value=("value", "mean"), seeds=("seed", "nunique")
    )
    scale = _linear(float(values.value.min()), float(values.value.max()), from_zero)
    if values.norm_batch_size.nunique() == 1:
        return _dots(values, means, style, axis_title, scale)
    present = [variant.label for variant in style.palette if variant.label in set(values.norm)]
    # Set apart by a few pixels, so that equal values do not hide each other; the tooltip has the true batch.
    step = min(0.07, 0.3 / len(present))
    offset = {norm: 2 ** (step * (i - (len(present) - 1) / 2)) for i, norm in enumerate(present)}
    ticks = sorted(int(b) for b in values.norm_batch_size.unique())
    x = alt.X(
        "x:Q",
        title="Norm batch (samples, log scale)",
        scale=alt.Scale(type="log", base=2, domain=[ticks[0] / 1.3, ticks[-1] * 1.3], nice=False),
        axis=alt.Axis(values=ticks, format=",d"),
    )
    y = alt.Y("value:Q", title=axis_title, scale=scale, axis=alt.Axis(tickCount=5))
    placed = [frame.assign(x=frame.norm_batch_size * frame.norm.map(offset)) for frame in (values, means)]
    runs, base = (alt.Chart(_inline(frame)).encode(x=x, y=y, color=style.color()) for frame in placed)
    line = base.mark_line(strokeWidth=2)
    if crossed(values):
        line = line.encode(detail="batch_size_per_gpu:N")
    marks = base.mark_point(size=70, filled=True, opacity=1)
    small = runs.mark_point(size=22, filled=True, opacity=0.45)
    return alt.layer(
        line,
        small.encode(shape=style.shape(), tooltip=_run_tips(axis_title)),
        marks.encode(shape=style.shape(), tooltip=_mean_tips(axis_title)),
    ).properties(width=style.width, height=HEIGHT_PX)


def crossed(values: pd.DataFrame) -> bool:
    """Whether one norm batch meets several batches per GPU, so that the two are separate axes."""
    return bool(values.groupby("norm_batch_size").batch_size_per_gpu.nunique().max() > 1)


def _dots(
    values: pd.DataFrame, means: pd.DataFrame, style: ChartStyle, axis_title: str, scale: alt.Scale
) -> LayeredChart:
    order = [variant.label for variant in style.palette if variant.label in set(values.norm)]
    x = alt.X("value:Q", title=axis_title, scale=scale, axis=alt.Axis(grid=True, tickCount=5))
    y = alt.Y("norm:N", title=None, sort=order, axis=alt.Axis(labelLimit=160))
    runs, base = (alt.Chart(_inline(f)).encode(x=x, y=y, color=style.color()) for f in (values, means))
    small = runs.mark_point(size=30, filled=True, opacity=0.45)
    marks = base.mark_point(size=110, filled=True, opacity=1)
    return alt.layer(
        small.encode(shape=style.shape(), tooltip=_run_tips(axis_title)),
        marks.encode(shape=style.shape(), tooltip=_mean_tips(axis_title)),
    ).properties(width=style.width, height=max(90, 44 * len(order)))


def band_chart(
    values: pd.DataFrame, style: ChartStyle, text: dict[str, str], extent: tuple[float, float], log: bool
) -> LayeredChart:
    """Mean over seeds with a band from the lowest to the highest; unfinished runs as thin dashed lines.

    `values`: norm, seed, value and the columns named by text["x"] and text["label"]; a column `state`
    marks unfinished runs. `extent` is the y range that all panels of the figure share.
    """
    done = values if "state" not in values else values[values.state == "completed"]
    keys = list(dict.fromkeys(["norm", text["x"], text["label"]]))
    means = done.groupby(keys, as_index=False).agg(
        value=("value", "mean"), low=("value", "min"), high=("value", "max"), seeds=("seed", "nunique")
    )
    low, high = extent
    scale = alt.Scale(type="log", domain=[low, high]) if log else _linear(low, high)
    whole = int(values[text["x"]].max() - values[text["x"]].min()) + 1
    x = alt.X(
        f"{text['x']}:Q",
        title=text["x_title"],
        scale=alt.Scale(zero=False, nice=False, padding=8),
        axis=alt.Axis(format="d", tickMinStep=1, tickCount=min(whole, 8)),
    )
    y_title = text["axis"] + (" (log scale)" if log else "")
    y_axis = alt.Axis(values=_log_ticks(low, high), format="~g") if log else alt.Axis(tickCount=5)
    y, y_low = (alt.Y(f"{column}:Q", title=y_title, scale=scale, axis=y_axis) for column in ("value", "low"))
    tooltip = [
        alt.Tooltip("norm:N", title="Norm"),
        alt.Tooltip(
            f"{text['label']}:{'N' if text['label'] == 'layer' else 'Q'}", title=text["label"].capitalize()
        ),
        alt.Tooltip("value:Q", title=f"{text['axis']}, mean", format=".4~g"),
        alt.Tooltip("low:Q", title="Lowest seed", format=".4~g"),
        alt.Tooltip("high:Q", title="Highest seed", format=".4~g"),
        alt.Tooltip("seeds:Q", title="Seeds"),
    ]
    base = alt.Chart(_inline(means)).encode(x=x, color=style.color())
    band = base.mark_area(opacity=0.18).encode(y=y_low, y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    points = base.mark_point(size=34 if len(means) < 120 else 14, filled=True, opacity=1).encode(
        y=y, shape=style.shape(), tooltip=tooltip
    )
    layers: list[Any] = [band, line, points]
    unfinished = values.drop(done.index)
    if not unfinished.empty:
        tips = [
            alt.Tooltip("norm:N", title="Norm"),
            alt.Tooltip("seed:Q", title="Seed"),
            alt.Tooltip("state:N", title="State"),
        ]
        base = alt.Chart(_inline(unfinished)).encode(
            x=x, y=y, color=style.color(), detail="run:N", tooltip=tips
        )
        dashed = base.mark_line(strokeWidth=1.25, strokeDash=[4, 3], point={"size": 12})
        layers.append(dashed)
    return alt.layer(*layers).properties(width=style.width, height=HEIGHT_PX)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone over more than three decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 4 else (1, 2, 5)
    return [float(f"{f}e{d}") for d in decades for f in factors if low <= f * 10.0**d <= high]


def _linear(low: float, high: float, from_zero: bool = False) -> alt.Scale:
    """From zero when asked, or when zero is near, so that a ratio looks like one; else around the data."""
    span = high - low
    if low >= 0 and (from_zero or low < span):
        return alt.Scale(domain=[0, high * 1.04 or 1], nice=False)
    margin = 0.08 * span or max(abs(low), 1) * 0.05
    return alt.Scale(domain=[low - margin, high + margin], nice=False)


def _mean_tips(title: str) -> list[alt.Tooltip]:
    return [
        *_axes_tips(),
        alt.Tooltip("value:Q", title=f"{title}, mean", format=".4~g"),
        alt.Tooltip("seeds:Q", title="Seeds"),
    ]


def _run_tips(title: str) -> list[alt.Tooltip]:
    return [
        *_axes_tips(),
        alt.Tooltip("value:Q", title=title, format=".4~g"),
        alt.Tooltip("seed:Q", title="Seed"),
    ]


def _axes_tips() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("norm:N", title="Norm"),
        alt.Tooltip("norm_batch_size:Q", title="Norm batch"),
        alt.Tooltip("batch_size_per_gpu:Q", title="Batch per GPU"),
    ]


def _inline(frame: pd.DataFrame) -> alt.InlineData:
    """Values as plain JSON numbers, rounded to six significant digits: the page carries each of them."""
    rows = [
        {str(k): _rounded(v) for k, v in row.items() if k not in ("metric", "split", "common")}
        for row in frame.to_dict("records")
    ]
    return alt.InlineData(values=rows)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
