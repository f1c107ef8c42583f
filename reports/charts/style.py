"""What all charts share: a medium's style, inline data, scales.

On the page a chart's data pass through filters, whose parameters the page sets when a reader picks norms or
norm batches. Domains are computed from all data and stay when a filter acts: what remains keeps its place, so
that the eye can follow, and panels stay comparable. Zooming is there to look closer.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from altair.utils import schemapi

from reports.theme import Theme, Variant

# Every chart has the same few parts: a test checks whole specs, so that a report need not check each part.
schemapi.disable_debug_mode()

HEIGHT_PX = 240
Spec = dict[str, Any]  # a Vega-Lite view as plain JSON, without its data
_LEGEND = alt.Legend(title=None, orient="bottom", columns=4, symbolOpacity=1)
# One more than a tooltip shows.
_DIGITS = 5


def parameter(axis: str) -> str:
    """The name of the Vega parameter that lists, as text, which values of an axis are shown."""
    return f"shown_{axis}"


@dataclass(frozen=True)
class ChartStyle:
    """What differs between the page and a file: colours, width in pixels, a legend, and filters.

    `filters` names the axes, columns of the data, that a reader can choose from. `datasets` collects the data
    of the charts that are drawn in this style, as rows: Altair would copy and check them over and over.
    """

    theme: Theme
    width: int | Literal["container"]
    palette: list[Variant]
    legend: bool = False
    filters: tuple[str, ...] = ()
    datasets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def chart(self, frame: pd.DataFrame) -> alt.Chart:
        """A chart without a mark over these data, filtered by the axes that are columns of it."""
        name = f"data-{len(self.datasets)}"
        self.datasets[name] = _rows(frame)
        chart = alt.Chart(alt.NamedData(name=name))
        for axis in self.filters:
            if axis in frame:
                fits = f"indexof({parameter(axis)}, toString(datum.{axis})) >= 0"
                # A norm without BN is the same run at every norm batch.
                free = [v.label for v in self.palette if not v.has_bn] if axis == "norm_batch_size" else []
                if free and "norm" in frame:
                    fits += f" || indexof({json.dumps(free)}, datum.norm) >= 0"
                chart = chart.transform_filter(fits)
        return chart

    def color(self, column: str = "norm:N") -> alt.Color:
        colors = [self.theme.series[variant.series] for variant in self.palette]
        return alt.Color(column, scale=self._scale(colors), legend=_LEGEND if self.legend else None)

    def shape(self, column: str = "norm:N") -> alt.Shape:
        shapes = [variant.shape for variant in self.palette]
        return alt.Shape(column, scale=self._scale(shapes), legend=_LEGEND if self.legend else None)

    def _scale(self, looks: list[str]) -> alt.Scale:
        return alt.Scale(domain=[variant.label for variant in self.palette], range=looks)

    def present(self, values: pd.DataFrame) -> list[str]:
        """The norms among these values, in the legend's order."""
        found = set(values.norm)
        return [variant.label for variant in self.palette if variant.label in found]


def layered(style: ChartStyle, *layers: alt.Chart, height: int = HEIGHT_PX, along: str = "") -> Spec:
    """Layers as one view of the style's width. `along`: the column whose values a pointer goes along.

    Altair's own layers and rows of charts copy and check all parts over and over, which takes half of a
    report's time.
    """
    specs = [layer.to_dict(validate=False) for layer in layers]
    for spec in specs:
        del spec["$schema"], spec["config"]
    view = {"layer": specs, "width": style.width, "height": height}
    return view | ({"usermeta": {"along": along}} if along else {})


def is_wide(low: float, high: float) -> bool:
    """Whether a linear axis would leave the small ones of these positive values flat."""
    return low > 0 and high / low > 100


def log_scale(low: float, high: float) -> alt.Scale:
    return alt.Scale(type="log", domain=[low, high])


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone over more than three decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 4 else (1, 2, 5)
    return [float(f"{f}e{d}") for d in decades for f in factors if low <= f * 10.0**d <= high]


def linear(low: float, high: float, from_zero: bool = False) -> alt.Scale:
    """From zero when asked, or when zero is near, so that a ratio looks like one; else around the data."""
    span = high - low
    if low >= 0 and (from_zero or low < span):
        return alt.Scale(domain=[0, high * 1.04 or 1], nice=False)
    margin = 0.08 * span or max(abs(low), 1) * 0.05
    return alt.Scale(domain=[low - margin, high + margin], nice=False)


CELL_TIPS = (
    ("norm:N", "Norm"),
    ("norm_batch_size:Q", "Norm batch"),
    ("batch_size_per_gpu:Q", "Batch per GPU"),
)
SEED_TIPS = (("low:Q", "Lowest seed"), ("high:Q", "Highest seed"), ("seeds:Q", "Seeds"))


def levels(base: alt.Chart, y: alt.Y, low: alt.Y) -> list[alt.Chart]:
    """Of each norm of these data a horizontal line at `value`, and a band from `low` to `high`, right across.

    For a norm that has no place on the x axis, since it has no norm batch or no estimated statistics.
    """
    band = base.mark_rect(opacity=0.14, clip=True).encode(y=low, y2="high:Q")
    return [band, base.mark_rule(strokeWidth=2, strokeDash=[7, 3], clip=True).encode(y=y)]


def tips(fields: Sequence[tuple[str, str]]) -> list[alt.Tooltip]:
    """Tooltips from (field:type, title); what is not a count or a name has four digits."""
    return [
        alt.Tooltip(field, title=title, format=".4~g")
        if field.partition(":")[0] in ("value", "low", "high", "x", "y")
        else alt.Tooltip(field, title=title)
        for field, title in fields
    ]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Values as plain JSON, rounded to the digits that can be seen: the page carries each of them."""
    columns = {str(name): _plain(frame[name]) for name in frame}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(column: pd.Series) -> list[Any]:
    if not pd.api.types.is_numeric_dtype(column):
        return [str(value) for value in column]
    values = column.to_numpy(dtype=float)
    if not (np.isfinite(values) & (values == np.round(values))).all():
        return [float(f"{v:.{_DIGITS}g}") if math.isfinite(v) else None for v in values]
    return [int(v) for v in values]
